"""Rows of a CTC head by symbol: other systems order their alphabets differently, so rows move by name, never by index.

Ours: ``<pad>`` (the blank) is row 0, ``<unk>`` and ``|`` are there, the rest in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

BLANK, UNKNOWN, SEPARATOR = "<pad>", "<unk>", "|"
# A symbol that the other alphabet lacks: log-probability far below all others', within float16.
_NEVER = -1e4


def arrange_head(head: Mapping[str, Tensor], *, have: Sequence[str], want: Sequence[str]) -> dict[str, Tensor]:
    """Rows of a linear head in another order of symbols.

    Args:
        head: ``weight`` (A, D) and ``bias`` (A,).
        have: symbol of each row.
        want: symbols wanted, in order. One that ``have`` lacks gets a row that practically never wins.

    Returns:
        ``weight`` (A', D) and ``bias`` (A',) with A' = len(want).
    """
    row_of = {symbol: row for row, symbol in enumerate(have)}
    rows = torch.tensor([row_of.get(symbol, -1) for symbol in want])
    is_absent = rows < 0
    weight = head["weight"][rows.clamp(min=0)].masked_fill(is_absent[:, None], 0.0)
    return {"weight": weight, "bias": head["bias"][rows.clamp(min=0)].masked_fill(is_absent, _NEVER)}


def our_symbols(theirs: Sequence[str]) -> list[str]:
    """All of ``theirs`` (special ones already under our names), blank first, absent special ones added at the end."""
    symbols = [BLANK, *(s for s in theirs if s != BLANK)]
    return symbols + [s for s in (UNKNOWN, SEPARATOR) if s not in symbols]


def are_lowercase(symbols: Sequence[str]) -> bool:
    """Whether transcripts must be lower-cased for this alphabet: it has lower-case letters and no upper-case ones."""
    letters = [s for s in symbols if len(s) == 1]
    return any(s.islower() for s in letters) and not any(s.isupper() for s in letters)
