"""kill -9 between any two changes of the run folder: each file is whole, and the resumed run leaves what it would have.

A change is a name that comes, goes or is opened for writing (as audit events of Python tell); at other moments a kill
finds the folder as at the one before, but for a draft, which nobody reads.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.train.checkpoints import verify

RATE = 16000
SETTINGS = [
    "run.num_updates=6", "run.save_every=2", "run.keep_last=1", "run.validate_every=3", "augment.noise_prob=0",
    "augment.mix_prob=0", "augment.speed=[1.0]",
]  # fmt: skip
FIGURES = {"3": 1.0, "6": 2.0}  # the best is neither the newest nor one of the regular checkpoints
MEASURED = re.compile(r"_per_s$|update_s$|checkpoint_s$|wait|time|memory|_gib$")
Change = list[str]  # event, paths below the run folder, "append" or ""


class Server:
    """Runs runs; see killed_runs."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process

    def run(self, run_dir: str, *, kill_at: int, status: int = 0) -> list[Change]:
        """Go on with a run; the changes that it makes until it is done or killed."""
        log = self.folder / "changes"
        log.unlink(missing_ok=True)
        job = {"run_dir": run_dir, "log": log.name, "manifest": "list.tsv", "settings": SETTINGS, "ranks": 1}
        job |= {"engine": "threads", "num_workers": 0, "kill_after": None}
        job |= {"figures": FIGURES, "kill_at_change": kill_at}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline()) == [status], f"killed at change {kill_at}"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("writing")
    generator = np.random.default_rng(0)
    for i in range(6):
        sf.write(root / f"{i}.wav", 0.1 * generator.standard_normal(RATE // 2), RATE)
    rows = [Utterance(f"u{i}", f"{i}.wav", 0, RATE // 2, RATE) for i in range(6)]
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    Manifest.from_rows(rows[:1], root=root).write(root / "noise.tsv")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.train.killed_runs", str(root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        yield Server(root, process)
        process.stdin.close()


@pytest.fixture(scope="module")
def changes(server) -> list[Change]:
    """Of an uninterrupted run."""
    return server.run("whole", kill_at=10**6)


def is_draft(path: str) -> bool:
    return any(part.startswith(".") and part.endswith((".tmp", ".old")) for part in path.split("/"))


def is_settled(path: str) -> bool:
    return not is_draft(path) and path != ".lock"


def left(run_dir: Path) -> dict[str, object]:
    """Every path below a run folder with what it holds: the lock's process and measured figures apart."""
    found: dict[str, object] = {}
    for path in sorted(run_dir.rglob("*")):
        name = str(path.relative_to(run_dir))
        if name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [
                {k: v for k, v in row.items() if not MEASURED.search(k)}
                for row in rows
                if "data_wait" not in row.values()
            ]
        elif name == "config.toml":
            found[name] = path.read_text().replace(str(run_dir), "RUN")
        else:
            is_kept = path.is_file() and name not in (".lock", "events.jsonl")  # which tell of each start
            found[name] = path.read_bytes() if is_kept else ""
    return found


def assert_whole(run_dir: Path, whole: dict[str, object]) -> None:
    """Each checkpoint is what its checksums say, and each other file can be read to its end."""
    for checkpoint in run_dir.glob("checkpoints/step_*"):
        verify(checkpoint)
    for pointer in run_dir.glob("checkpoints/*.json"):
        assert (pointer.parent / json.loads(pointer.read_text())["name"]).is_dir()
    if (run_dir / "config.toml").exists():
        assert (run_dir / "config.toml").read_text().replace(str(run_dir), "RUN") == whole["config.toml"]
    if (run_dir / "metrics.jsonl").exists():
        assert all(json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())


def test_nothing_is_written_or_taken_apart_under_a_name_that_is_read(changes):
    assert len(changes) > 40
    for event, *paths, mode in changes:
        settled = [path for path in paths if is_settled(path)]
        if event == "open":
            assert settled in ([], ["metrics.jsonl"], ["events.jsonl"])  # of which each line is whole or cut off
            assert not settled or mode == "append"
        elif settled and event != "os.rename":
            assert (event, settled) == ("os.mkdir", ["checkpoints"])


def test_killed_between_any_two_changes_a_run_leaves_what_it_would_have(server, changes):
    whole = left(server.folder / "whole")
    assert whole.keys() >= {"model", "checkpoints/step_00000003", "checkpoints/step_00000006", "checkpoints/best.json"}
    assert "checkpoints/step_00000004" not in whole
    named = [i for i, (_, *paths, _) in enumerate(changes) if any(is_settled(path) for path in paths)]
    moments = {i + 1 for i in named} | set(range(5, len(changes), 31))
    assert len(named) >= 15
    for moment in sorted(moments - {len(changes)}):
        server.run("killed", kill_at=moment, status=-signal.SIGKILL)
        assert_whole(server.folder / "killed", whole)
        server.run("killed", kill_at=10**6)
        assert left(server.folder / "killed") == whole, (moment, changes[moment - 1])
        shutil.rmtree(server.folder / "killed")
