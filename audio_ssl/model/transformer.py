"""Features to context: positions, transformer blocks in pre- or post-norm order, final norm; g: Z -> C.

Knows nothing of waveforms, masks of the pretext task or objectives.

Reference: wav2vec 2.0 (2006.11477) section 2; fairseq ``TransformerEncoder``; pre-norm as in LARGE LV-60k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audio_ssl.model.adapter import Adapter
from audio_ssl.model.attention import SelfAttention, bert_linear
from audio_ssl.model.dropout import Dropout
from audio_ssl.model.int8 import AFTER_GELU
from audio_ssl.model.kernels import gelu
from audio_ssl.model.local_conv import LocalConv
from audio_ssl.model.padding import blank, fills_width
from audio_ssl.model.positional import ConvPositionalEmbedding
from audio_ssl.tensors import EncoderOutput, FrameSubset, is_valid_mask

OnLayer: TypeAlias = Callable[[int, Tensor], object]
"""Is given n and layer n (B, T, D) as soon as it is there; beyond a row's frames it holds anything."""

Exit: TypeAlias = Callable[[Tensor], Tensor | None]
"""Is given the frames (B, T, D) that the network would give if it ended after a block, zero beyond each row's frames.
What it returns, (B, T, D), is added to the output of that block before the next one sees it; None adds nothing."""


