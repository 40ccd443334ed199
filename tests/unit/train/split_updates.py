"""The same updates of a real model, shared out in different ways: each job in as many processes as it has ranks.

``python -m tests.unit.train.split_updates FOLDER`` forks every job of :data:`JOBS` from one warm process and leaves
what each computed in ``FOLDER/NAME.pt``: the gradient of every update as the optimizer meets it, the rows of figures,
and the weights at the end.
"""

import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn

from audio_ssl.config import AdaptConfig, CTCConfig, ModelConfig, OptimConfig, RunConfig, Wav2Vec2Config
from audio_ssl.config.objective import OF_PRESETS
from audio_ssl.errors import TrainingError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective import contrastive, masking, quantizer
from audio_ssl.objective.registry import build_objective
from audio_ssl.tensors import Batch
from audio_ssl.train import loop, peers
from audio_ssl.train.adapting import put_in
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.ctc_module import FinetuneModule
from audio_ssl.train.ctc_module import summarize as summarize_ctc
from audio_ssl.train.distributed import World, joined_world, lay_out
from audio_ssl.train.learning import learning_groups
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.pretrain import PretrainModule, PretrainValidation
from audio_ssl.train.sharded_state import whole
from audio_ssl.train.state import Progress
from audio_ssl.train.transcripts import Transcripts
from tests.unit.train.toy import Collect

RATE, WIDTH, ROWS = 16_000, 8_000, 8
LENGTHS = (8_000, 7_013, 5_003, 8_000, 6_007, 8_000, 4_001, 7_907)
FOUR = ((0, 1), (1, 4), (4, 6), (6, 8))  # micro-batches of different sizes
DRY = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "feature_dropout", "layer_drop"), 0.0)
WET = dict.fromkeys(DRY, 0.1) | {"layer_drop": 0.4}

# The encoder learns from the third update on, its front end from the fourth.
FREEZING = {"freeze_encoder_updates": 2, "freeze_feature_encoder": 3}
CTC = {
    "ctc": CTCConfig(**FREEZING, intermediate_layers=[1], self_conditioned=True, layer_lr_decay=0.7),
    "adapted": CTCConfig(intermediate_layers=[1]),
}
ADAPTED = AdaptConfig(lora_rank=3, lora_targets=["value", "feed_forward"], adapter_dim=5)


@dataclass(frozen=True)
class Job:
    """Attributes: how many ranks, how weights lie, which micro-batches, what is trained; where it goes on from."""

    ranks: int = 1
    parallel: str = "ddp"
    split: tuple[tuple[int, int], ...] = FOUR
    drops: dict[str, float] = field(default_factory=lambda: DRY)
    diversity: float = 0.1
    dtype: torch.dtype = torch.float32
    by_row: bool = False  # draws belong to a row, whatever micro-batch it is in
    kind: str = "pretrain"
    num_updates: int = 1
    resume: str | None = None  # the job whose checkpoints it goes on from
    fault: str | None = None  # what becomes of rank `faulty` at update 2: "kill" or "raise"
    faulty: int = 1


JOBS = {
    "one": Job(num_updates=4),
    "two": Job(ranks=2, num_updates=4),
    "four": Job(ranks=4),
    "two_fsdp": Job(ranks=2, parallel="fsdp", num_updates=4),
    "four_fsdp": Job(ranks=4, parallel="fsdp"),
    "whole_rows": Job(by_row=True, dtype=torch.float64, diversity=0.0, split=((0, 8),)),
    "split_rows": Job(by_row=True, dtype=torch.float64, diversity=0.0),
    "wet_ddp": Job(ranks=2, drops=WET, num_updates=4),
    "wet_fsdp": Job(ranks=2, parallel="fsdp", drops=WET, num_updates=4),
    "ctc_ddp": Job(ranks=2, drops=WET, num_updates=4, kind="ctc"),
    "ctc_fsdp": Job(ranks=2, parallel="fsdp", drops=WET, num_updates=4, kind="ctc"),
    "adapted_ddp": Job(ranks=2, drops=WET, num_updates=2, kind="adapted"),
    "adapted_fsdp": Job(ranks=2, parallel="fsdp", drops=WET, num_updates=2, kind="adapted"),
    "fsdp_to_one": Job(num_updates=4, resume="two_fsdp"),
    "one_to_four_fsdp": Job(ranks=4, parallel="fsdp", num_updates=4, resume="one"),
    "fsdp_again": Job(ranks=2, parallel="fsdp", drops=WET, num_updates=4, resume="wet_fsdp"),
    "killed": Job(ranks=2, num_updates=4, fault="kill"),
    "failed": Job(ranks=2, num_updates=4, parallel="fsdp", fault="raise"),
    "main_failed": Job(ranks=2, num_updates=4, fault="raise", faulty=0),
}
RESUMED_AT = 2  # updates; those of the checkpoint that is gone on from


