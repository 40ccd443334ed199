"""The encoder that pre-training leaves behind: waveforms to context frames, in three calls that read like the paper.

Reference: wav2vec 2.0 (2006.11477) section 2 and figure 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from audio_ssl.config.model import ModelConfig
from audio_ssl.geometry import ConvGeometry
from audio_ssl.model.adapter import Adapter
from audio_ssl.model.attention import SelfAttention
from audio_ssl.model.dropout import Dropout
from audio_ssl.model.feature_encoder import FeatureEncoder
from audio_ssl.model.local_conv import LocalConv
from audio_ssl.model.mel_encoder import MelEncoder
from audio_ssl.model.positional import ConvPositionalEmbedding
from audio_ssl.model.squeeze import SqueezedContextNetwork
from audio_ssl.model.time_stats import TimeStats
from audio_ssl.model.transformer import Block, ContextNetwork, Exit, FeedForward
from audio_ssl.tensors import EncoderOutput


class FeatureProjection(nn.Module):
    """Layer norm over latents, linear to the model's width, dropout.

    Args:
        latent_dim: C.
        dim: D.
        dropout: rate on the projected features (fairseq: dropout_input).
        layer_norm_eps: added to the variance.
    """

    # Not in int8: it has 0.5 % of the products, but its error is in every layer (docs/decisions/0036).
    input_ranges: ClassVar = {"projection": None}

    def __init__(self, latent_dim: int, dim: int, *, dropout: float, layer_norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(latent_dim, eps=layer_norm_eps)
        self.projection = nn.Linear(latent_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> features (B, T, D) and the normed latents (B, T, C), which are what a quantizer sees."""
        normed_latents = self.norm(latents)
        return self.dropout(self.projection(normed_latents)), normed_latents


class Encoder(nn.Module):
    """Feature encoder, feature projection, context network.

    Args:
        feature_encoder: waveforms to latents.
        feature_projection: latents to features.
        context_network: features to context frames.
        dim: D.
        latent_dim: C.
        sample_rate_hz: rate of the waveforms that the model expects.
        normalize_waveform: whether they must come with zero mean and unit variance per utterance.

    Attributes:
        mask_embedding: (D,), stands in for masked frames; kept with the encoder, for fine-tuning masks with it too.
        geometry: the samples-to-frames arithmetic.
        num_layers: transformer blocks.
        context_stride: frames that the blocks see as one.
    """

    def __init__(
        self,
        feature_encoder: FeatureEncoder | MelEncoder,
        feature_projection: FeatureProjection,
        context_network: ContextNetwork | SqueezedContextNetwork,
        *,
        dim: int,
        latent_dim: int,
        sample_rate_hz: int,
        normalize_waveform: bool,
    ) -> None:
        super().__init__()
        self.feature_encoder = feature_encoder
        self.feature_projection = feature_projection
        self.context_network = context_network
        self.mask_embedding = nn.Parameter(torch.rand(dim))  # uniform in [0, 1), as fairseq
        self.dim = dim
        self.latent_dim = latent_dim
        self.sample_rate_hz = sample_rate_hz
        self.normalize_waveform = normalize_waveform

    @property
    def geometry(self) -> ConvGeometry:
        """The samples-to-frames arithmetic of the feature encoder."""
        return self.feature_encoder.geometry

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return len(self.context_network.blocks)

    @property
    def context_stride(self) -> int:
        """Frames that the blocks see as one."""
        network = self.context_network
        return network.stride if isinstance(network, SqueezedContextNetwork) else 1

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        return_layers: bool = False,
        max_layer: int | None = None,
        is_full: bool | None = None,
        time_stats: TimeStats | None = None,
        exits: Mapping[int, Exit] | None = None,
    ) -> EncoderOutput:
        """Encode a batch; a row's valid frames depend neither on padding nor on the rows beside it.

        Args:
            waveforms: (B, S) float32, at ``sample_rate_hz``, normalised where ``normalize_waveform`` says so.
            num_samples: (B,) int64.
            return_layers: also give the input of block 1 (index 0) and the output of each block (index n).
            max_layer: run blocks 1 to ``max_layer`` only; see :meth:`ContextNetwork.forward`.
            is_full: True when no row is padded; None to look (free on the CPU only).
            time_stats: where the rows are stretches of one utterance: what its norm over time goes by, from
                ``feature_encoder.time_sums()``; None where each row is an utterance.
            exits: from n to what happens at the end of block n; see :data:`audio_ssl.model.transformer.Exit`.

        Raises:
            ValueError: the batch is narrower than one receptive field.
        """
        latents, num_frames = self.feature_encoder(waveforms, num_samples, is_full=is_full, time_stats=time_stats)
        features, _ = self.feature_projection(latents)
        return self.context_network(  # type: ignore[no-any-return]
            features, num_frames, return_layers=return_layers, max_layer=max_layer, is_full=is_full, exits=exits
        )


