"""audio_ssl: training as ``train/loop.py`` does an update, inference as ``inference/models.py`` opens a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from audio_ssl.inference.models import Precision, Runtime, prepare_for_inference
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective import build_objective
from audio_ssl.rng import derive_seed, torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train.muon import hidden_matrices
from audio_ssl.train.optim import scale_and_clip, step_if_finite
from benchmarks.system import System


class Ours(System):
    """Our encoder, and our objective where it trains."""

    name = "audio_ssl"

    @classmethod
    def load(cls) -> None:
        """Everything is imported with this file."""

    def build(self) -> nn.Module:
        """Encoder and objective under the names of a checkpoint."""
        torch.manual_seed(derive_seed(1, "bench"))
        encoder = build_encoder(self.case.model)
        parts: dict[str, nn.Module] = {"encoder": encoder}
        if self.trains:
            parts["objective"] = build_objective(self.case.objective, latent_dim=encoder.latent_dim, dim=encoder.dim)
        return nn.ModuleDict(parts)

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Strictly by name."""
        self.module.load_state_dict(tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the weights that everybody is to have."""
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    def fold(self) -> None:
        """What opening a model for inference does; :meth:`tensors` are no longer a checkpoint's afterwards."""
        prepare_for_inference(self.module)

    def encode(self, batch: Batch) -> Tensor:
        """As the extractor calls it."""
        return cast(Tensor, self._part("encoder")(batch.waveforms, batch.num_samples, is_full=batch.is_full).frames)

    @torch.inference_mode()
    def forward(self, precision: str) -> None:
        """Under the context that inference uses."""
        with Runtime(self.device, cast(Precision, precision)).autocast():
            self.encode(self.batch)

    def loss(self, batch: Batch) -> Tensor:
        """The sum; its count divides the gradients in :meth:`apply_gradients`, as in the loop."""
        torch.manual_seed(derive_seed(self.seed, "dropout", self.num_updates, 0))
        generator = torch_generator(self.seed, "objective", self.num_updates, 0, device=self.device)
        terms = self._part("objective")(self._part("encoder"), batch, update=self.num_updates, generator=generator)
        self.scale = 1 / terms.num_targets.clamp(min=1)
        return cast(Tensor, terms.loss_sum)

    def apply_gradients(self) -> None:
        """As the loop does."""
        norm = scale_and_clip(list(self.module.parameters()), self.scale, self.optim.clip_norm)
        step_if_finite(self.optimizer, norm)

    def matrices(self) -> Sequence[nn.Parameter]:
        """As both training verbs choose them."""
        return hidden_matrices(self.encoder)

    @property
    def encoder(self) -> nn.Module:
        """Without the objective."""
        return self._part("encoder")

    def encoder_parts(self) -> Sequence[nn.Module]:
        """Masks go in between them."""
        return list(self._part("encoder").children())

    def _part(self, name: str) -> nn.Module:
        return cast(nn.ModuleDict, self.module)[name]
