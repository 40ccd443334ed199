"""``--dry-run``: a few updates on real rows that leave nothing behind, and what the whole run will take by them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from rich.console import Console

from audio_ssl.config import RunConfig
from audio_ssl.config.duration import duration_s
from audio_ssl.tensors import Batch
from audio_ssl.train.budget import settle_length
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World, all_reduce_sums, data_parallel
from audio_ssl.train.loop import Surroundings, Task, run_update
from audio_ssl.train.memory import peak_memory_gib, told_out_of_memory
from audio_ssl.train.precision import resolve_precision
from audio_ssl.train.run import prepared_world
from audio_ssl.train.session import RunSettings, Session
from audio_ssl.train.start import announce
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import make_stepper

MOST_MICRO_BATCHES = 4  # in an update that is timed: many more are as long by proportion
GIB = 2**30


@dataclass(frozen=True)
class _Trial:
    """An update of one micro-batch, a few times over.

    Attributes:
        rows: of the micro-batch.
        seconds: of its longest row.
        num_micro_batches: how often the update goes through it.
        update_s: time of the second such update, of the slowest rank.
        memory_gib: see :func:`~audio_ssl.train.memory.peak_memory_gib`.
    """

    rows: int
    seconds: float
    num_micro_batches: int
    update_s: float
    memory_gib: float

    def describe(self) -> str:
        return (
            f"{self.rows} row{'s' * (self.rows > 1)} of up to {self.seconds:.1f} s, "
            f"{self.num_micro_batches} x in an update: {self.update_s:.2f} s, {self.memory_gib:.2f} GiB at most"
        )


def dry_run(build: Callable[[World], Session], config: RunSettings, *, console: Console) -> None:
    """Go through the dearest and the median micro-batch of the first pass, and say what the run will take.

    Nothing is written: a run folder that is there is not looked into, one that is not there is not made.

    Args:
        build: as for :func:`~audio_ssl.train.session.run_session`.
        config: the whole run.
        console: where to speak.

    Raises:
        TrainingError: memory does not suffice; naming the setting to lower.
        AudioSSLError: for everything else that a user can mend.
    """
    run = config.run
    with prepared_world(run) as world, told_out_of_memory(config.data.micro_batch_s):
        say = console if world.is_main else Console(quiet=True)
        session = build(world)
        task, precision = session.task, resolve_precision(run.precision, world.device)
        stepper = make_stepper(task.module, precision=precision, ema_decay=config.optim.ema_decay, device=world.device)
        around = Surroundings(
            run, config.optim, world, precision, CheckpointFolder(run, world), [],
            session.train_data.sample_rate_hz, say, stepper,
        )  # fmt: skip
        progress = Progress()
        plan = session.updates.plan(progress.epoch)
        audio_s = plan.mean_samples / around.sample_rate_hz
        if run.budget is None:  # what is measured is measured by the run itself
            run = settle_length(task, progress, around, update_audio_s=lambda: audio_s, started=0.0)
            around = replace(around, run=run)
        announce(session, progress, around, config=config, console=say)
        by_cost = session.updates.groups_by_cost(progress.epoch)
        dearest, median = session.updates.read_groups(progress.epoch, [by_cost[-1], by_cost[len(by_cost) // 2]])
        parallel = data_parallel(task.module, world)
        of_update = len(plan.groups) / len(plan)
        num_micro = min(MOST_MICRO_BATCHES, max(1, round(of_update)))
        most = _try([dearest], task, parallel, around)
        usual = _try([median] * num_micro, task, parallel, around)
        say.print(f"dearest micro-batch: {most.describe()}\nmedian micro-batch: {usual.describe()}", highlight=False)
        update_s = usual.update_s / num_micro * of_update
        say.print(
            f"speed: {update_s:.2f} s an update, {audio_s / update_s:.0f} audio-seconds a second\n"
            f"{_length(run, update_s)}; validation, checkpoints and waiting for audio come "
            f"on top\n{_disk_need(task, around)}\nthis was a dry run: nothing is kept",
            highlight=False,
        )


def _try(batches: Sequence[Batch], task: Task, parallel: torch.nn.Module, around: Surroundings) -> _Trial:
    """Two updates: the first prepares kernels and the optimizer's moments, the second is timed."""
    world = around.world
    task.module.train()
    for _ in range(2):
        _wait(world.device)
        start = time.perf_counter()
        # As the last update: what is frozen at first learns then, and takes its memory.
        run_update(task, parallel, batches, around, update=around.run.num_updates - 1, is_stop_asked=False)
        _wait(world.device)
        elapsed = time.perf_counter() - start
    waveforms = batches[0].waveforms
    times = torch.zeros(world.size, device=world.device)
    times[world.rank] = elapsed
    slowest = float(all_reduce_sums({"update_s": times}, world)["update_s"].max())
    seconds = waveforms.shape[1] / around.sample_rate_hz
    return _Trial(waveforms.shape[0], seconds, len(batches), slowest, peak_memory_gib(world.device))


def _length(run: RunConfig, update_s: float) -> str:
    if run.budget is not None:
        return f"run.budget {run.budget}: {round(duration_s(run.budget) / update_s)} updates at most"
    return f"time to finish: {timedelta(seconds=round(update_s * run.num_updates))} for {run.num_updates} updates"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _disk_need(task: Task, around: Surroundings) -> str:
    """What checkpoints take, by the tensors that are there after an update; and what is free."""
    weights = sum(p.numel() * p.element_size() for p in task.module.parameters())
    kept = [value for state in task.optimizer.state.values() for value in state.values()]
    kept += [tensor for part in around.stepper.extras().values() for tensor in part.tensors().values()]
    checkpoint = weights + sum(t.numel() * t.element_size() for t in kept if isinstance(t, torch.Tensor))
    # Those kept, the best, and one in the making; the finished model.
    need = checkpoint * (around.run.keep_last + 2) + weights
    place = around.run.dir.absolute()
    free = shutil.disk_usage(_nearest_folder(place)).free
    verdict = "enough" if free >= need else "too little"
    return (
        f"disk: {checkpoint / GIB:.2f} GiB a checkpoint, {need / GIB:.2f} GiB for run.dir at most; "
        f"{free / GIB:.2f} GiB are free there, {verdict}"
    )


def _nearest_folder(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.is_dir())
