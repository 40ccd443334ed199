"""Symbols of a fairseq CTC head: from ``dict.ltr.txt`` beside the checkpoint, or from the dictionary inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.symbols import BLANK

DICTIONARY = "dict.ltr.txt"
# Rows 0 to 3 of every fairseq head, as fairseq calls them and as we do: its <s> is the CTC blank, which we, as
# transformers, call <pad>.
_THEIR_ROWS = ["<s>", "<pad>", "</s>", "<unk>"]
SPECIAL_ROWS = (BLANK, "<s>", "</s>", "<unk>")


def head_symbols(path: Path, content: Mapping[str, Any]) -> list[str] | None:
    """Symbol of each row of a CTC head, special ones under our names.

    Args:
        path: the checkpoint; its dictionary may stand beside it.
        content: what it holds, as :func:`~audio_ssl.interop.pt_file.read_pt` gives it; newer ones hold a dictionary.

    Returns:
        None where there is no dictionary.

    Raises:
        CheckpointError: a dictionary is unreadable or not one of fairseq's, or the two differ.
    """
    beside, inside = _symbols_beside(path.parent / DICTIONARY), None
    state = content.get("task_state")
    if isinstance(state, dict) and state.get("target_dictionary") is not None:
        inside = dictionary_symbols(state["target_dictionary"], source=f"{path}, task_state.target_dictionary")
    if beside is not None and inside is not None and beside != inside:
        raise CheckpointError(
            f"{path.parent / DICTIONARY} must hold the symbols of {path}, but it has {len(beside)} with the special "
            f"ones and the dictionary inside has {len(inside)}{_first_difference(beside, inside)}; remove the file to "
            "take the one inside"
        )
    return inside if beside is None else beside


def dictionary_symbols(dictionary: Any, *, source: str) -> list[str]:
    """Symbol of each row after a pickled ``fairseq.data.dictionary.Dictionary``, special ones under our names.

    Args:
        dictionary: its attributes, as :func:`~audio_ssl.interop.pickled.plain` gives them.
        source: where it comes from, for messages.

    Raises:
        CheckpointError: it has no list of symbols that starts with fairseq's special ones.
    """
    symbols = dictionary.get("symbols") if isinstance(dictionary, dict) else None
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
        raise CheckpointError(f"{source} must be a fairseq dictionary with a list of symbols; put {DICTIONARY} there")
    return _ours(symbols, source=source)


def _symbols_beside(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} must be a readable fairseq dictionary: {error}") from error
    return _ours([*_THEIR_ROWS, *(line.rsplit(" ", 1)[0] for line in lines if line.strip())], source=str(path))


def _ours(symbols: list[str], *, source: str) -> list[str]:
    """The special symbols under our names, in a list that is known to be one of fairseq's."""
    if symbols[: len(_THEIR_ROWS)] != _THEIR_ROWS:
        raise CheckpointError(
            f"{source} must start with {' '.join(_THEIR_ROWS)}, got {' '.join(symbols[: len(_THEIR_ROWS)])}; only "
            "dictionaries with fairseq's own special symbols can be read"
        )
    return [*SPECIAL_ROWS, *symbols[len(_THEIR_ROWS) :]]


def _first_difference(beside: list[str], inside: list[str]) -> str:
    row = next((i for i, (a, b) in enumerate(zip(beside, inside, strict=False)) if a != b), None)
    return "" if row is None else f", and row {row} is {beside[row]!r} there and {inside[row]!r} inside"
