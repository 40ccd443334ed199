"""Word and character error rates: one cheapest alignment a pair, by jiwer, and its edits as counts.

Knows strings only: how texts were made or normalised is the caller's business.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Unit = Literal["word", "character"]
EditKind = Literal["hit", "substitution", "deletion", "insertion"]
_KINDS: dict[str, EditKind] = {
    "equal": "hit", "substitute": "substitution", "delete": "deletion", "insert": "insertion",
}  # fmt: skip


class Edit(NamedTuple):
    """One step of an alignment.

    Attributes:
        kind: what happened.
        reference: the unit that was said; empty for an insertion.
        hypothesis: the unit that was recognised; empty for a deletion.
    """

    kind: EditKind
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class EditCounts:
    """Edits of a cheapest alignment between references and hypotheses.

    Attributes:
        substitutions: units replaced.
        deletions: units of the reference that the hypothesis lacks.
        insertions: units of the hypothesis that the reference lacks.
        hits: units that agree.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    hits: int = 0

    def __add__(self, other: EditCounts) -> EditCounts:
        return EditCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.hits + other.hits,
        )

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        """Units in the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per unit of the reference; may exceed 1. With an empty reference: 0 without errors, else infinite."""
        if self.reference_length == 0:
            return math.inf if self.errors else 0.0
        return self.errors / self.reference_length


def align_texts(reference: str, hypothesis: str, *, unit: Unit) -> list[Edit]:
    """A cheapest alignment of one pair: substitution, deletion and insertion cost one each (Levenshtein 1966).

    The number of edits is that of every cheapest alignment; which of several is taken, and so how the edits are shared
    out among the three kinds, is the library's choice. sclite's costs (4, 3, 3) may choose another.

    Args:
        reference: what was said. Words are parted by spaces; leading and trailing spaces do not count.
        hypothesis: what was recognised.
        unit: ``word``, or ``character`` (a Unicode code point; spaces between words count, as in jiwer).

    Returns:
        The steps from the left to the right.
    """
    import jiwer

    compare: Callable[[str, str], Any] = jiwer.process_words if unit == "word" else jiwer.process_characters
    found = compare(reference, hypothesis)
    said, heard = found.references[0], found.hypotheses[0]
    edits: list[Edit] = []
    for chunk in found.alignments[0]:
        kind = _KINDS[chunk.type]
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if kind == "deletion":
            edits += [Edit(kind, word, "") for word in left]
        elif kind == "insertion":
            edits += [Edit(kind, "", word) for word in right]
        else:
            edits += [Edit(kind, *pair) for pair in zip(left, right, strict=True)]
    return edits


def counts_of(edits: Iterable[Edit]) -> EditCounts:
    """The steps of an alignment, counted by kind."""
    found = Counter(edit.kind for edit in edits)
    return EditCounts(found["substitution"], found["deletion"], found["insertion"], found["hit"])


def count_edits(reference: str, hypothesis: str, *, unit: Unit) -> EditCounts:
    """Count the edits of one pair (:func:`align_texts`); an empty reference makes every unit heard an insertion."""
    return counts_of(align_texts(reference, hypothesis, unit=unit))


def total(counts: Sequence[EditCounts]) -> EditCounts:
    """The sum over utterances: a corpus-level rate weighs each unit of the references equally."""
    return sum(counts, EditCounts())
