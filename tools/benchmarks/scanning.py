"""How fast a folder of many small files becomes a manifest, and in how much memory, beside what peers' users run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile as sf

from audio_ssl.rng import numpy_generator
from benchmarks.measure import Spread, speed_ratio
from benchmarks.report import BenchError, Row, note

RATE = 16000
FILES = 20_000
FILES_A_FOLDER = 1000
NUM_DIFFERENT = 300  # of each extension; the others are hard links to these
OURS = ("ends", "headers")
PEERS = ("soundfile_loop", "lhotse")
Figures = dict[str, float]


def run(*, num_files: int, repeats: int) -> list[Row]:
    """Rows of ``scan``: each look through the folder in a process of its own, after one of each that does not count.

    Half of the files are WAV, half FLAC, of 0.5 to 1.5 s, a thousand a folder; they are hard links to a few hundred
    different files, so what is measured is names, headers and ends that the system has in memory.

    - ``files_per_s``: from the start of the scan (all is imported) to the manifest in its place, with ``--check ends``
      (the default) and ``--check headers``;
    - ``peer_files_per_s``: fairseq's way, ``soundfile.info`` in a loop; and lhotse's ``RecordingSet.from_dir`` on as
      many processes as there are processors, where it is installed. Both read headers alone;
    - ``ratio_soundfile_loop``, ``ratio_lhotse``: how many times as fast as theirs ours is, within a round;
    - ``rss_growth_mib``: the most resident memory that the process had, over what it had before the scan; also for a
      tenth of the files: what is held for rows would be ten times as much for all.
    """
    with TemporaryDirectory(prefix="bench-scan-") as place:
        note(f"making {num_files:,} files")
        tenth, folder = make_files(Path(place) / "audio", num_files)
        rounds = [_round(folder, tenth, Path(place) / "out", num_files) for _ in range(repeats + 1)][1:]
    return _rows(rounds, num_files)


def make_files(root: Path, num_files: int) -> tuple[Path, Path]:
    """The folder with a tenth of the files, and the one above it with all."""
    originals = [_original(root.parent / "originals", i) for i in range(min(2 * NUM_DIFFERENT, num_files))]
    tenth = root / "tenth"
    for i in range(num_files):
        folder = (tenth if i < num_files // 10 else root / "rest") / f"{i // FILES_A_FOLDER:05d}"
        if i in (0, num_files // 10) or i % FILES_A_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        original = originals[i % len(originals)]
        os.link(original, folder / f"{i:08d}{original.suffix}")
    return tenth, root


def _original(folder: Path, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    generator = numpy_generator(1, "bench", number)
    samples = np.cumsum(generator.standard_normal(int(generator.integers(RATE // 2, 3 * RATE // 2))))
    path = folder / f"{number}.{('wav', 'flac')[number % 2]}"
    sf.write(path, 0.3 * samples / np.abs(samples).max(), RATE)
    return path


def _round(folder: Path, tenth: Path, out: Path, num_files: int) -> dict[str, Figures]:
    found = {what: _child(what, folder, out) for what in (*OURS, *PEERS)}
    found["tenth"] = _child(OURS[0], tenth, out)
    for what, figures in found.items():
        expected = num_files // 10 if what == "tenth" else num_files
        if figures.get("num_rows", expected) != expected:
            raise BenchError(f"{what} must find {expected} files, but found {figures['num_rows']:g}")
    return {what: figures for what, figures in found.items() if figures}


def _child(what: str, folder: Path, out: Path) -> Figures:
    """Its figures; none where the peer is not installed."""
    out.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scan_child", what, str(folder), str(out / what)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        raise BenchError(f"the process that scans ({what}) ended with status {done.returncode}; see above")
    figures = json.loads(done.stdout.splitlines()[-1])
    if "missing" in figures:
        note(f"left out: {what} ({figures['missing']})")
        return {}
    return {name: float(value) for name, value in figures.items()}


def _rows(rounds: list[dict[str, Figures]], num_files: int) -> list[Row]:
    def seconds(what: str) -> list[float]:
        return [found[what]["seconds"] for found in rounds]

    def place(what: str, metric: str) -> tuple[str, str, str]:
        return ("scan", f"{num_files:,} files, {what}", metric)

    peers = [peer for peer in PEERS if peer in rounds[0]]
    rows = []
    for what in (*OURS, *peers):
        metric = "files_per_s" if what in OURS else "peer_files_per_s"
        rows.append(Row.of(place(what, metric), Spread.of(num_files / s for s in seconds(what)), "files/s"))
    for what in OURS:
        for peer in peers:
            rows.append(Row.of(place(what, f"ratio_{peer}"), speed_ratio(seconds(what), seconds(peer)), "ratio"))
    for what, name in (("ends", "ends"), ("tenth", "ends, a tenth of them")):
        growth = Spread.of(found[what]["rss_growth_mib"] for found in rounds)
        rows.append(Row.of(place(name, "rss_growth_mib"), growth, "MiB"))
    return rows
