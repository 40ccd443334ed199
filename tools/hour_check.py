"""An hour of speech as one recording through `audio-ssl transcribe`: memory, kills, windows against a single pass.

usage: AUDIO_SSL_CORPORA=... python tools/hour_check.py MODEL [--hours 1] [--kills 5] [--seed 1] [--parts 4] [-- ...]

The recording is real speech, row after row of --speech (a folder or a manifest) in an order drawn from the seed. The
command runs as users run it, in processes of its own: once undisturbed, with its memory watched; then killed (-9) after
drawn numbers of passages, and started again until it is done. Both must leave the same bytes. Then parts of about
--part-s seconds are transcribed in a single pass and in windows: which characters and words differ, how many of these
words are within a second of a seam, and, where the rows have texts, how many words are wrong in each. Options of
transcribe go behind --. Prints one JSON object (Linux). Exit status 1: other bytes after kills, a rule of subtitles
broken, --most-gib or more, or more than --most-percent of the words differ from the single pass near seams.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import jiwer
import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).parent))
from audio_ssl.data.audio import load_waveform
from audio_ssl.data.manifest import Manifest
from audio_ssl.inference.align import TimedToken
from audio_ssl.inference.decoding import GreedyDecoder
from audio_ssl.inference.inputs import InputSource, open_one
from audio_ssl.inference.models import Recogniser, open_recogniser, open_runtime
from audio_ssl.inference.source import Refusal, open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.subtitles import SubtitleSettings, width_of
from audio_ssl.inference.transcribe import Transcriber, groups_of, one_by_one
from audio_ssl.inference.transcript_folder import work_folder
from audio_ssl.inference.windows import WindowSettings, plan_windows
from benchmarks.resident import watch

RATE = 16_000
WINDOWS = ((60.0, 4.0), (20.0, 4.0), (20.0, 1.0))  # seconds, and seconds of overlap; the first are the defaults
NEAR_S = 1.0  # of a seam
POLL_S = 0.05
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
class Part:
    """A stretch of speech that is compared.

    Attributes:
        waveform: (S,) float32 at 16 kHz.
        text: what is said, by the model's rules; None where it is not known.
    """

    waveform: np.ndarray
    text: str | None


@dataclass(frozen=True)
class Agreement:
    """Windows against a single pass.

    Attributes:
        max_s: seconds of a window.
        overlap_s: of two.
        num_seams: between windows, in all parts.
        num_characters: of the single pass.
        num_edits: characters to insert, delete or replace.
        num_words: of the single pass.
        num_other_words: of these that are not the same, or are missing or more.
        num_near_seams: of those that are within a second of a seam.
        wrong_percent: of the words, where what is said is known.
    """

    max_s: float
    overlap_s: float
    num_seams: int
    num_characters: int
    num_edits: int
    num_words: int
    num_other_words: int
    num_near_seams: int
    wrong_percent: float | None


def main(words: Sequence[str] | None = None) -> int:
    """Measure; the exit status."""
    arguments = _parse(words)
    with tempfile.TemporaryDirectory(prefix="hour_check_", dir=arguments.work) as name:
        work = Path(name)
        num_samples = round(arguments.hours * 3600 * RATE)
        manifest = open_input(arguments.speech).manifest
        write_drawn(manifest, work / "hour.flac", num_samples, seed=arguments.seed)
        command = [
            sys.executable, "-m", "audio_ssl", "transcribe", str(arguments.model), str(work / "hour.flac"),
            "--format", "srt", *arguments.options,
        ]  # fmt: skip
        watched = watch([*command, "-o", str(work / "whole.srt")])
        num_passages = max(round(arguments.hours * 3600 / 90), 1)  # between 60 and 120 s
        killed = kill_and_go_on(command, work, arguments.kills, seed=arguments.seed, num_passages=num_passages)
        faults, num_cues = broken_rules((work / "whole.srt").read_text(encoding="utf-8"))
    recogniser = open_recogniser(arguments.model)
    parts = parts_of(manifest, arguments.parts, recogniser, part_s=arguments.part_s, seed=arguments.seed)
    agreements = compare(recogniser, parts)
    print(json.dumps({
        "hours": arguments.hours, "peak_rss_mib": round(watched.peak_mib, 1), "wall_s": round(watched.seconds, 1),
        "audio_s_per_s": round(num_samples / RATE / watched.seconds, 2), "num_cues": num_cues, "broken_rules": faults,
        "kills": asdict(killed), "part_s": arguments.part_s, "windows": [asdict(agreement) for agreement in agreements],
    }))  # fmt: skip
    is_small = watched.peak_mib < arguments.most_gib * 1024
    cut = agreements[1]
    is_close = 100 * cut.num_near_seams <= arguments.most_percent * max(cut.num_words, 1)
    return 0 if killed.is_equal and not faults and is_small and is_close else 1


def drawn_rows(manifest: Manifest, *, seed: int) -> Iterator[int]:
    """Rows in a drawn order, all of them and over again.

    Raises:
        SystemExit: there is none.
    """
    if not len(manifest):
        raise SystemExit("error: --speech must hold recordings, got none")
    drawn = random.Random(seed)  # noqa: S311 - repeatable
    while True:
        yield from drawn.sample(range(len(manifest)), len(manifest))


def write_drawn(manifest: Manifest, path: Path, num_samples: int, *, seed: int) -> None:
    """Real speech until it has so many samples at 16 kHz; one row at a time."""
    left = num_samples
    with sf.SoundFile(path, "w", RATE, 1, "PCM_16") as recording:
        for row in drawn_rows(manifest, seed=seed):
            own = load_waveform(manifest, row, sample_rate_hz=RATE)[:left]
            recording.write(own)
            left -= len(own)
            if not left:
                return


def kill_and_go_on(command: Sequence[str], work: Path, num_kills: int, *, seed: int, num_passages: int) -> Kills:
    """Start, kill after a drawn number of passages, start again; at last let it end.

    Args:
        command: without its output.
        work: holds ``whole.srt``, of an undisturbed run.
        num_kills: how often.
        seed: of the moments.
        num_passages: of the recording, about.
    """
    drawn, started, known = random.Random(seed), time.monotonic(), list[int]()  # noqa: S311 - repeatable
    out = work / "killed.srt"
    for after in sorted(drawn.randrange(num_passages) for _ in range(num_kills)):
        with subprocess.Popen([*command, "-o", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None and known_passages(out) < after:
                time.sleep(POLL_S)
            time.sleep(drawn.uniform(0, 2))  # so that it is anywhere
            run.send_signal(signal.SIGKILL)
        known.append(known_passages(out))
    subprocess.run([*command, "-o", str(out)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    is_equal = out.read_bytes() == (work / "whole.srt").read_bytes() and not work_folder(out).exists()
    return Kills(len(known), tuple(known), round(time.monotonic() - started, 1), is_equal)


def known_passages(out: Path) -> int:
    """Lines in the journals of an unfinished run."""
    return sum(file.read_bytes().count(b"\n") for file in work_folder(out).glob("passages/*.jsonl"))


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


def parts_of(manifest: Manifest, num: int, recogniser: Recogniser, *, part_s: float, seed: int) -> list[Part]:
    """Whole rows, one after the other, until each part has its length."""
    parts, rows = list[Part](), drawn_rows(manifest, seed=seed)
    for _ in range(num):
        waveforms, texts = list[np.ndarray](), list[str | None]()
        while sum(map(len, waveforms)) < part_s * RATE:
            row = next(rows)
            waveforms.append(load_waveform(manifest, row, sample_rate_hz=RATE))
            texts.append(manifest[row].text)
        known = [text for text in texts if text is not None]
        text = recogniser.vocabulary.normalize(" ".join(known)) if len(known) == len(texts) else None
        parts.append(Part(np.concatenate(waveforms), text))
    return parts


def compare(recogniser: Recogniser, parts: Sequence[Part]) -> list[Agreement]:
    """Each part in a single pass, and in windows; the first agreement is that of the single pass with itself."""
    single_s = max(len(part.waveform) for part in parts) / RATE + 1
    whole = _words(recogniser, parts, WindowSettings(single_s))
    return [
        _agreement(recogniser, parts, whole, WindowSettings(max_s, overlap_s))
        for max_s, overlap_s in ((single_s, 4.0), *WINDOWS)
    ]


def _agreement(
    recogniser: Recogniser, parts: Sequence[Part], whole: Sequence[Sequence[TimedToken]], windows: WindowSettings
) -> Agreement:
    encoder = recogniser.model.encoder
    found = _words(recogniser, parts, windows)
    num_seams = num_edits = num_other = num_near = 0
    for part, left, right in zip(parts, whole, found, strict=True):
        planned = plan_windows(
            len(part.waveform), windows, geometry=encoder.geometry, from_hz=RATE, to_hz=encoder.sample_rate_hz
        )
        seams = [w.keep_to * encoder.geometry.hop_samples / encoder.sample_rate_hz for w in planned[:-1]]
        num_seams += len(seams)
        edits = jiwer.process_characters(_text(left) or " ", _text(right) or " ")
        num_edits += edits.substitutions + edits.deletions + edits.insertions
        for size, times in differences(left, right):
            num_other += size
            num_near += size * any(abs(time_s - seam) <= NEAR_S for time_s in times for seam in seams)
    texts = [part.text for part in parts]
    known = [text for text in texts if text is not None]
    wrong = 100 * jiwer.wer(known, [_text(words) for words in found]) if len(known) == len(parts) else None
    return Agreement(
        windows.max_s, windows.overlap_s, num_seams, sum(len(_text(words)) for words in whole), num_edits,
        sum(map(len, whole)), num_other, num_near, None if wrong is None else round(wrong, 2),
    )  # fmt: skip


def differences(left: Sequence[TimedToken], right: Sequence[TimedToken]) -> list[tuple[int, list[float]]]:
    """Runs of words that differ: how many they are, and when they begin and end."""
    matcher = SequenceMatcher(None, [w.text for w in left], [w.text for w in right], autojunk=False)
    return [
        (max(i2 - i1, j2 - j1), [edge for w in (*left[i1:i2], *right[j1:j2]) for edge in (w.start_s, w.end_s)])
        for kind, i1, i2, j1, j2 in matcher.get_opcodes()
        if kind != "equal"
    ]


def _words(recogniser: Recogniser, parts: Sequence[Part], windows: WindowSettings) -> list[tuple[TimedToken, ...]]:
    source = InputSource({row: open_one(part.waveform, row, rate_hz=RATE) for row, part in enumerate(parts)})
    decode = one_by_one(GreedyDecoder(recogniser.vocabulary))
    settings = StreamSettings(max(60.0, windows.max_s), windows)
    transcriber = Transcriber(recogniser, decode, settings, open_runtime("cpu"), times=True)
    results = list(transcriber.run(source, groups_of(source, range(len(parts)))))
    assert not any(isinstance(result, Refusal) for result in results)
    return [result.words or () for result in results if not isinstance(result, Refusal)]


def _text(words: Sequence[TimedToken]) -> str:
    return " ".join(word.text for word in words)


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
    parser.add_argument(
        "--speech", type=Path, default=speech, help="folder or manifest: recordings, one after the other"
    )
    parser.add_argument("--parts", type=int, default=4, help="parts that are compared with a single pass")
    parser.add_argument("--part-s", type=float, default=180.0, help="of a part; a single pass takes memory with it")
    parser.add_argument("--most-gib", type=float, default=2.0)
    parser.add_argument("--most-percent", type=float, default=0.5, help="of the words, with default windows")
    parser.add_argument("--work", type=Path, help="where a folder for the recording is made; 100 MB for an hour")
    given = list(sys.argv[1:] if words is None else words)
    end = given.index("--") if "--" in given else len(given)
    return parser.parse_args(given[:end], argparse.Namespace(options=given[end + 1 :]))


if __name__ == "__main__":
    sys.exit(main())
