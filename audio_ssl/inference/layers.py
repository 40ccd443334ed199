"""Which frames of an encoder are asked for, and the forward pass that gives them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from audio_ssl.errors import ConfigError
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.time_stats import TimeStats


@dataclass(frozen=True)
class LayerChoice:
    """A validated ``--layer``.

    Attributes:
        name: ``last``, ``all``, or the number as text.
        number: the block's number; None for ``last`` and ``all``.
    """

    name: str
    number: int | None

    @property
    def convention(self) -> str:
        """What the numbers mean, for whoever opens the files years later."""
        if self.name == "last":
            return "output of the context network (after its final layer norm where it is pre-LN)"
        if self.name == "all":
            return "axis 0: 0 = input of block 1 (after the positional conv), n = output of block n"
        return "input of block 1 (after the positional conv)" if self.number == 0 else f"output of block {self.number}"


def choose_layer(layer: str | int | None, *, num_layers: int) -> LayerChoice:
    """Validate a layer.

    Args:
        layer: a number from 0 to ``num_layers`` (also as text), ``all``, ``last``, or None for ``last``.
        num_layers: blocks of the encoder.

    Raises:
        ConfigError: none of these.
    """
    text = "last" if layer is None else str(layer).strip().lower()
    if text in ("last", "all"):
        return LayerChoice(text, None)
    if text.isascii() and text.isdigit() and int(text) <= num_layers:
        return LayerChoice(str(int(text)), int(text))
    raise ConfigError(f"--layer must be 0 to {num_layers} (this model's blocks), all or last, got {layer!r}")


@dataclass(frozen=True)
class LayerForward:
    """An encoder that gives the chosen frames; blocks above the chosen one do not run.

    Attributes:
        encoder: in eval mode.
        choice: which layer.
    """

    encoder: Encoder
    choice: LayerChoice

    def __call__(
        self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool, time_stats: TimeStats | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveforms: (B, S) float32.
            num_samples: (B,) int64.
            is_full: whether no row is padded.
            time_stats: as :meth:`Encoder.forward`.

        Returns:
            (B, T, D) frames, or (B, L, T, D) for ``all``; and (B,) frame counts.
        """
        if self.choice.name == "last":
            output = self.encoder(waveforms, num_samples, is_full=is_full, time_stats=time_stats)
            return output.frames, output.num_frames
        number = self.choice.number
        output = self.encoder(
            waveforms, num_samples, return_layers=True, max_layer=number, is_full=is_full, time_stats=time_stats
        )
        assert output.layers is not None
        if number is not None:
            return output.layers[number], output.num_frames
        return torch.stack(output.layers, dim=1), output.num_frames  # L of (B, T, D) -> (B, L, T, D)
