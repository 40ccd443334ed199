"""Our encoder with the linear layers of its transformer in int8, everything else as in bf16: a measure, not an option.

Weights are quantized a tensor at a time, inputs at every call by their own range: torch's dynamic quantization, with
oneDNN's kernels and prepacked weights. Convolutions stay as they are: torch has no dynamic int8 for them.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from audio_ssl.inference.models import Runtime
from audio_ssl.model.kernels import thaw_linears
from benchmarks.cases import CPU, Case
from benchmarks.ours import Ours
from benchmarks.report import BenchError, Row, note

ENGINE = "onednn"


class Int8Linear(nn.Module):
    """A quantized linear layer among bf16 ones: its kernel takes and gives float32."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out) bfloat16."""
        return cast(Tensor, self.linear(x.float())).bfloat16()


class Int8(Ours):
    """Ours, quantized.

    Args:
        ours: whose weights, folded for inference.
    """

    name = "audio_ssl int8"

    def __init__(self, ours: Ours) -> None:
        self.case, self.trains, self.batch, self.device = ours.case, False, ours.batch, ours.device
        torch.backends.quantized.engine = ENGINE
        self.module = quantize(ours.module)


def is_available() -> bool:
    """Whether torch has the kernels, and the module that calls them (torch 2.10 is to lose it); says so where not."""
    is_here = ENGINE in torch.backends.quantized.supported_engines and find_spec("torch.ao.quantization") is not None
    if not is_here:
        note(f"left out: int8: torch {torch.__version__} lacks dynamic quantization with {ENGINE}")
    return is_here


def quantize(module: nn.Module) -> nn.Module:
    """A copy with int8 linear layers in its transformer blocks.

    Raises:
        BenchError: torch found none.
    """
    from torch.ao.nn.quantized import dynamic
    from torch.ao.quantization import quantize_dynamic

    module = copy.deepcopy(module)
    num_quantized = 0
    for block in module["encoder"].context_network.blocks:  # type: ignore[index]
        thaw_linears(block)  # torch looks for the very type
        quantize_dynamic(block, {nn.Linear}, dtype=torch.qint8, inplace=True)  # type: ignore[no-untyped-call]
        for part in list(block.modules()):
            for name, child in part.named_children():
                if isinstance(child, dynamic.Linear):
                    setattr(part, name, Int8Linear(child))
                    num_quantized += 1
    if not num_quantized:
        raise BenchError("torch quantized no linear layer, so int8 would be bf16 under another name")
    return module


@torch.inference_mode()
def error_rows(case: Case, ours: Ours, int8: Int8) -> list[Row]:
    """How far frames in bf16 and int8 are from those in fp32.

    ``error_*`` is the largest difference over the largest value, ``cosine_*`` the mean cosine of a frame with its own.
    """
    with Runtime(CPU, "fp32").autocast():
        exact = ours.encode(ours.batch).float()
    rows = []
    for name, system in (("bf16", ours), ("int8", int8)):
        with Runtime(CPU, "bf16").autocast():
            frames = system.encode(ours.batch).float()
        error = float((frames - exact).abs().max() / exact.abs().max())
        cosine = float(cosine_similarity(frames, exact, dim=-1).mean())
        rows.append(Row("forward", case.name, f"error_{name}", error, "share"))
        rows.append(Row("forward", case.name, f"cosine_{name}", cosine, "cosine"))
    return rows
