"""How a run begins: where it goes on, whether there is room, how long it is, and what it says of itself."""

from __future__ import annotations

from rich.console import Console

from audio_ssl.config import RunConfig
from audio_ssl.errors import TrainingError
from audio_ssl.train.budget import settle_length
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.guard import require_disk_space
from audio_ssl.train.loop import Surroundings, Task
from audio_ssl.train.memory import told_out_of_memory
from audio_ssl.train.session import Resume, RunSettings, Session
from audio_ssl.train.state import Progress


def refuse_unasked_restart(folder: CheckpointFolder, resume: Resume) -> None:
    """Never mix a new run into an old one.

    Raises:
        TrainingError: the folder holds a run and ``resume`` is ``never``.
    """
    if resume == "never" and folder.names():
        raise TrainingError(
            f"{folder.folder.parent} already holds a run (newest checkpoint {folder.names()[-1]}); "
            "go on with --resume auto, or give another run.dir"
        )


def starting_point(session: Session, folder: CheckpointFolder, *, console: Console) -> Progress:
    """Restore the newest whole checkpoint, if there is any, and find its place in the data as it is now.

    Raises:
        CheckpointError: there are checkpoints and none can be used.
    """
    plan = session.updates.fingerprint
    if not folder.names():
        for remark in session.remarks:
            console.print(remark, highlight=False, soft_wrap=True)
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


def settled(
    session: Session, progress: Progress, around: Surroundings, *, config: RunSettings, started: float
) -> RunSettings:
    """The configuration with the run's length as a number of updates; first of all there must be room on the disk.

    Raises:
        CheckpointError: checkpoints do not fit.
        TrainingError: the budget does not suffice for one update, or memory for one micro-batch.
    """
    if around.world.is_main:
        require_room(session.task, around.folder, config.run)

    def mean_update_s() -> float:
        return session.updates.plan(progress.epoch).mean_samples / around.sample_rate_hz

    with told_out_of_memory(config.data.micro_batch_s):
        run = settle_length(session.task, progress, around, update_audio_s=mean_update_s, started=started)
    return config.model_copy(update={"run": run})


def require_room(task: Task, folder: CheckpointFolder, run: RunConfig) -> None:
    """Look whether all checkpoints fit: those kept, the best, the draft, and the final model; less what is there.

    A checkpoint is the weights, two moments of each, and what else must survive.

    Raises:
        CheckpointError: they do not fit.
    """
    weight_bytes = sum(p.nbytes for p in task.module.parameters())
    extra_bytes = sum(t.nbytes for extra in task.extras.values() for t in extra.tensors().values())
    num_kept = run.keep_last + 2 + (0 if run.keep_every is None else run.num_updates // run.keep_every)
    there = sum(path.stat().st_size for path in folder.folder.rglob("*") if path.is_file())
    require_disk_space(run.dir, (3 * weight_bytes + extra_bytes) * num_kept + weight_bytes - there)


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
