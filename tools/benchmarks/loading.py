"""How fast files become batches, beside bare decoding and other loaders, and whether memory stays as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.plan import PlanSettings, plan
from audio_ssl.data.scan import scan
from audio_ssl.rng import numpy_generator
from audio_ssl.train.memory import keep_freed_memory
from benchmarks.loaders import BATCH_S, RATE, Corpus, Epoch, Heard, candidates
from benchmarks.measure import Spread, Times, speed_ratio, time_in_turn
from benchmarks.memory import BENCH, mib_of
from benchmarks.report import BenchError, Row, note

CORPORA = {"flac": "librispeech_mini", "opus": "speech_to_intent"}
LEAST_HOURS = 4  # files come again until a corpus has so much; the end of an epoch, short of rows, then weighs little
EPOCHS_OF_MEMORY = 3
NUM_LIBRISPEECH = 281_241  # utterances of its 960 hours
RATIOS = {
    "ratio_bare_decode": ("audio_ssl", "bare decoding"),
    "ratio_bare_decode_threads": ("audio_ssl, threads", "bare decoding"),
    "ratio_dataloader": ("audio_ssl", "DataLoader"),
    "ratio_lhotse": ("audio_ssl", "lhotse"),
    "ratio_datasets": ("audio_ssl", "datasets"),
}


def run(*, repeats: int, threads: int) -> list[Row]:
    """Rows of ``load``.

    For FLAC and Opus, whole files at 16 kHz in batches of 120 s, every candidate with as many threads or worker
    processes; ours with the engine that ``auto`` means here, and with the thread engine:

    - ``audio_s_per_s`` of each candidate, and ``batch_padding_share`` of its batches;
    - ``ratio_bare_decode``: ours over ``soundfile.read`` in as many threads, nothing done with the result;
    - ``ratio_dataloader``, ``ratio_lhotse``, ``ratio_datasets``: ours over theirs;
    - ``rss_growth``: resident memory after the third epoch over that after the first, less 1, in a process that does
      nothing else;
    - ``padding_share`` of a plan at 120 s a batch over 281,241 utterances (LibriSpeech's 960 h) whose lengths are drawn
      from those of the real LibriSpeech files here.
    """
    folder = corpora_folder()
    rows = [_padding(folder)]
    for name in CORPORA:
        ask = Ask(name, str(folder), repeats, threads, LEAST_HOURS)
        rows += _rows(ask.case, _child(ask))
        rows.append(_growth(ask.case, _child(replace(ask, repeats=0))))
    return rows


@dataclass(frozen=True)
class Ask:
    """What a child measures: ``repeats`` rounds of all candidates, or with 0 the memory of ours, on so many hours."""

    corpus: str
    folder: str
    repeats: int
    threads: int
    least_hours: float

    @property
    def case(self) -> str:
        """Its name in rows."""
        return f"{self.corpus}, {self.threads} threads"


@dataclass(frozen=True)
class Found:
    """What a child has measured.

    Attributes:
        heard: samples of an epoch of each candidate, without and with padding.
        times: seconds of each round.
        resident_mib: after each epoch of ours, where memory was asked for.
    """

    heard: dict[str, Heard]
    times: Times
    resident_mib: tuple[float, ...] = ()

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return vars(self)


def measure(ask: Ask) -> Found:
    """Measure one corpus; for a process of its own, which keeps freed pages as one that trains does."""
    keep_freed_memory()
    torch.set_num_threads(ask.threads)
    corpus = Corpus(ask.corpus, _manifest(Path(ask.folder), ask.corpus, least_hours=ask.least_hours), ask.threads)
    epochs = candidates(corpus)
    if not ask.repeats:
        return Found({}, {}, tuple(_resident_after(epochs["audio_ssl"]) for _ in range(EPOCHS_OF_MEMORY)))
    for missing in sorted({"lhotse", "datasets"} - set(epochs)):
        note(f"{missing} is not installed: left out (pip install 'audio_ssl[bench]')")
    heard = {name: _checked(name, epoch(), corpus) for name, epoch in epochs.items()}
    return Found(heard, time_in_turn(epochs, ask.repeats))


def _resident_after(epoch: Epoch) -> float:
    epoch()
    return mib_of("VmRSS")


def _rows(case: str, found: Found) -> list[Row]:
    rows = []
    for name, seconds in found.times.items():
        num_samples, num_padded = found.heard[name]
        speed = Spread.of(num_samples / RATE / s for s in seconds)
        rows.append(Row.of(("load", f"{case}, {name}", "audio_s_per_s"), speed, "audio-s/s"))
        if name != "bare decoding":
            rows.append(Row("load", f"{case}, {name}", "batch_padding_share", 1 - num_samples / num_padded, "share"))
    return rows + [
        Row.of(("load", case, metric), speed_ratio(found.times[ours], found.times[theirs]), "ratio")
        for metric, (ours, theirs) in RATIOS.items()
        if {ours, theirs} <= set(found.times)
    ]


def _checked(name: str, heard: Heard, corpus: Corpus) -> Heard:
    expected = int(corpus.manifest.num_samples_at(RATE).sum())
    if heard.num_samples != expected:
        raise BenchError(f"{name} must read the whole corpus, {expected} samples, but read {heard.num_samples}")
    return heard


def _growth(case: str, found: Found) -> Row:
    first, *_, last = found.resident_mib
    return Row("load", case, "rss_growth", last / first - 1, "share")


def _padding(folder: Path) -> Row:
    real = _scanned(folder, "flac").num_samples_at(RATE)
    lengths = numpy_generator(1, "bench", NUM_LIBRISPEECH).choice(real, NUM_LIBRISPEECH)
    lengths = np.minimum(lengths, 20 * RATE)  # data.max_s
    made = plan(lengths, settings=PlanSettings(BATCH_S * RATE, BATCH_S * RATE), seed=1, epoch=0)
    return Row("load", f"{NUM_LIBRISPEECH:,} utterances", "padding_share", made.padding_share, "share")


def corpora_folder() -> Path:
    """``AUDIO_SSL_CORPORA``.

    Raises:
        BenchError: it does not name a folder with the corpora.
    """
    folder = Path(os.environ.get("AUDIO_SSL_CORPORA", ""))
    missing = [name for name in CORPORA.values() if not (folder / name).is_dir()]
    if missing:
        raise BenchError(f"AUDIO_SSL_CORPORA must name a folder with {' and '.join(missing)}, got {str(folder)!r}")
    return folder


def _scanned(folder: Path, name: str) -> Manifest:
    return scan(folder / CORPORA[name], check="headers").manifest


def _manifest(folder: Path, name: str, *, least_hours: float) -> Manifest:
    """Files of 16 kHz, each as often as it takes for enough hours."""
    found = _scanned(folder, name)
    times = max(1, -(-int(least_hours * 3600) // int(found.durations_s().sum())))
    rows: Sequence[Utterance] = list(found)
    return Manifest.from_rows((replace(row, id=f"{i}/{row.id}") for i in range(times) for row in rows), root=found.root)


def _child(ask: Ask) -> Found:
    command = [sys.executable, str(BENCH), "--load-child", json.dumps(vars(ask))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the process that loads ended with status {done.returncode}; see above")
    plain = json.loads(done.stdout)
    heard = {name: Heard(*values) for name, values in plain["heard"].items()}
    times = {name: tuple(values) for name, values in plain["times"].items()}
    return Found(heard, times, tuple(plain["resident_mib"]))
