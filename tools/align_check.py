"""How far are aligned words from where they are? On recordings whose word times are known: digits and pauses.

usage: python tools/align_check.py --corpora DIR --out OUT [--model MODEL | --recogniser RUN] [--json]

Recordings are put together from the Free Spoken Digit Dataset (tools/experiment/timed_digits.py). A recogniser is
fine-tuned on those of four speakers, from MODEL or a small one from random weights, or RUN is taken; then `audio-ssl
align` places the known words of `heard` (the same speakers, other takes) and of `unheard` (two speakers that no
training has heard). Beside it stands what CTC says by itself. A boundary is a word's start or its end; it is joined
where there is no pause between two words. Exit status: 0 the median error of every part is at most 40 ms, 1 it is not.
What was stopped goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from audio_ssl.config import find_config
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioSSLError
from audio_ssl.inference.align import FrameClock, align
from audio_ssl.inference.models import open_recogniser, open_runtime
from audio_ssl.inference.source import ManifestSource, Refusal
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.transcribe import log_probs_of
from benchmarks.report import BenchError, note
from experiment.recognisers import call_audio_ssl, drop_held, finetune
from experiment.timed_digits import Timed, TimedWord, prepare

WANTED_MS = 40.0
JOINED_S = 0.02  # a pause that is shorter is none
# A recogniser of ten words that a core trains in minutes.
SMALL = {"preset": "tiny_cpu", "front_end": "mel", "dim": 144, "num_layers": 3, "num_heads": 4, "ffn_dim": 576}
QUICK = {
    "ctc": {"freeze_feature_encoder": False, "head_lr_scale": 5.0, "mask_prob": 0.05, "channel_mask_prob": 0.05,
            "channel_mask_span": 8},
    "data": {"max_s": 16, "batch_s": 16, "micro_batch_s": 16},
    "optim": {"lr": 1.5e-3, "weight_decay": 0.01},
    "run": {"log_every": 50, "validate_every": 250, "save_every": 250},
}  # fmt: skip
ALONE, TOLD = "CTC alone", "align"
TESTS = ("heard", "unheard")
CORPUS = "fsdd"


@dataclass(frozen=True)
class Errors:
    """Of the boundaries of a part, in milliseconds.

    Attributes:
        part: its name.
        times: ``align``, or ``CTC alone``.
        num_words: each with a start and an end.
        median: of all boundaries' absolute errors.
        p90: nine of ten boundaries are nearer than this.
        joined_median: of boundaries between words without a pause.
        start_bias: median of signed errors of starts; above 0: aligned words start late.
        end_bias: of ends; below 0: aligned words end early.
    """

    part: str
    times: str
    num_words: int
    median: float
    p90: float
    joined_median: float
    start_bias: float
    end_bias: float


def main(words: list[str] | None = None) -> int:
    """Do it; the exit status."""
    arguments = _parse(words)
    try:
        data = prepare(arguments.corpora / CORPUS, arguments.out / "data")
        run = arguments.recogniser or _recogniser(arguments, data)
        found = [
            errors((part, times), data.words(part), words)
            for part in TESTS
            for times, words in (
                ("CTC alone", _ctc_alone(run, data, part)),
                (TOLD, _aligned(run, data, part, arguments)),
            )
        ]
    except (BenchError, AudioSSLError) as error:
        note(f"error: {error}")
        return 2
    if arguments.json:
        for part in found:
            print(json.dumps(asdict(part)))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_table(found))
    return int(any(part.median > WANTED_MS for part in found if part.times == TOLD))


def errors(
    name: tuple[str, str], truth: Mapping[str, Sequence[TimedWord]], found: Mapping[str, Sequence[TimedWord]]
) -> Errors:
    """Compare word by word.

    Args:
        name: of the part and of the times.
        truth: words of each recording.
        found: the same words.

    Raises:
        BenchError: a recording was not aligned, or with other words.
    """
    for recording, words in truth.items():
        own = [word.text for word in found.get(recording, [])]
        if own != [word.text for word in words]:
            raise BenchError(f"{recording} must be aligned with the words that it holds, got {own or 'none'}")
    pairs = [pair for recording, words in truth.items() for pair in zip(words, found[recording], strict=True)]
    starts = np.array([1000 * (ours.start_s - theirs.start_s) for theirs, ours in pairs])
    ends = np.array([1000 * (ours.end_s - theirs.end_s) for theirs, ours in pairs])
    is_joined = np.concatenate([_joined(words) for words in truth.values()])  # (words, 2): starts, ends
    both = np.abs(np.stack([starts, ends], axis=1))
    joined = float(np.median(both[is_joined])) if is_joined.any() else math.nan
    return Errors(
        *name, len(pairs), float(np.median(both)), float(np.percentile(both, 90)), joined,
        float(np.median(starts)), float(np.median(ends)),
    )  # fmt: skip


def _joined(words: Sequence[TimedWord]) -> NDArray[np.bool_]:
    """(W, 2) whether there is no pause before the start of each word, and after its end."""
    gaps = np.array([b.start_s - a.end_s < JOINED_S for a, b in pairwise(words)], dtype=np.bool_)
    return np.stack([np.concatenate([[False], gaps]), np.concatenate([gaps, [False]])], axis=1)


def _ctc_alone(run: Path, data: Timed, part: str) -> dict[str, list[TimedWord]]:
    """Words on the frames of their first and last symbol."""
    recogniser, source = open_recogniser(run), ManifestSource(Manifest.read(data.manifest(part)))
    encoder, found = recogniser.model.encoder, dict[str, list[TimedWord]]()
    clock, settings = FrameClock(encoder.geometry, encoder.sample_rate_hz), StreamSettings()
    rows = range(len(source))
    for result in log_probs_of(source, rows, recogniser=recogniser, settings=settings, runtime=open_runtime("cpu")):
        if isinstance(result, Refusal):
            raise BenchError(f"{result.id} must be aligned: {result.reason}")
        row, log_probs = result
        name, text = source.name(row)[0], source.manifest[row].text or ""
        aligned = align(
            name, text, log_probs, vocabulary=recogniser.vocabulary, clock=clock, duration_s=source.seconds(row)
        )
        found[name] = [TimedWord(word.text, word.start_s, word.end_s) for word in aligned.words]
    return found


def read_ctm(text: str) -> dict[str, list[TimedWord]]:
    """Words of each recording: lines of recording, channel, start, duration, word and more."""
    words: dict[str, list[TimedWord]] = {}
    for line in text.splitlines():
        if line and not line.startswith(";;"):
            name, _, start, duration, word = line.split()[:5]
            words.setdefault(name, []).append(TimedWord(word, float(start), float(start) + float(duration)))
    return words


def _aligned(run: Path, data: Timed, part: str, arguments: argparse.Namespace) -> dict[str, list[TimedWord]]:
    out = arguments.out / f"{part}.ctm"
    out.unlink(missing_ok=True)
    words = ("align", str(run), str(data.manifest(part)), "-o", str(out), "--device", arguments.device)
    call_audio_ssl(*words, threads=arguments.threads)
    return read_ctm(out.read_text(encoding="utf-8"))


def _recogniser(arguments: argparse.Namespace, data: Timed) -> Path:
    """The run folder of a recogniser of digits, trained unless it is complete."""
    run: Path = arguments.out / "recogniser"
    settings = run / "asked.toml"
    if not settings.is_file():
        values: dict[str, Any] = copy.deepcopy(QUICK)
        if arguments.config:
            values = tomllib.loads(find_config(arguments.config).read_text(encoding="utf-8"))
            drop_held(values)
        values |= {"init_from": str(arguments.model.resolve())} if arguments.model else {"model": SMALL}
        values["data"] = values.get("data", {}) | {
            "train": [str(data.manifest("train").resolve())], "valid": [str(data.manifest("valid").resolve())],
        }  # fmt: skip
        values["run"] = values.get("run", {}) | {
            "dir": str(run.resolve()), "num_updates": arguments.updates, "device": arguments.device,
        }  # fmt: skip
        run.mkdir(parents=True, exist_ok=True)
        settings.write_text(tomli_w.dumps(values), encoding="utf-8")
    if not (run / "model").is_dir():
        finetune(settings, threads=arguments.threads)
    return run


def _table(found: Sequence[Errors]) -> Table:
    table = Table("speakers", "times", "words", "median, ms", "90 %", "joined", "starts late by", "ends late by",
                  title=f"word boundaries; wanted: median of at most {WANTED_MS:g} ms")  # fmt: skip
    for part in found:
        values = (part.median, part.p90, part.joined_median, part.start_bias, part.end_bias)
        table.add_row(part.part, part.times, str(part.num_words), *(f"{value:.0f}" for value in values))
    return table


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help=f"folder that holds {CORPUS}")
    parser.add_argument("--out", type=Path, required=True, help="folder for recordings, recogniser and alignments")
    parser.add_argument("--model", type=Path, help="pre-trained model to start from; random weights without it")
    parser.add_argument("--recogniser", type=Path, help="recogniser to check; one is fine-tuned without it")
    parser.add_argument("--config", help="settings of fine-tuning; those of a small recogniser without it")
    parser.add_argument("--updates", type=int, default=1500, help="of fine-tuning")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="a JSON object a part in place of the table")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