def build_encoder(config: ModelConfig) -> Encoder:
    """A freshly initialised encoder."""
    return Encoder(
        _build_feature_encoder(config),
        FeatureProjection(
            config.latent_dim, config.dim, dropout=config.feature_dropout, layer_norm_eps=config.layer_norm_eps
        ),
        _build_context_network(config),
        dim=config.dim,
        latent_dim=config.latent_dim,
        sample_rate_hz=config.sample_rate_hz,
        normalize_waveform=config.normalize_waveform,
    )


def _build_feature_encoder(config: ModelConfig) -> FeatureEncoder | MelEncoder:
    if config.front_end == "mel":
        return MelEncoder(
            config.mel_bands,
            window_samples=config.mel_window_samples,
            hop_samples=config.mel_hop_samples,
            stack=config.mel_stack,
            band_hz=(config.mel_min_hz, config.mel_max_hz),
            sample_rate_hz=config.sample_rate_hz,
        )
    return FeatureEncoder(
        config.conv_dims,
        geometry=config.geometry,
        bias=config.conv_bias,
        norm=config.feature_norm,
        grad_scale=config.feature_grad_scale,
    )


def _build_context_network(config: ModelConfig) -> ContextNetwork | SqueezedContextNetwork:
    def make_adapter() -> Adapter:
        return Adapter(config.dim, hidden_dim=config.adapter_dim, layer_norm_eps=config.layer_norm_eps)

    def make_local_conv() -> LocalConv:
        return LocalConv(config.dim, kernel=config.block_conv_kernel, layer_norm_eps=config.layer_norm_eps)

    def make_block() -> Block:
        return Block(
            SelfAttention(config.dim, num_heads=config.num_heads, dropout=config.attention_dropout),
            FeedForward(config.dim, hidden_dim=config.ffn_dim, dropout=config.activation_dropout),
            dim=config.dim,
            norm_order=config.norm_order,
            dropout=config.dropout,
            layer_norm_eps=config.layer_norm_eps,
            local_conv=make_local_conv() if config.block_conv_kernel else None,
            adapter=make_adapter() if config.adapter_dim else None,
        )

    positional = ConvPositionalEmbedding(
        config.dim, kernel=config.pos_conv_kernel, groups=config.pos_conv_groups, stride=config.context_stride
    )
    is_squeezed = config.context_stride > 1
    network = ContextNetwork(
        make_block,
        None if is_squeezed else positional,
        dim=config.dim,
        num_layers=config.num_layers,
        norm_order=config.norm_order,
        dropout=config.dropout,
        layer_drop=config.layer_drop,
        layer_norm_eps=config.layer_norm_eps,
    )
    if not is_squeezed:
        return network
    return SqueezedContextNetwork(
        network, positional, dim=config.dim, stride=config.context_stride, layer_norm_eps=config.layer_norm_eps
    )
