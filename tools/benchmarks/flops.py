"""Floating-point operations that the arithmetic of a model needs, a multiplication and an addition counted as 2.

Counted are convolutions and matrix products, as ``torch.utils.flop_counter`` does; norms, GELU, softmax, dropout and
the optimizer are not, nor is the Fourier transform of a mel front end (its filterbank is). The figures are those of
the mathematics: work that an implementation does on top (frames that nobody asked for, products done twice) does not
raise its share of the machine's peak.
"""

from __future__ import annotations

from dataclasses import dataclass

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.geometry import fft_samples
from audio_ssl.objective.masking import num_masked
from audio_ssl.objective.random_projection import CODE_DIM


@dataclass(frozen=True)
class ForwardFlops:
    """Of one row through the encoder.

    Attributes:
        convs: each layer of the feature encoder; none where the front end is mel.
        filterbank: of a mel front end.
        projection: latents to features.
        positional: the positional convolution.
        upsample: from pooled frames back to the full rate.
        attention: of all blocks, its four linear layers and both T x T products.
        feed_forward: of all blocks.
        local_conv: of all blocks, both linear layers and the kernel.
    """

    convs: tuple[int, ...]
    projection: int
    positional: int
    attention: int
    feed_forward: int
    filterbank: int = 0
    upsample: int = 0
    local_conv: int = 0

    @property
    def total(self) -> int:
        """All parts."""
        context = self.positional + self.local_conv + self.attention + self.feed_forward + self.upsample
        return sum(self.convs) + self.filterbank + self.projection + context


def forward_flops(model: ModelConfig, num_samples: int) -> ForwardFlops:
    """One row of ``num_samples`` samples, every frame valid."""
    frames = model.geometry.num_frames(num_samples)
    kernel, stride = model.pos_conv_kernel, model.context_stride
    positions = (frames + 2 * (kernel // 2) - kernel) // stride + 1  # one too many where an even kernel leaves room
    pooled = -(-frames // stride)
    bins = fft_samples(model.mel_window_samples) // 2 + 1
    is_mel = model.front_end == "mel"
    return ForwardFlops(
        convs=() if is_mel else _conv_flops(model, num_samples),
        filterbank=2 * frames * bins * model.latent_dim if is_mel else 0,
        projection=2 * frames * model.latent_dim * model.dim,
        positional=2 * positions * model.dim * (model.dim // model.pos_conv_groups) * kernel,
        attention=_attention_flops(model, pooled),
        feed_forward=_feed_forward_flops(model, pooled),
        upsample=2 * pooled * stride * model.dim**2 if stride > 1 else 0,
        local_conv=_local_conv_flops(model, pooled),
    )


def _conv_flops(model: ModelConfig, num_samples: int) -> tuple[int, ...]:
    convs, frames, in_dim = [], num_samples, 1
    for out_dim, kernel, stride in zip(model.conv_dims, model.conv_kernels, model.conv_strides, strict=True):
        frames = (frames - kernel) // stride + 1
        convs.append(2 * frames * out_dim * in_dim * kernel)
        in_dim = out_dim
    return tuple(convs)


def _attention_flops(model: ModelConfig, frames: int) -> int:
    return model.num_layers * (4 * 2 * frames * model.dim**2 + 2 * 2 * frames**2 * model.dim)


def _feed_forward_flops(model: ModelConfig, frames: int) -> int:
    return model.num_layers * 2 * 2 * frames * model.dim * model.ffn_dim


def _local_conv_flops(model: ModelConfig, frames: int) -> int:
    a_frame = model.dim * (3 * model.dim + model.block_conv_kernel) if model.block_conv_kernel else 0
    return model.num_layers * 2 * frames * a_frame


def step_flops(model: ModelConfig, objective: Wav2Vec2Config, num_samples: int) -> int:
    """Forward and backward of one row in pre-training.

    Backward takes two products for each of forward's, one for the weight (or the other factor) and one for the input;
    the waveform needs no gradient, so the first convolution's second product is left out, and a filterbank has neither.

    Args:
        model: the encoder.
        objective: pre-training's part.
        num_samples: of the row.
    """
    forward, frames = forward_flops(model, num_samples), model.geometry.num_frames(num_samples)
    masked = masked_frames(objective, frames)
    shared = sum(forward.convs) + forward.projection  # once for all masks of a row
    pooled, decoder = -(-frames // model.context_stride), 0
    if objective.encode == "visible":
        pooled, decoder = frames - masked, _decoder_flops(model, objective, frames)
    blocks = _local_conv_flops(model, pooled) + _attention_flops(model, pooled) + _feed_forward_flops(model, pooled)
    a_mask = 3 * (forward.positional + forward.upsample + blocks + decoder) + objective_flops(model, objective, masked)
    return forward.filterbank + 3 * shared - sum(forward.convs[:1]) + objective.num_masks * a_mask


def masked_frames(objective: Wav2Vec2Config, frames: int) -> int:
    """Masked frames of a row of ``frames`` frames."""
    return num_masked(
        frames, mask_prob=objective.mask_prob, span=objective.mask_span_frames, min_masks=objective.min_masks
    )


def _decoder_flops(model: ModelConfig, objective: Wav2Vec2Config, frames: int) -> int:
    """Forward of the decoder on one row: each channel is a sum over its group's channels and the kernel's frames."""
    dims = model.dim + (objective.decoder_layers - 1) * objective.decoder_dim
    frames += 1 - objective.decoder_kernel % 2
    return 2 * frames * objective.decoder_dim * dims * objective.decoder_kernel // objective.decoder_groups


def objective_flops(model: ModelConfig, objective: Wav2Vec2Config, masked: int) -> int:
    """Forward and backward of the objective on the masked frames of one row.

    Three times code logits, both projections, the similarity of every context with every target and the logits of
    random projections' codes; once the product that gives the gradient of the Gumbel softmax, for the choice itself is
    looked up, and the finding of the codes.
    """
    m = masked
    logits = 2 * m * model.latent_dim * objective.num_groups * objective.num_entries
    context_dim = objective.decoder_dim if objective.encode == "visible" else model.dim
    projections = 2 * m * (context_dim + objective.code_dim) * objective.target_dim
    similarity = 2 * m**2 * objective.target_dim
    choice = 2 * m * objective.num_entries * objective.code_dim
    codes = found = 0
    if objective.random_projection_weight:
        codebooks = objective.random_projection_codebooks
        codes = 2 * m * context_dim * codebooks * objective.random_projection_entries
        found = 2 * m * codebooks * CODE_DIM * (model.latent_dim + objective.random_projection_entries)
    return 3 * (logits + projections + similarity + codes) + choice + found
