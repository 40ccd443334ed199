"""One system on one budget: updates on the clock, and the same validation of its weights at every point.

Both systems get the same batches (our plan and loader), the same initial weights (a fresh model of ours), the same
optimizer, and the same learning rate at the same share of the budget. The clock stands still while a point is measured.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from audio_ssl.config import PretrainConfig
from audio_ssl.model.files import pretraining_document, save_model_dir
from audio_ssl.tensors import Batch
from audio_ssl.train.distributed import World
from audio_ssl.train.memory import keep_freed_memory
from audio_ssl.train.precision import autocast, resolve_precision
from audio_ssl.train.pretrain import PretrainModule, PretrainValidation, build_module, open_data
from audio_ssl.train.updates import Updates, open_updates
from benchmarks.cases import CPU
from benchmarks.peers import Transformers
from benchmarks.report import BenchError, note
from experiment.budget import Budget, TrainingClock, point_shares, rate_at
from experiment.learners import Learner, open_learner, refuse_settings_without_place

CURVE, HEADER = "curve.jsonl", "run.json"


@dataclass(frozen=True)
class Spent:
    """Where a run stands.

    Attributes:
        elapsed_s: on the clock.
        updates: done.
        audio_s: heard, padding left out.
    """

    elapsed_s: float = 0.0
    updates: int = 0
    audio_s: float = 0.0


class Judge:
    """Our objective on the validation data, for any weights under our names.

    Args:
        config: the run; its seed gives the initial weights.
        precision: of the forward pass.
    """

    def __init__(self, config: PretrainConfig, precision: str) -> None:
        torch.manual_seed(config.run.seed)  # as audio_ssl.train.pretrain does
        self.module: PretrainModule = build_module(config, None).eval()
        self.document = pretraining_document(config.model, config.objective)
        self._precision = precision
        data = open_data(config, self.module.encoder, is_train=False)
        self._validation = PretrainValidation(
            self.module, data, micro_batch_s=config.data.micro_batch_s, world=World(0, 1, CPU)
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Copies of its weights."""
        return {name: tensor.detach().clone() for name, tensor in self.module.state_dict().items()}

    @torch.no_grad()
    def measure(self, tensors: dict[str, Tensor], update: int) -> dict[str, float]:
        """Figures of a model, whose weights stay in the judge's module."""
        self.module.load_state_dict(tensors)
        with autocast(self._precision, CPU):
            return self._validation(update)

    def save(self, directory: Path) -> None:
        """Write the model that was measured last."""
        save_model_dir(directory, self.document, {"encoder": self.module.encoder, "objective": self.module.objective})


@dataclass(frozen=True)
class Run:
    """A run to be made.

    Attributes:
        system: name of one of :data:`experiment.learners.LEARNERS`.
        config: model, objective, data, optimizer and seed; precision as ``run.precision`` says.
        budget: what it may spend.
        num_points: measurements after the one at the start.
    """

    system: str
    config: PretrainConfig
    budget: Budget
    num_points: int


def run(asked: Run, out: Path, *, clock: TrainingClock | None = None) -> None:
    """Train, and leave in ``out`` the points so far, whatever becomes of the run, and the model of the newest.

    Args:
        asked: the run.
        out: its folder.
        clock: of its minutes; by default that of the wall.

    Raises:
        BenchError: the folder holds a run, or a setting has no place in the system.
        AudioSSLError: of the data.
    """
    if (out / CURVE).exists():
        raise BenchError(f"--out {out} must hold no run, but has a {CURVE}; give another folder, or remove it")
    config = asked.config
    _refuse_several_micro_batches(config)
    if asked.system == Transformers.name:
        refuse_settings_without_place(config)
    keep_freed_memory()  # as `audio-ssl pretrain` does; the peer's script does not, but is faster with it
    precision = resolve_precision(config.run.precision, CPU)
    judge = Judge(config, precision)
    learner = open_learner(asked.system, config, judge.tensors())
    data = open_data(config, judge.module.encoder, is_train=True)
    updates = open_updates(data, config.data, seed=config.run.seed, world=World(0, 1, CPU))
    note(f"{asked.system}, {precision}, {asked.budget.amount:g} {asked.budget.unit}; train data: {data.describe()}")
    out.mkdir(parents=True, exist_ok=True)
    header = {
        "system": asked.system, "budget": asked.budget.amount, "unit": asked.budget.unit, "precision": precision,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "config": config.model_dump(mode="json"),
    }  # fmt: skip
    (out / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")

    def on_point(spent: Spent) -> None:
        figures = judge.measure(learner.tensors(), spent.updates)
        judge.save(out / "model")
        append_point(out / CURVE, spent, figures)

    train(
        learner, updates, precision=precision, budget=asked.budget, num_points=asked.num_points, on_point=on_point,
        clock=clock,
    )  # fmt: skip


def train(
    learner: Learner,
    updates: Updates,
    *,
    precision: str,
    budget: Budget,
    num_points: int,
    on_point: Callable[[Spent], None],
    clock: TrainingClock | None = None,
) -> Spent:
    """Train until the budget is used, and report at every point, the first one before the first update.

    An update that begins within the budget is done, so that a run may spend one update more.
    """
    clock = clock or TrainingClock()
    optim, sample_rate_hz = learner.optim, learner.case.model.sample_rate_hz
    spent, due = Spent(), deque(point_shares(num_points))
    on_point(spent)
    clock.start()
    with closing(_endless(updates)) as batches:  # waiting for data is on the clock
        for batch in batches:
            share = budget.share(elapsed_s=spent.elapsed_s, audio_s=spent.audio_s)
            learner.step(precision, batch, rate=rate_at(share, optim))
            spent = Spent(clock.elapsed_s, spent.updates + 1, spent.audio_s + batch.seconds(sample_rate_hz))
            share = budget.share(elapsed_s=spent.elapsed_s, audio_s=spent.audio_s)
            if share < due[0]:
                continue
            clock.stop()
            on_point(spent)
            while due and due[0] <= share:
                due.popleft()
            if not due:
                break
            clock.start()
    return spent


def _endless(updates: Updates) -> Generator[Batch]:
    for epoch in count():
        for (batch,) in updates.epoch(epoch, 0):
            yield batch


def append_point(path: Path, spent: Spent, figures: dict[str, float]) -> None:
    """Add a line to a curve, and say it."""
    row = {"elapsed_s": spent.elapsed_s, "updates": spent.updates, "audio_h": spent.audio_s / 3600}
    row |= {name: figures[name] for name in ("contrastive_loss", "accuracy", "code_perplexity")}
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")
    note(
        f"{spent.elapsed_s / 60:6.2f} min, {spent.updates} updates, {row['audio_h']:.2f} h heard: contrastive loss "
        f"{row['contrastive_loss']:.3f}, accuracy {row['accuracy']:.3f}, {row['code_perplexity']:.0f} codes"
    )


def _refuse_several_micro_batches(config: PretrainConfig) -> None:
    if config.data.batch_s > config.data.micro_batch_s:
        raise BenchError(
            "an update must be one forward pass here, so data.batch_s must be <= data.micro_batch_s, got "
            f"{config.data.batch_s:g} and {config.data.micro_batch_s:g}"
        )
