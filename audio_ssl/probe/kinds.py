"""Which runner does which kind of task; a runner and what it needs are imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from audio_ssl.config.probe import Kind, ProbeTask
from audio_ssl.probe.items import Fold, Frames, Items
from audio_ssl.probe.scores import Result

HOMES: Mapping[Kind, str] = {
    "classify": "classify", "verify": "verify", "recognise": "recognise", "frames": "frame_labels", "abx": "abx",
    "units": "units", "retrieve": "retrieve",
}  # fmt: skip


class Runner(Protocol):
    """What measures the frames of a candidate on a task."""

    def __call__(
        self, frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int],
        heads: Sequence[str],
    ) -> list[Result]:  # fmt: skip
        """One result a head, in the order of ``heads``; one result where the kind has none, and ``heads`` is empty."""


def runner_of(kind: Kind) -> Runner:
    """The runner of a kind of task."""
    return cast(Runner, import_module(f"audio_ssl.probe.{HOMES[kind]}").run)
