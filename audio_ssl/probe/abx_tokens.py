"""The tokens of ABX: stretches of speech with a label, whose they are, and their frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe.dtw import Vectors, directions
from audio_ssl.probe.items import Frames, Items, Rows


@dataclass(frozen=True)
class Tokens:
    """M stretches; voices are numbered 0 to V - 1: a speaker, or one in a language where languages are compared.

    Attributes:
        items: (M,) which item each is of.
        times_s: (M, 2) its start and end; of a whole utterance 0 and infinity.
        seconds: (M,) how long it is.
        labels: (M,) numbers of labels, those of all items in ascending order.
        voices: (M,) whose it is.
        speaker_of_voice: (V,) numbers of speakers, those of all items in ascending order.
        is_other: (V, V) whether X may be of the second voice where A and B are of the first.
    """

    items: Rows
    times_s: NDArray[np.float64]
    seconds: NDArray[np.float64]
    labels: Rows
    voices: Rows
    speaker_of_voice: Rows
    is_other: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.items)


def tokens_of(items: Items, rows: Rows, *, task: ProbeTask) -> Tokens:
    """The tokens of some items: their segments, or they themselves where no item has any.

    Raises:
        ConfigError: utterances of several symbols without times, or languages are compared and one is unknown.
    """
    found: list[tuple[int, float, float, str]] = []
    has_segments = any(items.segments)
    for row in rows.tolist():
        label = items.labels[row]
        if has_segments:
            found += [(row, segment.start_s, segment.end_s, segment.label) for segment in items.segments[row]]
        elif isinstance(label, str):
            found.append((row, 0.0, np.inf, label))
        else:
            raise ConfigError(
                f"{task.title}: labels of kind 'abx' must be one name an utterance, or segments with times "
                f"(labels.ctm), got {len(label)} symbols for {items.manifest.describe(row)}"
            )
    names = {s.label for own in items.segments for s in own} if has_segments else set(map(str, items.labels))
    code_of_label = {name: code for code, name in enumerate(sorted(names))}
    voices = sorted({_voice(items, row, task=task) for row in rows.tolist()})
    code_of_voice = {voice: code for code, voice in enumerate(voices)}
    code_of_speaker = {name: code for code, name in enumerate(sorted(set(items.speakers)))}
    side = 0 if task.across == "speaker" else 1
    sides = np.array([voice[side] for voice in voices], dtype=np.str_)
    of_item = np.array([row for row, *_ in found], dtype=np.int64)
    times_s = np.array([[start, end] for _, start, end, _ in found], dtype=np.float64).reshape(-1, 2)
    return Tokens(
        of_item,
        times_s,
        np.minimum(times_s[:, 1] - times_s[:, 0], items.manifest.durations_s()[of_item]),
        np.array([code_of_label[label] for *_, label in found], dtype=np.int64),
        np.array([code_of_voice[_voice(items, row, task=task)] for row, *_ in found], dtype=np.int64),
        np.array([code_of_speaker[name] for name, _ in voices], dtype=np.int64),
        sides[:, None] != sides[None, :],
    )


def vectors_of(frames: Frames, tokens: Tokens, wanted: Rows) -> list[Vectors]:
    """The frames of some tokens, each over its length.

    A frame is of a segment if its centre, (t + 1/2) hop, lies in it; where none does, the one nearest to its middle is.

    Args:
        frames: of one layer.
        tokens: of some items.
        wanted: (K,) numbers of tokens.

    Returns:
        K times (T, D) float32, T >= 1.
    """
    found: list[Vectors] = [np.empty((0, 0), dtype=np.float32)] * len(wanted)
    of_item: dict[int, list[int]] = {}
    for place, token in enumerate(wanted.tolist()):
        of_item.setdefault(int(tokens.items[token]), []).append(place)
    for item, places in of_item.items():
        whole = directions(frames.of(item)[0].numpy())  # (1, T, D) -> (T, D)
        for place in places:
            start, stop = _frames_in(tokens.times_s[wanted[place]].tolist(), frames.hop_s, len(whole))
            found[place] = whole[start:stop]
    return found


def _frames_in(times_s: Sequence[float], hop_s: float, num_frames: int) -> tuple[int, int]:
    """First frame of a segment (its start and end) and the one behind its last."""
    start_s, end_s = times_s
    if np.isinf(end_s):
        return 0, num_frames
    first = max(0, int(np.ceil(start_s / hop_s - 0.5)))
    stop = min(num_frames, int(np.ceil(end_s / hop_s - 0.5)))
    if stop > first:
        return first, stop
    middle = min(num_frames - 1, max(0, int((start_s + end_s) / 2 / hop_s)))
    return middle, middle + 1


def _voice(items: Items, row: int, *, task: ProbeTask) -> tuple[str, str]:
    """Speaker and, where languages are compared, language."""
    if task.across == "speaker":
        return items.speakers[row], ""
    language = items.languages[row]
    if language is None:
        raise ConfigError(
            f'{task.title}: across = "language" needs the language of every row, but {items.manifest.describe(row)} '
            "has none; set data.language, or fill the manifest's column"
        )
    return items.speakers[row], language
