"""What is taken for what: the most frequent edits of words and of characters, counted in bounded memory."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from audio_ssl.evaluate.error_rate import Edit

MAX_HELD = 100_000  # different edits of one kind


@dataclass(frozen=True)
class Frequent:
    """The most frequent edits of one kind.

    Attributes:
        edits: (said, recognised, times), most frequent first; ``said`` is empty for insertions, ``recognised`` for
            deletions.
        num: edits of this kind in all.
        undercount: by how much a number of times may be too small, as rare edits were forgotten; 0: all were kept.
    """

    edits: tuple[tuple[str, str, int], ...]
    num: int
    undercount: int


class EditTally:
    """Counts edits of one kind; the rarest are forgotten where there are too many different ones.

    Each number is too small by ``undercount`` at most, so an edit that is seen more often is never missed (lossy
    counting: Manku & Motwani 2002).

    Args:
        max_held: different edits that are kept; twice as many are for a while.
    """

    def __init__(self, max_held: int = MAX_HELD) -> None:
        self._max_held = max_held
        self._counts: Counter[tuple[str, str]] = Counter()
        self.num, self.undercount = 0, 0

    def add(self, said: str, heard: str) -> None:
        """Take an edit in."""
        self.num += 1
        self._counts[said, heard] += 1
        if len(self._counts) > 2 * self._max_held:
            kept = self._counts.most_common(self._max_held + 1)
            self.undercount += kept.pop()[1]
            self._counts = Counter(dict(kept))

    def most(self, count: int) -> Frequent:
        """The ``count`` most frequent; ties in the order of the alphabet."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return Frequent(tuple((*pair, number) for pair, number in ordered[:count]), self.num, self.undercount)


def visible(text: str) -> str:
    """A unit that can be seen: nothing is a dash, a space a sign, and a mark alone gets something to sit on."""
    if text == " ":
        return "␣"
    is_mark = len(text) == 1 and unicodedata.category(text).startswith("M")
    return f"◌{text}" if is_mark else text or "–"


@dataclass(frozen=True)
class Confusions:
    """The most frequent edits of a unit, by kind."""

    substitutions: Frequent
    deletions: Frequent
    insertions: Frequent


class ConfusionTally:
    """Counts the edits of a unit."""

    def __init__(self) -> None:
        self._of = {kind: EditTally() for kind in ("substitution", "deletion", "insertion")}

    def add(self, edits: Iterable[Edit]) -> None:
        """Take the alignment of an utterance in."""
        for edit in edits:
            if edit.kind != "hit":
                self._of[edit.kind].add(edit.reference, edit.hypothesis)

    def most(self, count: int) -> Confusions:
        """The ``count`` most frequent of each kind."""
        return Confusions(*(self._of[kind].most(count) for kind in ("substitution", "deletion", "insertion")))
