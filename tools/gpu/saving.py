"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from audio_ssl.checkpoint import load_tensors
from audio_ssl.config import RunConfig
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.sharded_state import WHOLE_FILE
from audio_ssl.train.state import Progress, state_tensors
from gpu.equality import batches_of
from gpu.outcome import CheckFailed, Figures
from gpu.place import Place, Trainer, pretrain_module

NUM_BEFORE, NUM_MEANWHILE = 2, 5


def checkpoint(place: Place) -> Figures:
    """A checkpoint holds the tensors of the moment it was asked for, though updates went on while it was written."""
    case, batches = batches_of(place)
    trainer = Trainer(pretrain_module(case), place, "bf16", ema_decay=0.99)
    for _ in range(NUM_BEFORE):
        trainer.update(batches)
    task = trainer.task
    now = {**task.module.state_dict(), **state_tensors(task)}
    expected = {name: tensor.detach().clone() for name, tensor in now.items()}
    with tempfile.TemporaryDirectory(prefix="gpu_checkpoint_") as name:
        folder = CheckpointFolder(RunConfig(dir=Path(name)), trainer.around.world)
        started = time.perf_counter()
        written = folder.save(Progress(update=NUM_BEFORE), task, is_best=False)
        stalled_s = time.perf_counter() - started
        for _ in range(NUM_MEANWHILE):
            trainer.update(batches)
        folder.finish()
        folder.close()
        found = load_tensors(written / "model.safetensors")
        found |= load_tensors(written / "state" / "tensors" / WHOLE_FILE)
    figures: Figures = {"tensors": float(len(found)), "stalled_ms": 1e3 * stalled_s}
    if found.keys() != expected.keys():
        raise CheckFailed(f"all tensors must be there, {sorted(found.keys() ^ expected.keys())[:3]} differ", figures)
    wrong = [name for name, tensor in expected.items() if not torch.equal(tensor.cpu(), found[name])]
    if wrong:
        raise CheckFailed(f"tensors must be those of the moment, {len(wrong)} are not: {', '.join(wrong[:3])}", figures)
    return figures
