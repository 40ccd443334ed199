"""How a run ends: the model that it leaves behind, and its last words."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from audio_ssl.checkpoint import load_tensors, read_document, replaced_directory, save_model, with_prefix
from audio_ssl.model.lora import merged
from audio_ssl.train.averaging import averaged_weights
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.loop import Outcome
from audio_ssl.train.session import Session
from audio_ssl.train.sharded_state import read_state
from audio_ssl.train.stepper import AVERAGE


def leave_model(folder: CheckpointFolder, run_dir: Path, *, is_averaged: bool, console: Console) -> None:
    """Copy the best checkpoint's weights to ``model/``: all that using the model needs."""
    best = folder.best_whole()
    if best is None:
        return
    document = {k: v for k, v in read_document(best).items() if k != "format_version"}
    tensors = load_tensors(best / "model.safetensors")
    if is_averaged:
        tensors = averaged_weights(tensors, with_prefix(read_state(best / "state" / "tensors"), f"{AVERAGE}/"))
    document, tensors = merged(document, tensors)
    with replaced_directory(run_dir / "model") as draft:
        save_model(draft, document=document, tensors=tensors)
    kind = "average of the weights" if is_averaged else "weights"
    progress = json.loads((best / "state" / "progress.json").read_text(encoding="utf-8"))
    console.print(f"model: {run_dir / 'model'} ({kind} of update {progress['update']})", highlight=False)


def say_end(outcome: Outcome, session: Session, *, patience: int | None, console: Console) -> None:
    """Say how the run ended, how much it heard, and how many utterances it could not read."""
    progress = outcome.progress
    if progress.is_out_of_patience(patience):
        console.print(
            f"{session.task.metric} did not improve on {progress.best} in {progress.stale_validations} validations "
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
