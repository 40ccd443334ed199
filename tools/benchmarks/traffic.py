"""Operations and bytes of a training step on a GPU, part by part; :mod:`benchmarks.roofline` tells what is assumed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective import build_objective
from benchmarks.cases import Case
from benchmarks.flops import forward_flops, masked_frames


@dataclass(frozen=True)
class Kernel:
    """Operations and bytes of one kernel, or of several alike."""

    flops: float
    num_bytes: float
    precision: str = "bf16"


@dataclass(frozen=True)
class Part:
    """A part of a step, forward and backward."""

    name: str
    kernels: tuple[Kernel, ...]


# Bytes an element, forward and backward, of bf16 values where nothing else is said.
GELU = (2 + 2) + (2 + 2 + 2)
DROPOUT = (2 + 2 + 1) + (2 + 1 + 2)  # with a byte of mask
WHERE = (2 + 2) + (2 + 2)
ADD = 2 + 2 + 2
CAST = (2 + 4) + (4 + 2)
NORM = CAST + (4 + 4) + (4 + 4 + 4) + CAST  # of bf16 values, in fp32, and back
# A block's half as written: the fp32 stream meets dropout's bf16, norm; the gradient goes back into both.
HALF = DROPOUT + (4 + 2 + 4) + (4 + 2) + (4 + 4) + (4 + 4 + 4)
CAST_IN = CAST + (4 + 4 + 4)  # each linear layer casts its own copy, and its gradient is added to the others'
HALF_COMPILED = (2 + 4 + 4 + 2) + (4 + 4 + 4 + 2)  # stream and branch in, stream and bf16 copy out; and backward
OPTIMIZER = 28 + (4 + 8) + 12  # a weight: AdamW; norm of gradients and their scaling; casts of weights and gradients


def products(m: float, k: float, n: float, *, precision: str = "bf16") -> tuple[Kernel, ...]:
    """A linear layer (m, k) x (k, n): forward and the two products of backward move the same three matrices."""
    size = 2 if precision == "bf16" else 4
    return (Kernel(2 * m * k * n, size * (m * k + k * n + m * n), precision),) * 3


def elementwise(elements: float, bytes_each: float) -> Kernel:
    """No arithmetic worth counting."""
    return Kernel(0, elements * bytes_each)


def step_parts(case: Case, *, is_compiled: bool) -> list[Part]:
    """The parts of an update of ``case``."""
    frames = case.model.geometry.num_frames(case.num_samples) * case.rows
    blocks = [_attention(case, frames), _feed_forward(case, frames)]
    parts = [
        *_convs(case),
        Part("projection, masks", _projection(case, frames)),
        Part("positional conv", _positional(case, frames)),
        *blocks,
        Part("residuals, norms, dropout of blocks", (_halves(case, frames, is_compiled=is_compiled),)),
        Part("objective", _objective(case)),
        Part("AdamW, clipping, casts of weights", (elementwise(_num_weights(case), OPTIMIZER),)),
    ]
    return [part for part in parts if part.kernels]


def _convs(case: Case) -> list[Part]:
    model, flops = case.model, forward_flops(case.model, case.num_samples).convs
    length, in_dim = case.num_samples, 1
    kernels: list[Kernel] = []
    around: list[Kernel] = []
    for i, (dim, kernel, stride) in enumerate(
        zip(model.conv_dims, model.conv_kernels, model.conv_strides, strict=True)
    ):
        frames = (length - kernel) // stride + 1
        moved = 2 * (case.rows * (length * in_dim + frames * dim) + dim * in_dim * kernel)
        count = 3 if i else 2  # the waveform needs no gradient
        kernels += [Kernel(case.rows * flops[i], moved)] * count
        norm = NORM if model.feature_norm == "layer" else 0  # the group norm is part of the first conv's product
        around.append(elementwise(case.rows * frames * dim, GELU + norm))
        length, in_dim = frames, dim
    return [Part("convs", tuple(kernels)), Part("GELU and norms of convs", tuple(around))]


def _projection(case: Case, frames: float) -> tuple[Kernel, ...]:
    latent_dim, dim = case.model.conv_dims[-1], case.model.dim
    around = (elementwise(frames * latent_dim, NORM), elementwise(frames * dim, DROPOUT + WHERE))
    return products(frames, latent_dim, dim) + around


def _positional(case: Case, frames: float) -> tuple[Kernel, ...]:
    model = case.model
    weight = model.dim * (model.dim // model.pos_conv_groups) * model.pos_conv_kernel
    flops = case.rows * forward_flops(model, case.num_samples).positional
    conv = Kernel(flops, 2 * (2 * frames * model.dim + weight))
    norm = NORM if model.norm_order == "post" else 0
    return (*[conv] * 3, elementwise(frames * model.dim, GELU + ADD + norm + DROPOUT))


def _attention(case: Case, frames: float) -> Part:
    dim, layers = case.model.dim, case.model.num_layers
    pairs = frames * frames / case.rows
    forward = Kernel(4 * pairs * dim, 2 * 4 * frames * dim)
    backward = Kernel(10 * pairs * dim, 2 * 8 * frames * dim)
    return Part("attention", (*products(frames, dim, dim) * 4, forward, backward) * layers)


def _feed_forward(case: Case, frames: float) -> Part:
    dim, hidden, layers = case.model.dim, case.model.ffn_dim, case.model.num_layers
    around = GELU + (DROPOUT if case.model.activation_dropout else 0)
    kernels = products(frames, dim, hidden) + products(frames, hidden, dim) + (elementwise(frames * hidden, around),)
    return Part("feed-forward", kernels * layers)


def _halves(case: Case, frames: float, *, is_compiled: bool) -> Kernel:
    written = 2 * HALF + (3 + 1) * CAST_IN  # query, key, value; the feed-forward's first layer
    each = 2 * HALF_COMPILED if is_compiled else written
    return elementwise(case.model.num_layers * frames * case.model.dim, each)


def _objective(case: Case) -> tuple[Kernel, ...]:
    config, model = case.objective, case.model
    masked = masked_frames(config, model.geometry.num_frames(case.num_samples))
    all_masked = case.rows * masked
    codes = config.num_groups * config.num_entries
    similarity = tuple(replace(k, flops=case.rows * k.flops, num_bytes=case.rows * k.num_bytes)
                       for k in products(masked, config.target_dim, masked, precision="fp32"))  # fmt: skip
    choice = Kernel(2 * all_masked * config.num_entries * config.code_dim, 4 * all_masked * codes, "fp32")
    # Passes of 4 bytes, forward and backward: two softmaxes, two logs, noise and counts over codes; masks, gather and
    # the softmax over distractors; squares of latents.
    over_codes = elementwise(all_masked * codes, 4 * 20)
    over_pairs = elementwise(case.rows * masked**2, 4 * 8)
    over_distractors = elementwise(all_masked * (config.num_distractors + 1), 4 * 12)
    latents = case.rows * model.geometry.num_frames(case.num_samples) * model.conv_dims[-1]
    penalty = elementwise(latents, 4 * 8 if config.feature_penalty_weight else 0)
    return (
        *products(all_masked, model.conv_dims[-1], codes, precision="fp32"),
        *products(all_masked, model.dim, config.target_dim),
        *products(all_masked, config.code_dim, config.target_dim),
        *similarity, choice, over_codes, over_pairs, over_distractors, penalty,
    )  # fmt: skip


def _num_weights(case: Case) -> int:
    with torch.device("meta"):
        encoder = build_encoder(case.model)
        objective = build_objective(case.objective, latent_dim=encoder.latent_dim, dim=encoder.dim)
    return sum(p.numel() for module in (encoder, objective) for p in module.parameters())
