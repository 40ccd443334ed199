"""Long utterances in windows: where each window lies, and which of its frames are kept. Plain arithmetic, no audio.

A window starts on a frame and on a sample that both rates share, so that resampling it alone gives the samples that
resampling the whole would. Neighbours overlap; half of the overlap is dropped on each side of the seam, where frames
lack context. Every frame of the utterance is kept from exactly one window.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import gcd, lcm

from audio_ssl.errors import ConfigError
from audio_ssl.geometry import ConvGeometry


@dataclass(frozen=True)
class Window:
    """One piece of a long utterance.

    Attributes:
        start: first sample of the piece, from the utterance's start, at the file's own rate.
        num_samples: length of the piece at the file's own rate.
        first_frame: index in the utterance of the piece's frame 0.
        keep_from: first frame to keep, counted in the utterance.
        keep_to: one past the last frame to keep.
    """

    start: int
    num_samples: int
    first_frame: int
    keep_from: int
    keep_to: int

    @property
    def kept(self) -> slice:
        """The frames to keep, counted in the piece."""
        return slice(self.keep_from - self.first_frame, self.keep_to - self.first_frame)


@dataclass(frozen=True)
class WindowSettings:
    """When an utterance is cut, and how.

    Attributes:
        max_s: utterances up to this length run whole; longer ones in windows of this length.
        overlap_s: least overlap of neighbouring windows.
        exact: whether longer utterances are refused instead, for attention within windows is not that of the whole.

    Raises:
        ConfigError: windows too short, or more than half of each overlapping.
    """

    max_s: float = 60.0
    overlap_s: float = 4.0
    exact: bool = False

    def __post_init__(self) -> None:
        # Below 2 s a step may be no whole sample of an odd rate: starts lie on a grid of up to one second.
        if self.max_s < 2:
            raise ConfigError(f"--max-s must be >= 2 seconds, got {self.max_s:g}")
        if not 0 <= self.overlap_s <= self.max_s / 2:
            raise ConfigError(f"--overlap-s must be 0 to half of --max-s ({self.max_s / 2:g}), got {self.overlap_s:g}")


def resampled_length(num_samples: int, *, from_hz: int, to_hz: int) -> int:
    """Samples after resampling: ``ceil(n * to / from)``, as torchaudio's resampler gives."""
    return -(-num_samples * to_hz // from_hz)


def plan_windows(
    num_samples: int,
    settings: WindowSettings,
    *,
    geometry: ConvGeometry,
    from_hz: int,
    to_hz: int,
    group_frames: int = 1,
) -> list[Window]:
    """Cut an utterance into windows; one that covers all when it is short enough.

    Args:
        num_samples: of the utterance at the file's own rate.
        settings: lengths in seconds.
        geometry: samples at the model's rate to frames.
        from_hz: the file's rate.
        to_hz: the model's rate.
        group_frames: frames that the model sees as one; windows start on a group, that they group as the whole does,
            unless a grid of both rates and of groups is too coarse for windows of this length.
    """
    total_samples = resampled_length(num_samples, from_hz=from_hz, to_hz=to_hz)
    total_frames = geometry.num_frames(total_samples)
    # A start must be a whole number of frames at the model's rate and a whole sample at the file's.
    unit_frames = lcm(geometry.hop_samples, to_hz // gcd(from_hz, to_hz)) // geometry.hop_samples
    window_frames = max(int(geometry.num_frames(round(settings.max_s * to_hz))), 2)
    if total_samples <= settings.max_s * to_hz or total_frames <= window_frames:
        return [Window(0, num_samples, 0, 0, total_frames)]
    if lcm(unit_frames, group_frames) * 2 <= window_frames:
        unit_frames = lcm(unit_frames, group_frames)
    starts = _starts(
        total_frames, window_frames, unit_frames, overlap=round(settings.overlap_s * to_hz / geometry.hop_samples)
    )
    seams = [(left + window_frames + right) // 2 for left, right in pairwise(starts)]
    windows = []
    for i, first_frame in enumerate(starts):
        start = first_frame * geometry.hop_samples * from_hz // to_hz
        length = num_samples - start
        if i + 1 < len(starts):
            samples = geometry.samples_for_frames(window_frames)
            length = min(length, resampled_length(samples, from_hz=to_hz, to_hz=from_hz))
        keep_from = seams[i - 1] if i else 0
        keep_to = seams[i] if i < len(seams) else total_frames
        windows.append(Window(start, length, first_frame, keep_from, keep_to))
    return windows


def _starts(total_frames: int, window_frames: int, unit_frames: int, *, overlap: int) -> list[int]:
    """First frames: even steps, then one last window that reaches the end with (at least) its full length."""
    step = max((window_frames - overlap) // unit_frames, 1) * unit_frames
    last = (total_frames - window_frames) // unit_frames * unit_frames
    return [*range(0, last, step), last]
