"""Does each guard fire on a run that is made to fail, and none on a healthy one?

usage: [AUDIO_SSL_CORPORA=DIR] python tools/guard_check.py [--out FOLDER] [RUN ...]

Pre-trains tiny_cpu a dozen times for a few minutes each at most: on the LibriSpeech files of DIR, or on synthetic
voices where the variable is not set. Limits are lowered so that a guard need not wait for thousands of updates; the
healthy run has the same limits. Prints a table, and exits with status 1 where a guard did not do what it should.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import soundfile as sf
import torch
from rich.console import Console
from rich.table import Table

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.data.audio import load_segment
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioSSLError
from audio_ssl.objective.wav2vec2 import Wav2Vec2Objective
from audio_ssl.tensors import Batch
from audio_ssl.train.optim import set_learning_rate
from audio_ssl.train.pretrain import PretrainModule, pretrain

RATE_HZ = 16000
# So that guards need not wait. The healthy run has them, too; only at chance it may be as long as is usual.
LOWERED = (
    "run.log_every=5", "run.save_every=20", "run.num_updates=120", "run.validate_every=1000000", "run.device=cpu",
    "guard.collapse_updates=40", "guard.spike_updates=5", "guard.nonfinite_budget=6",
)  # fmt: skip
Change = Callable[[PretrainModule, Batch, int], float]
Sabotage = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Run:
    """A run and what is to come of it.

    Attributes:
        name: of its folder.
        about: what is wrong with it.
        guard: that must act; None: none may.
        action: warning, rollback or stop.
        settings: beside :data:`LOWERED`.
        sabotage: context in which it runs.
        audio: ``speech``, ``constant`` or ``noise``.
    """

    name: str
    about: str
    guard: str | None
    action: str = "stop"
    settings: tuple[str, ...] = ()
    sabotage: Sabotage = nullcontext
    audio: str = "speech"


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Attributes:
        findings: rows that guards wrote.
        ended: the error that stopped it, else how it ended.
        seconds: that it took.
    """

    findings: list[dict[str, Any]]
    ended: str
    seconds: float

    def is_as_wanted(self, run: Run) -> bool:
        """Whether the guard acted that must, or none where none may."""
        if run.guard is None:
            return not self.findings
        return (run.guard, run.action) in [(row["guard"], row["action"]) for row in self.findings]


@contextmanager
def changed_forward(change: Change, *, is_told: bool = False) -> Iterator[None]:
    """Multiply the loss of a micro-batch by what ``change`` says of module, batch and update.

    Args:
        change: the factor.
        is_told: the loss in the metrics is multiplied, too.
    """
    forward = PretrainModule.forward

    def broken(self: PretrainModule, batch: Any, *, update: int, generator: torch.Generator) -> Any:
        factor = change(self, batch, update)
        terms = forward(self, batch, update=update, generator=generator)
        sums = {**terms.sums, "loss": terms.sums["loss"] * (factor if is_told else 1.0)}
        return type(terms)(terms.loss_sum * factor, terms.num_targets, sums)

    with mock.patch.object(PretrainModule, "forward", broken):
        yield


def nan_weights(first: int) -> Sabotage:
    """A weight of the model turns NaN at update ``first`` and stays so."""

    def change(module: PretrainModule, _: Batch, update: int) -> float:
        if update >= first:
            with torch.no_grad():
                module.encoder.mask_embedding.fill_(math.nan)
        return 1.0

    return lambda: changed_forward(change)


def nan_loss(every: int) -> Sabotage:
    """Each ``every``-th update has a loss that is NaN."""
    return lambda: changed_forward(lambda _, __, update: math.nan if update % every == every - 1 else 1.0)


def large_loss(at: int) -> Sabotage:
    """The loss of one update is a million times too large: so is its gradient."""
    return lambda: changed_forward(lambda _, __, update: 1e6 if update == at else 1.0)


def leak() -> AbstractContextManager[Any]:
    """Masked frames are not masked: the context sees its targets."""
    encode = Wav2Vec2Objective.encode_masked

    def unmasked(self: Any, encoder: Any, features: Any, is_masked: Any, **more: Any) -> Any:
        return encode(self, encoder, features, torch.zeros_like(is_masked), **more)

    return mock.patch.object(Wav2Vec2Objective, "encode_masked", unmasked)


def slow_disk(seconds: float) -> Sabotage:
    """Each file takes so long to read."""

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return load_segment(*args, **kwargs)

    return lambda: mock.patch("audio_ssl.data.rows.load_segment", slow)


def rate_burst(first: int, last: int, factor: float) -> Sabotage:
    """The learning rate is far too high over some updates, the first time that the run comes there."""

    @contextmanager
    def broken() -> Iterator[None]:
        done: set[int] = set()

        def burst(optimizer: torch.optim.Optimizer, rate: float) -> None:
            (update,) = heard
            is_first = first <= update < last and update not in done
            done.add(update)
            set_learning_rate(optimizer, rate * (factor if is_first else 1.0))

        heard = [0]

        def hear(_: PretrainModule, __: Batch, update: int) -> float:
            heard[:] = [update]
            return 1.0

        with changed_forward(hear), mock.patch("audio_ssl.train.loop.set_learning_rate", burst):
            yield

    return broken


