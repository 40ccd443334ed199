"""Rows of a CTC head by symbol: other systems order their alphabets differently, so rows move by name, never by index.

Ours: ``<pad>`` (the blank) is row 0, ``<unk>`` and ``|`` are there, the rest in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from audio_ssl.config import TextRules
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.origin import Origin

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


def head_in_order(tensors: Mapping[str, Tensor], *, have: Sequence[str], want: Sequence[str]) -> dict[str, Tensor]:
    """A recogniser's tensors, by our names, with the rows of its head in another order; see :func:`arrange_head`."""
    head = {leaf: tensors[f"head.{leaf}"] for leaf in ("weight", "bias")}
    return {**tensors, **{f"head.{k}": v for k, v in arrange_head(head, have=have, want=want).items()}}


def restorable_symbols(origin: Origin | None, *, system: str, symbols: Sequence[str] | None) -> Sequence[str] | None:
    """The order of rows that a recogniser came with, if it goes back to its system with the same symbols.

    Args:
        origin: where the model came from.
        system: where it goes.
        symbols: of its head now; None where there is no head.
    """
    if origin is None or origin.system != system or symbols is None or origin.symbols is None:
        return None
    return origin.symbols if our_symbols(origin.symbols) == list(symbols) else None


def check_symbols(symbols: object, *, source: Path) -> None:
    """Pass None, or symbols that name the rows of a head.

    Raises:
        CheckpointError: something else than a list of strings, or a symbol that stands there twice.
    """
    if symbols is None:
        return
    if not isinstance(symbols, list | tuple) or not all(isinstance(symbol, str) and symbol for symbol in symbols):
        raise CheckpointError(
            f"{source}: symbols must be a list of strings, got {symbols!r:.80}; correct its vocabulary"
        )
    twice = (
        sorted({symbol for symbol in symbols if symbols.count(symbol) > 1}) if len(set(symbols)) < len(symbols) else []
    )
    if twice:
        raise CheckpointError(
            f"{source}: every symbol must stand once, but {twice[:10]} stand twice; correct its vocabulary"
        )


def our_symbols(theirs: Sequence[str]) -> list[str]:
    """All of ``theirs`` (special ones already under our names), blank first, absent special ones added at the end."""
    symbols = [BLANK, *(s for s in theirs if s != BLANK)]
    return symbols + [s for s in (UNKNOWN, SEPARATOR) if s not in symbols]


def rules_for(symbols: Sequence[str]) -> TextRules:
    """The text rules that an alphabet shows: the case of its letters, where all have one."""
    letters = [s for s in symbols if len(s) == 1]
    has_lower, has_upper = any(s.islower() for s in letters), any(s.isupper() for s in letters)
    return TextRules(case="keep" if has_lower == has_upper else "lower" if has_lower else "upper")
