"""Texts of utterances, and of the passages that long ones are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.align import TimedToken


@dataclass(frozen=True)
class Transcript:
    """The text of an utterance.

    Attributes:
        row: its row.
        id: its id.
        path: its file.
        duration_s: of its audio.
        text: as decoded.
        words: the text's words with their times, where they were asked for.
        times_error: why there are no times although they were asked for.
    """

    row: int
    id: str
    path: str
    duration_s: float
    text: str
    words: tuple[TimedToken, ...] | None = None
    times_error: str | None = None

    def to_document(self) -> dict[str, Any]:
        """JSON-able values; ``words`` with times in seconds and confidence where they were asked for."""
        document: dict[str, Any] = {
            "id": self.id, "path": self.path, "duration_s": round(self.duration_s, 6), "text": self.text,
        }  # fmt: skip
        if self.words is not None:
            document["words"] = [asdict(word) for word in self.words]
        if self.times_error is not None:
            document["times_error"] = self.times_error
        return document

    @classmethod
    def of_document(cls, document: Mapping[str, Any], *, row: int) -> Transcript:
        """Read what :meth:`to_document` gave."""
        words = document.get("words")
        return cls(
            row, document["id"], document["path"], document["duration_s"], document["text"],
            None if words is None else tuple(TimedToken(**word) for word in words), document.get("times_error"),
        )  # fmt: skip


@dataclass(frozen=True)
class PassageText:
    """What was made of a passage.

    Attributes:
        first_frame: of the passage.
        stop_frame: one past its last.
        is_last: whether the utterance ends with it.
        text: as decoded.
        words: with times, where they were asked for and could be had.
        times_error: why not.
        edge_labels: first and last label that the model is surest of, blanks aside; None where there is none.
    """

    first_frame: int
    stop_frame: int
    is_last: bool
    text: str
    words: tuple[TimedToken, ...] | None = None
    times_error: str | None = None
    edge_labels: tuple[int, int] | None = None


def joined(
    passages: Sequence[PassageText], vocabulary: Vocabulary, *, joins: bool
) -> tuple[str, tuple[TimedToken, ...] | None, str | None]:
    """Text, words and the reason for their absence, of an utterance whose passages are all there.

    Args:
        passages: in order.
        vocabulary: tells whether two labels stand in one word.
        joins: whether a word may go on over a cut.
    """
    text, words = "", list[TimedToken]()
    last_label: int | None = None
    for passage in passages:
        edges = passage.edge_labels
        goes_on = (
            joins and bool(text and passage.text) and edges is not None and last_label is not None
            and vocabulary.words_of([last_label, edges[0]]) == [slice(0, 2)]
        )  # fmt: skip
        text += passage.text if goes_on or not text or not passage.text else f" {passage.text}"
        own = list(passage.words or ())
        if goes_on and words and own:
            words[-1] = _one_word(words[-1], own.pop(0))
        words += own
        last_label = last_label if edges is None else edges[1]
    error = next((passage.times_error for passage in passages if passage.times_error), None)
    has_words = all(passage.words is not None for passage in passages)
    return text, tuple(words) if has_words else None, error


def _one_word(left: TimedToken, right: TimedToken) -> TimedToken:
    confidence = (left.confidence * right.confidence) ** 0.5
    return TimedToken(left.text + right.text, left.start_s, right.end_s, round(confidence, 6))
