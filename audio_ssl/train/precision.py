"""Number formats of the forward pass. Losses, softmax, Gumbel noise and CTC stay in fp32 inside their modules."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from audio_ssl.errors import TrainingError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A sum over N targets is N times their mean: at 1, gradients are as large as those of a mean at a scale of N.
FIRST_SCALE = 1.0
LEAST_SCALE = 2.0**-14  # fairseq and fairseq2 give up at 1e-4
GROWTH, BACKOFF, UPDATES_TO_GROW = 2.0, 0.5, 2000  # torch.amp.GradScaler's


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
        raise TrainingError("run.precision must be fp16 or fp32 on this GPU: it has no bf16; set run.precision=fp16")
    return precision


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent on other builds: then fp32
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in ``precision`` (``fp32``, ``bf16`` or ``fp16``)."""
    if precision in DTYPES:
        return torch.autocast(device.type, dtype=DTYPES[precision])
    return nullcontext()


class LossScale:
    """The factor that keeps fp16 gradients between their least and their largest number; it finds it itself.

    An update whose gradient is not finite is skipped and halves the factor, 2000 good ones in a row double it. All of
    it stays on the device. Not ``torch.amp.GradScaler``: that one decides by the gradients that a rank holds, we by
    their norm over all ranks; both call the same kernel (``docs/decisions/0024``).

    Args:
        device: of the run.

    Reference: Mixed precision training (1710.03740) section 3.2.
    """

    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((), FIRST_SCALE, device=device)
        self._good_in_a_row = torch.zeros((), dtype=torch.int32, device=device)

    def update(self, skipped: Tensor) -> Tensor:
        """Take what became of an update.

        Args:
            skipped: () float32, 1 where it was skipped.

        Returns:
            () float32, 1 where the skipping was part of the search for the factor: it was not yet the least one.
        """
        is_search = skipped * (self.scale > LEAST_SCALE)
        torch._amp_update_scale_(self.scale, self._good_in_a_row, skipped, GROWTH, BACKOFF, UPDATES_TO_GROW)
        self.scale.clamp_(min=LEAST_SCALE)
        return is_search

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs: ``scale`` () float32 and ``good_in_a_row`` () int32."""
        return {"scale": self.scale, "good_in_a_row": self._good_in_a_row}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        self.scale.copy_(tensors["scale"])
        self._good_in_a_row.copy_(tensors["good_in_a_row"])
