"""An hour of speech as one recording through `audio-ssl transcribe`: memory, kills, windows against a single pass.

usage: AUDIO_SSL_CORPORA=... python tools/hour_check.py MODEL [--hours 1] [--kills 5] [--seed 1] [--parts 4] [-- ...]

The recording is real speech, file after file in an order drawn from the seed. The command runs as users run it, in
processes of its own: once undisturbed, with its memory watched; then killed (-9) at drawn moments and started again
until it is done. Both must leave the same bytes. Then the first minutes are transcribed in parts of --part-s seconds,
each in a single pass and in windows: how many characters differ, and how many windows were joined. Options of
transcribe go behind --. Prints one JSON object (Linux). Exit status 1: other bytes after kills, a rule of subtitles
broken, --most-gib or more, or more than --most-percent of the characters differ from the single pass.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import jiwer
import soundfile as sf

sys.path.insert(0, str(Path(__file__).parent))
from audio_ssl.data.waveform import resample
from audio_ssl.inference.subtitles import SubtitleSettings, width_of
from audio_ssl.inference.transcript_folder import work_folder
from benchmarks.resident import watch

RATE = 16_000
WINDOWS = ((60.0, 4.0), (20.0, 4.0), (20.0, 1.0))  # seconds, and seconds of overlap; the first are the defaults
TIMES = re.compile(r"(\d+):(\d+):(\d+),(\d+) --> (\d+):(\d+):(\d+),(\d+)")


@dataclass(frozen=True)
class Kills:
    """What became of a run that was killed again and again.

    Attributes:
        num_kills: how often.
        known_at: passages that were known when it was started again.
        seconds: of all its lives.
        is_equal: whether it left the bytes of the undisturbed run, and nothing beside them.
    """

    num_kills: int
    known_at: tuple[int, ...]
    seconds: float
    is_equal: bool


@dataclass(frozen=True)
class Agreement:
    """Windows against a single pass.

    Attributes:
        max_s: seconds of a window.
        overlap_s: of two.
        num_seams: between windows, in all parts.
        num_characters: of the single pass.
        num_edits: characters to insert, delete or replace.
        num_equal_parts: parts whose text is the same.
    """

    max_s: float
    overlap_s: float
    num_seams: int
    num_characters: int
    num_edits: int
    num_equal_parts: int

    @property
    def percent(self) -> float:
        """Of the characters that differ."""
        return 100 * self.num_edits / max(self.num_characters, 1)


def main(words: Sequence[str] | None = None) -> int:
    """Measure; the exit status."""
    arguments = _parse(words)
    with tempfile.TemporaryDirectory(prefix="hour_check_", dir=arguments.work) as name:
        work = Path(name)
        num_samples = round(arguments.hours * 3600 * RATE)
        write_drawn(arguments.speech, work / "hour.flac", num_samples, seed=arguments.seed)
        command = [
            sys.executable, "-m", "audio_ssl", "transcribe", str(arguments.model), str(work / "hour.flac"),
            "--format", "srt", *arguments.options,
        ]  # fmt: skip
        watched = watch([*command, "-o", str(work / "whole.srt")])
        killed = kill_and_go_on(command, work, arguments.kills, seed=arguments.seed, typical_s=watched.seconds)
        faults, num_cues = broken_rules((work / "whole.srt").read_text(encoding="utf-8"))
        agreements = compare(arguments, work)
    worst = max((agreement.percent for agreement in agreements[:1]), default=0.0)
    print(json.dumps({
        "hours": arguments.hours, "peak_rss_mib": round(watched.peak_mib, 1), "wall_s": round(watched.seconds, 1),
        "audio_s_per_s": round(num_samples / RATE / watched.seconds, 2), "num_cues": num_cues, "broken_rules": faults,
        "kills": asdict(killed), "windows": [{**asdict(a), "percent": round(a.percent, 4)} for a in agreements],
    }))  # fmt: skip
    is_small = watched.peak_mib < arguments.most_gib * 1024
    return 0 if killed.is_equal and not faults and is_small and worst <= arguments.most_percent else 1


def write_drawn(speech: Path, path: Path, num_samples: int, *, seed: int) -> None:
    """Real speech, file after file in a drawn order and over again, until it has so many samples at 16 kHz.

    Raises:
        SystemExit: there is none.
    """
    files = sorted(file for file in speech.rglob("*") if file.suffix in (".flac", ".wav", ".ogg"))
    if not files:
        raise SystemExit(f"error: {speech} must hold .flac, .wav or .ogg files of speech; give a folder with --speech")
    drawn, left = random.Random(seed), num_samples  # noqa: S311 - repeatable
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as recording:
        while left:
            for file in drawn.sample(files, len(files)):
                waveform, rate = sf.read(file, dtype="float32", always_2d=True)
                own = resample(waveform.mean(axis=1), from_hz=rate, to_hz=RATE)[:left]
                recording.write(own)
                left -= len(own)


def kill_and_go_on(command: Sequence[str], work: Path, num_kills: int, *, seed: int, typical_s: float) -> Kills:
    """Start, kill at a drawn moment, start again; at last let it end.

    Args:
        command: without its output.
        work: holds ``whole.srt``, of an undisturbed run.
        num_kills: how often.
        seed: of the moments.
        typical_s: how long a run takes.
    """
    drawn, started, known = random.Random(seed), time.monotonic(), list[int]()  # noqa: S311 - repeatable
    out = work / "killed.srt"
    for _ in range(num_kills):
        with subprocess.Popen([*command, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            try:
                run.wait(timeout=drawn.uniform(0.1, 0.9) * typical_s)
                break  # it got through
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
        lines = [file.read_bytes().count(b"\n") for file in work_folder(out).glob("passages/*.jsonl")]
        known.append(sum(lines))
    subprocess.run([*command, "-o", str(out)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    is_equal = out.read_bytes() == (work / "whole.srt").read_bytes() and not work_folder(out).exists()
    return Kills(len(known), tuple(known), round(time.monotonic() - started, 1), is_equal)


def broken_rules(subtitles: str) -> tuple[list[str], int]:
    """What a player, or a reader, would stumble over in an SRT file; and its cues.

    Rules that the speech may make impossible (a cue's least time, reading speed) are not among them.
    """
    rules, faults, edges = SubtitleSettings(), list[str](), list[tuple[float, float]]()
    blocks = [block.split("\n") for block in subtitles.strip().split("\n\n") if block]
    for number, (head, times, *lines) in enumerate(blocks, start=1):
        found = TIMES.fullmatch(times)
        if head != str(number) or found is None or not 1 <= len(lines) <= 2:
            faults.append(f"cue {number} is {head!r}, {times!r}, {len(lines)} lines")
            continue
        start, end = (_seconds(found.groups()[i : i + 4]) for i in (0, 4))
        edges.append((start, end))
        if not 0 < end - start <= rules.max_s + 0.001:
            faults.append(f"cue {number} stands {end - start:.3f} s")
        faults += [f"cue {number} has a line of {width_of(x)}" for x in lines if width_of(x) > rules.line_chars]
    faults += [
        f"a cue ends at {end} s, after the next one has begun" for (_, end), (n, _) in pairwise(edges) if end > n
    ]
    return faults, len(blocks)


def compare(arguments: argparse.Namespace, work: Path) -> list[Agreement]:
    """The first parts of the recording in windows, against a single pass."""
    parts = work / "parts"
    parts.mkdir()
    with sf.SoundFile(work / "hour.flac") as recording:
        for number in range(arguments.parts):
            sf.write(parts / f"{number:03d}.flac", recording.read(round(arguments.part_s * RATE)), RATE)
    whole = _texts(arguments, parts, work / "whole.txt", max_s=arguments.part_s + 1, overlap_s=4.0)
    agreements = []
    for max_s, overlap_s in WINDOWS:
        cut = _texts(arguments, parts, work / "cut.txt", max_s=max_s, overlap_s=overlap_s)
        pairs = list(zip(whole, cut, strict=True))
        edits = [jiwer.process_characters(a or " ", b or " ") for a, b in pairs]
        num_edits = sum(found.substitutions + found.deletions + found.insertions for found in edits)
        seams = -(-int(max(arguments.part_s - max_s, 0)) // int(max_s - overlap_s))
        agreements.append(
            Agreement(
                max_s, overlap_s, seams * len(pairs), sum(map(len, whole)), num_edits, sum(a == b for a, b in pairs)
            )
        )
    return agreements


def _texts(arguments: argparse.Namespace, parts: Path, out: Path, *, max_s: float, overlap_s: float) -> list[str]:
    command = [
        sys.executable, "-m", "audio_ssl", "transcribe", str(arguments.model), str(parts), "-o", str(out),
        "--max-s", str(max_s), "--overlap-s", str(overlap_s), "--batch-s", str(max(max_s, 60)), *arguments.options,
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = out.read_text(encoding="utf-8").splitlines()
    return [line.partition("\t")[2] for line in lines]


def _seconds(clock: Sequence[str]) -> float:
    hours, minutes, seconds, milliseconds = map(int, clock)
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpora = os.environ.get("AUDIO_SSL_CORPORA")
    speech = Path(corpora) / "librispeech_mini" if corpora else Path(__file__).parents[1] / "manifests/demo"
    parser.add_argument("model", type=Path, help="a recogniser")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speech", type=Path, default=speech, help="folder of recordings, put one after the other")
    parser.add_argument("--parts", type=int, default=4, help="parts that are compared with a single pass")
    parser.add_argument("--part-s", type=float, default=180.0, help="of a part; a single pass takes memory with it")
    parser.add_argument("--most-gib", type=float, default=2.0)
    parser.add_argument("--most-percent", type=float, default=0.5, help="of the characters, with default windows")
    parser.add_argument("--work", type=Path, help="where a folder for the recording is made; 100 MB for an hour")
    given = list(sys.argv[1:] if words is None else words)
    end = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:end], argparse.Namespace(options=given[end + 1 :]))


if __name__ == "__main__":
    sys.exit(main())
