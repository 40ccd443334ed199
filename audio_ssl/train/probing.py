"""A probe of the encoder in the middle of a run: when it is due, and how it leaves the run as it is.

Whoever starts the run brings what measures (this room knows no tasks). It is given weights and makes a model of its
own from them: neither modules, modes, gradients nor draws of the run are touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from audio_ssl.errors import AudioSSLError, ConfigError
from audio_ssl.train.distributed import World, barrier
from audio_ssl.train.sharded_state import whole
from audio_ssl.train.state import Progress

logger = logging.getLogger(__name__)


class Measurer(Protocol):
    """Measures weights of an encoder on tasks; :class:`audio_ssl.probe.online.OnlineProbe` is one."""

    def describe(self) -> Iterable[str]:
        """Lines for people, before the run."""

    def prepare(self, tell: Callable[[str], None]) -> None:
        """Do once what must be there before the first measuring; raise :class:`AudioSSLError` for what is wrong."""

    def __call__(self, weights: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """Figures of a ``state_dict``, which is copied; ``probe_s`` among them, and ``tasks`` about them."""


MakeMeasurer = Callable[[torch.device], Measurer]


@dataclass(frozen=True)
class Probing:
    """Probes of a run; the main rank measures, the others wait for it.

    Attributes:
        every: updates from one to the next.
        encoder: whose weights are measured.
        world: this rank among its peers.
        measurer: on the main rank; None on the others.
    """

    every: int
    encoder: nn.Module
    world: World
    measurer: Measurer | None

    def describe(self) -> Iterable[str]:
        """Lines for people, of the main rank."""
        return () if self.measurer is None else self.measurer.describe()

    def prepare(self, console: Console) -> None:
        """Get ready before the first update.

        Raises:
            AudioSSLError: the tasks cannot be measured.
        """
        if self.measurer is not None:
            self.measurer.prepare(lambda line: console.print(line, highlight=False, soft_wrap=True))

    def is_due(self, update: int) -> bool:
        """Whether there is a probe after this update by its number alone."""
        return update % self.every == 0

    def is_owed(self, progress: Progress, *, is_over: bool) -> bool:
        """Whether one is missing where a run starts or goes on: the first, or one that a signal left out.

        Args:
            progress: of the run.
            is_over: whether no update follows.
        """
        if progress.probed < 0 or progress.update // self.every > progress.probed // self.every:
            return True
        return is_over and progress.probed < progress.update

    def measure(self, *, is_first: bool = False) -> Mapping[str, Any] | None:
        """Measure the weights as they are; every rank must call this.

        Args:
            is_first: whether the run was never measured before: only now do tasks meet an encoder of many layers.

        Returns:
            The figures; None on other ranks, and where recordings have gone, frames are not finite or memory does not
            suffice: that is a warning, for the run is worth more than its curve.

        Raises:
            AudioSSLError: in the place of that warning, where this ``is_first``.
        """
        weights = whole(self.encoder.state_dict(), self.world)
        found = None if self.measurer is None else _measured(self.measurer, weights, is_first=is_first)
        barrier(self.world)
        return found


def _measured(measurer: Measurer, weights: Mapping[str, Tensor], *, is_first: bool) -> Mapping[str, Any] | None:
    try:
        # heads of a probe name their draws, but a library may not: what the run draws next must not depend on it
        with torch.random.fork_rng():
            return measurer(weights)
    except (AudioSSLError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        if is_first and isinstance(error, AudioSSLError):
            raise
        if is_first:
            raise ConfigError(
                f"[probe] must be able to measure beside the run, but: {error or 'memory is full'}; lower "
                "probe.max_items, take one probe.layer, or leave [probe] out"
            ) from error
        logger.warning("a probe was left out, the run goes on: %s", error)
        return None
