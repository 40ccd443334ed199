"""Pretext tasks by name: the one place where settings become an objective.

To add a task: a settings section with its own ``name`` in config/, a module here, and an entry in the table below.
"""

from __future__ import annotations

from collections.abc import Callable

from audio_ssl.config.objective import Wav2Vec2Config
from audio_ssl.objective.decoder import FrameDecoder
from audio_ssl.objective.quantizer import GumbelQuantizer
from audio_ssl.objective.random_projection import RandomProjectionTask
from audio_ssl.objective.wav2vec2 import Wav2Vec2Objective


def build_objective(config: Wav2Vec2Config, *, latent_dim: int, dim: int) -> Wav2Vec2Objective:
    """Build the objective that ``config.name`` asks for.

    Args:
        config: settings of the pretext task.
        latent_dim: C, width of the encoder's latents.
        dim: D, width of its frames.
    """
    return OBJECTIVES[config.name](config, latent_dim, dim)


def _build_wav2vec2(config: Wav2Vec2Config, latent_dim: int, dim: int) -> Wav2Vec2Objective:
    quantizer = GumbelQuantizer(
        latent_dim=latent_dim,
        code_dim=config.code_dim,
        num_groups=config.num_groups,
        num_entries=config.num_entries,
        logit_scale=config.quantizer_logit_scale,
    )
    decoder = _build_decoder(config, dim) if config.encode == "visible" else None
    dim = dim if decoder is None else config.decoder_dim
    return Wav2Vec2Objective(
        quantizer=quantizer,
        dim=dim,
        target_dim=config.target_dim,
        mask_prob=config.mask_prob,
        mask_span_frames=config.mask_span_frames,
        min_masks=config.min_masks,
        num_masks=config.num_masks,
        num_distractors=config.num_distractors,
        logit_temperature=config.logit_temperature,
        gumbel_schedule=(config.gumbel_start, config.gumbel_end, config.gumbel_decay),
        target_dropout=config.target_dropout,
        diversity_weight=config.diversity_weight,
        feature_penalty_weight=config.feature_penalty_weight,
        decoder=decoder,
        random_projection=_build_random_projection(config, latent_dim, dim),
        random_projection_weight=config.random_projection_weight,
    )


def _build_random_projection(config: Wav2Vec2Config, latent_dim: int, dim: int) -> RandomProjectionTask | None:
    if config.random_projection_weight == 0:
        return None
    return RandomProjectionTask(
        latent_dim=latent_dim,
        dim=dim,
        num_codebooks=config.random_projection_codebooks,
        num_entries=config.random_projection_entries,
    )


def _build_decoder(config: Wav2Vec2Config, dim: int) -> FrameDecoder:
    return FrameDecoder(
        dim,
        hidden_dim=config.decoder_dim,
        num_layers=config.decoder_layers,
        kernel=config.decoder_kernel,
        groups=config.decoder_groups,
        dropout=config.decoder_dropout,
    )


OBJECTIVES: dict[str, Callable[[Wav2Vec2Config, int, int], Wav2Vec2Objective]] = {"wav2vec2": _build_wav2vec2}
