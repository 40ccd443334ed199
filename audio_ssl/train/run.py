"""The frame around the loop: world, lock, start, guards, sinks, end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from audio_ssl.checkpoint import remove_drafts, write_text
from audio_ssl.config import RunConfig, dump_config
from audio_ssl.errors import ConfigError, TrainingError
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World, barrier, joined_world
from audio_ssl.train.dumps import BrokenUpdates
from audio_ssl.train.finish import leave_model, say_end
from audio_ssl.train.guard import locked_run_folder
from audio_ssl.train.loop import Outcome, Surroundings, train
from audio_ssl.train.memory import keep_freed_memory, told_out_of_memory
from audio_ssl.train.precision import resolve_precision
from audio_ssl.train.record import recorded
from audio_ssl.train.rollback import RollBack
from audio_ssl.train.session import Resume, RunSettings, Session
from audio_ssl.train.sinks import JsonLines, Sink, TensorBoard, WeightsAndBiases
from audio_ssl.train.spikes import GradientSpikes
from audio_ssl.train.start import announce, refuse_unasked_restart, settled, starting_point
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper, make_stepper
from audio_ssl.train.terminal import open_terminal
from audio_ssl.train.watch import Watch

# oneDNN prepares a kernel for each shape and keeps 1024. An epoch of speech has more, and preparing them again and
# again costs half of the speed (docs/decisions/0008). It reads this before its first kernel.
CPU_KERNELS_KEPT = "20000"


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
        stack.callback(folder.close)
        refuse_unasked_restart(folder, resume)
        record = stack.enter_context(recorded(run.dir if world.is_main else None))
        precision = resolve_precision(run.precision, world.device)
        session, stepper, spikes = _equipped(build(world), config, world, precision)
        progress = starting_point(session, folder, console=say)
        if session.task.probe is not None:
            session.task.probe.prepare(say)
        sinks: list[Sink] = []
        around = Surroundings(
            run, config.optim, world, precision, folder, sinks, session.train_data.sample_rate_hz, say, stepper
        )  # fmt: skip
        config = settled(session, progress, around, config=config, started=started)
        watch = _open_watch(session, config, folder, spikes, world=world, sinks=sinks, console=say)
        around = replace(around, run=config.run, watch=watch)
        if world.is_main:
            announce(session, progress, around, config=config, console=say)
            write_text(run.dir / "config.toml", dump_config(config))
            record.started(progress.update, world=world, precision=precision, init_from=session.init_from)
            sinks.append(record)
            for sink in _open_sinks(config, folder, progress, console=say):
                stack.callback(sink.close)
                sinks.append(sink)
        barrier(world)
        with told_out_of_memory(config.data.micro_batch_s):
            outcome = train(session.task, progress, around)
        record.ended_as_planned(outcome.progress.update, stopped_by=outcome.stopped_by)
        if world.is_main and outcome.stopped_by is None:
            leave_model(folder, run.dir, is_averaged=stepper.average is not None, console=say)
        say_end(outcome, session, patience=run.patience, console=say)
    return outcome


def _equipped(
    session: Session, config: RunSettings, world: World, precision: str
) -> tuple[Session, Stepper, GradientSpikes]:
    """The session with what must survive beside the weights, and these parts themselves."""
    stepper = make_stepper(
        session.task.module, precision=precision, ema_decay=config.optim.ema_decay, device=world.device
    )
    spikes = GradientSpikes(config.guard.skip_grad_factor, world.device, fresh_at=session.thaws_at)
    extras = {**session.task.extras, **stepper.extras(), "grad_norms": spikes}
    return replace(session, task=replace(session.task, extras=extras)), stepper, spikes


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


def _refuse_compiling(run: RunConfig) -> None:
    if run.compile:
        raise ConfigError(
            "run.compile must be false on a CPU, got true: blocks run kernels of their own there, which draw outside "
            "of torch; leave the setting out, or train on a GPU"
        )


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
        thaws_at=session.thaws_at,
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
        run.dir / "metrics.jsonl", keep_until=progress.update, owes_validation=progress.owes_validation,
        probed=progress.probed,
    )  # fmt: skip
    yield open_terminal(
        console, num_updates=run.num_updates, first_update=progress.update, checkpoints=folder.names
    )  # fmt: skip
