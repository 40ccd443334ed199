"""What a trained objective makes of audio, for people to look at: the codes in use, and context beside targets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.objective.masked_pass import MaskableEncoder
from audio_ssl.objective.quantizer import Quantized
from audio_ssl.objective.wav2vec2 import Wav2Vec2Objective
from audio_ssl.tensors import Batch, is_valid_mask


@dataclass(frozen=True)
class Comparison:
    """Context and targets of one utterance under one mask.

    Attributes:
        similarity: (T, T) float32 cosines, context of frame t (row) with the target of frame s (column); training
            raises the diagonal at masked frames above other masked frames of its row.
        is_masked: (T,) bool.
    """

    similarity: Tensor
    is_masked: Tensor


@torch.no_grad()
def compare(
    objective: Wav2Vec2Objective, encoder: MaskableEncoder, batch: Batch, *, generator: torch.Generator
) -> Comparison:
    """Mask one utterance as in training and compare what is predicted with every target.

    Args:
        objective: in eval mode.
        encoder: in eval mode.
        batch: of one row, without padding.
        generator: of the mask.
    """
    latents, num_frames = encoder.feature_encoder(batch.waveforms, batch.num_samples, is_full=True)
    features, normed_latents = encoder.feature_projection(latents)
    row_frames = num_frames.repeat_interleave(objective.num_masks)  # (1,) -> (N,)
    is_masked = objective.sample_mask(row_frames, max_frames=latents.shape[1], generator=generator)
    frames = objective.encode_masked(encoder, features, is_masked, num_frames=row_frames, is_full=True)
    context = F.normalize(objective.context_projection(frames[0]).float(), dim=-1)  # of the first mask: (T, D)
    quantized = _quantize(objective, normed_latents, torch.ones_like(is_masked[:1]), generator)
    targets = F.normalize(objective.target_projection(quantized.vectors).float(), dim=-1)
    return Comparison(context @ targets.T, is_masked[0])  # (T, D) x (D, T) -> (T, T)


@torch.no_grad()
def code_counts(
    objective: Wav2Vec2Objective, encoder: MaskableEncoder, batch: Batch, *, generator: torch.Generator
) -> Tensor:
    """How often each entry is the best of its group over all valid frames of a batch: (G, V) float32.

    Args:
        objective: in eval mode.
        encoder: in eval mode.
        batch: waveforms.
        generator: not drawn from in eval mode.
    """
    latents, num_frames = encoder.feature_encoder(batch.waveforms, batch.num_samples, is_full=batch.is_full)
    _, normed_latents = encoder.feature_projection(latents)
    is_valid = is_valid_mask(num_frames, latents.shape[1])
    return _quantize(objective, normed_latents, is_valid, generator).code_counts


def _quantize(
    objective: Wav2Vec2Objective, latents: Tensor, is_counted: Tensor, generator: torch.Generator
) -> Quantized:
    quantized: Quantized = objective.quantizer(
        latents.flatten(0, 1), is_counted=is_counted.flatten(), temperature=1.0, generator=generator
    )
    return quantized
