"""Frames of a few items in memory, for a probe that is made again and again of weights that nobody keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from audio_ssl.errors import AudioError
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.probe.candidates import Candidate
from audio_ssl.probe.frames import compute, pool
from audio_ssl.probe.items import Frames, Items


class HeldFrames:
    """See :class:`audio_ssl.probe.items.Frames`.

    Args:
        candidate: whose.
        pooled: (N, L, 2D) float32.
        clips: (L, T, D) of each item; empty where only pooled frames are wanted.
    """

    def __init__(self, candidate: Candidate, pooled: Tensor, clips: Mapping[int, Tensor]) -> None:
        self._candidate, self._pooled, self._clips = candidate, pooled, clips

    @property
    def name(self) -> str:
        """Of the candidate."""
        return self._candidate.name

    @property
    def num_layers(self) -> int:
        """L."""
        return self._pooled.shape[1]

    @property
    def dim(self) -> int:
        """D."""
        return self._candidate.dim

    @property
    def hop_s(self) -> float:
        """Seconds from a frame to the next."""
        return self._candidate.hop_s

    def of(self, item: int) -> Tensor:
        """(L, T, D) float32."""
        return self._clips[item].float()

    def pooled(self) -> Tensor:
        """(N, L, 2D) float32."""
        return self._pooled

    def layer(self, number: int) -> Frames:
        """Layer ``number`` alone."""
        clips = {item: clip[number : number + 1] for item, clip in self._clips.items()}
        return HeldFrames(self._candidate, self._pooled[:, number : number + 1], clips)


def hold(
    candidate: Candidate, items: Items, *, device: torch.device, keeps_clips: bool, settings: StreamSettings
) -> HeldFrames:
    """Compute the frames of all items.

    Args:
        candidate: whose.
        items: N.
        device: that it runs on.
        keeps_clips: whether frames are kept one by one, in float16 where that holds them, as on disk.
        settings: of batches and of threads that read.

    Raises:
        AudioError: an item cannot be read or is too short, or its frames are not finite.
    """
    pooled = torch.zeros(len(items), candidate.num_layers, 2 * candidate.dim)
    clips: dict[int, Tensor] = {}
    found = compute(
        candidate.open(device), items.manifest, range(len(items)), name=candidate.name, precision=candidate.precision,
        settings=settings, device=device,
    )  # fmt: skip
    for row, frames in found:
        own = torch.from_numpy(frames)
        pooled[row] = pool(own)
        if keeps_clips:
            half = own.half()
            clips[row] = half if half.isfinite().all() else own.clone()
    if not pooled.isfinite().all():
        raise AudioError(f"frames of {candidate.name} are not finite")
    return HeldFrames(candidate, pooled, clips)
