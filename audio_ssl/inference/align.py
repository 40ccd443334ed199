"""Forced alignment: when each character and word of a known text was said, and how sure the model is.

Reference: Viterbi over the CTC lattice (Graves et al. 2006; Kürzinger et al., "CTC-Segmentation", 2020), computed by
``torchaudio.functional.forced_align``, and beyond what that can hold by :mod:`audio_ssl.inference.viterbi`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.data.normalize import UNKNOWN_SHOWN
from audio_ssl.data.text import BLANK, UNKNOWN, Vocabulary, min_ctc_frames
from audio_ssl.errors import AudioSSLError, ManifestError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.viterbi import BLOCK_FRAMES, best_spans

MAX_LATTICE_CELLS = 10**8
"""Frames x states of a lattice for torchaudio, which keeps a byte for each: about five minutes of speech."""
MAX_COLUMN_BYTES = 2**31
"""Of the columns that are kept of a longer one: two hours of speech and more."""


@dataclass(frozen=True)
class TimedToken:
    """A word or a character with its place in time.

    Attributes:
        text: the word or character.
        start_s: seconds from the utterance's start.
        end_s: after ``start_s``.
        confidence: geometric mean of the probabilities of its symbols on their frames, 0 to 1.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Alignment:
    """An aligned utterance.

    Attributes:
        id: of the utterance.
        text: as aligned, normalised as in training.
        duration_s: of the utterance.
        words: in order; they neither overlap nor reach beyond the utterance.
        characters: of the words, in order.
        confidence: geometric mean over all symbols; low where the text is not what was said.
    """

    id: str
    text: str
    duration_s: float
    words: tuple[TimedToken, ...]
    characters: tuple[TimedToken, ...]
    confidence: float


@dataclass(frozen=True)
class FrameClock:
    """Frames to seconds. A symbol on frames a to b (b included) lasts from a's start to the start of frame b + 1.

    A frame's start is the centre of its receptive field less half a hop, so that neighbouring frames tile time.

    Attributes:
        geometry: of the encoder.
        sample_rate_hz: of the encoder.
        first_frame: the utterance's frame that counts as 0, where a part of it is aligned alone.
    """

    geometry: ConvGeometry
    sample_rate_hz: int
    first_frame: int = 0

    def edge_s(self, frame_idx: int) -> float:
        """Where frame ``frame_idx`` starts and the one before it ends."""
        centre = self.geometry.frame_centre_s(self.first_frame + frame_idx, sample_rate_hz=self.sample_rate_hz)
        return centre - self.geometry.hop_samples / 2 / self.sample_rate_hz


@dataclass(frozen=True)
class _Span:
    symbol: int
    first: int
    stop: int
    log_prob: float  # mean over its frames


def align(
    utterance_id: str,
    text: str,
    log_probs: NDArray[np.float32],
    *,
    vocabulary: Vocabulary,
    clock: FrameClock,
    duration_s: float,
) -> Alignment:
    """Align a text to the log-probabilities of its utterance.

    Args:
        utterance_id: for messages and files.
        text: what was said; normalised here as in training.
        log_probs: (T, A) float32 of a CTC model.
        vocabulary: names the columns.
        clock: frames to seconds.
        duration_s: of the utterance; no time goes beyond it.

    Raises:
        ManifestError: the text has characters that the model does not know, or more symbols than the frames can hold,
            or the utterance is too long.
    """
    return align_labels(
        utterance_id, vocabulary.normalize(text), vocabulary.encode(text),
        log_probs=log_probs, vocabulary=vocabulary, clock=clock, duration_s=duration_s,
    )  # fmt: skip


