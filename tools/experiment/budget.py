"""What a run may spend, the clock that is stopped while a system is measured, and what follows from both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from audio_ssl.config import OptimConfig
from audio_ssl.train.schedules import learning_rate

FIRST_SHARE = 1 / 30  # of the budget: the first point after the start
_STEPS = 1_000_000  # that a budget is divided into for a schedule that counts updates


@dataclass(frozen=True)
class Budget:
    """Minutes of training time, or hours of audio heard, repeated passes over the same audio included.

    Attributes:
        amount: how many of them.
        unit: ``minutes`` or ``audio hours``.
    """

    amount: float
    unit: str = "minutes"

    def share(self, *, elapsed_s: float, audio_s: float) -> float:
        """How much of the budget is used, from 0 to 1."""
        used = elapsed_s / 60 if self.unit == "minutes" else audio_s / 3600
        return min(1.0, used / self.amount)


def point_shares(count: int) -> tuple[float, ...]:
    """Shares of the budget at which a system is measured: geometric from :data:`FIRST_SHARE` to 1; one is the end."""
    if count == 1:
        return (1.0,)
    return tuple(FIRST_SHARE ** (1 - i / (count - 1)) for i in range(count))


def rate_at(share: float, optim: OptimConfig) -> float:
    """The learning rate when a share of the budget is used: the schedule of ``optim``, whatever an update takes."""
    return learning_rate(min(int(share * _STEPS), _STEPS - 1), config=optim, num_updates=_STEPS)


class TrainingClock:
    """Seconds between :meth:`start` and :meth:`stop`, added up.

    Args:
        now: seconds on a clock that never goes back.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._spent_s = 0.0
        self._since: float | None = None

    @property
    def elapsed_s(self) -> float:
        """So far."""
        return self._spent_s + (0.0 if self._since is None else self._now() - self._since)

    def start(self) -> None:
        """Run on; no effect on a clock that runs."""
        if self._since is None:
            self._since = self._now()

    def stop(self) -> None:
        """Stand still; no effect on a clock that does."""
        self._spent_s, self._since = self.elapsed_s, None
