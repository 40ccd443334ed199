"""Recordings whose word times are known because they were put together: spoken digits with pauses between them.

Clips of the Free Spoken Digit Dataset are cut to where they are within :data:`QUIET_DB` of their loudest hundredth of a
second (one speaker's have half a second of silence around them), and joined, several of one speaker with pauses of
random length or none, under noise that is there all the time: what begins and ends with a word is the voice, and not
the noise of its clip. Where a word begins in its clip is thus told by loudness: soft sounds at its edges, such as the
end of "six", may be cut off, or be taken for the word's by some and for silence by others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.rng import numpy_generator
from benchmarks.report import BenchError, note

RATE_HZ = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNHEARD = ("lucas", "theo")  # speakers that no training hears
# Takes of a digit that a part is made of, the heard speakers' or the others', and how often each is used.
PARTS = {"train": (range(10, 50), 4), "valid": (range(5, 10), 1), "heard": (range(5), 1), "unheard": (range(10), 1)}
QUIET_DB = 40.0
DIGITS, PAUSE_S, SNR_DB = (3, 8), (0.05, 0.6), (20.0, 40.0)
JOINED_PROB = 0.3  # of two words without a pause between them
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TimedWord:
    """A word and its place in a recording, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Timed:
    """What :func:`prepare` leaves in a folder.

    Attributes:
        folder: it.
    """

    folder: Path

    def manifest(self, part: str) -> Path:
        """Recordings of one of :data:`PARTS`, with their texts."""
        return self.folder / f"{part}.arrow"

    def words(self, part: str) -> dict[str, list[TimedWord]]:
        """Words of each recording by its id."""
        told = json.loads((self.folder / f"{part}.json").read_text(encoding="utf-8"))
        return {name: [TimedWord(*word) for word in words] for name, words in told.items()}


def prepare(corpus: Path, out: Path, *, seed: int = 1) -> Timed:
    """Put recordings of every part together; the same seed gives the same ones. What is complete is left alone.

    Args:
        corpus: folder of ``{digit}_{speaker}_{take}.wav``.
        out: folder to write.
        seed: of order, pauses and noise.

    Raises:
        BenchError: clips are missing, or are not at 8 kHz.
    """
    made, speakers = Timed(out), sorted({path.stem.split("_")[1] for path in corpus.glob("*.wav")})
    if not set(UNHEARD) < set(speakers):
        raise BenchError(f"{corpus} must hold the Free Spoken Digit Dataset, with {' and '.join(UNHEARD)}, it does not")
    for part, (takes, times) in PARTS.items():
        if made.manifest(part).is_file():
            continue
        own = [s for s in speakers if (s in UNHEARD) == (part == "unheard")]
        told, rows, seconds = dict[str, list[TimedWord]](), list[Utterance](), 0.0
        for speaker in own:
            rng = numpy_generator(seed, f"timed digits {part} {speaker}")
            clips = [(digit, take) for _ in range(times) for digit, take in _shuffled(takes, rng)]
            for number, chosen in enumerate(_groups(clips, rng)):
                name = f"{part}_{speaker}_{number:03d}"
                waves = [_clip(corpus / f"{digit}_{speaker}_{take}.wav") for digit, take in chosen]
                audio, words = join(waves, [WORDS[digit] for digit, _ in chosen], rng=rng)
                path = out / part / f"{name}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                sf.write(path, audio, RATE_HZ, subtype="PCM_16")
                text = " ".join(word.text for word in words)
                rows.append(Utterance(name, f"{part}/{name}.wav", 0, len(audio), RATE_HZ, text=text, speaker=speaker))
                told[name] = words
                seconds += len(audio) / RATE_HZ
        lines = {name: [[w.text, w.start_s, w.end_s] for w in words] for name, words in told.items()}
        (out / f"{part}.json").write_text(json.dumps(lines), encoding="utf-8")
        Manifest.from_rows(rows, root=out).write(made.manifest(part))
        note(f"{part}: {len(rows)} recordings of {len(own)} speakers, {seconds / 60:.1f} min")
    return made


def _shuffled(takes: Sequence[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    pairs = [(digit, take) for digit in range(10) for take in takes]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _groups(clips: Sequence[tuple[int, int]], rng: np.random.Generator) -> Iterator[Sequence[tuple[int, int]]]:
    """All clips in order, three to eight at a time; the last may be fewer."""
    first = 0
    while first < len(clips):
        size = int(rng.integers(DIGITS[0], DIGITS[1] + 1))
        yield clips[first : first + size]
        first += size


def _clip(path: Path) -> Floats:
    try:
        wave, rate = sf.read(path, dtype="float32")
    except (OSError, sf.LibsndfileError) as error:
        raise BenchError(f"{path} must be a readable recording: {error}") from error
    if rate != RATE_HZ or wave.ndim != 1:
        raise BenchError(f"{path} must have one channel at {RATE_HZ} Hz, it has {rate} Hz")
    return cut_quiet(wave)


def cut_quiet(wave: Floats) -> Floats:
    """(S,) from the first to the last hundredth of a second that is within :data:`QUIET_DB` of the loudest."""
    size = RATE_HZ // 100
    frames = wave[: len(wave) // size * size].reshape(-1, size)
    power = np.square(frames, dtype=np.float64).mean(1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (-QUIET_DB / 10))
    return wave[loud[0] * size : (loud[-1] + 1) * size]


def join(waves: Sequence[Floats], texts: Sequence[str], *, rng: np.random.Generator) -> tuple[Floats, list[TimedWord]]:
    """Clips with pauses before, between (not everywhere) and after, equally loud, under noise; and where each is.

    Args:
        waves: (S,) each.
        texts: what is said in them.
        rng: of the pauses and the noise.
    """
    pieces, words, place = list[Floats](), list[TimedWord](), 0
    for wave, text in zip(waves, texts, strict=True):
        is_joined = bool(words) and rng.random() < JOINED_PROB
        pause = np.zeros(0 if is_joined else round(rng.uniform(*PAUSE_S) * RATE_HZ), dtype=np.float32)
        start = place + len(pause)
        place = start + len(wave)
        words.append(TimedWord(text, start / RATE_HZ, place / RATE_HZ))
        pieces += [pause, 0.05 * wave / np.sqrt(np.square(wave).mean())]
    pieces.append(np.zeros(round(rng.uniform(*PAUSE_S) * RATE_HZ), dtype=np.float32))
    audio = np.concatenate(pieces)
    audio += rng.normal(0, 0.05 * 10 ** (-rng.uniform(*SNR_DB) / 20), len(audio)).astype(np.float32)
    return np.clip(audio, -1, 1), words
