"""How long a run is when its length is given in hours of audio or in wall time: a number of updates, fitted once.

Speed is measured before the first update, on updates whose rate is 0 and which leave no trace. So the schedule knows
the run's length from its first update on, and a run with a budget is the same, to the last bit, as one that was given
the fitted number as ``run.num_updates`` (docs/decisions/0022).
"""

from __future__ import annotations

import gc
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice

import torch
from torch import Tensor, nn

from audio_ssl.checkpoint import draft_of
from audio_ssl.config import RunConfig
from audio_ssl.config.duration import duration_s
from audio_ssl.errors import TrainingError
from audio_ssl.tensors import Batch
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World, all_reduce_sums, barrier, data_parallel, gathered
from audio_ssl.train.loop import Surroundings, Task, run_update
from audio_ssl.train.precision import autocast
from audio_ssl.train.state import Progress

NUM_WARM = 3  # updates that fill caches and prepare kernels, before any is timed
NUM_TIMED, MOST_TIMED = 5, 50
TIMED_SHARE = 0.02  # of the budget: timing goes on for as long, within these numbers
LATE = 10**9  # update number at which nothing is frozen any more: such updates cost most


@dataclass(frozen=True)
class Speed:
    """What a run's parts take, in seconds of wall time.

    Attributes:
        update_s: an update of mean size.
        validation_s: one validation; 0 where there is none.
        save_s: what training waits for one checkpoint, which is written aside.
        write_s: what writing it then takes: the end of a run waits for the last one.
        probe_s: one probe of the encoder; 0 where there is none.
        probe_every: updates from one to the next.
    """

    update_s: float
    validation_s: float
    save_s: float
    write_s: float = 0.0
    probe_s: float = 0.0
    probe_every: int = 1


def settle_length(
    task: Task, progress: Progress, around: Surroundings, *, update_audio_s: Callable[[], float], started: float
) -> RunConfig:
    """The run's settings with ``num_updates`` as its length says; called by every rank.

    A number is fitted once and kept in ``progress``. It is fitted anew, for what is left to do, only when the setting
    has changed: ``run.audio_hours`` are of the whole run, ``run.budget`` is the time from now on.

    Args:
        task: as it stands; it is the same afterwards.
        progress: where the run is; takes the fitted number.
        around: the run's surroundings.
        update_audio_s: gives the mean seconds of audio of an update, over all ranks; asked only where it matters.
        started: when this process began, on ``time.perf_counter``.

    Raises:
        TrainingError: the budget does not suffice for one update.
    """
    run = around.run
    setting = run.budget or (f"{run.audio_hours:g} h of audio" if run.audio_hours else "")
    if progress.fitted_to == setting:
        if setting:
            around.console.print(
                f"length: {progress.fitted_updates} updates, as fitted to {setting} when the run began",
                highlight=False,
            )
    elif run.budget is not None:
        progress.fitted_updates = _fit_to_time(task, progress, around, update_audio_s=update_audio_s(), started=started)
    elif run.audio_hours is not None:
        left = max(0, round((run.audio_hours * 3600 - progress.audio_s) / update_audio_s()))
        progress.fitted_updates = max(1, progress.update + left)
    progress.fitted_to = setting
    return run.model_copy(update={"num_updates": progress.fitted_updates}) if setting else run


def fit_updates(seconds: float, speed: Speed, run: RunConfig, *, first: int = 0) -> int:
    """The largest number of updates whose end is reached within ``seconds`` from update ``first`` on.

    Every validation is counted as one that saves a new best checkpoint; a probe comes before the first update, too. At
    most ``first`` when not one update fits.
    """

    def times(every: int, last: int) -> int:
        return last // every - first // every

    def cost(last: int) -> float:
        validations = saves = 0
        if speed.validation_s:
            validations = times(run.validate_every, last) + (last % run.validate_every > 0)
            both = math.lcm(run.validate_every, run.save_every)
            saves = times(run.validate_every, last) - times(both, last)
        saves += times(run.save_every, last) + (last % run.save_every > 0)
        probes = times(speed.probe_every, last) + (last % speed.probe_every > 0) + (first == 0)
        measured_s = validations * speed.validation_s + probes * speed.probe_s
        return (last - first) * speed.update_s + measured_s + saves * speed.save_s

    seconds -= speed.write_s
    low, high = first, first + int(seconds / speed.update_s) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= seconds else (low, middle)
    return low


def _fit_to_time(task: Task, progress: Progress, around: Surroundings, *, update_audio_s: float, started: float) -> int:
    run, world = around.run, around.world
    assert run.budget is not None
    budget_s = duration_s(run.budget)
    around.console.print(f"run.budget {run.budget}: measuring the speed before the first update", highlight=False)
    with left_as_it_was(task):
        speed, num_timed = measure(task, progress, around, budget_s=budget_s, update_audio_s=update_audio_s)
    spent_s = _mean(time.perf_counter() - started, world)
    fitted = fit_updates(budget_s - spent_s, speed, run, first=progress.update)
    validation = f"{speed.validation_s:.3g} s a validation, " if speed.validation_s else ""
    validation += f"{speed.probe_s:.3g} s a probe, " if speed.probe_s else ""
    told = (
        f"{speed.update_s:.3g} s an update (of {num_timed}), {validation}{speed.save_s:.3g} s a checkpoint "
        f"(and {speed.write_s:.3g} s beside the updates)"
    )
    if fitted <= progress.update:
        raise TrainingError(
            f"run.budget must have room for an update and what ends a run, got {run.budget}, of which {spent_s:.3g} s "
            f"went into preparing and measuring; measured: {told}. Give more time, or run.num_updates in its place"
        )
    around.console.print(
        f"measured: {told}; {timedelta(seconds=round(spent_s))} of {timedelta(seconds=round(budget_s))} are spent\n"
        f"fitted: {fitted} updates; the number is fixed from here on, a resumed run keeps it",
        highlight=False,
    )
    return fitted


