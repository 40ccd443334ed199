"""Sums that stay on the device between log lines, and the clock of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


class SumMeter:
    """Adds named tensors without waiting for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add each tensor to its namesake."""
        for name, value in sums.items():
            known = self._sums.get(name)
            self._sums[name] = value.detach().clone() if known is None else known + value.detach()

    def take(self) -> dict[str, Tensor]:
        """The sums so far; the meter starts again from nothing."""
        sums, self._sums = self._sums, {}
        return sums


@dataclass(frozen=True)
class Moment:
    """A point in time on two clocks.

    Attributes:
        wall_s: seconds of real time.
        processor_s: seconds that processors have worked for this process, all its threads together.
    """

    wall_s: float
    processor_s: float

    @classmethod
    def now(cls) -> Moment:
        """This one."""
        return cls(time.perf_counter(), time.process_time())

    def later_by(self, pause: Moment) -> Moment:
        """Moved by a length of time."""
        return Moment(self.wall_s + pause.wall_s, self.processor_s + pause.processor_s)

    def since(self, earlier: Moment) -> Moment:
        """The length of time from another."""
        return Moment(self.wall_s - earlier.wall_s, self.processor_s - earlier.processor_s)


class Clock:
    """Times updates and the wait for data; the first update of a process warms up and is not counted.

    Args:
        device: the clock waits for it before it reads the time at a log line.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._has_begun = False
        self._window_start = Moment.now()
        self._updates = 0
        self._wait_s = 0.0
        self._audio_s = 0.0
        self._checkpoint_s = 0.0

    def add_wait(self, seconds: float) -> None:
        """Count time that the loop waited for data."""
        self._wait_s += seconds

    def add_checkpoint(self, seconds: float) -> None:
        """Count time that updates stood still for a checkpoint; told in the next window."""
        self._checkpoint_s += seconds

    def add_update(self, audio_s: float) -> None:
        """Count an update that saw ``audio_s`` seconds of audio over all ranks."""
        if not self._has_begun:
            self._has_begun, self._window_start = True, Moment.now()
            self._wait_s = 0.0
            return
        self._updates += 1
        self._audio_s += audio_s

    def read(self, *, restart: bool = True) -> dict[str, float]:
        """Speed of the window since the last reading; empty before the second update.

        Args:
            restart: start a new window.
        """
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = Moment.now()
        spent = now.since(self._window_start)
        elapsed = spent.wall_s
        if not self._updates or elapsed <= 0:
            return {}
        figures = {
            "audio_s_per_s": self._audio_s / elapsed,
            "update_s": elapsed / self._updates,
            "processor_update_s": spent.processor_s / self._updates,
            "data_wait_share": min(1.0, self._wait_s / elapsed),
        }
        if not restart:
            return figures
        if self._checkpoint_s:
            figures["checkpoint_s"] = self._checkpoint_s
            self._checkpoint_s = 0.0
        self._window_start, self._updates, self._wait_s, self._audio_s = now, 0, 0.0, 0.0
        return figures

    def skip(self, since: Moment) -> None:
        """Leave out time that was spent on something else (validation, a checkpoint) since ``since``."""
        self._window_start = self._window_start.later_by(Moment.now().since(since))