def align_labels(
    utterance_id: str,
    text: str,
    labels: Sequence[int],
    *,
    log_probs: NDArray[np.float32],
    vocabulary: Vocabulary,
    clock: FrameClock,
    duration_s: float,
) -> Alignment:
    """Align the labels that spell a text, such as those that a decoder found; else as :func:`align`.

    Args:
        utterance_id: as there.
        text: normalised.
        labels: that spell it.
        log_probs: as there.
        vocabulary: as there.
        clock: as there.
        duration_s: as there.

    Raises:
        ManifestError: as there.
    """
    if not labels:
        return Alignment(utterance_id, "", duration_s, (), (), 1.0)
    _check(utterance_id, text, labels=labels, num_frames=len(log_probs), vocabulary=vocabulary)
    spans = _spans(labels, log_probs, separator=vocabulary.separator)

    def timed(token: str, own: Sequence[_Span]) -> TimedToken:
        start, end = clock.edge_s(own[0].first), clock.edge_s(own[-1].stop)
        confidence = min(float(np.exp(np.mean([span.log_prob for span in own]))), 1.0)
        return TimedToken(token, round(min(start, duration_s), 6), round(min(end, duration_s), 6), round(confidence, 6))

    groups = vocabulary.words_of(labels)
    words = text.split()
    if len(words) != len(groups):  # labels may be words without letters, such as a lone mark that pieces part
        words = [vocabulary.decode_ids(labels[group]) for group in groups]
    shown = [(vocabulary.decode_ids([label]), span) for label, span in zip(labels, spans, strict=True)]
    return Alignment(
        utterance_id,
        text,
        duration_s,
        words=tuple(timed(word, spans[group]) for word, group in zip(words, groups, strict=True)),
        characters=tuple(timed(character, [span]) for character, span in shown if character),
        confidence=min(float(np.exp(np.mean([span.log_prob for span in spans]))), 1.0),
    )


def _check(utterance_id: str, text: str, *, labels: Sequence[int], num_frames: int, vocabulary: Vocabulary) -> None:
    # what greedy decoding writes for <unk> is aligned to <unk>; any other unknown character has nothing to align to
    if vocabulary.index[UNKNOWN] in labels:
        odd = sorted({c for c in text if c != " " and vocabulary.lacks(c)} - {UNKNOWN_SHOWN})
        if odd:
            raise ManifestError(
                f"{utterance_id}: the text must be spelled with the model's {len(vocabulary)} symbols, it has "
                f"{' '.join(map(repr, odd))}; write them out, or leave them out"
            )
    needed = min_ctc_frames(labels)
    if num_frames < needed:
        raise ManifestError(
            f"{utterance_id}: the audio must have {needed} frames or more for this text, it has {num_frames}; "
            "is the text that of another recording?"
        )
    size = _column_bytes(num_frames, labels)
    if size > MAX_COLUMN_BYTES:
        raise ManifestError(
            f"{utterance_id}: the audio must be shorter to be aligned at once: {num_frames} frames and {len(labels)} "
            f"symbols need {size / 1e9:.1f} GB, the limit is {MAX_COLUMN_BYTES / 1e9:.1f} GB; cut the recording and "
            "its text into passages"
        )


def _column_bytes(num_frames: int, labels: Sequence[int]) -> int:
    return (num_frames // BLOCK_FRAMES + 1) * (2 * len(labels) + 1) * 8


def _spans(labels: Sequence[int], log_probs: NDArray[np.float32], *, separator: int | None) -> list[_Span]:
    """One span a label: its frames on the best path, and the mean of its log-probabilities there.

    A frame between words may be blank or separator, whichever: models hear separators before the first word and
    after the last too, where the text has none, and letters would be drawn there to fill those frames.
    """
    heard = log_probs.astype(np.float64)
    if separator is not None:
        heard[:, BLANK] = np.logaddexp(heard[:, BLANK], heard[:, separator])
        # Where a sure model gives a whole pause to the separator, it could stand at any of its frames. torchaudio 2.9
        # leaves the best path where two ways into a state are equally good, so the earliest frame is made the best.
        heard[:, separator] -= 1e-6 * np.arange(len(heard))
    is_short = len(heard) * (2 * len(labels) + 1) <= MAX_LATTICE_CELLS
    found = _torchaudio_spans(labels, heard) if is_short else best_spans(heard, labels, blank=BLANK)
    return [
        _Span(label, first, stop, float(log_probs[first:stop, label].mean()))
        for label, (first, stop) in zip(labels, found, strict=True)
    ]


def _torchaudio_spans(labels: Sequence[int], heard: NDArray[np.float64]) -> list[tuple[int, int]]:
    from torchaudio.functional import forced_align, merge_tokens

    target = torch.tensor([list(labels)], dtype=torch.int32)
    try:
        with warnings.catch_warnings():
            # torchaudio 2.9 announces that it goes into maintenance; it has kept this function
            warnings.filterwarnings("ignore", message=".*has been deprecated.*")
            path, scores = forced_align(torch.from_numpy(heard)[None], target, blank=BLANK)  # (T, A) -> (1, T, A)
    except (RuntimeError, ValueError) as error:
        raise AudioSSLError(f"torchaudio's forced alignment must succeed, it says: {error}") from error
    return [(token.start, token.end) for token in merge_tokens(path[0], scores[0], blank=BLANK)]
