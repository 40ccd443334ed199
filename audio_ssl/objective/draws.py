"""The one way in which the objective draws random numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...], generator: torch.Generator, *, device: torch.device) -> Tensor:
    """Uniform float32 in [0, 1), drawn where the generator lives and then moved.

    A CPU generator so gives the same draw for every device, and no draw waits for a device.
    """
    return torch.rand(shape, generator=generator, device=generator.device).to(device, non_blocking=True)
