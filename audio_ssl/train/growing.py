"""A head that goes on: fine-tuning a recogniser whose vocabulary is not that of the new transcripts.

A symbol that the old head knew keeps its row to the bit. A new one starts as the mean of the old letters' rows. A mean
of scores is never above the best of them, so no answer of the old model changes before the first update, and the new
symbol starts neither impossible nor in the way.

Reference: Hewitt, "Initializing new word embeddings for pretrained language models" (2021), for the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.checkpoint import CONFIG_FILE
from audio_ssl.config import FinetuneConfig
from audio_ssl.data.text import WORD_SEPARATOR, Vocabulary
from audio_ssl.data.vocabulary import vocabulary_in
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.files import ModelFiles

# A row with such a bias was filled in for a symbol that its system did not have: it could never win, nor learn to.
DEAD_BIAS = -1e3
NUM_NAMED = 40  # symbols


@dataclass(frozen=True)
class OldHead:
    """The head of the recogniser that fine-tuning starts from.

    Attributes:
        source: the model.
        vocabulary: what its rows stand for.
        weight: (A, D).
        bias: (A,).
        condition: (D, A), what tells the blocks above of the head's scores (self-conditioned CTC), and its (D,) bias;
            None where there is none.
    """

    source: Path
    vocabulary: Vocabulary
    weight: Tensor
    bias: Tensor
    condition: tuple[Tensor, Tensor] | None = None

    def rows_of(self, symbols: Sequence[str]) -> Tensor:
        """(A',) int64 row of each symbol; -1 where there is none, or one that could never win."""
        index, is_dead = self.vocabulary.index, (self.bias <= DEAD_BIAS).tolist()
        rows = [index.get(symbol, -1) for symbol in symbols]
        return torch.tensor([-1 if row < 0 or is_dead[row] else row for row in rows])


@dataclass(frozen=True)
class HeadStart:
    """What becomes of the symbols of an old head.

    Attributes:
        source: the model that it came from.
        kept: symbols that keep their weights.
        new: symbols that start as the mean of the old letters.
        left_behind: symbols that the new head lacks.
        unseen: kept symbols that no transcript has.
    """

    source: Path
    kept: tuple[str, ...]
    new: tuple[str, ...]
    left_behind: tuple[str, ...]
    unseen: tuple[str, ...]

    def remarks(self) -> list[str]:
        """For people."""
        lines = [f"head from {self.source}: {len(self.kept)} symbols keep their weights"]
        if self.new:
            lines.append(f"new symbols, which start as the mean of the letters: {_listed(self.new)}")
        if self.left_behind:
            lines.append(f"symbols that are left behind: {_listed(self.left_behind)}")
        if self.unseen:
            lines.append(f"kept symbols that data.train never has, and that will be unlearned: {_listed(self.unseen)}")
        return lines

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "from": str(self.source), "kept": list(self.kept), "new": list(self.new),
            "left_behind": list(self.left_behind), "unseen": list(self.unseen),
        }  # fmt: skip


def old_head(files: ModelFiles) -> OldHead | None:
    """The head of a model; None where it is no recogniser."""
    if files.kind != "ctc":
        return None
    vocabulary = vocabulary_in(files.document["ctc"], source=files.path / CONFIG_FILE)
    tensors = files.tensors
    condition = None
    if "condition.weight" in tensors:
        condition = tensors["condition.weight"], tensors["condition.bias"]
    return OldHead(files.path, vocabulary, tensors["head.weight"], tensors["head.bias"], condition)


def chosen_vocabulary(config: FinetuneConfig, texts: Sequence[str], old: OldHead | None) -> Vocabulary:
    """The symbols of the new head.

    Args:
        config: ``ctc.old_head`` says what becomes of an old head, whose text rules stay with its weights.
        texts: transcripts of ``data.train``, not yet normalised.
        old: head to go on with; None for one from nothing.
    """
    least = config.vocabulary.min_count
    if old is None:
        return Vocabulary.from_texts(texts, rules=config.text, min_count=least)
    if config.ctc.old_head == "grow":
        return old.vocabulary.grown(texts, min_count=least)
    return Vocabulary.from_texts(texts, rules=old.vocabulary.rules, min_count=least)


def describe_start(old: OldHead, vocabulary: Vocabulary, counts: Mapping[int, int]) -> HeadStart:
    """What becomes of each symbol.

    Args:
        old: the head to start from.
        vocabulary: of the new head.
        counts: labels of ``data.train`` by symbol number.
    """
    has_row = dict(zip(vocabulary.symbols, (old.rows_of(vocabulary.symbols) >= 0).tolist(), strict=True))
    kept = tuple(symbol for symbol in vocabulary.symbols if has_row[symbol])
    return HeadStart(
        old.source,
        kept=kept,
        new=tuple(symbol for symbol in vocabulary.symbols if not has_row[symbol]),
        left_behind=tuple(symbol for symbol in old.vocabulary.symbols if symbol not in has_row),
        unseen=tuple(s for s in kept if _is_text(s) and not counts.get(vocabulary.index[s])),
    )


def start_head(model: CTCModel, old: OldHead, vocabulary: Vocabulary) -> None:
    """Give a fresh head the weights that the old one has for its symbols; see the module.

    Where both are self-conditioned, what tells the blocks above goes along; a new symbol tells them nothing at first.
    """
    rows = old.rows_of(vocabulary.symbols)
    letters = old.rows_of([symbol for symbol in old.vocabulary.symbols if _is_text(symbol)])
    letters = letters[letters >= 0]
    is_new = rows < 0
    with torch.no_grad():
        for weights, fresh in ((old.weight, model.head.weight), (old.bias, model.head.bias)):
            weights = weights.to(fresh.dtype)  # noqa: PLW2901
            arranged = weights[rows.clamp(min=0)]
            arranged[is_new] = weights[letters].mean(dim=0)
            fresh.copy_(arranged)
        if model.condition is not None and old.condition is not None:
            weight, bias = old.condition
            model.condition.weight.copy_(weight[:, rows.clamp(min=0)].masked_fill(is_new, 0.0))  # (D, A) -> (D, A')
            model.condition.bias.copy_(bias)


def _is_text(symbol: str) -> bool:
    return symbol != WORD_SEPARATOR and not (symbol.startswith("<") and symbol.endswith(">"))


def _listed(symbols: Sequence[str]) -> str:
    more = f" and {len(symbols) - NUM_NAMED} more" if len(symbols) > NUM_NAMED else ""
    return " ".join(symbols[:NUM_NAMED]) + more
