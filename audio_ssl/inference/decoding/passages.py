"""Cuts of long utterances between words."""

from __future__ import annotations

from audio_ssl.data.text import WORD_SEPARATOR, Vocabulary
from audio_ssl.inference.decoding.settings import LogProbs

MAX_PASSAGE_FRAMES = 6000
"""Longer utterances are decoded in passages; two minutes at the usual hop."""


def passages(log_probs: LogProbs, vocabulary: Vocabulary, *, max_frames: int = MAX_PASSAGE_FRAMES) -> list[slice]:
    """Cut a long utterance between words, so that beam search and alignment stay bounded.

    Each cut is where the word separator is most probable in the second half of a longest passage.

    Args:
        log_probs: (T, A) float32.
        vocabulary: names the columns.
        max_frames: of a passage.

    Returns:
        Ranges of frames, one after another; a single one for an utterance that is short enough.
    """
    separator, start, ranges = vocabulary.index[WORD_SEPARATOR], 0, []
    while len(log_probs) - start > max_frames:
        earliest = start + max(max_frames // 2, 1)
        stop = earliest + int(log_probs[earliest : start + max_frames, separator].argmax())
        ranges.append(slice(start, stop))
        start = stop
    return [*ranges, slice(start, len(log_probs))]
