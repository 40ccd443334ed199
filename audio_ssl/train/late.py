"""A number of the device that the host reads an update late, when it is long there."""

from __future__ import annotations

import torch
from torch import Tensor


class LateNumber:
    """Reads the number of the update before without waiting for the update in hand.

    Reading a device's tensor waits for all work that was given to the device, that of the update just launched among
    it: the device would then stand idle while the host prepares the next one. Here the copy to the host is launched
    right behind the number, and the reader waits for that copy alone.
    """

    def __init__(self) -> None:
        self._copy: Tensor | None = None
        self._arrival: torch.cuda.Event | None = None

    def put(self, number: Tensor) -> None:
        """Start the way of ``number`` () to the host."""
        if number.device.type != "cuda":
            self._copy = number.detach()
            return
        self._copy = torch.empty_like(number, device="cpu", pin_memory=True)
        self._copy.copy_(number.detach(), non_blocking=True)
        self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrival.record(torch.cuda.current_stream(number.device))  # type: ignore[no-untyped-call]

    def read(self) -> float:
        """The number that was put last; 0 before the first."""
        if self._copy is None:
            return 0.0
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._copy)
