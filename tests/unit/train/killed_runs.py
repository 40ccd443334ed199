"""Runs of the real session that are killed at a given batch: each in a process of its own that is forked here.

``python -m tests.unit.train.killed_runs FOLDER`` reads jobs from standard input, a JSON object a line, and does one
after the other; it is started once, since starting Python with torch takes longer than all its runs.
"""

import hashlib
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console
from torch import nn

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.tensors import Batch, LossTerms
from audio_ssl.train.datasets import TrainingData, open_training_data
from audio_ssl.train.distributed import World
from audio_ssl.train.loop import Task
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.run import run_session
from audio_ssl.train.session import Session
from audio_ssl.train.updates import Updates, open_updates
from tests.unit.changes import Changes

RATE = 16000
SETTINGS = [
    "data.batch_s=3", "data.micro_batch_s=1.6", "data.min_s=0.1", "data.max_s=0.8", "data.max_bad_share=0.3",
    "run.num_updates=11", "run.save_every=3", "run.log_every=2", "run.keep_last=2", "run.device=cpu", "optim.lr=0.01",
    "augment.speed=[0.9,1.0,1.1]", "augment.gain_db=[-6,6]", "augment.mix_prob=0.3", "augment.noise_prob=0.6",
]  # fmt: skip


class Heard(nn.Module):
    """A model so small that the run is all loading; it writes down each batch, and dies instead of the one after k.

    Args:
        log: gets a line a batch: epoch, update, rows and what :func:`digests` says of them.
        kill_after: batches of this process; None: it lives.
    """

    def __init__(self, log: Path, kill_after: int | None) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.2)
        self.log, self.left, self.epoch = log, kill_after, -1

    def forward(self, batch: Batch, *, update: int, generator: torch.Generator) -> LossTerms:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left = None if self.left is None else self.left - 1
        with self.log.open("a") as file:  # closed, so that it is with the system before anything can be killed
            file.write(json.dumps([self.epoch, update, batch.rows, digests(batch)]) + "\n")
        waves = batch.waveforms
        features = torch.stack([waves.mean(1), waves.square().mean(1), waves.abs().amax(1)], dim=1)  # (B, 3)
        features = self.dropout(features) + 0.1 * torch.randn(features.shape, generator=generator)
        loss = (self.linear(features) - 1).square().sum()
        return LossTerms(loss, torch.tensor(len(batch.rows)), {"loss": loss.detach()})


class Noted:
    """Updates that tell the model which epoch they are of."""

    def __init__(self, updates: Updates, module: Heard) -> None:
        self.updates, self.module = updates, module

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        self.module.epoch = epoch
        yield from self.updates.epoch(epoch, first)


def digests(batch: Batch) -> list[str]:
    """A hash of each row's samples."""
    rows = zip(batch.waveforms.numpy(), batch.num_samples.tolist(), strict=True)
    return [hashlib.blake2b(wave[:n].tobytes(), digest_size=8).hexdigest() for wave, n in rows]


def configured(folder: Path, manifest: str, *settings: str) -> PretrainConfig:
    places = [f"data.train=['{folder / manifest}']", f"augment.noise=['{folder / 'noise.tsv'}']"]
    return load_config(PretrainConfig, find_config("pretrain/conv_tiny"), [*SETTINGS, *places, *settings])


def opened(config: PretrainConfig, world: World) -> tuple[TrainingData, Updates]:
    """What pre-training opens, with a model that takes waveforms as they are."""
    data = open_training_data(
        config.data.train, config.data, sample_rate_hz=RATE, normalize=False, min_samples=400,
        seed=config.run.seed, is_train=True, augment=config.augment,
    )  # fmt: skip
    return data, open_updates(data, config.data, seed=config.run.seed, world=world)


def run(folder: Path, job: dict, rank: int) -> None:
    """One process of a run, from where the run folder stands to its end or to its death."""
    torch.set_num_threads(1)
    kind = [f"data.engine={job['engine']}", f"data.num_workers={job['num_workers']}"]
    config = configured(folder, job["manifest"], f"run.dir={folder / job['run_dir']}", *kind, *job["settings"])

    figures = job.get("figures")  # of the validations, by update

    def build(world: World) -> Session:
        torch.manual_seed(config.run.seed)
        module = Heard(folder / f"{job['log']}.{rank}", job["kill_after"])
        data, updates = opened(config, world)
        task = Task(
            module=module,
            optimizer=build_optimizer([(list(module.parameters()), 1.0)], config.optim),
            source=Noted(updates, module),
            summarize=lambda sums: {"loss": float(sums["loss"]) / float(sums["num_targets"])},
            validate=None if figures is None else lambda update: {"loss": figures[str(update)]},
            metric="loss",
            document={"kind": "pretraining", "model": {"dim": 3}},
        )
        return Session(task, updates, data, None, [])

    run_session(build, config, resume="auto", console=Console(quiet=True))


def forked(folder: Path, job: dict, rank: int) -> int:
    pid = os.fork()
    if not pid:
        _child(folder, job, rank)
    return pid


def _child(folder: Path, job: dict, rank: int) -> NoReturn:
    os.dup2(2, 1)  # standard output is for answers, and Gloo talks there
    if job.get("kill_at_change") is not None:
        sys.addaudithook(Changes(folder / job["run_dir"], folder / job["log"], kill_at=job["kill_at_change"]))
    try:
        run(folder, job, rank)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _ended(pids: list[int]) -> list[int]:
    """Exit codes by rank; when one rank is killed, so are all, as when a machine goes."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:
            for other in set(pids) - set(codes):
                os.kill(other, signal.SIGKILL)
    return [codes[pid] for pid in pids]


def main(folder: Path) -> None:
    for name in ("torch._dynamo", "torchaudio.transforms"):  # once for all runs: their optimizers and resamplers ask
        importlib.import_module(name)
    fairseq2_unavailable()
    for line in sys.stdin:
        job = json.loads(line)
        os.environ["WORLD_SIZE"] = str(job["ranks"])
        if job["ranks"] > 1:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(probe.getsockname()[1]))
        pids = []
        for rank in range(job["ranks"]):
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            pids.append(forked(folder, job, rank))
        print(json.dumps(_ended(pids)), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main(Path(sys.argv[1]))
