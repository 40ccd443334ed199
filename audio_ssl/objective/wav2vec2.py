"""The wav2vec 2.0 objective: mask spans of latents, predict their quantized selves from context.

Owns what pre-training throws away: quantizer, projections, decoder and second task. It meets the encoder through
:class:`~audio_ssl.objective.masked_pass.MaskableEncoder` alone and knows neither files nor ranks.

Reference: wav2vec 2.0 (2006.11477) sections 3.2 and 3.3; fairseq wav2vec2.py for loss weights and code statistics;
w2v-BERT 2.0 (2312.05187) for a second task beside the contrastive one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_ssl.objective.contrastive import (
    ContrastiveTerms,
    MaskedFrames,
    contrastive_loss,
    pack_masked,
    sample_distractors,
)
from audio_ssl.objective.decoder import FrameDecoder
from audio_ssl.objective.masked_pass import MaskableEncoder, MaskedPass
from audio_ssl.objective.masking import num_masked, sample_span_mask
from audio_ssl.objective.quantizer import GumbelQuantizer, Quantized, diversity_loss, gumbel_temperature, perplexity
from audio_ssl.objective.random_projection import RandomProjectionTask
from audio_ssl.tensors import Batch, FrameSubset, LossTerms, is_valid_mask


class Wav2Vec2Objective(nn.Module):
    """Masked contrastive prediction of quantized latents.

    Args:
        quantizer: turns latents into targets.
        dim: D, width of the context network, or of the decoder where there is one.
        target_dim: width in which context and targets are compared.
        mask_prob: see :func:`~audio_ssl.objective.masking.num_masked`.
        mask_span_frames: frames a span.
        min_masks: spans a row at least.
        num_masks: masks of each utterance; conv stack and feature projection run once for all of them.
        num_distractors: K.
        logit_temperature: kappa of eq. 3.
        gumbel_schedule: start, end and decay of the Gumbel temperature.
        target_dropout: dropout on the latents that the quantizer sees.
        diversity_weight: alpha of eq. 2.
        feature_penalty_weight: factor on the mean squared latent; 0 leaves the term out.
        decoder: predicts at masked frames from the context of visible ones, so that masked frames never enter the
            transformer (data2vec 2.0); None encodes all frames, with the mask embedding at masked ones (wav2vec 2.0).
        random_projection: a second task on the masked frames (w2v-BERT 2.0); None: there is none.
        random_projection_weight: factor on its loss.
    """

    def __init__(
        self,
        *,
        quantizer: GumbelQuantizer,
        dim: int,
        target_dim: int,
        mask_prob: float,
        mask_span_frames: int,
        min_masks: int,
        num_masks: int,
        num_distractors: int,
        logit_temperature: float,
        gumbel_schedule: tuple[float, float, float],
        target_dropout: float,
        diversity_weight: float,
        feature_penalty_weight: float,
        decoder: FrameDecoder | None = None,
        random_projection: RandomProjectionTask | None = None,
        random_projection_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.random_projection = random_projection
        self.random_projection_weight = random_projection_weight
        self.quantizer = quantizer
        code_dim = quantizer.codebook.shape[-1] * quantizer.num_groups
        self.target_projection = nn.Linear(code_dim, target_dim)
        self.context_projection = nn.Linear(dim, target_dim)
        self.mask_prob = mask_prob
        self.mask_span_frames = mask_span_frames
        self.min_masks = min_masks
        self.num_masks = num_masks
        self.num_distractors = num_distractors
        self.logit_temperature = logit_temperature
        self.gumbel_schedule = gumbel_schedule
        self.target_dropout = target_dropout
        self.diversity_weight = diversity_weight
        self.feature_penalty_weight = feature_penalty_weight

    def forward(self, encoder: MaskableEncoder, batch: Batch, *, update: int, generator: torch.Generator) -> LossTerms:
        """Loss of one micro-batch, as sums over its masked frames.

        Args:
            encoder: in the same mode (train or eval) as the objective.
            batch: waveforms.
            update: optimizer updates done so far; sets the Gumbel temperature.
            generator: on the CPU or the batch's device; drawn from in this order: masks, Gumbel noise, distractors.
                A fixed generator gives fixed masks and distractors, as validation wants.

        Returns:
            Sums over all masks; ``num_targets`` counts masked frames that have distractors. The contrastive term of a
            batch is the sum of its micro-batches'. Diversity (of mean probabilities) and feature penalty (a mean over
            frames) are those of one micro-batch, weighted by its targets, as in fairseq and transformers: so sharing
            micro-batches out over ranks or accumulating them changes nothing, cutting rows into other micro-batches
            changes these two a little.
        """
        latents, num_frames = encoder.feature_encoder(batch.waveforms, batch.num_samples, is_full=batch.is_full)
        features, normed_latents = encoder.feature_projection(latents)
        row_frames = num_frames.repeat_interleave(self.num_masks)  # (B,) -> (B*N,)
        is_masked = self.sample_mask(row_frames, max_frames=latents.shape[1], generator=generator)
        frames = self.encode_masked(encoder, features, is_masked, num_frames=row_frames, is_full=batch.is_full)
        encoded = MaskedPass(latents, normed_latents, frames, num_frames, is_masked)
        return self.score(encoded, update=update, generator=generator)

    def encode_masked(
        self,
        encoder: MaskableEncoder,
        features: Tensor,
        is_masked: Tensor,
        *,
        num_frames: Tensor,
        is_full: bool | None,
    ) -> Tensor:
        """Frames of each mask (B*N, T) from features (B, T, D) that all masks of an utterance share: (B*N, T, D')."""
        batch, max_frames, _ = features.shape
        stand_in = encoder.mask_embedding if self.decoder is None else features.new_zeros(())
        masks = is_masked.view(batch, self.num_masks, max_frames, 1)  # (B*N, T) -> (B, N, T, 1)
        masked = torch.where(masks, stand_in.to(features.dtype), features[:, None]).flatten(0, 1)  # -> (B*N, T, D)
        if self.decoder is None:
            return encoder.context_network(masked, num_frames, is_full=is_full).frames  # type: ignore[no-any-return]
        is_valid = is_valid_mask(num_frames, max_frames)
        is_visible = is_valid & ~is_masked
        visible = FrameSubset.of(is_visible, max_chosen=max_frames - self.num_masked(max_frames))
        context = encoder.context_network(
            masked, num_frames, is_full=is_full, kept_frames=visible
        ).frames  # (B*N, V, D)
        return self.decoder(  # type: ignore[no-any-return]
            context,
            is_visible=is_visible,
            mask_embedding=encoder.mask_embedding,
            is_valid=None if is_full else is_valid,
        )

    def sample_mask(self, num_frames: Tensor, *, max_frames: int, generator: torch.Generator) -> Tensor:
        """Masks by this objective's settings: (B,) -> (B, T) bool."""
        return sample_span_mask(
            num_frames,
            mask_prob=self.mask_prob,
            span=self.mask_span_frames,
            min_masks=self.min_masks,
            generator=generator,
            max_frames=max_frames,
        )

    def num_masked(self, num_frames: int) -> int:
        """Frames that :meth:`sample_mask` masks in a row of ``num_frames``."""
        return num_masked(num_frames, mask_prob=self.mask_prob, span=self.mask_span_frames, min_masks=self.min_masks)

    def score(self, encoded: MaskedPass, *, update: int, generator: torch.Generator) -> LossTerms:
        """The loss when the encoder has done its work.

        Args:
            encoded: masked in no row more than :meth:`num_masked` says for the widest.
            update: see :meth:`forward`.
            generator: of the Gumbel noise, then of the distractors.
        """
        masked = pack_masked(encoded.is_masked, max_masked=self.num_masked(encoded.is_masked.shape[1]))
        start, end, decay = self.gumbel_schedule
        temperature = gumbel_temperature(update, start=start, end=end, decay=decay)
        quantized = self._quantize(encoded.normed_latents, masked, temperature=temperature, generator=generator)
        frames = masked.pick(encoded.frames)
        contrastive = self._contrast(frames, masked, quantized=quantized, generator=generator)
        num_targets = masked.is_target.sum()
        diversity = num_targets * diversity_loss(quantized.prob_sums, num_targets)
        penalty = num_targets * self._feature_penalty(encoded.latents, encoded.num_frames)
        loss_sum = contrastive.loss_sum + self.diversity_weight * diversity + self.feature_penalty_weight * penalty
        sums = {
            "loss": loss_sum,
            "contrastive": contrastive.loss_sum,
            "diversity": diversity,
            "feature_penalty": penalty,
            "temperature": num_targets * temperature,
            "num_targets": num_targets,
            "num_correct": contrastive.num_correct,
            "num_masked": masked.counts.sum(),
            "num_frames": encoded.num_frames.sum() * self.num_masks,
            "prob_sums": quantized.prob_sums,
            "code_counts": quantized.code_counts,
        }
        if self.random_projection is not None:
            nats, told = self.random_projection(frames, masked.pick(encoded.latents), is_target=masked.is_target)
            loss_sum = loss_sum + self.random_projection_weight * nats
            sums |= {"loss": loss_sum, "random_projection": nats, "random_projection_correct": told}
        return LossTerms(loss_sum, num_targets, {name: value.detach().float() for name, value in sums.items()})

    def _quantize(
        self, latents: Tensor, masked: MaskedFrames, *, temperature: float, generator: torch.Generator
    ) -> Quantized:
        """Targets of the masked frames of each mask: latents (B, T, C) -> vectors (B*N*M, d)."""
        latents = F.dropout(masked.pick(latents), self.target_dropout, self.training)  # anew for each mask
        quantized: Quantized = self.quantizer(
            latents.flatten(0, 1), is_counted=masked.is_target.flatten(), temperature=temperature, generator=generator
        )
        return quantized

    def _contrast(
        self, frames: Tensor, masked: MaskedFrames, *, quantized: Quantized, generator: torch.Generator
    ) -> ContrastiveTerms:
        """Contrastive term of the masked frames (B*N, M, D)."""
        batch, width = masked.frame_idx.shape
        distractor_idx = sample_distractors(
            masked.counts, num_distractors=self.num_distractors, generator=generator, max_masked=width
        )
        return contrastive_loss(
            self.context_projection(frames),
            self.target_projection(quantized.vectors).view(batch, width, self.target_projection.out_features),
            code_idx=quantized.code_idx.view(batch, width, self.quantizer.num_groups),
            distractor_idx=distractor_idx,
            is_target=masked.is_target,
            temperature=self.logit_temperature,
        )

    def _feature_penalty(self, latents: Tensor, num_frames: Tensor) -> Tensor:
        """Mean squared latent over valid frames; a plain 0 when its weight is 0."""
        if self.feature_penalty_weight == 0:
            return torch.zeros((), device=latents.device)
        is_valid = is_valid_mask(num_frames, latents.shape[1])
        energy = latents.float().square().mean(-1).masked_fill(~is_valid, 0.0)  # (B, T, C) -> (B, T)
        return energy.sum() / num_frames.sum().clamp(min=1)

    def summarize(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Figures for people from summed ``LossTerms.sums``, per target; reads the device once a figure.

        Returns:
            loss, contrastive_loss (nats; chance is ln(K + 1), 4.615 for K = 100), diversity_loss, feature_penalty,
            accuracy, code_perplexity and prob_perplexity (summed over groups: G to G * V) and those of each group
            (``code_perplexity_1`` and so on: 1 to V), gumbel_temperature, masked_share. NaN where there was no target
            (or no frame). With the second task random_projection_loss (nats; chance is ln(V)) and
            random_projection_accuracy too.
        """
        total = {name: value.detach().double().cpu() for name, value in sums.items()}
        num_targets = float(total["num_targets"])

        def per_target(name: str) -> float:
            return float(total[name]) / num_targets if num_targets else math.nan

        def used_entries(figure: str, name: str) -> dict[str, float]:
            groups = perplexity(total[name] / num_targets if num_targets else total[name] * math.nan).tolist()
            return {figure: sum(groups), **{f"{figure}_{i}": group for i, group in enumerate(groups, start=1)}}

        num_frames = float(total["num_frames"])
        second = {}
        if "random_projection" in total:
            second["random_projection_loss"] = per_target("random_projection")
            second["random_projection_accuracy"] = per_target("random_projection_correct")
        return {
            "loss": per_target("loss"),
            "contrastive_loss": per_target("contrastive"),
            "diversity_loss": per_target("diversity"),
            "feature_penalty": per_target("feature_penalty"),
            "accuracy": per_target("num_correct"),
            **used_entries("code_perplexity", "code_counts"),
            **used_entries("prob_perplexity", "prob_sums"),
            "gumbel_temperature": per_target("temperature"),
            "masked_share": float(total["num_masked"]) / num_frames if num_frames else math.nan,
            **second,
        }