class Source:
    """One pass of six updates, each of eight rows, shared out over ranks by micro-batch."""

    def __init__(self, job: Job, world: World) -> None:
        self.job, self.world = job, world

    def epoch(self, epoch: int, first: int) -> Iterator[tuple[Batch, ...]]:
        for update in range(first, 6):
            if update == 2 and self.job.fault and self.world.rank == self.job.faulty:
                if self.job.fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise TrainingError("the disk of this rank is on fire")
            generator = torch.Generator().manual_seed(update)
            waves = torch.randn(ROWS, WIDTH, generator=generator)
            lengths, rows = torch.tensor(LENGTHS), tuple(range(update * ROWS, (update + 1) * ROWS))
            waves = torch.where(torch.arange(WIDTH) < lengths[:, None], waves, 0.0)
            parts = [
                Batch(waves[a:b].to(self.job.dtype), lengths[a:b], rows[a:b], is_full=False) for a, b in self.job.split
            ]
            yield tuple(parts[self.world.rank :: self.world.size])


class DrawsByRow:
    """Stands for :func:`audio_ssl.objective.draws.uniform`: the n-th draw of a row is the same in any micro-batch."""

    def __init__(self) -> None:
        self.rows: tuple[int, ...] = ()
        self.count = 0

    def __call__(self, shape: tuple[int, ...], _generator: torch.Generator, *, device: torch.device) -> Tensor:
        self.count += 1
        each = (shape[0] // len(self.rows), *shape[1:])
        drawn = [torch.rand(each, generator=torch.Generator().manual_seed(100 * r + self.count)) for r in self.rows]
        return torch.cat(drawn).to(device)


class ByRow(nn.Module):
    """A module whose draws are told which rows they are for."""

    def __init__(self, module: PretrainModule, draws: DrawsByRow) -> None:
        super().__init__()
        self.encoder, self.objective = module.encoder, module.objective
        self.inner, self.draws = (module,), draws

    def forward(self, batch: Batch, **kwargs) -> object:
        self.draws.rows, self.draws.count = batch.rows, 0
        return self.inner[0](batch, **kwargs)


class Kept(torch.optim.Optimizer):
    """The run's optimizer, which writes down the gradients of each step."""

    def __init__(self, optimizer: torch.optim.Optimizer, module: nn.Module, world: World) -> None:
        self.inner, self.module, self.world = optimizer, module, world
        self.param_groups, self.state, self.gradients = optimizer.param_groups, optimizer.state, []

    def step(self) -> None:
        found = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
        self.gradients.append({name: value.clone() for name, value in whole(found, self.world).items()})
        self.inner.found_inf = self.found_inf.to(torch.float32)
        self.inner.step()

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none=set_to_none)


def make_module(job: Job) -> nn.Module:
    torch.manual_seed(3)
    adapter_dim = ADAPTED.adapter_dim if job.kind == "adapted" else 0
    model = ModelConfig(preset="tiny_cpu", num_layers=2, adapter_dim=adapter_dim, **job.drops)
    encoder = build_encoder(model)
    if job.kind in CTC:
        labels = [torch.tensor([1, 2, 3, 1]), torch.tensor([4, 4])] * (3 * ROWS)
        words = Transcripts(("abca", "dd") * (3 * ROWS), labels, {}, (), torch.zeros(6 * ROWS).numpy())
        put_in(encoder, ADAPTED if job.kind == "adapted" else AdaptConfig())
        told = CTC[job.kind].intermediate_layers if CTC[job.kind].self_conditioned else ()
        recogniser = CTCModel(encoder, 5, final_dropout=0.1, conditioned_after=told)
        return FinetuneModule(recogniser, transcripts=words, config=CTC[job.kind])
    drop = 0.1 if job.drops is WET else 0.0
    wanted = {**OF_PRESETS["tiny_cpu"], "target_dropout": drop, "diversity_weight": job.diversity}
    objective = build_objective(Wav2Vec2Config(**wanted), latent_dim=encoder.latent_dim, dim=encoder.dim)
    module = PretrainModule(encoder, objective)
    if job.by_row:
        draws = DrawsByRow()
        for part in (masking, quantizer, contrastive):
            part.uniform = draws
        return ByRow(module, draws)
    return module


