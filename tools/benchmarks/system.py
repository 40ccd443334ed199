"""One implementation of a case, ours or a peer's: the work that is timed, and frames to know the model by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from audio_ssl.config import OptimConfig
from audio_ssl.model.files import encoder_document, pretraining_document
from audio_ssl.tensors import Batch
from audio_ssl.train.optim import build_optimizer, set_learning_rate
from audio_ssl.train.precision import autocast
from audio_ssl.train.schedules import learning_rate
from benchmarks.cases import CPU, Case

OPTIM = OptimConfig()
NUM_UPDATES = 400_000  # of the run whose first updates these are: the rate is small, and the weights stay sound


class System(ABC):
    """A model of a case in one implementation.

    Args:
        case: what to measure.
        trains: True for the pre-training model, False for the encoder alone.
        optim: of the updates.
        device: of the model and the batch.
        seed: of what ours draws in them; peers draw from global generators.

    Raises:
        ImportError: the implementation is not installed, or not for this torch.
    """

    name: ClassVar[str]
    can_train: ClassVar[bool] = True

    def __init__(
        self, case: Case, *, trains: bool, optim: OptimConfig = OPTIM, seed: int = 1, device: torch.device = CPU
    ) -> None:
        self.case = case
        self.trains = trains
        self.optim = optim
        self.seed = seed
        self.device = device
        self.num_updates = 0
        self.module = self.build().train(trains).to(device)
        self.batch = case.batch().to(device)

    @property
    def document(self) -> dict[str, Any]:
        """The case's model in our terms."""
        if self.trains:
            return pretraining_document(self.case.model, self.case.objective)
        return encoder_document(self.case.model)

    @classmethod
    @abstractmethod
    def load(cls) -> None:
        """Import what :meth:`build` needs, so that no measure contains it."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The module with fresh weights."""

    @abstractmethod
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights that are given under our names."""

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """Frames of the last layer (B, T, D), in the mode that the module is in."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The pre-training loss per masked frame, masks and distractors drawn on the way."""

    @abstractmethod
    def encoder_parts(self) -> Sequence[nn.Module]:
        """The modules whose forward passes are the encoder's; what :meth:`loss` does beside them is the objective."""

    def frames(self, batch: Batch) -> Tensor:
        """Frames in evaluation and fp32; the module's mode is as before afterwards."""
        self.module.eval()
        with torch.no_grad():
            frames = self.encode(batch.to(self.device))
        self.module.train(self.trains)
        return frames

    @torch.inference_mode()
    def forward(self, precision: str) -> None:
        """The timed work of ``forward``."""
        with autocast(precision, self.device):
            self.encode(self.batch)

    def step(self, precision: str, batch: Batch | None = None, *, rate: float | None = None) -> None:
        """The timed work of ``step``: a whole update of the case's batch, or of another, at a learning rate."""
        if rate is None:
            rate = learning_rate(self.num_updates, config=self.optim, num_updates=NUM_UPDATES)
        with autocast(precision, self.device):
            loss = self.loss(batch or self.batch)
        loss.backward()  # type: ignore[no-untyped-call]
        set_learning_rate(self.optimizer, rate)
        self.apply_gradients()
        self.optimizer.zero_grad(set_to_none=True)
        self.num_updates += 1

    def apply_gradients(self) -> None:
        """Clip and step; a peer's users clip with torch's function."""
        nn.utils.clip_grad_norm_(self.module.parameters(), self.optim.clip_norm)
        self.optimizer.step()

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """The same fused AdamW for all; ours may have Muon beside it."""
        return build_optimizer(
            [(list(self.module.parameters()), 1.0)], self.optim, matrices=self.matrices()
        )  # fmt: skip

    def matrices(self) -> Sequence[nn.Parameter]:
        """For Muon, where ``optim.optimizer`` names it."""
        return ()
