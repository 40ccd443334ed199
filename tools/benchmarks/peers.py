"""The peers: each with its own masks and distractors, its own dropout kernels, and attention as it comes.

All have the same weights and settings. Two settings have no place in fairseq2 and are left out there, to its favour:
dropout on the projected features, and on what the quantizer sees. Peers do not fold the positional convolution's
weight norm for inference; audio_ssl does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from audio_ssl.interop.fairseq2 import to_fairseq2
from audio_ssl.interop.huggingface import from_huggingface, to_huggingface
from audio_ssl.interop.peers import build_fairseq2, build_torchaudio, build_transformers
from audio_ssl.interop.torchaudio import to_torchaudio
from audio_ssl.objective.quantizer import gumbel_temperature
from audio_ssl.tensors import Batch, is_valid_mask
from benchmarks.system import System


class Transformers(System):
    """``Wav2Vec2ForPreTraining`` or ``Wav2Vec2Model``, driven as its pre-training script does."""

    name = "transformers"

    @classmethod
    def load(cls) -> None:
        """The models' file, which the package itself imports late."""
        import transformers.models.wav2vec2.modeling_wav2vec2  # noqa: F401

    def build(self) -> nn.Module:
        """The class for the document's kind."""
        return build_transformers(self.document)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Strictly by name."""
        self.module.load_state_dict(to_huggingface(tensors))

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights, under our names."""
        return from_huggingface({name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()})

    def encode(self, batch: Batch) -> Tensor:
        """Without attention mask: nothing is padded."""
        encoder: Any = self.module.wav2vec2 if self.trains else self.module
        return cast(Tensor, encoder(batch.waveforms).last_hidden_state)

    def loss(self, batch: Batch) -> Tensor:
        """Masks and negatives by the functions of its file, in numpy, as its data collator draws them.

        Padded batches come with an attention mask, and are masked and contrasted within their rows.
        """
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

        config = self.case.objective
        rows, num_samples = batch.waveforms.shape
        shape = (rows, self.case.model.geometry.num_frames(num_samples))
        model: Any = self.module
        attention_mask = frame_mask = None
        if not batch.is_full:
            attention_mask = is_valid_mask(batch.num_samples, num_samples).long()  # (B, S)
            frame_mask = model._get_feature_vector_attention_mask(shape[1], attention_mask)  # (B, T)
        masks = _compute_mask_indices(
            shape, config.mask_prob, config.mask_span_frames, attention_mask=frame_mask, min_masks=config.min_masks
        )
        negatives = _sample_negative_indices(shape, config.num_distractors, mask_time_indices=masks)
        model.set_gumbel_temperature(
            gumbel_temperature(
                self.num_updates, start=config.gumbel_start, end=config.gumbel_end, decay=config.gumbel_decay
            )
        )
        is_masked = torch.from_numpy(masks).to(self.device)
        output = model(
            batch.waveforms, attention_mask,
            mask_time_indices=is_masked, sampled_negative_indices=torch.from_numpy(negatives).to(self.device),
        )  # fmt: skip
        return cast(Tensor, output.loss / is_masked.sum())

    def encoder_parts(self) -> Sequence[nn.Module]:
        """One module, masking included."""
        model: Any = self.module
        return [model.wav2vec2 if self.trains else model]


class Fairseq2(System):
    """``Wav2Vec2Model`` with its masker, its distractors and its loss."""

    name = "fairseq2"

    @classmethod
    def load(cls) -> None:
        """Its shared libraries are found by the builder."""
        from audio_ssl.data.engine_fairseq2 import preload_libsndfile

        preload_libsndfile()
        try:
            import fairseq2.models.wav2vec2  # noqa: F401
        except OSError as error:
            raise ImportError(str(error)) from error

    def build(self) -> nn.Module:
        """One class for pre-training and the encoder alone."""
        return build_fairseq2(self.document)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """By name; an encoder alone has no projections, and its fresh ones take no part."""
        renamed = to_fairseq2(tensors, norm_order=self.case.model.norm_order)
        self.module.load_state_dict(renamed, strict=self.trains)

    def encode(self, batch: Batch) -> Tensor:
        """Frontend without masker, then the encoder."""
        model: Any = self.module
        latents, layout, _ = model.encoder_frontend.extract_features(batch.waveforms, self._layout(batch))
        features, _ = model.encoder_frontend.process_features(latents, layout)
        return cast(Tensor, model.encoder(features, layout))

    def loss(self, batch: Batch) -> Tensor:
        """Its own sum over masked frames, per frame."""
        config = self.case.objective
        with torch.compiler.set_stance("force_eager"):  # its quantizer compiles itself anew in every call
            loss, output = self.module(
                batch.waveforms, self._layout(batch),
                diversity_weight=config.diversity_weight, features_penalty_weight=config.feature_penalty_weight,
            )  # fmt: skip
        return cast(Tensor, loss.aggregate / output.num_targets)

    def encoder_parts(self) -> Sequence[nn.Module]:
        """The frontend's, which is not called as one, with masking; the encoder."""
        model: Any = self.module
        return [*model.encoder_frontend.children(), model.encoder]

    def _layout(self, batch: Batch) -> Any:
        from fairseq2.nn import BatchLayout

        return BatchLayout.of(batch.waveforms, batch.num_samples.tolist())


class Torchaudio(System):
    """``Wav2Vec2Model``; it has no pre-training loss of this kind."""

    name = "torchaudio"
    can_train = False

    @classmethod
    def load(cls) -> None:
        """Its models."""
        try:
            import torchaudio.models  # noqa: F401
        except OSError as error:
            raise ImportError(str(error)) from error

    def build(self) -> nn.Module:
        """Without a head."""
        return build_torchaudio(self.document)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Strictly by name."""
        self.module.load_state_dict(to_torchaudio(tensors))

    def encode(self, batch: Batch) -> Tensor:
        """Frames without lengths: nothing is padded."""
        return cast(Tensor, self.module(batch.waveforms)[0])

    def loss(self, batch: Batch) -> Tensor:
        """Not there."""
        raise NotImplementedError(self.name)

    def encoder_parts(self) -> Sequence[nn.Module]:
        """All of it."""
        return [self.module]


PEERS: tuple[type[System], ...] = (Transformers, Fairseq2, Torchaudio)