class FeedForward(nn.Module):
    """Linear, GELU, linear.

    Args:
        dim: D.
        hidden_dim: inner width.
        dropout: rate on the inner activations (fairseq: activation_dropout).
    """

    input_ranges: ClassVar = {"output": AFTER_GELU}

    def __init__(self, dim: int, *, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.inner = bert_linear(dim, hidden_dim)
        self.output = bert_linear(hidden_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.output(self.dropout(gelu(self.inner(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One transformer block: attention and feed-forward, each with residual, dropout and norm.

    Before the attention there may be a local convolution of the same form; Conformer (2005.08100) has its own after,
    and half of a feed-forward network at either end.

    Args:
        attention: self-attention.
        feed_forward: feed-forward.
        dim: D.
        norm_order: ``"pre"`` normalises the input of each part, ``"post"`` the sum after its residual.
        dropout: rate on the output of each part.
        layer_norm_eps: added to variances.
        local_conv: what mixes neighbouring frames before the attention; None: nothing.
        adapter: what its output goes through in the end, beside itself; None: nothing.
    """

    def __init__(
        self,
        attention: SelfAttention,
        feed_forward: FeedForward,
        *,
        dim: int,
        norm_order: Literal["pre", "post"],
        dropout: float,
        layer_norm_eps: float,
        local_conv: LocalConv | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__()
        self.local_conv = local_conv
        self.local_conv_norm = None if local_conv is None else nn.LayerNorm(dim, eps=layer_norm_eps)
        self.attention = attention
        self.attention_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.dropout = Dropout(dropout)
        self.adapter = adapter
        self.norm_order = norm_order

    def forward(self, x: Tensor, attends: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); ``attends`` as in :class:`SelfAttention`."""
        x = self._transform(self._mix_neighbours(x, attends), attends)
        return x if self.adapter is None else x + self.adapter(x)

    def _mix_neighbours(self, x: Tensor, attends: Tensor | None) -> Tensor:
        if self.local_conv is None or self.local_conv_norm is None:
            return x
        if self.norm_order == "pre":
            return x + self.dropout(self.local_conv(self.local_conv_norm(x), attends))  # type: ignore[no-any-return]
        return self.local_conv_norm(x + self.dropout(self.local_conv(x, attends)))  # type: ignore[no-any-return]

    def _transform(self, x: Tensor, attends: Tensor | None) -> Tensor:
        if self.norm_order == "pre":
            x = x + self.dropout(self.attention(self.attention_norm(x), attends))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]
        x = self.attention_norm(x + self.dropout(self.attention(x, attends)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))  # type: ignore[no-any-return]


class ContextNetwork(nn.Module):
    """Positions, blocks and the network's norm.

    Args:
        make_block: gives a fresh block at each call.
        positional: positional embedding, added to the features; None where they come with their positions.
        dim: D.
        num_layers: blocks.
        norm_order: as in :class:`Block`; the network's own norm stands after the blocks (pre) or before (post).
        dropout: rate on the input of the first block.
        layer_drop: chance that a block is left out in training; the features then pass it unchanged.
        layer_norm_eps: added to variances.

    Attributes:
        recomputes_blocks: whether a block keeps only its input for the backward pass and runs again there, with the
            dropout that it had; may be changed at any time.
    """

    def __init__(
        self,
        make_block: Callable[[], Block],
        positional: ConvPositionalEmbedding | None,
        *,
        dim: int,
        num_layers: int,
        norm_order: Literal["pre", "post"],
        dropout: float,
        layer_drop: float,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.positional = positional
        self.blocks = nn.ModuleList(make_block() for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.dropout = Dropout(dropout)
        self.norm_order = norm_order
        self.layer_drop = layer_drop
        self.recomputes_blocks = False
        self.block_choice: torch.Generator | None = None  # chooses the blocks that run; None: torch's own generator

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
        """Contextualise features.

        Args:
            features: (B, T, D); values beyond a row's frames do not matter.
            num_frames: (B,) int64.
            return_layers: also give the input of block 1 and the output of each block.
            max_layer: run blocks 1 to ``max_layer`` only; ``frames`` is then that block's output as it is, without
                the network's final norm. None runs everything.
            is_full: True when every row has T frames (and M kept ones); None to look (free on the CPU only).
            kept_frames: those that go through the blocks; the others are left out once positions are embedded, which
                is the one way in which they reach the kept ones. None keeps all.
            on_layer: is shown every layer that ``return_layers`` would give; nothing is kept for it.
            exits: from n to what happens at the end of block n, where the network goes on all the same.

        Returns:
            Frames (and layers), zero beyond each row's frames; of the kept frames, (B, M, D), where some are kept.

        Raises:
            ValueError: ``max_layer`` is not a layer of this network, or a subset of frames is asked for where blocks
                have convolutions.
        """
        if kept_frames is not None and any(block.local_conv is not None for block in self.blocks):
            raise ValueError("kept_frames must be None where blocks have convolutions: what is kept are no neighbours")
        if max_layer is not None and not 0 <= max_layer <= len(self.blocks):
            raise ValueError(f"max_layer must be between 0 and {len(self.blocks)}, got {max_layer}")
        is_padding, attends = _padding_masks(num_frames, features.shape[1], is_full=is_full)
        x = self._embed_positions(blank(features, is_padding), kept_frames)
        if kept_frames is not None:
            num_frames = kept_frames.counts
            is_padding, attends = _padding_masks(num_frames, x.shape[1], is_full=is_full)
        kept: list[Tensor] = []
        for number, layer in enumerate(self._layers(x, attends, max_layer, exits=exits or {}, is_padding=is_padding)):
            x = layer
            if return_layers:
                kept.append(blank(x, is_padding))
            if on_layer is not None:
                on_layer(number, x)
        frames = x if max_layer is not None else self._finished(x)
        return EncoderOutput(blank(frames, is_padding), num_frames, tuple(kept) if return_layers else None)

    def _embed_positions(self, features: Tensor, kept_frames: FrameSubset | None) -> Tensor:
        x = features if self.positional is None else features + self.positional(features)
        x = x if kept_frames is None else kept_frames.pick(x)  # (B, T, D) -> (B, M, D)
        return self.dropout(self.norm(x) if self.norm_order == "post" else x)  # type: ignore[no-any-return]

    def _finished(self, x: Tensor) -> Tensor:
        return x if self.norm_order == "post" else self.norm(x)

    def _layers(
        self,
        x: Tensor,
        attends: Tensor | None,
        max_layer: int | None,
        *,
        exits: Mapping[int, Exit],
        is_padding: Tensor | None,
    ) -> Iterator[Tensor]:
        """The input of block 1, then the output of each block, one at a time: an hour's layers are never all there."""
        blocks = list(self.blocks)[:max_layer]
        # Drawn on the CPU whatever the device, so that choosing a path never makes the host wait.
        is_dropping = self.training and self.layer_drop > 0
        draws = torch.rand(len(blocks), generator=self.block_choice).tolist() if is_dropping else [1.0] * len(blocks)
        yield x
        for number, (block, draw) in enumerate(zip(blocks, draws, strict=True), start=1):
            if draw >= self.layer_drop:
                x = self._run(block, x, attends)
            if number in exits:
                added = exits[number](blank(self._finished(x), is_padding))
                x = x if added is None else x + added
            yield x

    def _run(self, block: nn.Module, x: Tensor, attends: Tensor | None) -> Tensor:
        if self.recomputes_blocks and torch.is_grad_enabled():
            # All dropout hangs on torch's generators (on a CPU by a seed that they give), which it puts back.
            return checkpoint(block, x, attends, use_reentrant=False)  # type: ignore[no-any-return]
        return block(x, attends)  # type: ignore[no-any-return]


def _padding_masks(
    num_frames: Tensor, max_frames: int, *, is_full: bool | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Where frames are padding (B, T, 1), and which may be attended to (B, 1, 1, T); None where there is no padding."""
    if fills_width(num_frames, max_frames, is_full=is_full):
        return None, None
    is_valid = is_valid_mask(num_frames, max_frames)
    # A row without frames attends everywhere: softmax over nothing is NaN, and its output is blanked anyhow.
    attends = is_valid | (num_frames == 0)[:, None]
    return ~is_valid[..., None], attends[:, None, None]
