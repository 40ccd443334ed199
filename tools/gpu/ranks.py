"""Several GPUs under torchrun: their gradients are those of one process on the same batches.

``torchrun ... -m gpu.ranks FOLDER DEVICE`` is one process of it; with no torchrun around it does all the work alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from audio_ssl.tensors import Batch
from audio_ssl.train.distributed import Layout, data_parallel, joined_world, lay_out
from gpu.outcome import CheckFailed, CheckSkipped, Figures, require
from gpu.parity import largest_difference
from gpu.place import Place, Trainer, exact_products, padded, pretrain_module, python, tools_path
from gpu.waits import told_waits

SHARES = 8  # micro-batches of an update, shared out over the ranks
MOST_OF_GRADIENT = {"cuda": 1e-4, "cpu": 1e-5}
LIMIT_S = 150


def nccl(place: Place) -> Figures:
    """Gradients of as many GPUs as there are, by DDP and FSDP2, are those of one process."""
    count = torch.cuda.device_count() if place.is_gpu else 2
    if count < 2:
        raise CheckSkipped("one GPU is here; NCCL between GPUs needs two")
    count = max(n for n in (2, 4, 8) if n <= count)
    figures: Figures = {"ranks": float(count)}
    with tempfile.TemporaryDirectory(prefix="gpu_ranks_") as folder:
        _launch([python(), "-m", "gpu.ranks", folder, place.device.type, "ddp"])
        alone = load_file(Path(folder) / "1_ddp.safetensors")
        for layout in ("ddp", "fsdp"):
            launcher = [python(), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            _launch([*launcher, "-m", "gpu.ranks", folder, place.device.type, layout])
            together = load_file(Path(folder) / f"{count}_{layout}.safetensors")
            worst, difference = largest_difference(together, alone)
            figures[f"{layout}_gradient_difference"] = difference
            figures[f"{layout} waits"] = (Path(folder) / f"{count}_{layout}.txt").read_text(encoding="utf-8")
            bound = MOST_OF_GRADIENT[place.device.type]
            require(f"{layout}: difference of the gradient of {worst}", difference, at_most=bound, figures=figures)
    return figures


def _launch(command: list[str]) -> None:
    """Run to the end.

    Raises:
        CheckFailed: it does not end well, or not in time.
    """
    environment = {**os.environ, "PYTHONPATH": f"{tools_path()}:{os.environ.get('PYTHONPATH', '')}"}
    environment.setdefault("OMP_NUM_THREADS", "4")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"the ranks must end within {LIMIT_S} s, they did not") from error
    if done.returncode:
        raise CheckFailed(f"the ranks must end with status 0, got {done.returncode}: {done.stderr[-1500:]}")


def work(folder: Path, device: str, layout: Layout) -> None:
    """One rank's part of one update; the main one leaves the gradients that the optimizer saw, as AdamW keeps them."""
    with joined_world(device) as world, exact_products():
        place = Place(world.device)
        case = place.case("small", rows=3, seconds=4)
        batch = case.batch()
        parts = [padded(_shifted(batch, i)) if i % 2 else _shifted(batch, i) for i in range(SHARES)]
        module = pretrain_module(case)
        lay_out(module, world, layout)
        trainer = Trainer(module, place, world=world, parallel=data_parallel(module, world))
        trainer.update(parts[world.rank :: world.size])
        moments = _first_moments(trainer, module)
        with told_waits(place) as waits:
            trainer.update(parts[world.rank :: world.size])
        if world.is_main:
            name = f"{world.size}_{layout}"
            save_file(moments, folder / f"{name}.safetensors")
            (folder / f"{name}.txt").write_text(", ".join(sorted(waits)) or "nowhere", encoding="utf-8")


def _shifted(batch: Batch, step: int) -> Batch:
    """Another batch of the same size."""
    return Batch(batch.waveforms.roll(1000 * step, dims=1), batch.num_samples, batch.rows, is_full=batch.is_full)


def _first_moments(trainer: Trainer, module: nn.Module) -> dict[str, Tensor]:
    """After one update they are (1 - beta) times the clipped gradients."""
    state = trainer.task.optimizer.state
    found = {name: state[p]["exp_avg"] for name, p in module.named_parameters() if "exp_avg" in state.get(p, {})}
    whole = {name: x.full_tensor() if hasattr(x, "full_tensor") else x for name, x in found.items()}
    return {name: x.detach().cpu().contiguous().clone() for name, x in whole.items()}  # the next update changes them


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], cast(Layout, sys.argv[3]))
