"""What an objective that masks features needs of an encoder, and what the two make of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class MaskableEncoder(Protocol):
    """What the objective needs of an encoder: its parts, so that masks go in between them."""

    @property
    def mask_embedding(self) -> Tensor:
        """(D,), stands in for masked frames."""

    @property
    def feature_encoder(self) -> Callable[..., Any]:
        """``(waveforms (B, S), num_samples (B,), is_full=) -> (latents (B, T, C), num_frames (B,))``."""

    @property
    def feature_projection(self) -> Callable[..., Any]:
        """``latents (B, T, C) -> (features (B, T, D), normed_latents (B, T, C))``."""

    @property
    def context_network(self) -> Callable[..., Any]:
        """``(features (B, T, D), num_frames (B,), is_full=, kept_frames=) -> EncoderOutput``.

        ``kept_frames``, a ``FrameSubset`` of M frames a row, makes it work on these alone and give (B, M, D).
        """


@dataclass(frozen=True)
class MaskedPass:
    """What the encoder made of a batch of B utterances, each under N masks; the masks of one are rows in turn.

    Attributes:
        latents: (B, T, C) output of the feature encoder.
        normed_latents: (B, T, C), what the quantizer sees.
        frames: (B * N, T, D') of masked features: output of the context network, or of the decoder after it.
        num_frames: (B,) integer, valid frames an utterance.
        is_masked: (B * N, T) bool.
    """

    latents: Tensor
    normed_latents: Tensor
    frames: Tensor
    num_frames: Tensor
    is_masked: Tensor
