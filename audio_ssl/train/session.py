"""The frame around the loop: world, lock, resume, announcement, sinks, and the model that a run leaves behind."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from audio_ssl.checkpoint import (
    load_tensors,
    read_document,
    remove_drafts,
    replaced_directory,
    save_model,
    with_prefix,
    write_text,
)
from audio_ssl.config import FinetuneConfig, PretrainConfig, RunConfig, dump_config
from audio_ssl.errors import ConfigError, TrainingError
from audio_ssl.train.averaging import averaged_weights
from audio_ssl.train.budget import settle_length
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.datasets import TrainingData
from audio_ssl.train.distributed import World, barrier, joined_world
from audio_ssl.train.dumps import BrokenUpdates
from audio_ssl.train.guard import locked_run_folder, require_disk_space
from audio_ssl.train.health import Sign
from audio_ssl.train.loop import Outcome, Surroundings, Task, train
from audio_ssl.train.memory import keep_freed_memory, told_out_of_memory
from audio_ssl.train.precision import resolve_precision
from audio_ssl.train.record import recorded
from audio_ssl.train.rollback import RollBack
from audio_ssl.train.sharded_state import read_state
from audio_ssl.train.sinks import JsonLines, Sink, TensorBoard, WeightsAndBiases
from audio_ssl.train.spikes import GradientSpikes
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import AVERAGE, make_stepper
from audio_ssl.train.terminal import open_terminal
from audio_ssl.train.updates import Updates
from audio_ssl.train.watch import Watch

Resume = Literal["never", "auto"]
# oneDNN prepares a kernel for each shape and keeps 1024. An epoch of speech has more, and preparing them again and
# again costs half of the speed (docs/decisions/0008). It reads this before its first kernel.
CPU_KERNELS_KEPT = "20000"
RunSettings = PretrainConfig | FinetuneConfig


@dataclass(frozen=True)
class Session:
    """What a task hands to the frame.

    Attributes:
        task: for the loop.
        updates: its batches.
        train_data: for the announcement.
        valid_data: the same; None where there is none.
        remarks: lines to say first.
        signs: what the guards are to make of the task's figures in a run of so many updates.
        thaws_at: update at which frozen weights begin to learn; 0: none are frozen.
    """

    task: Task
    updates: Updates
    train_data: TrainingData
    valid_data: TrainingData | None
    remarks: Sequence[str]
    signs: Callable[[int], Sequence[Sign]] = lambda _: ()
    thaws_at: int = 0


def run_session(build: Callable[[World], Session], config: RunSettings, *, resume: Resume, console: Console) -> Outcome:
    """Set a task up, train it, and leave ``model/`` in the run folder when it is done.

    Args:
        build: makes the task once this process knows its place among its peers.
        config: the whole run.
        resume: ``auto`` goes on from the run folder's newest checkpoint; ``never`` refuses a folder that has one.
        console: where to speak.

    Raises:
        AudioSSLError: for everything that a user can mend.
    """
    run, started = config.run, time.perf_counter()
    with _told_disk_errors(run.dir), ExitStack() as stack:
        world = stack.enter_context(prepared_world(run))
        if world.is_main:
            stack.enter_context(locked_run_folder(run.dir))
            remove_drafts(run.dir)
            remove_drafts(run.dir / "checkpoints")
        say = console if world.is_main else Console(quiet=True)
        folder = CheckpointFolder(run, world)
        if world.is_main:
            remove_drafts(folder.folder)
            remove_drafts(run.dir)
        stack.callback(folder.close)
        _refuse_unasked_restart(folder, resume)
        record = stack.enter_context(recorded(run.dir if world.is_main else None))
        session = build(world)
        precision = resolve_precision(run.precision, world.device)
        stepper = make_stepper(
            session.task.module, precision=precision, ema_decay=config.optim.ema_decay, device=world.device
        )
        spikes = GradientSpikes(config.guard.skip_grad_factor, world.device, fresh_at=session.thaws_at)
        extras = {**session.task.extras, **stepper.extras(), "grad_norms": spikes}
        session = replace(session, task=replace(session.task, extras=extras))
        progress = _starting_point(session, folder, console=say)
        sinks: list[Sink] = []
        around = Surroundings(
            run, config.optim, world, precision, folder, sinks, session.train_data.sample_rate_hz, say, stepper
        )  # fmt: skip
        if world.is_main:
            _require_room(session.task, folder, keep=run.keep_last)
        with told_out_of_memory(config.data.micro_batch_s):
            mean_s = partial(_mean_update_s, session, progress.epoch)
            run = settle_length(session.task, progress, around, update_audio_s=mean_s, started=started)
        config = config.model_copy(update={"run": run})
        watch = _open_watch(session, config, folder, spikes, world=world, sinks=sinks, console=say)
        around = replace(around, run=run, watch=watch)
        if world.is_main:
            announce(session, progress, around, config=config, console=say)
            write_text(run.dir / "config.toml", dump_config(config))
            record.started(progress.update, world=world, precision=precision)
            sinks.append(record)
            for sink in _open_sinks(config, folder, progress, console=say):
                stack.callback(sink.close)
                sinks.append(sink)
        barrier(world)
        with told_out_of_memory(config.data.micro_batch_s):
            outcome = train(session.task, progress, around)
        record.ended_as_planned(outcome.progress.update, stopped_by=outcome.stopped_by)
        if world.is_main and outcome.stopped_by is None:
            _leave_model(folder, run.dir, is_averaged=stepper.average is not None, console=say)
        _say_end(outcome, session, patience=run.patience, console=say)
    return outcome


@contextmanager
def prepared_world(run: RunConfig) -> Iterator[World]:
    """Join the other ranks, and make this process ready to train on its device.

    Raises:
        TrainingError: the machine has no such device.
        ConfigError: the device cannot do what ``run`` asks for.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", CPU_KERNELS_KEPT)
    with joined_world(run.device) as world:
        if world.device.type == "cpu":
            _refuse_compiling(run)
            keep_freed_memory()
        yield world


