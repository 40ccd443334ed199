"""Which frames belong to which labelled stretch of an item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audio_ssl.probe.items import Frames, Items, Rows, Segment

OUTSIDE = -1


def segment_of_frame(segments: Sequence[Segment], num_frames: int, hop_s: float) -> NDArray[np.int64]:
    """Number of the segment that each frame belongs to: the one that holds the frame's centre.

    The centre of frame t is (t + 1/2) hops from the item's first sample, for all candidates; those of a wav2vec 2.0
    conv stack lie 2.5 ms later, as its windows are wider than its hop.

    Args:
        segments: in order of time, start within and end without; where two hold a centre, the later one has it.
        num_frames: T.
        hop_s: seconds from a frame to the next.

    Returns:
        (T,) int64, :data:`OUTSIDE` where no segment holds the centre.
    """
    if not segments:
        return np.full(num_frames, OUTSIDE, dtype=np.int64)
    starts, ends = (np.array([getattr(s, name) for s in segments]) for name in ("start_s", "end_s"))
    centres = (np.arange(num_frames) + 0.5) * hop_s
    found = np.searchsorted(starts, centres, side="right") - 1
    return np.where((found >= 0) & (centres < ends[found]), found, OUTSIDE)


class FrameLabels:
    """Labels of the frames of items, and what of them there is to tell.

    Args:
        frames: of all items.
        items: with segments.
        rows: the items.
    """

    def __init__(self, frames: Frames, items: Items, rows: Rows) -> None:
        self.places: list[NDArray[np.int64]] = []
        """Of each item, numbers of the frames that have a label, ascending."""
        self.labels: list[list[str]] = []
        """Of each item, the labels of these frames."""
        self.num_frames = 0
        self.num_segments = self.num_lost = 0
        for row in rows.tolist():
            segments, length = items.segments[row], frames.of(row).shape[1]
            found = segment_of_frame(segments, length, frames.hop_s)
            places = np.flatnonzero(found != OUTSIDE)
            self.places.append(places)
            self.labels.append([segments[number].label for number in found[places].tolist()])
            self.num_frames += length
            self.num_segments += len(segments)
            self.num_lost += len(segments) - len(np.unique(found[places]))

    @property
    def num_labelled(self) -> int:
        """Frames that have a label."""
        return sum(map(len, self.places))

    def note(self, what: str) -> str:
        """What is left out, in a sentence.

        Args:
            what: whose frames: ``speaker lucas: test``.
        """
        return (
            f"{what}: {self.num_frames - self.num_labelled} of {self.num_frames} frames are in no segment and are left "
            f"out; {self.num_lost} of {self.num_segments} segments hold no centre of a frame"
        )
