"""A recogniser in training: what is frozen for a while, what is masked, and its loss.

Reference: wav2vec 2.0 (2006.11477) sections 3.4 and 4.3; intermediate CTC (2102.03216); self-conditioned CTC
(2104.02724).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from audio_ssl.config import CTCConfig
from audio_ssl.model.ctc import CTCModel, ctc_loss_sum
from audio_ssl.model.encoder import Encoder
from audio_ssl.objective.masking import sample_channel_mask, sample_whole_spans
from audio_ssl.tensors import Batch, EncoderOutput, LossTerms
from audio_ssl.train.learning import freeze
from audio_ssl.train.transcripts import Transcripts


class FinetuneModule(nn.Module):
    """A CTC model in training: features are masked, all or a part of the encoder may be frozen.

    The names of its tensors are those of a CTC model directory.

    Args:
        model: encoder and head.
        transcripts: labels by row of the training manifest.
        config: freezing, losses and masks.
    """

    def __init__(self, model: CTCModel, *, transcripts: Transcripts, config: CTCConfig) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.head = model.head
        self.condition = model.condition
        self.dropout = model.dropout  # registered, so that eval() reaches it
        self._model = (model,)  # in a tuple: its parts are already registered above
        self._transcripts = transcripts
        self._config = config
        freeze(model.encoder, config)

    @property
    def beyond_encoder(self) -> list[nn.Parameter]:
        """What learns from nothing: the head, and what tells its scores to the blocks where that is wanted."""
        parts = [self.head] if self.condition is None else [self.head, self.condition]
        return [parameter for part in parts for parameter in part.parameters()]

    def forward(self, batch: Batch, *, update: int, generator: Generator) -> LossTerms:
        """Loss of one micro-batch; counts are utterances, as fairseq's sentence average.

        The loss is (1 - w) CTC + w times the mean of the CTC of ``intermediate_layers``, or CTC alone without such.
        On CUDA torch's CTC reads the lengths on the host: a fine-tuning step waits there, forward and backward.

        Reference: 2102.03216, for several layers as in 2104.02724.
        """
        output, between = self._encode(batch, update=update, generator=generator)
        log_probs = self._model[0].log_probs(output.frames)
        labels, num_labels = self._transcripts.of_rows(batch.rows, log_probs.device)

        def loss_of(scores: Tensor) -> Tensor:
            return ctc_loss_sum(scores, output.num_frames, labels, num_labels)

        of_last = loss_sum = loss_of(log_probs)
        num_rows = torch.full((), len(batch.rows), device=log_probs.device)  # written there: a copy would wait
        num_blank = ((log_probs.argmax(dim=-1) == 0) & output.is_valid).sum()
        sums = {
            "ctc": of_last.detach(), "rows": num_rows.float(), "labels": num_labels.sum().float(),
            "blank": num_blank.float(), "frames": output.num_frames.sum().float(),
        }  # fmt: skip
        if between:
            of_between = torch.stack([loss_of(self._model[0].log_probs(frames)) for frames in between]).mean()
            weight = self._config.intermediate_weight
            loss_sum = (1 - weight) * of_last + weight * of_between
            sums["intermediate_ctc"] = of_between.detach()
        return LossTerms(loss_sum, num_rows, sums)

    def _encode(self, batch: Batch, *, update: int, generator: Generator) -> tuple[EncoderOutput, list[Tensor]]:
        """Masked frames, and those after the intermediate layers."""
        encoder, config, between = self.encoder, self._config, []
        assert isinstance(encoder, Encoder)

        def leave(frames: Tensor) -> Tensor | None:
            between.append(frames)
            return self._model[0].told(frames)

        # No gradient instead of frozen parameters: what data parallelism registered at the start stays true.
        learns = torch.is_grad_enabled() and update >= config.freeze_encoder_updates
        with torch.set_grad_enabled(learns and update >= config.feature_encoder_thaws_at):
            latents, num_frames = encoder.feature_encoder(batch.waveforms, batch.num_samples, is_full=batch.is_full)
        with torch.set_grad_enabled(learns):
            features, _ = encoder.feature_projection(latents)
            features = self._mask(features, num_frames, generator)
            output: EncoderOutput = encoder.context_network(
                features, num_frames, is_full=batch.is_full, exits=dict.fromkeys(config.intermediate_layers, leave)
            )
        if not learns:
            # Autocast keeps the copy of the head's weight that ``told`` made here, without a gradient, and the loss
            # would take it (pytorch issue 112583).
            torch.clear_autocast_cache()
        return output, between

    def _mask(self, features: Tensor, num_frames: Tensor, generator: Generator) -> Tensor:
        """Spans of frames become the mask embedding, spans of channels zero (2006.11477 section 4.3)."""
        config, (num_rows, max_frames, dim) = self._config, features.shape
        is_masked = sample_whole_spans(
            num_frames, mask_prob=config.mask_prob, span=config.mask_span_frames,
            generator=generator, max_frames=max_frames,
        )  # fmt: skip
        features = torch.where(is_masked[..., None], self.encoder.mask_embedding.to(features.dtype), features)
        is_dropped = sample_channel_mask(
            num_rows, dim, mask_prob=config.channel_mask_prob, span=config.channel_mask_span,
            generator=generator, device=features.device,
        )  # fmt: skip
        return features.masked_fill(is_dropped[:, None, :], 0.0)


def summarize(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Figures of fine-tuning: CTC loss in nats per label, and the share of frames whose best symbol is blank.

    ``loss`` is that of the last layer, whatever else is learned from; ``intermediate_loss`` is there where it is.
    """
    total = {name: float(value) for name, value in sums.items()}
    labels, frames = max(total["labels"], 1.0), max(total["frames"], 1.0)
    figures = {"loss": total["ctc"] / labels, "blank_share": total["blank"] / frames}
    if "intermediate_ctc" in total:
        figures["intermediate_loss"] = total["intermediate_ctc"] / labels
    return figures
