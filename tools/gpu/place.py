"""Where checks run, and the models, batches and updates that they run there."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from audio_ssl.config import CTCConfig, ModelConfig, OptimConfig, RunConfig, Wav2Vec2Config
from audio_ssl.config.guard import GuardConfig
from audio_ssl.config.objective import OF_PRESETS
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.ctc_module import FinetuneModule
from audio_ssl.train.distributed import World
from audio_ssl.train.loop import Surroundings, Task, run_update
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.pretrain import PretrainModule
from audio_ssl.train.spikes import GradientSpikes
from audio_ssl.train.stepper import make_stepper
from audio_ssl.train.transcripts import Transcripts
from audio_ssl.train.watch import Watch
from benchmarks.cases import Case

NO_DROPOUT = {
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feature_dropout": 0.0, "layer_drop": 0.0,
}  # fmt: skip
# So small that the whole matrix runs on a CPU in a minute: its figures mean nothing.
MINUTE = {
    "conv_dims": (16,) * 7, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 64, "pos_conv_kernel": 16,
    "pos_conv_groups": 4,
}  # fmt: skip
SEED = 7


@dataclass(frozen=True)
class Place:
    """A GPU; or a CPU, on which the same code runs with minute models and nothing is measured.

    Attributes:
        device: of the checks.
    """

    device: torch.device

    @property
    def is_gpu(self) -> bool:
        """False where only the checks themselves are tried out."""
        return self.device.type == "cuda"

    def model(self, preset: str, **changes: Any) -> ModelConfig:
        """A preset's model, without dropouts unless they are given."""
        shape = {} if self.is_gpu else MINUTE
        if changes.get("front_end") == "mel":
            shape = {key: value for key, value in shape.items() if key != "conv_dims"}
        return ModelConfig(**{"preset": preset, **NO_DROPOUT, **shape, **changes})

    def case(self, preset: str, *, rows: int, seconds: float, **changes: Any) -> Case:
        """A model with its objective and a batch; ``changes`` are settings of either."""
        of_model = {key: value for key, value in changes.items() if key in ModelConfig.model_fields}
        of_objective = {key: value for key, value in changes.items() if key not in of_model}
        dropouts = {name: 0.0 for name in Wav2Vec2Config.model_fields if name.endswith("dropout")}
        objective = Wav2Vec2Config(**{**OF_PRESETS[preset], **dropouts, **of_objective})
        if not self.is_gpu:
            rows, seconds = min(rows, 3), min(seconds, 1.0)
        return Case(preset, self.model(preset, **of_model), objective, rows, seconds)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)


def pretrain_module(case: Case) -> PretrainModule:
    """Encoder and objective with the same fresh weights at every call, on the CPU."""
    torch.manual_seed(SEED)
    encoder = build_encoder(case.model)
    return PretrainModule(encoder, build_objective(case.objective, latent_dim=encoder.latent_dim, dim=encoder.dim))


def ctc_module(model: ModelConfig, *, rows: int, num_labels: int = 9, num_symbols: int = 30) -> FinetuneModule:
    """A recogniser with fresh weights and labels drawn for each of ``rows``."""
    torch.manual_seed(SEED)
    recogniser = CTCModel(build_encoder(model), num_symbols)
    draws = torch_generator(SEED, "labels")
    labels = tuple(torch.randint(1, num_symbols, (num_labels,), generator=draws) for _ in range(rows))
    transcripts = Transcripts(("",) * rows, labels, {}, (), torch.zeros(rows, dtype=torch.int64).numpy())
    return FinetuneModule(recogniser, transcripts=transcripts, config=CTCConfig(freeze_feature_encoder=False))


def padded(batch: Batch) -> Batch:
    """The same rows, of which the second has a third of its samples and the last two thirds."""
    width = batch.waveforms.shape[1]
    lengths = batch.num_samples.clone()
    lengths[-1] = 2 * width // 3
    lengths[len(lengths) // 2] = width // 3
    is_sound = torch.arange(width) < lengths[:, None]
    return Batch(batch.waveforms * is_sound, lengths, batch.rows, is_full=False)


@dataclass
class Trainer:
    """Updates as the loop runs them, on batches that are given.

    Attributes:
        module: what learns; moved to the device.
        place: where.
        precision: fp32, bf16 ...
        world: this process among others.
        parallel: what runs forward; the module itself where it is None.
        optim: settings of the optimizer.
        ema_decay: of an average of the weights; 0: none.
    """

    module: nn.Module
    place: Place
    precision: str = "fp32"
    world: World | None = None
    parallel: nn.Module | None = None
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4, warmup_share=0.0))
    ema_decay: float = 0.0
    num_updates: int = 0

    def update(self, batches: Sequence[Batch], *, is_measured: bool = False) -> dict[str, Tensor]:
        """One update on micro-batches, from page-locked memory where there is a GPU; its sums, unread."""
        given = tuple(batch.pin_memory() if self.place.is_gpu else batch for batch in batches)
        self.module.train()
        sums = run_update(
            self.task, self.parallel or self.task.module, given, self.around,
            update=self.num_updates, is_stop_asked=False, is_measured=is_measured,
        )  # fmt: skip
        self.num_updates += 1
        return sums

    def losses(self, batches: Sequence[Batch], count: int) -> list[float]:
        """Loss per target of ``count`` updates on the same micro-batches."""
        sums = [self.update(batches) for _ in range(count)]
        return [float(s["loss"]) / float(s["num_targets"]) for s in sums]

    @cached_property
    def task(self) -> Task:
        """The module with its optimizer; made at the first update, for the device must be chosen before."""
        learning = [p for p in self.module.to(self.place.device).parameters() if p.requires_grad]
        optimizer = build_optimizer([(learning, 1.0)], self.optim)
        return Task(
            self.module, optimizer, source=_NoSource(), summarize=lambda _: {}, validate=None, metric="", document={},
            extras=self.around.stepper.extras(),
        )  # fmt: skip

    @cached_property
    def around(self) -> Surroundings:
        """Settings of the loop; nothing is written."""
        nowhere = Path(tempfile.gettempdir())
        run = RunConfig(dir=nowhere, seed=SEED, num_updates=10_000)
        world = self.world or World(0, 1, self.place.device)
        folder = CheckpointFolder(run, world)
        stepper = make_stepper(
            self.module.to(self.place.device), precision=self.precision, ema_decay=self.ema_decay,
            device=self.place.device,
        )  # fmt: skip
        return Surroundings(
            run, self.optim, world, self.precision, folder, [], 16_000, Console(quiet=True),
            stepper=stepper, watch=Watch(gradients=GradientSpikes(GuardConfig().skip_grad_factor, world.device)),
        )  # fmt: skip


class _NoSource:
    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:  # noqa: ARG002
        return iter(())


@contextmanager
def exact_products() -> Iterator[None]:
    """Full float32 in convolutions, too: a GPU keeps ten bits there where torch is not told otherwise."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def tools_path() -> str:
    """The folder that holds this package, for child processes."""
    return str(Path(__file__).resolve().parents[1])


def python() -> str:
    """This interpreter."""
    return sys.executable
