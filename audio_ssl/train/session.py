"""What a task hands to the frame around the loop (:mod:`audio_ssl.train.run`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audio_ssl.config import FinetuneConfig, PretrainConfig
from audio_ssl.train.datasets import TrainingData
from audio_ssl.train.health import Sign
from audio_ssl.train.loop import Task
from audio_ssl.train.updates import Updates

Resume = Literal["never", "auto"]
RunSettings = PretrainConfig | FinetuneConfig


@dataclass(frozen=True)
class Session:
    """What a task hands to the frame.

    Attributes:
        task: for the loop.
        updates: its batches.
        train_data: for the announcement.
        valid_data: the same; None where there is none.
        remarks: lines to say first.
        signs: what the guards are to make of the task's figures in a run of so many updates.
        thaws_at: updates at which frozen weights begin to learn.
        init_from: the model that it begins from, where its settings have no place for one.
    """

    task: Task
    updates: Updates
    train_data: TrainingData
    valid_data: TrainingData | None
    remarks: Sequence[str]
    signs: Callable[[int], Sequence[Sign]] = lambda _: ()
    thaws_at: tuple[int, ...] = ()
    init_from: Path | None = None
