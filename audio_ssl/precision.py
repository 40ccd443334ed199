"""One switch: what must not be computed in half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Turn autocast off inside; the caller casts its inputs to float32.

    Why: cosines of bfloat16 vectors lose the gaps that the contrastive loss ranks by, and a Gumbel argmax over
    bfloat16 logits ties. The meta device has no autocast to turn off, and a graph that is taken for other runtimes is
    float32 throughout.
    """
    if not torch.compiler.is_exporting() and torch.amp.autocast_mode.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