@contextmanager
def _told_disk_errors(run_dir: Path) -> Iterator[None]:
    """Metrics and settings are written here too: what the system says of them must name the folder.

    Raises:
        TrainingError: a file of the run folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"run.dir {run_dir} must be writable with room to spare: {error}. Earlier checkpoints are intact; free "
            "space or mend the folder, then start again with --resume auto"
        ) from error


def _mean_update_s(session: Session, epoch: int) -> float:
    """Seconds of audio of an update over all ranks."""
    return session.updates.plan(epoch).mean_samples / session.train_data.sample_rate_hz


def _refuse_compiling(run: RunConfig) -> None:
    if run.compile:
        raise ConfigError(
            "run.compile must be false on a CPU, got true: blocks run kernels of their own there, which draw outside "
            "of torch; leave the setting out, or train on a GPU"
        )


def _refuse_unasked_restart(folder: CheckpointFolder, resume: Resume) -> None:
    if resume == "never" and folder.names():
        raise TrainingError(
            f"{folder.folder.parent} already holds a run (newest checkpoint {folder.names()[-1]}); "
            "go on with --resume auto, or give another run.dir"
        )


def _starting_point(session: Session, folder: CheckpointFolder, *, console: Console) -> Progress:
    plan = session.updates.fingerprint
    if not folder.names():
        for remark in session.remarks:
            console.print(remark, highlight=False)
        return Progress(plan=plan, ranks=session.updates.num_ranks)
    task = session.task
    progress = folder.restore(task)
    folder.settle(progress)
    console.print(f"resumed from update {progress.update}: weights, optimizer, data position and best metric")
    if progress.plan != plan:
        console.print(
            "the data, its limits or mixture, the batch sizes or run.seed have changed since: the next pass over the "
            "data starts now"
        )
        progress.plan = plan
        progress.losses = []  # of other data
        progress.start_epoch()
    elif progress.ranks != session.updates.num_ranks and progress.update_in_epoch:
        console.print(
            f"{session.updates.num_ranks} ranks instead of {progress.ranks}: what is left of this pass over the data "
            "is shared out anew"
        )
        progress.leave_part()
    progress.ranks = session.updates.num_ranks
    if not session.updates.take_parts(progress.epoch, progress.parts, order=progress.rollbacks):
        progress.start_epoch()  # fewer utterances are left than there are ranks
    return progress


def _open_watch(
    session: Session,
    config: RunSettings,
    folder: CheckpointFolder,
    spikes: GradientSpikes,
    *,
    world: World,
    sinks: Sequence[Sink],
    console: Console,
) -> Watch:
    guard, run = config.guard, config.run
    return Watch(
        guard, signs=session.signs(run.num_updates), sinks=sinks, console=console, gradients=spikes,
        broken=BrokenUpdates(
            run.dir / "dumps", most=guard.max_dumps, manifest=session.train_data.manifest,
            manifests=config.data.train, seed=run.seed, world=world,
        ),
        roll_back=RollBack(session.task, session.updates, folder, world),
    )  # fmt: skip


def _open_sinks(
    config: RunSettings, folder: CheckpointFolder, progress: Progress, *, console: Console
) -> Iterator[Sink]:
    run = config.run
    if run.tensorboard:
        yield TensorBoard(run.dir / "tensorboard", keep_until=progress.update)
    if run.wandb_project is not None:
        yield WeightsAndBiases(run.wandb_project, run_dir=run.dir, config=config.model_dump(mode="json"))
    yield JsonLines(
        run.dir / "metrics.jsonl", keep_until=progress.update, owes_validation=progress.owes_validation
    )  # fmt: skip
    yield open_terminal(
        console, num_updates=run.num_updates, first_update=progress.update, checkpoints=folder.names
    )  # fmt: skip


def _require_room(task: Task, folder: CheckpointFolder, *, keep: int) -> None:
    """Weights and two moments of each, for those kept, the best, the draft, and the final model; less what is there."""
    weight_bytes = sum(p.numel() * p.element_size() for p in task.module.parameters())
    there = sum(path.stat().st_size for path in folder.folder.rglob("*") if path.is_file())
    require_disk_space(folder.folder.parent, weight_bytes * (3 * (keep + 2) + 1) - there)


def announce(
    session: Session, progress: Progress, around: Surroundings, *, config: RunSettings, console: Console
) -> None:
    """Say what the run will do before it starts."""
    plan = session.updates.plan(progress.epoch)
    run, world = around.run, around.world
    seconds = plan.mean_samples / around.sample_rate_hz
    num_micro = plan.most_micro_batches
    parameters = sum(p.numel() for p in session.task.module.parameters())
    planned = (
        f"{run.num_updates} updates = {run.num_updates * seconds / 3600:.2f} h of audio = "
        f"{run.num_updates / len(plan):.1f} passes over the data"
        if run.budget is None or progress.fitted_updates
        else f"the updates that fit into run.budget = {run.budget}"
    )
    console.print(f"train data: {session.train_data.describe()}", highlight=False)
    if session.updates.mixture is not None:
        console.print(session.updates.mixture.describe(around.sample_rate_hz), highlight=False)
    if plan.num_left_out:
        console.print(
            f"each pass leaves out {plan.num_left_out} of them, which cannot be shared out over {world.size} ranks; "
            "raise data.micro_batch_s or use fewer ranks",
            highlight=False,
        )
    if session.valid_data is not None:
        console.print(f"valid data: {session.valid_data.describe()}", highlight=False)
    console.print(
        f"effective batch: {seconds:.1f} s of audio an update ({world.size} rank{'s' * (world.size > 1)} x at most "
        f"{num_micro} micro-batch{'es' * (num_micro > 1)} of {config.data.micro_batch_s:g} s), "
        f"padding {plan.padding_share:.1%}\n"
        f"planned: {planned}\n"
        f"model: {parameters / 1e6:.2f} M parameters, {around.precision} on {world.device}",
        highlight=False,
    )
    if around.stepper.average is not None:
        console.print("validation and the finished model/ are of the running average of the weights (optim.ema_decay)")


def _leave_model(folder: CheckpointFolder, run_dir: Path, *, is_averaged: bool, console: Console) -> None:
    """Copy the best checkpoint's weights to ``model/``: all that using the model needs."""
    best = folder.best_whole()
    if best is None:
        return
    document = {k: v for k, v in read_document(best).items() if k != "format_version"}
    tensors = load_tensors(best / "model.safetensors")
    if is_averaged:
        tensors = averaged_weights(tensors, with_prefix(read_state(best / "state" / "tensors"), f"{AVERAGE}/"))
    with replaced_directory(run_dir / "model") as draft:
        save_model(draft, document=document, tensors=tensors)
    kind = "average of the weights" if is_averaged else "weights"
    progress = json.loads((best / "state" / "progress.json").read_text(encoding="utf-8"))
    console.print(f"model: {run_dir / 'model'} ({kind} of update {progress['update']})", highlight=False)


def _say_end(outcome: Outcome, session: Session, *, patience: int | None, console: Console) -> None:
    progress = outcome.progress
    if progress.is_out_of_patience(patience):
        console.print(
            f"{session.task.metric} did not improve on {progress.best:.4f} in {progress.stale_validations} validations "
            "(run.patience): the run ends",
            highlight=False,
        )
    bad = session.train_data.loader.bad_rows
    if bad:
        console.print(f"{len(bad)} utterances could not be read and were left out; see the warnings above")
    heard = timedelta(seconds=round(progress.audio_s))
    if outcome.stopped_by is not None:
        console.print(
            f"stopped by signal {outcome.stopped_by} after update {progress.update}; everything is saved in "
            f"{outcome.checkpoint}. Go on with --resume auto",
            highlight=False,
        )
    else:
        console.print(f"done: {progress.update} updates, {heard} of audio heard", highlight=False)