def validation(module: PretrainModule, world: World) -> PretrainValidation:
    """The real one on three batches that ranks share out unevenly; data is what it asks of it."""
    whole_batch = next(Source(Job(split=((0, 8),)), World(0, 1, torch.device("cpu"))).epoch(0, 5))[0]
    places = [(0, 3), (3, 4), (4, 8)]

    def batches(planned: list[tuple[int, ...]], *, epoch: int) -> Iterator[Batch]:
        for a, b in planned:
            yield Batch(whole_batch.waveforms[a:b], whole_batch.num_samples[a:b], whole_batch.rows[a:b], is_full=False)

    data = SimpleNamespace(eval_batches=lambda _: places, loader=SimpleNamespace(batches=batches))
    return PretrainValidation(module, data, micro_batch_s=1.0, world=world)


def run(folder: Path, name: str) -> None:
    """One process of a job."""
    job = JOBS[name]
    torch.set_num_threads(1)
    if job.dtype is torch.float64:  # rounding of other shapes of products comes to 1e-6; without it the algebra shows
        torch.Tensor.float = torch.Tensor.double
        torch.set_default_dtype(torch.float64)
    with joined_world("cpu") as world:
        module = lay_out(make_module(job).to(job.dtype), world, job.parallel)
        optim = OptimConfig(lr=1e-3, clip_norm=1e9, warmup_share=0.0)
        of_ctc = job.kind in CTC
        groups = [([p for p in module.parameters() if p.requires_grad], 1.0)]
        if of_ctc:
            groups = learning_groups(module.encoder, module.beyond_encoder, CTC[job.kind])
        optimizer = Kept(build_optimizer(groups, optim), module, world)
        task = loop.Task(
            module=module, optimizer=optimizer, source=Source(job, world),
            summarize=summarize_ctc if of_ctc else make_module(replace(job, by_row=False)).objective.summarize,
            validate=None if of_ctc or job.by_row else validation(module, world), metric="loss",
            document={"kind": job.kind},
        )  # fmt: skip
        settings = RunConfig(
            dir=folder / (job.resume or name), num_updates=job.num_updates, save_every=2, keep_last=9, log_every=1,
            validate_every=2, parallel=job.parallel,
        )  # fmt: skip
        checkpoints, sink = CheckpointFolder(settings, world), Collect()
        progress = Progress()
        if job.resume is not None:
            progress = checkpoints.restore(task, not_after=RESUMED_AT)
            settings = settings.model_copy(update={"dir": folder / name})
            checkpoints = CheckpointFolder(settings, world)
        around = loop.Surroundings(
            settings, optim, world, "fp32", checkpoints, [sink], sample_rate_hz=RATE, console=Console(quiet=True)
        )
        loop.train(task, progress, around)
        weights = whole(module.state_dict(), world)
        if world.is_main:
            torch.save({"gradients": optimizer.gradients, "rows": sink.rows, "weights": weights}, folder / f"{name}.pt")


def fork(folder: Path, name: str, rank: int) -> int:
    pid = os.fork()
    if not pid:
        _child(folder, name, rank)
    return pid


def _child(folder: Path, name: str, rank: int) -> NoReturn:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    os.dup2(2, 1)  # Gloo talks there
    try:
        run(folder, name)
    except TrainingError as error:
        (folder / f"{name}_{rank}.error").write_text(f"{type(error).__name__}: {error}")
        os._exit(3)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(folder: Path) -> None:
    for name in ("torch._dynamo", "torch.distributed.fsdp", "torch.export"):  # once for all jobs
        importlib.import_module(name)
    peers.BEAT_S, peers.BROKEN_S = 0.2, 1.0
    for name, job in JOBS.items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        os.environ.update(WORLD_SIZE=str(job.ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        pids = [fork(folder, name, rank) for rank in range(job.ranks)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        (folder / f"{name}.pids").write_text(" ".join(map(str, pids)))
        if any(codes) != bool(job.fault):
            sys.exit(f"{name}: its ranks ended with {codes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
