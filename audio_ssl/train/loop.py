"""The training loop: one story for every task, read from top to bottom.

An update is: fetch all its micro-batches, forward and backward of loss *sums*, one all-reduce of the target count,
scale and clip, step if finite, next rate. Scaling by the all-reduced count after backward makes N ranks with
accumulation equal to one process on the same audio. The device is waited for only where figures are read.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import Tensor, nn

from audio_ssl.config import OptimConfig, RunConfig
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch, LossTerms
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import (
    World,
    all_reduce_sums,
    data_parallel,
    deferred_sync,
    gathered,
    of_all_ranks,
    of_ranks,
    seed_update,
)
from audio_ssl.train.guard import StopRequest
from audio_ssl.train.late import LateNumber
from audio_ssl.train.memory import peak_memory_gib
from audio_ssl.train.meters import Clock, Moment, SumMeter
from audio_ssl.train.optim import scale_and_clip, set_learning_rate
from audio_ssl.train.precision import autocast
from audio_ssl.train.probing import Probing
from audio_ssl.train.schedules import learning_rate
from audio_ssl.train.sinks import Sink
from audio_ssl.train.state import Progress, Stateful
from audio_ssl.train.stepper import Stepper
from audio_ssl.train.watch import Watch

# Sums of the loop's own.
OF_UPDATES = ("grad_norm", "skipped", "spiked", "searched", "update_ratio", "updates", "audio_s", "padded_s", "stop")
NUM_TIMED = 5  # updates after which the time left is told for the first time


class UpdateSource(Protocol):
    """Where batches come from; see :class:`audio_ssl.train.updates.Updates`."""

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        """The micro-batches of each update of ``epoch``, from update ``first`` on."""


@dataclass(frozen=True)
class Task:
    """What the loop is to do; pre-training and fine-tuning each make one.

    Attributes:
        module: ``module(batch, update=, generator=) -> LossTerms``; owns every weight that is saved.
        optimizer: over the weights that learn.
        source: batches of this rank.
        summarize: figures from summed ``LossTerms.sums``; must give ``loss``.
        validate: figures on the validation data at an update, and texts of :mod:`audio_ssl.train.samples` if there are
            any; None where there is no such data.
        metric: name of the validation figure that decides the best checkpoint (lower is better).
        document: the sections of a checkpoint's ``config.toml``.
        extras: what else must survive a crash, by name.
        probe: what the encoder is worth on other tasks meanwhile; None: nobody looks.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    source: UpdateSource
    summarize: Callable[[Mapping[str, Tensor]], dict[str, float]]
    validate: Callable[[int], Mapping[str, Any]] | None
    metric: str
    document: Mapping[str, Any]
    extras: Mapping[str, Stateful] = field(default_factory=dict)
    probe: Probing | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        progress: where it stands.
        stopped_by: the signal that ended it early, None when it is done.
        checkpoint: the newest checkpoint.
    """

    progress: Progress
    stopped_by: int | None
    checkpoint: Path | None


@dataclass(frozen=True)
class Surroundings:
    """What every task shares: settings, machine, and where figures and checkpoints go."""

    run: RunConfig
    optim: OptimConfig
    world: World
    precision: str
    folder: CheckpointFolder
    sinks: Sequence[Sink]
    sample_rate_hz: int
    console: Console
    stepper: Stepper = field(default_factory=Stepper)
    watch: Watch = field(default_factory=Watch)

    def say_speed(self, speed: Mapping[str, float], num_left: int) -> None:
        """Tell the time left as soon as a few updates were timed, long before the first row of figures."""
        if speed:
            left = timedelta(seconds=round(speed["update_s"] * num_left))
            self.console.print(
                f"measured: {speed['update_s']:.2f} s an update, {speed['audio_s_per_s']:.0f} audio-seconds a second, "
                f"{left} left for {num_left} updates",
                highlight=False,
            )


def train(task: Task, progress: Progress, around: Surroundings) -> Outcome:
    """Run ``task`` from ``progress`` to the last update, or to a signal.

    Raises:
        TrainingError: the run is dying (many updates non-finite, too many bad rows), or memory does not suffice.
        CheckpointError: a checkpoint cannot be written; earlier ones are intact.
    """
    run, world = around.run, around.world
    parallel = data_parallel(task.module, world)
    meter, clock, stop = SumMeter(), Clock(world.device), StopRequest()
    votes = LateNumber()
    first_update = progress.update
    with stop.listening():
        checkpoint = _make_up(task, progress, around, stop=stop)
        ends = _is_over(progress, run)
        while not ends:
            asked = time.perf_counter()
            for micro_batches in task.source.epoch(progress.epoch, progress.update_in_epoch):
                clock.add_wait(time.perf_counter() - asked)
                task.module.train()
                sums = run_update(
                    task, parallel, micro_batches, around,
                    update=progress.update, is_stop_asked=stop.signum is not None,
                    is_measured=(progress.update + 1) % run.log_every == 0,
                )  # fmt: skip
                progress.update += 1
                progress.update_in_epoch += 1
                # Several ranks must end together, or one would wait for ever: they go by the votes of the update
                # before, which the device has by now.
                is_stopped = stop.signum is not None if world.size == 1 else bool(votes.read())
                votes.put(sums["stop"])
                meter.add(sums)
                around.watch.note(progress, micro_batches, sums["skipped"])
                clock.add_update(sum(b.seconds(around.sample_rate_hz) for b in micro_batches) * world.size)

                is_last = progress.update == run.num_updates
                ends = is_last or is_stopped
                saves = ends or progress.update % run.save_every == 0
                # A signal leaves seconds: it saves at once, and validates when the run goes on.
                validates = task.validate is not None and (is_last or progress.update % run.validate_every == 0)
                if saves or validates or progress.update % run.log_every == 0:
                    went_back_to = _log_window(task, progress, meter, clock, around)
                    if went_back_to is not None:
                        checkpoint, ends, clock = went_back_to, is_stopped, Clock(world.device)
                        break
                elif progress.update == first_update + NUM_TIMED:
                    around.say_speed(clock.read(restart=False), run.num_updates - progress.update)
                paused = Moment.now()
                progress.owes_validation = validates and is_stopped
                is_best = validates and not is_stopped and _validate(task, progress, around)
                ends = ends or progress.is_out_of_patience(run.patience)
                if task.probe is not None and not is_stopped and (ends or task.probe.is_due(progress.update)):
                    _probe(task.probe, progress, around, stop=stop)
                if saves or is_best or ends:
                    checkpoint = _save(task, progress, clock, around, is_best=is_best)
                around.folder.raise_fault()
                clock.skip(paused)
                if ends:
                    break
                asked = time.perf_counter()
            else:  # the pass over the data is complete
                progress.start_epoch()
        around.folder.finish()
    is_unfinished = progress.update < run.num_updates and not progress.is_out_of_patience(run.patience)
    owes_probe = task.probe is not None and task.probe.is_owed(progress, is_over=not is_unfinished)
    is_early = is_unfinished or progress.owes_validation or owes_probe
    return Outcome(progress, (stop.signum or signal.SIGTERM) if is_early else None, checkpoint)


def run_update(
    task: Task,
    parallel: nn.Module,
    micro_batches: Sequence[Batch],
    around: Surroundings,
    *,
    update: int,
    is_stop_asked: bool,
    is_measured: bool = False,
) -> dict[str, Tensor]:
    """One optimizer update; returns its sums, still on the device, and how far it went where that ``is_measured``.

    Nothing here waits for the device: ``tests/unit/train/test_meta_step.py`` runs it where no number can be read.
    """
    run, world = around.run, around.world
    seed_update(task.module, world, seed=run.seed, update=update)
    meter = SumMeter()
    for i, batch in enumerate(micro_batches):
        place = i * world.size + world.rank  # among all micro-batches of the update: splits over ranks draw alike
        generator = torch_generator(run.seed, "objective", update, place, device=world.device)
        with deferred_sync(parallel, defer=i + 1 < len(micro_batches)):
            with autocast(around.precision, world.device):
                terms: LossTerms = parallel(batch.to(world.device), update=update, generator=generator)
            around.stepper.scaled(terms.loss_sum).backward()  # type: ignore[no-untyped-call]
        meter.add({**terms.sums, "num_targets": terms.num_targets.float()})
    sums = meter.take()
    asked = torch.tensor(float(is_stop_asked)).to(world.device, non_blocking=True)
    reduced = all_reduce_sums({"num_targets": sums["num_targets"], "stop": asked}, world)
    # Data parallelism averages gradients over ranks; the sum over ranks is what the count divides.
    scale = around.stepper.unscaling(world.size / reduced["num_targets"].clamp(min=1))
    parameters = [p for group in task.optimizer.param_groups for p in group["params"]]
    grad_norm = scale_and_clip(parameters, scale, around.optim.clip_norm)
    rate = learning_rate(update, config=around.optim, num_updates=run.num_updates)
    set_learning_rate(task.optimizer, rate)
    is_spike = around.watch.gradients(grad_norm, update=update)
    told = around.stepper.step(task.optimizer, grad_norm, is_spike=is_spike, is_measured=is_measured)
    task.optimizer.zero_grad(set_to_none=True)
    audio_s = sum(batch.seconds(around.sample_rate_hz) for batch in micro_batches)
    padded_s = sum(batch.waveforms.numel() for batch in micro_batches) / around.sample_rate_hz
    return {
        **sums,
        # Equal on all ranks: the sum over them is itself.
        **{name: value / world.size for name, value in told.items()},
        "grad_norm": grad_norm.masked_fill(is_spike, 0.0).nan_to_num(0.0, 0.0) / world.size,
        "stop": reduced["stop"] / world.size,
        "updates": torch.tensor(1 / world.size, dtype=torch.float64),
        "audio_s": torch.tensor(audio_s, dtype=torch.float64),
        "padded_s": torch.tensor(padded_s, dtype=torch.float64),
    }


def _log_window(task: Task, progress: Progress, meter: SumMeter, clock: Clock, around: Surroundings) -> Path | None:
    """Read the window's sums (the device is waited for here), send a row of figures to the sinks, and let guards look.

    Returns:
        The checkpoint that the run was taken back to, if it was.
    """
    sums = meter.take()
    speed = clock.read()
    sums["waits"] = of_ranks(speed.get("data_wait_share", 0.0), around.world)
    totals = all_reduce_sums({k: v.to(around.world.device) for k, v in sums.items()}, around.world)
    waits = totals.pop("waits")
    if speed:
        speed["data_wait_share"] = float(waits.max())  # the other ranks wait for the one that waits longest
    own = {name: float(totals.pop(name)) for name in OF_UPDATES if name in totals}
    num_updates, num_skipped, num_spiked, num_searched = (
        round(own[name]) for name in ("updates", "skipped", "spiked", "searched")
    )
    figures = task.summarize(totals)
    progress.audio_s += own["audio_s"]
    # In search of a loss scale an update is left out now and then: that is no sign of death before the least scale.
    none_stepped = num_skipped + num_searched == num_updates
    progress.skipped_in_a_row = progress.skipped_in_a_row + num_skipped if none_stepped else 0
    row: dict[str, Any] = {
        "update": progress.update, "split": "train", "epoch": progress.epoch, **figures,
        "lr": max(group["lr"] / group["lr_scale"] for group in task.optimizer.param_groups),
        "grad_norm": own["grad_norm"] / max(num_updates - num_skipped - num_spiked - num_searched, 1),
        "skipped_updates": num_skipped, "spiked_updates": num_spiked,
        "padding_share": 1 - own["audio_s"] / own["padded_s"], "audio_h": progress.audio_s / 3600,
        **speed, **around.stepper.figures(num_searched), "device_memory_gib": peak_memory_gib(around.world.device),
    }  # fmt: skip
    if "update_ratio" in own:
        row["update_ratio"] = own["update_ratio"]
    if speed:
        row["time_left_s"] = (around.run.num_updates - progress.update) * speed["update_s"]
    _send(row, around)
    return around.watch.check(row, progress, num_updates=num_updates)


def _validate(task: Task, progress: Progress, around: Surroundings) -> bool:
    """Measure on the validation data; True when the result is the best so far."""
    assert task.validate is not None
    task.module.eval()
    with (
        around.stepper.averaged(),
        torch.no_grad(),
        gathered(task.module),
        autocast(around.precision, around.world.device),
    ):
        figures = task.validate(progress.update)
    value = of_all_ranks(figures[task.metric], around.world)[0]  # what it decides, all ranks must do
    is_best = math.isfinite(value) and (progress.best is None or value < progress.best)
    progress.stale_validations = 0 if is_best else progress.stale_validations + 1
    if is_best:
        progress.best, progress.best_update = value, progress.update
    _send({"update": progress.update, "split": "valid", **figures, "is_best": is_best}, around)
    return is_best


def _is_over(progress: Progress, run: RunConfig) -> bool:
    return progress.update >= run.num_updates or progress.is_out_of_patience(run.patience)


def _probe(
    probe: Probing, progress: Progress, around: Surroundings, *, stop: StopRequest, is_first: bool = False
) -> None:
    """Measure the weights that validation measures; a signal that comes meanwhile is heard when it is done.

    One that came before, also during a validation, is not made to wait: the probe is owed. All ranks must agree.
    """
    if any(of_all_ranks(stop.signum is not None, around.world)):
        return
    with around.stepper.averaged():
        figures = probe.measure(is_first=is_first)
    progress.probed = progress.update
    if figures is not None:
        _send({"update": progress.update, "split": "probe", **figures}, around)


def _save(task: Task, progress: Progress, clock: Clock, around: Surroundings, *, is_best: bool) -> Path:
    began = time.perf_counter()
    place = around.folder.save(progress, task, is_best=is_best)
    clock.add_checkpoint(time.perf_counter() - began)
    return place


def _make_up(task: Task, progress: Progress, around: Surroundings, *, stop: StopRequest) -> Path | None:
    """Do what a signal left out, or what comes before the first update: a validation and a probe.

    Returns:
        What is known after a validation, which may have found the best checkpoint; None without one.
    """
    checkpoint: Path | None = None
    if progress.owes_validation:
        progress.owes_validation = False
        is_best = task.validate is not None and _validate(task, progress, around)
        checkpoint = around.folder.save(progress, task, is_best=is_best)
    if task.probe is not None and task.probe.is_owed(progress, is_over=_is_over(progress, around.run)):
        _probe(task.probe, progress, around, stop=stop, is_first=progress.probed < 0)
    return checkpoint


def _send(row: Mapping[str, Any], around: Surroundings) -> None:
    for sink in around.sinks:
        sink.write(row)
