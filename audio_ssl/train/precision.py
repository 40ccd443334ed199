"""Number formats of the forward pass. Losses, softmax, Gumbel noise and CTC stay in fp32 inside their modules."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from audio_ssl.errors import TrainingError


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` is bf16 where the hardware multiplies it, on a GPU or a CPU, and fp32 elsewhere.

    On a CPU with AVX-512 bf16 or AMX a training step of ``tiny_cpu`` takes about half the time in bf16
    (``tools/bench.py step``); without them bf16 is emulated, and slower than fp32.

    Raises:
        TrainingError: bf16 on a GPU without it.
    """
    if precision == "auto":
        return "bf16" if _multiplies_bf16(device) else "fp32"
    if precision == "bf16" and device.type == "cuda" and not _multiplies_bf16(device):
        raise TrainingError("run.precision must be fp32 on this GPU: it has no bf16; set run.precision=fp32")
    return precision


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent on other builds: then fp32
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in ``precision`` (``fp32`` or ``bf16``)."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
