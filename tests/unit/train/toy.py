"""A task small enough to work out by hand: fit a line to numbers that ride in the waveforms."""

from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from audio_ssl.config import OptimConfig, RunConfig
from audio_ssl.tensors import Batch, LossTerms
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World
from audio_ssl.train.loop import Surroundings, Task
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.spikes import GradientSpikes
from audio_ssl.train.watch import Watch

DOCUMENT = {"kind": "pretraining", "model": {"dim": 3}}
OPTIM = OptimConfig(lr=0.05, clip_norm=1e6, warmup_share=0.0)


class Line(nn.Module):
    """Squared error of a linear prediction of each row's sum; noise comes from the loop's generator and dropout."""

    def __init__(self, *, noise: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 1)
        nn.init.constant_(self.linear.weight, 0.1)
        nn.init.zeros_(self.linear.bias)
        self.dropout = nn.Dropout(dropout)
        self.noise = noise

    def forward(self, batch: Batch, *, update: int, generator: torch.Generator) -> LossTerms:
        x = self.dropout(batch.waveforms)
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        loss = (self.linear(x).squeeze(1) - batch.waveforms.sum(1)).square().sum()
        count = torch.tensor(len(batch.rows))
        return LossTerms(loss, count, {"loss": loss.detach()})


def make_batch(rows: tuple[int, ...]) -> Batch:
    generator = torch.Generator().manual_seed(rows[0])
    waveforms = torch.randn(len(rows), 5, generator=generator)
    return Batch(waveforms, torch.full((len(rows),), 5), rows)


class Source:
    """Epochs of 7 updates; each update's micro-batches are given, and shared out over ranks."""

    def __init__(self, split, *, rank: int = 0, world: int = 1) -> None:
        self.split, self.rank, self.world = split, rank, world

    def epoch(self, epoch: int, first: int):
        for update in range(first, 7):
            whole = make_batch(tuple(range(100 * epoch + 10 * update, 100 * epoch + 10 * update + 6)))
            parts = [
                replace(whole, waveforms=whole.waveforms[a:b], num_samples=whole.num_samples[a:b], rows=whole.rows[a:b])
                for a, b in self.split
            ]
            yield tuple(parts[self.rank :: self.world])


TIMINGS = (
    "audio_s_per_s", "update_s", "processor_update_s", "data_wait_share", "checkpoint_s", "time_left_s",
    "device_memory_gib",
)  # fmt: skip


class Collect:
    """A sink that remembers rows, but for what the clock says."""

    def __init__(self) -> None:
        self.rows = []

    def write(self, row) -> None:
        self.rows.append({k: v for k, v in row.items() if k not in TIMINGS})

    def close(self) -> None:
        pass

    def figure(self, name: str, split: str = "train"):
        return [(row["update"], row[name]) for row in self.rows if row["split"] == split]


def make_task(module: Line, source: Source, *, validate=None) -> Task:
    return Task(
        module=module,
        optimizer=build_optimizer([(list(module.parameters()), 1.0)], OPTIM),
        source=source,
        summarize=lambda sums: {"loss": float(sums["loss"]) / float(sums["num_targets"])},
        validate=validate,
        metric="loss",
        document=DOCUMENT,
    )


def surroundings(
    run_dir: Path, sinks, *, num_updates: int | None = 10, world: World | None = None, **run
) -> Surroundings:
    length = {} if num_updates is None else {"num_updates": num_updates}
    settings = RunConfig(dir=run_dir, **length, **{"log_every": 1, "save_every": 4, **run})
    world = world or World(0, 1, torch.device("cpu"))
    folder = CheckpointFolder(settings, world)
    watch = Watch(gradients=GradientSpikes(30.0, world.device), sinks=sinks)
    return Surroundings(
        settings, OPTIM, world, "fp32", folder, sinks, sample_rate_hz=5, console=Console(quiet=True), watch=watch
    )
