"""Two ranks with accumulation equal one process: same weights, same figures."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from audio_ssl.train.distributed import joined_world
from audio_ssl.train.loop import train
from audio_ssl.train.state import Progress
from tests.unit.train.toy import Collect, Line, Source, make_task, surroundings

SPLIT = [(0, 1), (1, 4), (4, 5), (5, 6)]  # four micro-batches of different sizes


def work(rank: int, world_size: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK="0"
    )
    with joined_world("cpu") as world:
        sink = Collect()
        task = make_task(Line(noise=0.3), Source(SPLIT, rank=rank, world=world_size))
        train(task, Progress(), surroundings(out / f"of{world_size}", [sink], world=world, num_updates=9))
        saved = {"weight": task.module.linear.weight.detach(), "rows": [{k: r[k] for k in KEPT} for r in sink.rows]}
        torch.save(saved, out / f"{world_size}_{rank}.pt")


KEPT = ("update", "loss", "grad_norm", "audio_h", "padding_share", "lr")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_ranks_with_accumulation_equal_one_process(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, args=(2, port, tmp_path), nprocs=2)
    mp.spawn(work, args=(1, port, tmp_path), nprocs=1)
    alone, first, second = (torch.load(tmp_path / name) for name in ("1_0.pt", "2_0.pt", "2_1.pt"))
    assert torch.equal(first["weight"], second["weight"])
    torch.testing.assert_close(first["weight"], alone["weight"])
    for ours, theirs in zip(first["rows"], alone["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
