"""Ten thousand short files through ``audio-ssl extract``, beside the same audio in long ones, and what memory does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from audio_ssl.inference.extract import Extractor
from audio_ssl.inference.models import Precision
from audio_ssl.inference.source import OpenedInput, open_input
from audio_ssl.model.encoder import Encoder
from audio_ssl.rng import numpy_generator
from benchmarks.cases import PRECISIONS, Case
from benchmarks.extractors import our_extractor
from benchmarks.loading import corpora_folder
from benchmarks.measure import Spread, speed_ratio, time_in_turn
from benchmarks.memory import mib_of
from benchmarks.ours import Ours
from benchmarks.report import BenchError, Row, note

FILES = 10_000
FILES_A_FOLDER = 1000
CORPORA = ("librispeech_mini", "speech_to_intent", "speechocean762")  # 16 kHz
RATE = 16000
SHORT_S = (1.0, 2.0)
SHORT_IN_A_LONG = 11  # 16.5 s on average
SETTLED_SHARE = 0.2  # of the audio, after which memory is expected to stay


def run(case: Case, *, num_files: int, repeats: int, threads: int) -> list[Row]:
    """Rows of ``extract --short``.

    Real speech, in one piece after the other, is cut into files of 1 to 2 s, and once more so that eleven of them are
    one file. Ours goes through both, from the scan of the folder to the index, in fp32 and bf16.

    - ``audio_s_per_s`` of both; ``ratio_short_long``: of the short files over the long ones, within a round. Attention
      costs long files more, reading and writing costs short ones more: both are in it;
    - ``scan_s``: of these the seconds that the scan of the folder takes, short and long;
    - ``rss_growth``: the highest resident memory after a fifth of the short files' audio over that up to there, less 1.
    """
    ours = Ours(case, trains=False)
    ours.fold()
    with TemporaryDirectory(prefix="bench-short-") as place:
        note(f"making {num_files:,} files")
        folders, audio_s = make_files(Path(place) / "audio", num_files)
        rows = []
        for precision in PRECISIONS:
            encoder = cast(Encoder, ours.encoder)
            extractor = our_extractor(encoder, cast(Precision, precision), num_threads=threads)
            passes = {kind: Pass(extractor, folder, Path(place) / "out") for kind, folder in folders.items()}
            times = time_in_turn({kind: partial(_go, kind, one, precision) for kind, one in passes.items()}, repeats)
            rows += _rows(f"{case.name}, {num_files:,} files, {precision}", times, passes, audio_s)
    return rows


def _go(kind: str, one: Pass, precision: str) -> None:
    note(f"at work: {kind}, {precision}")
    one()


def _rows(label: str, times: dict[str, tuple[float, ...]], passes: dict[str, Pass], audio_s: float) -> list[Row]:
    rows = []
    for kind, seconds in times.items():
        speed = Spread.of(audio_s / s for s in seconds)
        rows.append(Row.of(("extract", f"{label}/{kind}", "audio_s_per_s"), speed, "audio-s/s"))
        scans = passes[kind].scans_s[-len(seconds) :]
        rows.append(Row.of(("extract", f"{label}/{kind}", "scan_s"), Spread.of(scans), "s"))
    rows.append(Row.of(("extract", label, "ratio_short_long"), speed_ratio(times["short"], times["long"]), "ratio"))
    growths = passes["short"].growths[-len(times["short"]) :]
    return [*rows, Row.of(("extract", label, "rss_growth"), Spread.of(growths), "share")]


def make_files(root: Path, num_files: int) -> tuple[dict[str, Path], float]:
    """Folders ``short`` and ``long`` with the same audio, and its seconds."""
    least, most = (round(s * RATE) for s in SHORT_S)
    lengths = numpy_generator(1, "bench", num_files).integers(least, most, size=num_files, endpoint=True)
    stream = _speech()
    held = np.zeros(0, dtype=np.float32)
    parts: list[NDArray[np.float32]] = []
    for i, length in enumerate(lengths.tolist()):
        while len(held) < length:
            held = np.concatenate([held, next(stream)])
        parts.append(held[:length])
        held = held[length:]
        _write(root / "short", i, parts[-1])
        if len(parts) == SHORT_IN_A_LONG or i + 1 == num_files:
            _write(root / "long", i, np.concatenate(parts))
            parts = []
    return {kind: root / kind for kind in ("short", "long")}, int(lengths.sum()) / RATE


def _speech() -> Iterator[NDArray[np.float32]]:
    """The files of the corpora, and again from the first when all have come."""
    paths = [path for name in CORPORA for path in sorted((corpora_folder() / name).rglob("*")) if path.is_file()]
    paths = [path for path in paths if path.suffix in (".flac", ".opus", ".ogg", ".wav")]
    if not paths:
        raise BenchError(f"AUDIO_SSL_CORPORA must name a folder with audio in one of {', '.join(CORPORA)}")
    while True:
        for path in paths:
            samples, rate = sf.read(path, dtype="float32")
            if rate == RATE and samples.ndim == 1:
                yield samples


def _write(folder: Path, number: int, samples: NDArray[np.float32]) -> None:
    path = folder / f"{number // FILES_A_FOLDER:03d}" / f"{number:06d}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples, RATE)


class Pass:
    """Ours through a folder, once a call.

    Args:
        extractor: ready to run.
        folder: of audio.
        out: where the embeddings go, and are taken away from at the next call.

    Attributes:
        scans_s: seconds that each call's scan took.
        growths: of memory in each call.
    """

    def __init__(self, extractor: Extractor, folder: Path, out: Path) -> None:
        self._extractor, self._folder, self._out = extractor, folder, out
        self.scans_s: list[float] = []
        self.growths: list[float] = []

    def __call__(self) -> None:
        """The work that is timed."""
        shutil.rmtree(self._out, ignore_errors=True)
        started = time.perf_counter()
        opened = open_input(self._folder)
        self.scans_s.append(time.perf_counter() - started)
        memory = Memory(opened)
        self._extractor.to_folder(opened, self._out, on_progress=memory.look)
        self.growths.append(memory.growth)


class Memory:
    """The highest resident memory before and after a share of the audio is done."""

    def __init__(self, opened: OpenedInput) -> None:
        self._settled_s = SETTLED_SHARE * float(opened.manifest.durations_s().sum())
        self._done_s = 0.0
        self._highest = [mib_of("VmRSS")] * 2

    def look(self, seconds: float) -> None:
        """Progress."""
        self._done_s += seconds
        is_after = self._done_s > self._settled_s
        self._highest[is_after] = max(self._highest[is_after], mib_of("VmRSS"))

    @property
    def growth(self) -> float:
        """Of the one over the other, less 1; not below 0."""
        before, after = self._highest
        return max(after / before - 1, 0.0)
