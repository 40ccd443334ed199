"""The measure of exactness: cases (a model by size and seed), rows of differences, bars, and the precision of both.

A comparison (``comparisons_*.py``) takes a case and gives rows, and knows no pytest: tests assert over them,
``tools/parity_report.py`` prints them. A quantity ends in ``": <tensor>"`` where there is one row a tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from peers import OBJECTIVE, SYMBOLS, random_config
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.model import files

BARS = {"float32": 1e-5, "float64": 1e-10}
_NO_DROPS: dict[str, Any] = {
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feature_dropout": 0.0, "layer_drop": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One quantity that both sides have computed.

    Attributes:
        peer: the other system.
        variant: norm of the convs and norm order.
        size: ``small``, ``base`` or ``large``.
        seed: of weights, data and draws.
        quantity: what was compared.
        difference: see :func:`relative_difference`.
        precision: ``float32`` or ``float64``, of both sides.
    """

    peer: str
    variant: str
    size: str
    seed: int
    quantity: str
    difference: float
    precision: str = "float32"

    @property
    def is_near(self) -> bool:
        """Whether the difference is within its precision's bar; false for NaN."""
        return self.difference <= BARS[self.precision]


@dataclass(frozen=True)
class Case:
    """A model and its data, by seed.

    Attributes:
        size: ``small`` (seeds modulo 4 are the four pairs of conv norm and norm order), ``base`` or ``large``.
        seed: of weights, data and draws.
        num_layers: of the large model, whose 24 take long; None for all.
        is_double: compute in float64, which tells a difference in formulas from rounding.
        is_fresh: keep the weights that training starts from, see ``problems``.
    """

    size: str
    seed: int
    num_layers: int | None = None
    is_double: bool = False
    is_fresh: bool = False

    @property
    def model(self) -> ModelConfig:
        """Without any dropout: peers draw theirs in another order."""
        if self.size == "small":
            config = random_config(self.seed)  # layer norm over 5 channels would magnify every rounding
            return config.model_copy(update={"conv_dims": tuple(16 + dim for dim in config.conv_dims)})
        config = ModelConfig(preset=f"wav2vec2_{self.size}", **_NO_DROPS)
        return config.model_copy(update={"num_layers": self.num_layers or config.num_layers})

    @property
    def objective(self) -> Wav2Vec2Config:
        """Few codes in the small model, so that distractors with the target's codes occur.

        Peers know these by equal projected vectors. Widths of 8 make a matrix product give equal rows for equal
        input; of 6 and 7 it does not on every CPU, and they then keep some of these distractors, which we never do.
        """
        if self.size == "small":
            small = {"num_distractors": 11, "mask_span_frames": 3, "code_dim": 8, "target_dim": 8}
            return OBJECTIVE.model_copy(update={"target_dropout": 0.0, **small})
        large = {"code_dim": 768, "target_dim": 768} if self.size == "large" else {}
        return Wav2Vec2Config(target_dropout=0.0, **large)

    @property
    def variant(self) -> str:
        """For people."""
        return f"{self.model.feature_norm} norm, {self.model.norm_order}-LN"

    @property
    def is_padded_alike(self) -> bool:
        """Whether peers keep padding out, as we do: with group norm theirs enters the statistics (decision 0004)."""
        return self.model.feature_norm == "layer"

    def document(self, kind: str) -> dict[str, Any]:
        """What the builders in :mod:`audio_ssl.interop.peers` ask for."""
        if kind == "ctc":
            return files.ctc_document(self.model, symbols=SYMBOLS)
        return files.pretraining_document(self.model, self.objective)


def relative_difference(ours: Tensor, theirs: Tensor, *, scale: Tensor | None = None) -> float:
    """The measure of all comparisons: largest ``|ours - theirs|`` over largest ``|theirs|`` of the tensor.

    Args:
        ours: any shape; of frames, valid ones only.
        theirs: the same shape.
        scale: stands in for ``theirs`` under the fraction bar, for tensors that are zero but for rounding.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"ours must have their shape {tuple(theirs.shape)}, got {tuple(ours.shape)}")
    largest = (theirs if scale is None else scale).abs().max()
    return float((ours - theirs).abs().max() / largest)


def scale_of(name: str, model: ModelConfig) -> str | None:
    """For a gradient that is zero in exact arithmetic, the name of the weight beside it; else None.

    A key's bias adds the same to all scores of a query, which softmax does not see. Group norm over time takes the
    bias of the conv before it away.
    """
    first_conv = "encoder.feature_encoder.layers.0.conv.bias"
    if name.endswith(".attention.key.bias") or (name == first_conv and model.feature_norm == "group"):
        return name.removesuffix("bias") + "weight"
    return None


def rows_of(peer: str, case: Case, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[Row]:
    """One row for each quantity; both sides must have the same."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"{peer}: only one side has {sorted(ours.keys() ^ theirs.keys())}")
    for name, expected in theirs.items():
        difference = relative_difference(ours[name], expected)
        yield _row(peer, case, name, difference)


def gradient_rows(
    peer: str, case: Case, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], *, quantity: str
) -> Iterator[Row]:
    """One row for each parameter, under our names."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"{peer}: only one side has gradients of {sorted(ours.keys() ^ theirs.keys())}")
    for name, expected in theirs.items():
        beside = scale_of(name, case.model)
        difference = relative_difference(ours[name], expected, scale=theirs[beside] if beside else None)
        yield _row(peer, case, f"{quantity}: {name}", difference)


def _row(peer: str, case: Case, quantity: str, difference: float) -> Row:
    precision = "float64" if case.is_double else "float32"
    return Row(peer, case.variant, case.size, case.seed, quantity, difference, precision)


@contextmanager
def precision_of(case: Case) -> Iterator[None]:
    """In float64 nothing inside is cast to float32, as objectives and CTC losses of all sides do."""
    if not case.is_double:
        yield
        return
    log_softmax = F.log_softmax

    def uncast(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        return log_softmax(x, dim)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.Tensor, "float", lambda self: self))
        stack.enter_context(mock.patch.object(F, "log_softmax", uncast))
        if "fairseq2.models.wav2vec2.asr.model" in sys.modules:
            stack.enter_context(mock.patch("fairseq2.models.wav2vec2.asr.model.log_softmax", uncast))
        yield


def rows_under(comparison: Callable[[Case], Iterator[Row]], case: Case) -> list[Row]:
    """The comparison's rows in the case's precision.

    Where gradients are compared, peers attend by torch's plain kernel instead of the fused one that they choose by
    themselves: with that, the queries' gradients of fairseq2 in 24 layers were off from float64 by up to 1.4e-5 in
    float32, ours by 5e-6. Hidden states and logits are compared with the fused kernel, on both sides.
    """
    is_fused = comparison.__name__ == "frames"
    with precision_of(case), nullcontext() if is_fused else sdpa_kernel(SDPBackend.MATH):
        return list(comparison(case))
