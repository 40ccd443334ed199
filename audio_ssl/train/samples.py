"""Some hypotheses of a validation, for people to read: the worst, the median and the best, and some that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jiwer

# Of the rows in order of their length: two that are neither the shortest nor the longest, and the same each time.
FIXED_AT = (0.25, 0.75)


@dataclass(frozen=True)
class Decoded:
    """What the model makes of a row.

    Attributes:
        row: its number.
        reference: what was said.
        hypothesis: what was recognised.
        cer: character errors for each character of the reference.
    """

    row: int
    reference: str
    hypothesis: str
    cer: float


@dataclass(frozen=True)
class Sample:
    """A hypothesis that is shown.

    Attributes:
        which: ``worst``, ``median``, ``best`` or ``fixed``; several where the row is all of them.
        id: of the utterance.
        cer: its character error rate.
        reference: what was said.
        hypothesis: what was recognised.
    """

    which: str
    id: str
    cer: float
    reference: str
    hypothesis: str

    def __str__(self) -> str:
        head = f"  {self.which}, CER {self.cer:.1%}, {self.id}"
        return f"{head}\n    reference:  {self.reference}\n    hypothesis: {self.hypothesis}"

    def document(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def decoded_rows(rows: Sequence[int], references: Sequence[str], hypotheses: Sequence[str]) -> list[Decoded]:
    """Put together what was decoded, with the error rate of each row.

    Args:
        rows: numbers.
        references: of these rows, none empty.
        hypotheses: of these rows.
    """
    found = jiwer.process_characters(list(references), list(hypotheses))
    edits = (
        sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in chunks if c.type != "equal")
        for chunks in found.alignments
    )
    parts = zip(rows, references, hypotheses, edits, strict=True)
    return [Decoded(row, said, heard, errors / len(said)) for row, said, heard, errors in parts]


def chosen(decoded: Sequence[Decoded]) -> list[tuple[str, Decoded]]:
    """The worst, median and best row by error rate (ties: by number), and rows that are the same at each validation.

    Args:
        decoded: at least one row.
    """
    ranked = sorted(decoded, key=lambda d: (-d.cer, d.row))
    by_length = sorted(decoded, key=lambda d: (len(d.reference), d.row))
    picks = [("worst", ranked[0]), ("median", ranked[len(ranked) // 2]), ("best", ranked[-1])]
    picks += [("fixed", by_length[int(share * len(by_length))]) for share in FIXED_AT]
    names: dict[int, list[str]] = {}
    for which, pick in picks:
        if which not in (known := names.setdefault(pick.row, [])):
            known.append(which)
    by_row = {pick.row: pick for _, pick in picks}
    return [(" and ".join(which), by_row[row]) for row, which in names.items()]