ONE_CODE = ("objective.num_entries=1",)
RUNS = (
    Run("healthy", "nothing", None, settings=("run.num_updates=300",)),
    Run("rate", "learning rate x 100", "collapse", settings=("optim.lr=0.05",)),
    Run("constant", "constant audio", "collapse", audio="constant"),
    Run("one_code", "a quantizer of one code", "collapse", settings=ONE_CODE),
    Run("nan_weights", "weights turn NaN", "nonfinite", sabotage=nan_weights(12)),
    Run("nan_updates", "every ninth gradient is NaN", "nonfinite", sabotage=nan_loss(9)),
    Run("slow_disk", "a slow disk", "data_wait", "warning", ("data.num_workers=1", "run.num_updates=30"),
        slow_disk(1.0)),
    Run("leak", "masks that do not mask", "trivial", "warning", ("guard.max_accuracy=0.3",), leak),
    Run("noise", "noise, which cannot be predicted", "chance", audio="noise",
        settings=("guard.chance_warn_updates=40", "guard.chance_stop_updates=80")),
    Run("gradient", "one gradient a million times too large", "spike", "warning", sabotage=large_loss(110)),
    Run("burst", "learning rate x 60 for 4 updates", "spike", "rollback", ("run.num_updates=180",),
        rate_burst(142, 146, 60)),
)  # fmt: skip


def synthetic_speech(seconds: float, seed: int) -> np.ndarray:
    """(S,) float32: vowels of changing pitch and formants, with pauses: as predictable as speech."""
    generator = np.random.default_rng(seed)
    pieces: list[np.ndarray] = []
    while sum(len(piece) for piece in pieces) < seconds * RATE_HZ:
        num_samples = int(generator.integers(2400, 6400))
        time_s = np.arange(num_samples) / RATE_HZ
        if generator.random() < 0.2:
            pieces.append(0.002 * generator.standard_normal(num_samples))
            continue
        pitch_hz, formants_hz = generator.uniform(90, 250), generator.uniform((250, 800), (900, 2600))
        harmonics = pitch_hz * np.arange(1, 30)
        loudness = sum(np.exp(-(((harmonics - f) / 200) ** 2)) for f in formants_hz)
        waves = np.sin(2 * np.pi * harmonics[:, None] * time_s + generator.uniform(0, 6, (29, 1)))
        pieces.append((loudness[:, None] * waves).sum(0) * np.hanning(num_samples) * 0.2)
    return np.concatenate(pieces)[: round(seconds * RATE_HZ)].astype(np.float32)


def make_audio(folder: Path, kind: str, *, num_files: int, seconds: float) -> Path:
    """Write files and their manifest; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(num_files):
        length = round(seconds * RATE_HZ * (0.7 + 0.3 * (i % 7) / 6))
        if kind == "speech":
            samples = synthetic_speech(seconds, i)[:length]
        else:
            samples = np.full(length, 0.1)
            samples *= np.random.default_rng(i).standard_normal(length) if kind == "noise" else 1.0
        sf.write(folder / f"{i}.wav", samples, RATE_HZ)
        rows.append(Utterance(f"{kind}{i}", f"{i}.wav", 0, length, RATE_HZ))
    manifest = folder / f"{kind}.tsv"
    Manifest.from_rows(rows, root=folder).write(manifest)
    return manifest


def real_speech(corpora: Path, folder: Path) -> Path:
    """A manifest of the LibriSpeech files under ``corpora``."""
    found = sorted((corpora / "librispeech_mini").rglob("*.flac"))
    infos = [sf.info(path) for path in found]
    rows = [Utterance(p.stem, str(p), 0, i.frames, i.samplerate) for p, i in zip(found, infos, strict=True)]
    manifest = folder / "speech.tsv"
    Manifest.from_rows(rows, root=corpora).write(manifest)
    return manifest


def do(
    run: Run, out: Path, manifest: Path, settings: Sequence[str] = (), *, resume: Literal["never", "auto"] = "never"
) -> Result:
    """Pre-train as ``run`` says, in ``out/NAME``."""
    run_dir, started = out / run.name, time.monotonic()
    own = (f"data.train=['{manifest}']", f"run.dir={run_dir}", *LOWERED, *settings, *run.settings)
    config = load_config(PretrainConfig, find_config("pretrain/conv_tiny"), own)
    ended = "done"
    with run.sabotage():
        try:
            pretrain(config, resume=resume, init_from=None, console=Console(quiet=True))
        except AudioSSLError as error:
            ended = str(error)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    findings = [row for row in map(json.loads, lines) if row["split"] == "guard"]
    return Result(findings, ended, time.monotonic() - started)


def main() -> None:
    """Do all runs, or those named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="where everything goes (default: a folder that goes)")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(run.name for run in RUNS)}")
    arguments = parser.parse_args()
    corpora, console = os.environ.get("AUDIO_SSL_CORPORA"), Console(width=None if sys.stdout.isatty() else 200)
    table = Table("guard", "run", "at update", "what it did and said", "as it should", show_lines=True)
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        kinds = ("constant", "noise") if corpora else ("constant", "noise", "speech")
        manifests = {kind: make_audio(out / "audio" / kind, kind, num_files=60, seconds=6) for kind in kinds}
        if corpora:
            manifests["speech"] = real_speech(Path(corpora), out)
        chosen = [run for run in RUNS if not arguments.runs or run.name in arguments.runs]
        is_well = True
        for run in chosen:
            result = do(run, out, manifests[run.audio])
            is_well = is_well and result.is_as_wanted(run)
            tell(run, result, table)
            console.print(f"{run.name}: {result.seconds:.0f} s, {len(result.findings)} findings", highlight=False)
    console.print(table)
    sys.exit(0 if is_well else 1)


def tell(run: Run, result: Result, table: Table) -> None:
    """A row for each finding; one for a run without any."""
    mark = "yes" if result.is_as_wanted(run) else "NO"
    for row in result.findings or [{"guard": "none", "update": "-", "action": result.ended, "message": ""}]:
        message = f"{row['action']}: {row['message']}" if row["message"] else str(row["action"])
        table.add_row(row["guard"], run.about, str(row["update"]), message, mark)


if __name__ == "__main__":
    main()