def measure(
    task: Task, progress: Progress, around: Surroundings, *, budget_s: float, update_audio_s: float
) -> tuple[Speed, int]:
    """Time updates at rate 0, a validation and a checkpoint; called by every rank, which all get the same figures.

    Returns:
        The speed, and how many updates were timed.
    """
    world = around.world
    still = replace(around, optim=around.optim.model_copy(update={"lr": 0.0}))
    parallel = data_parallel(task.module, world)
    batches = _endless(task, progress)
    _time_updates(task, parallel, islice(batches, NUM_WARM), still)
    elapsed_s, audio_s = _time_updates(task, parallel, islice(batches, NUM_TIMED), still)
    further = min(MOST_TIMED - NUM_TIMED, int(budget_s * TIMED_SHARE * NUM_TIMED / elapsed_s))
    more_s, more_audio_s = _time_updates(task, parallel, islice(batches, further), still)
    batches.close()
    speed = Speed(
        (elapsed_s + more_s) / (audio_s + more_audio_s) * update_audio_s,
        _time_validation(task, around),
        *_time_save(task, progress, around),
        *_time_probe(task, around),
    )
    del parallel
    gc.collect()  # what data parallelism hooked to the weights goes with it
    return speed, NUM_TIMED + further


@contextmanager
def left_as_it_was(task: Task) -> Iterator[None]:
    """Give optimizer state, buffers and extras back afterwards; weights are left alone by updates at rate 0."""
    optimizer = task.optimizer
    moments = {p: _copies(state) for p, state in optimizer.state.items()}
    buffers = [(buffer, buffer.clone()) for buffer in task.module.buffers()]
    extras = {name: _copies(extra.tensors()) for name, extra in task.extras.items()}
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        yield
    finally:
        for parameter in list(optimizer.state):
            if parameter not in moments:
                del optimizer.state[parameter]
            for key, old in moments.get(parameter, {}).items():
                optimizer.state[parameter][key].copy_(old)
        for buffer, old in buffers:
            buffer.copy_(old)
        for name, tensors in extras.items():
            task.extras[name].load_tensors(tensors)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _endless(task: Task, progress: Progress) -> Generator[tuple[Batch, ...]]:
    """The run's next updates, and from the start of the next pass on when these are done."""
    epoch, first = progress.epoch, progress.update_in_epoch
    while True:
        yield from task.source.epoch(epoch, first)
        epoch, first = epoch + 1, 0


def _time_updates(
    task: Task, parallel: nn.Module, updates: Iterator[tuple[Batch, ...]], around: Surroundings
) -> tuple[float, float]:
    """Seconds that updates take, and seconds of audio in them over all ranks."""
    begun, heard = _now(around.world), 0.0
    task.module.train()
    for micro_batches in updates:
        run_update(task, parallel, micro_batches, around, update=LATE, is_stop_asked=False)
        heard += sum(batch.seconds(around.sample_rate_hz) for batch in micro_batches)
    return _mean(_now(around.world) - begun, around.world), _mean(heard, around.world) * around.world.size


def _time_validation(task: Task, around: Surroundings) -> float:
    if task.validate is None:
        return 0.0
    begun = _now(around.world)
    task.module.eval()
    with torch.no_grad(), gathered(task.module), autocast(around.precision, around.world.device):
        task.validate(LATE)
    return _mean(_now(around.world) - begun, around.world)


def _time_probe(task: Task, around: Surroundings) -> tuple[float, int]:
    """What a probe takes, and updates from one to the next."""
    if task.probe is None:
        return 0.0, 1
    begun = _now(around.world)
    with around.stepper.averaged():
        task.probe.measure()
    return _mean(_now(around.world) - begun, around.world), task.probe.every


def _time_save(task: Task, progress: Progress, around: Surroundings) -> tuple[float, float]:
    """What training waits for a checkpoint, and what writing it takes; it is written whole and removed."""
    place, world = draft_of(around.run.dir / "measured", "run"), around.world
    folder = CheckpointFolder(around.run.model_copy(update={"dir": place}), world)
    begun = _now(world)
    try:
        folder.save(progress, task, is_best=False)
        handed_over = _now(world)
        folder.finish()
        written = _now(world)
    finally:
        folder.close()
    barrier(world)
    if world.is_main:
        shutil.rmtree(place, ignore_errors=True)
    return _mean(handed_over - begun, world), _mean(written - handed_over, world)


def _now(world: World) -> float:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.perf_counter()


def _mean(value: float, world: World) -> float:
    """Over the ranks, so that all decide alike."""
    sums = all_reduce_sums({"value": torch.tensor(value, dtype=torch.float64, device=world.device)}, world)
    return float(sums["value"]) / world.size
