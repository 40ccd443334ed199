"""Frames for a probe, computed when they are asked for, and what they will take on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from audio_ssl.inference.stream import StreamSettings
from audio_ssl.probe.candidates import Candidate
from audio_ssl.probe.frames import frames_bytes, open_frames, stored_at
from audio_ssl.probe.items import Frames
from audio_ssl.probe.run import Asked

Progress = Callable[[str, float], AbstractContextManager[Callable[[float], None]]]
_GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """Room for frames.

    Attributes:
        cache: where they go.
        to_write: bytes that are not there yet.
        there: bytes that are.
        free: bytes that the disk has; None where that is not told.
        audio_s: seconds of audio that go through candidates.
    """

    cache: Path
    to_write: int
    there: int
    free: int | None
    audio_s: float

    def __str__(self) -> str:
        """For people, before the work starts."""
        known = "" if self.free is None else f"; {self.free / _GIB:.1f} GiB are free"
        kept = f", {self.there / _GIB:.2f} GiB are there" if self.there else ""
        return (
            f"frames: {self.to_write / _GIB:.2f} GiB to be written to {self.cache}{kept}{known} "
            f"({self.audio_s / 3600:.2f} h of audio to go through, all candidates together)"
        )

    @property
    def warning(self) -> str | None:
        """What is to be done where there is no room."""
        if self.free is None or self.to_write <= self.free:
            return None
        return f"there is no room for all frames in {self.cache}; choose another place with --cache, or fewer tasks"


@dataclass(frozen=True)
class Lender:
    """Opens frames.

    Attributes:
        cache: folder of them.
        settings: of batches.
        device: that candidates run on.
        progress: is given what is done and seconds of audio, and gives a context with a function that advances.
    """

    cache: Path
    settings: StreamSettings
    device: torch.device
    progress: Progress

    def __call__(self, candidate: Candidate, asked: Asked) -> Frames:
        """The frames of a task's items by a candidate; see :func:`audio_ssl.probe.frames.open_frames`."""
        seconds = float(asked.items.manifest.durations_s().sum())
        with self.progress(f"{candidate.name}, {asked.name}", seconds) as advance:
            return open_frames(
                candidate, asked.items, cache=self.cache, settings=self.settings, device=self.device,
                on_progress=advance,
            )  # fmt: skip

    def needs(self, tasks: Sequence[Asked], candidates: Sequence[Candidate]) -> Needs:
        """Room for everything; tasks of the same recordings share their frames."""
        places = {stored_at(c, one.items, self.cache): (c, one.items) for one in tasks for c in candidates}
        to_write = {path: pair for path, pair in places.items() if not path.is_file()}
        there = sum(path.stat().st_size for path in places if path.is_file())
        audio_s = sum(float(items.manifest.durations_s().sum()) for _, items in to_write.values())
        return Needs(
            self.cache, sum(frames_bytes(*pair) for pair in to_write.values()), there, _free(self.cache), audio_s
        )  # fmt: skip


def _free(folder: Path) -> int | None:
    for place in (folder, *folder.resolve().parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return None
