"""Two ranks: Muon under DDP and under FSDP2 equals one process, and a budget is fitted to the same number on both."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard

from audio_ssl.config import OptimConfig
from audio_ssl.train import budget
from audio_ssl.train.budget import settle_length
from audio_ssl.train.distributed import data_parallel, joined_world
from audio_ssl.train.loop import train
from audio_ssl.train.optim import build_optimizer, step_if_finite
from audio_ssl.train.state import Progress
from tests.unit.train.toy import Line, Source, make_task, surroundings

MUON = OptimConfig(lr=0.01, optimizer="muon")


class Net(nn.Module):
    """Uneven to share out over two: 7 and 5 rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.output = nn.Linear(8, 7), nn.Linear(7, 5)

    def forward(self, x):
        return self.output(torch.relu(self.inner(x))).square().sum()


def updated(net: Net, call: nn.Module, rank: int, world_size: int) -> list[torch.Tensor]:
    """Four updates, the second of which is not finite; each rank has its share of the rows."""
    optimizer = build_optimizer(
        [(list(net.parameters()), 1.0)], MUON, matrices=[net.inner.weight, net.output.weight]
    )  # fmt: skip
    for update in range(4):
        rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(update))
        (call(rows[rank::world_size]) * world_size).backward()
        step_if_finite(optimizer, torch.tensor(float("nan") if update == 1 else 1.0))
        optimizer.zero_grad()
    return [getattr(p.detach(), "full_tensor", p.detach)() for p in net.parameters()]


def work(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    # Newton-Schulz as torch has it runs in bfloat16, where another order of sums shows; the formula is compared here.
    torch.Tensor.bfloat16 = torch.Tensor.clone
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK="0")
    with joined_world("cpu") as world:
        saved = {"ddp": updated(net := Net(), data_parallel(net, world), rank, 2)}
        saved["fsdp"] = updated(net := fully_shard(Net()), net, rank, 2)
        ticks = iter(range(0, 10**6, rank + 2))  # each look at the clock takes 2 s on one rank, 3 s on the other
        budget.time = SimpleNamespace(perf_counter=lambda: next(ticks))
        measured, plain = (make_task(Line(), Source([(0, 3), (3, 6)], rank=rank, world=2)) for _ in range(2))
        around = surroundings(out / "run", [], world=world, num_updates=None, budget="5m")
        run = settle_length(measured, Progress(), around, update_audio_s=lambda: 6.0, started=0.0)
        for task in (measured, plain):  # the second wrapping of the same weights, and the first of others
            train(task, Progress(), surroundings(out / "run", [], world=world, num_updates=3, save_every=100))
        saved["trained"] = [task.module.linear.weight.detach() for task in (measured, plain)]
        torch.save({**saved, "num_updates": run.num_updates}, out / f"{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_ranks_step_with_muon_as_one_process_does_and_agree_on_a_length(tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, args=(port, tmp_path), nprocs=2)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    alone = updated(net := Net(), net, 0, 1)
    first, second = (torch.load(tmp_path / name) for name in ("0.pt", "1.pt"))
    for layout in ("ddp", "fsdp"):
        for ours, theirs, expected in zip(first[layout], second[layout], alone, strict=True):
            assert torch.equal(ours, theirs)
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(*first["trained"])
    assert torch.equal(first["trained"][0], second["trained"][0])
    # A mean look takes 2.5 s: 5 updates and, in 2 % of the time, 12 more take 5 s. The tenth look is at 22.5 s. Of the
    # rest the last checkpoint's writing takes 2.5 s, an update 5 / 17 s, a checkpoint every four and at the end 2.5 s.
    assert first["num_updates"] == second["num_updates"] == 4 * 74 + 1
