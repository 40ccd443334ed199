"""The context network at a fraction of the frame rate: pool, run the blocks on fewer frames, bring the rate back.

Knows nothing of waveforms and objectives; a :class:`ContextNetwork` does its work inside.

Reference: SEW (2109.06870), squeezed context network: average pooling plus a strided positional conv on the way down, a
linear layer from D to n * D on the way up. Hourglass (2110.13711): the features at the full rate are added to what
comes up. Deviates from both: a last group of fewer than n frames is pooled over those that exist (SEW drops it and
gives zeros), there is no GELU after the linear layer (SEW as released has one; a residual wants both signs), and a
layer norm follows the sum, so that frames come normed as from the plain network.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.model.padding import blank, fills_width, first_frames
from audio_ssl.model.positional import ConvPositionalEmbedding
from audio_ssl.model.transformer import ContextNetwork, Exit, OnLayer
from audio_ssl.tensors import EncoderOutput, FrameSubset, is_valid_mask


class SqueezedContextNetwork(nn.Module):
    """A context network whose blocks see every n frames as one.

    Args:
        network: blocks and their norm; without positions of its own.
        positional: positional embedding with a stride of n.
        dim: D.
        stride: n.
        layer_norm_eps: added to variances.
    """

    def __init__(
        self,
        network: ContextNetwork,
        positional: ConvPositionalEmbedding,
        *,
        dim: int,
        stride: int,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.positional = positional
        self.network = network
        self.upsample = nn.Linear(dim, stride * dim)
        nn.init.normal_(self.upsample.weight, mean=0.0, std=0.02)  # as every linear layer of the blocks
        nn.init.zeros_(self.upsample.bias)
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.stride = stride

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks of the network inside."""
        return self.network.blocks

    def forward(
        self,
        features: Tensor,
        num_frames: Tensor,
        *,
        return_layers: bool = False,
        max_layer: int | None = None,
        is_full: bool | None = None,
        kept_frames: FrameSubset | None = None,
        on_layer: OnLayer | None = None,
        exits: Mapping[int, Exit] | None = None,
    ) -> EncoderOutput:
        """Contextualise features; arguments and result as :meth:`ContextNetwork.forward`, all at the full rate.

        Layers (and frames, where ``max_layer`` is given) are outputs of blocks as they are, each pooled frame repeated
        n times; only the network's own frames, and those that ``exits`` are given, go through the way up. What an exit
        adds is pooled.

        Raises:
            ValueError: ``max_layer`` is not a layer of this network, or a subset of frames is asked for.
        """
        if kept_frames is not None:
            raise ValueError("kept_frames must be None for a squeezed network: a pooled frame has kept ones and others")
        width = features.shape[1]
        is_full = fills_width(num_frames, width, is_full=is_full)
        is_padding = None if is_full else ~is_valid_mask(num_frames, width)[..., None]
        features = blank(features, is_padding)  # (B, T, D)
        pooled = pool(features, num_frames, stride=self.stride) + self.positional(features)  # (B, T, D) -> (B, T/n, D)
        at_full_rate = None if on_layer is None else lambda n, x: on_layer(n, self._repeat(x, width))

        def come_up(frames: Tensor) -> Tensor:
            return self.norm(features + self._upsample(frames, width))  # type: ignore[no-any-return]

        def exit_up(leave: Exit, frames: Tensor) -> Tensor | None:
            added = leave(blank(come_up(frames), is_padding))
            return None if added is None else pool(blank(added, is_padding), num_frames, stride=self.stride)

        output = self.network(
            pooled, -(-num_frames // self.stride),
            return_layers=return_layers, max_layer=max_layer, is_full=is_full or None, on_layer=at_full_rate,
            exits={number: partial(exit_up, leave) for number, leave in (exits or {}).items()},
        )  # fmt: skip
        layers = output.layers and tuple(blank(self._repeat(x, width), is_padding) for x in output.layers)
        frames = come_up(output.frames) if max_layer is None else self._repeat(output.frames, width)
        return EncoderOutput(blank(frames, is_padding), num_frames, layers)

    def _upsample(self, x: Tensor, width: int) -> Tensor:
        up: Tensor = self.upsample(x)
        return first_frames(up.reshape(x.shape[0], -1, x.shape[2]), width)  # (B, T/n, n * D) -> (B, T, D)

    def _repeat(self, x: Tensor, width: int) -> Tensor:
        return first_frames(x.repeat_interleave(self.stride, dim=1), width)  # (B, T/n, D) -> (B, T, D)


def pool(features: Tensor, num_frames: Tensor, *, stride: int) -> Tensor:
    """Mean of every ``stride`` frames, over those that exist: (B, T, D) -> (B, ceil(T / stride), D).

    Args:
        features: zero beyond a row's frames.
        num_frames: (B,) int64.
        stride: frames a group; the last group of a row may have fewer.
    """
    rows, width, dim = features.shape
    num_groups = (width + stride - 1) // stride
    whole = F.pad(features, (0, 0, 0, num_groups * stride - width))
    groups = whole.view(rows, num_groups, stride, dim)  # (B, T, D) -> (B, T/n, n, D)
    starts = stride * torch.arange(num_groups, device=features.device)
    counts = (num_frames[:, None] - starts).clamp(1, stride)  # (B,) -> (B, T/n)
    return groups.sum(2) / counts[..., None].to(features.dtype)
