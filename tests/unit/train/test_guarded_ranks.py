"""Guards of two ranks: both go back together, and one file names what both heard in a broken update."""

import json
import math
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
from guard_check import changed_forward, make_audio

from audio_ssl.train.pretrain import pretrain
from tests.unit.train.test_replay import configured, replayed

SETTINGS = (
    "run.num_updates=28", "run.log_every=2", "run.save_every=6", "guard.spike_updates=2", "guard.skip_grad_factor=0",
    "data.batch_s=4",
)  # fmt: skip
SPIKES, BROKEN = range(20, 24), 3  # updates done before


def work(rank: int, manifest: Path, run_dir: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    seen: set[int] = set()

    def change(_, __, update: int) -> float:
        is_first = update not in seen
        seen.add(update)
        if rank == 1 and update == BROKEN:
            return math.nan
        return 2.0 if update in SPIKES and is_first else 1.0

    with changed_forward(change, is_told=True):
        pretrain(
            configured(manifest, run_dir, *SETTINGS), resume="never", init_from=None, console=Console(quiet=True)
        )  # fmt: skip


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_ranks_go_back_together_and_dump_together(tmp_path):
    manifest = make_audio(tmp_path / "audio", "speech", num_files=16, seconds=1.2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_dir = tmp_path / "run"
    torch.multiprocessing.spawn(work, args=(manifest, run_dir, port), nprocs=2)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["action"], row["update"]) for row in rows if row["split"] == "guard"] == [("rollback", 18)]
    progress = json.loads((run_dir / "checkpoints/step_00000028/state/progress.json").read_text())
    assert (progress["update"], progress["rollbacks"]) == (28, 1)
    assert [row["skipped_updates"] for row in rows if row["update"] == 4] == [1]
    (dump,) = (run_dir / "dumps").iterdir()
    assert dump.name == "update_00000004.json"
    heard = json.loads(dump.read_text())["rows"]
    assert len(heard) == 2
    assert not {row for batch in heard[0] for row in batch} & {row for batch in heard[1] for row in batch}
    text = replayed(configured(manifest, run_dir, *SETTINGS), dump)  # compares the rows
    assert "2 ranks; weights: of update 24, 21 updates newer than it had" in text
    assert "rank 1, micro-batch 0" in text
