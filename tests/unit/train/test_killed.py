"""kill -9 between any two batches changes nothing: what is heard after a resume is what would have been heard."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console

from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.train.distributed import World
from audio_ssl.train.start import starting_point
from audio_ssl.train.state import Progress
from tests.unit.train.killed_runs import configured, digests, opened

RATE = 16000
SAVE_EVERY, NUM_UPDATES = 3, 11
BAD_ROW = 5
READERS = [(engine, workers) for engine in ("threads", "fairseq2") for workers in (0, 1, 4)]
Heard = list[list]  # [epoch, update, rows, hash of each row's samples] of each batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Nineteen rows at two rates, four of them segments of one file and one without a file, and noise."""
    root = tmp_path_factory.mktemp("killed")
    generator = np.random.default_rng(0)
    rows = []
    for i in range(15):
        rate = 8000 if i % 4 == 3 else RATE
        length = round(rate * (0.3 + 0.05 * i))
        sf.write(root / f"{i}.flac", 0.1 * generator.standard_normal(length), rate)
        rows.append(Utterance(f"u{i}", f"{i}.flac", 0, length, rate, language="sv" if i < 4 else "en"))
    sf.write(root / "long.flac", 0.1 * generator.standard_normal(3 * RATE), RATE)
    rows += [Utterance(f"s{i}", "long.flac", 9000 * i, 8000 + 1000 * i, RATE) for i in range(4)]
    (root / f"{BAD_ROW}.flac").write_text("gone bad")
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    Manifest.from_rows(rows[:BAD_ROW] + rows[BAD_ROW + 1 :], root=root).write(root / "good.tsv")
    for i in range(2):
        sf.write(root / f"noise{i}.wav", 0.1 * generator.standard_normal(RATE), RATE)
    noises = [Utterance(f"n{i}", f"noise{i}.wav", 0, RATE, RATE) for i in range(2)]
    Manifest.from_rows(noises, root=root).write(root / "noise.tsv")
    return root


Run = Callable[..., list[Heard]]


@pytest.fixture(scope="module")
def run(folder) -> Iterator[Run]:
    """Run a run from where it stands, in as many processes as there are ranks; what each of them heard."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    numbers = itertools.count()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.train.killed_runs", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path(__file__).parents[3],
    ) as server:  # fmt: skip

        def call(run_dir: str, reader: tuple[str, int], *, kill_after=None, ranks=1, manifest="list.tsv", more=()):
            log = f"log{next(numbers)}"
            job = {"run_dir": run_dir, "log": log, "manifest": manifest, "settings": more, "ranks": ranks}
            job |= {"engine": reader[0], "num_workers": reader[1], "kill_after": kill_after}
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
            statuses = json.loads(server.stdout.readline())
            assert set(statuses) == {0} if kill_after is None else -signal.SIGKILL in statuses
            logs = [folder / f"{log}.{rank}" for rank in range(ranks)]
            return [[json.loads(x) for x in p.read_text().splitlines()] if p.exists() else [] for p in logs]

        yield call
        server.stdin.close()


def weights(folder: Path, run_dir: str) -> bytes:
    return (folder / run_dir / "checkpoints" / f"step_{NUM_UPDATES:08d}" / "model.safetensors").read_bytes()


def newest(folder: Path, run_dir: str, *, killed_in: int) -> int:
    """Updates in the newest checkpoint: that before the update of the kill, or while it was being written one less."""
    names = sorted(path.name for path in (folder / run_dir / "checkpoints").glob("step_*"))
    saved = int(names[-1].removeprefix("step_")) if names else 0
    last = killed_in // SAVE_EVERY * SAVE_EVERY
    assert saved in (last, max(0, last - SAVE_EVERY))
    return saved


def readers() -> list[tuple[str, int]]:
    return [reader for reader in READERS if reader[0] == "threads" or fairseq2_unavailable() is None]


@pytest.fixture(scope="module")
def straight(run) -> Heard:
    """What an uninterrupted run hears."""
    return run("straight", ("threads", 0))[0]


def test_engines_and_threads_hear_the_same_run(run, folder, straight):
    assert len(straight) > 2 * NUM_UPDATES  # several micro-batches an update
    assert [update for update, _ in itertools.groupby(straight, lambda batch: batch[1])] == list(range(NUM_UPDATES))
    epoch = [row for e, _, rows, _ in straight if e == 0 for row in rows]
    assert sorted(epoch) == [row for row in range(19) if row != BAD_ROW]
    for reader in readers()[1:]:
        name = f"straight_{reader[0]}_{reader[1]}"
        assert run(name, reader) == [straight]
        assert weights(folder, name) == weights(folder, "straight")


def test_killed_after_any_batch_a_run_goes_on_as_if_nothing_had_been(run, folder, straight):
    """Every place, each with another engine and number of threads before and after."""
    kinds = readers()
    for k in range(len(straight)):
        before, after = kinds[k % len(kinds)], kinds[(k // len(kinds) + k + 1) % len(kinds)]
        (heard,) = run("killed", before, kill_after=k)
        assert heard == straight[:k]
        assert not (folder / "killed" / "model").exists()
        saved = newest(folder, "killed", killed_in=straight[k][1])
        (rest,) = run("killed", after)
        assert rest == [batch for batch in straight if batch[1] >= saved], (k, before, after)
        assert weights(folder, "killed") == weights(folder, "straight")
        shutil.rmtree(folder / "killed")


def test_a_killed_mixture_goes_on_as_if_nothing_had_been(run, folder):
    """Rows come more than once in an epoch there, with other draws each time."""
    mixture = ["data.mixture.by='language'", "data.mixture.temperature=4.0", "data.quadratic_s=8"]
    (whole,) = run("mixed", ("threads", 1), more=mixture)
    rows = [row for epoch, _, rows, _ in whole if epoch == 0 for row in rows]
    assert len(rows) > len(set(rows))
    kinds = readers()
    for i, k in enumerate(np.random.default_rng(0).choice(np.arange(1, len(whole)), 4, replace=False).tolist()):
        assert run("mixed_killed", kinds[i % len(kinds)], kill_after=k, more=mixture) == [whole[:k]]
        saved = newest(folder, "mixed_killed", killed_in=whole[k][1])
        (rest,) = run("mixed_killed", kinds[(i + 4) % len(kinds)], more=mixture)
        assert rest == [batch for batch in whole if batch[1] >= saved]
        assert weights(folder, "mixed_killed") == weights(folder, "mixed")
        shutil.rmtree(folder / "mixed_killed")


def by_epoch(ranks: list[Heard], *, updates: range = range(NUM_UPDATES)) -> dict[int, list[tuple[int, str]]]:
    """(row, hash) of all that the ranks heard in some updates, by epoch."""
    found: dict[int, list[tuple[int, str]]] = {}
    for epoch, update, rows, hashes in itertools.chain(*ranks):
        if update in updates:
            found.setdefault(epoch, []).extend(zip(rows, hashes, strict=True))
    return found


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
@pytest.mark.parametrize(("ranks", "kill_after"), [((2, 1), (14,)), ((1, 3, 2), (20, 9))])
def test_killed_ranks_leave_the_rest_of_the_pass_to_another_number(run, folder, ranks, kill_after):
    """Real processes; what is heard of a row is what one process hears of it, and each row comes once.

    The checkpoint before a kill may have been in the making: kills are so late that there is always a newer one.
    """
    name, longer = "_".join(map(str, ranks)), {"manifest": "good.tsv", "more": ["run.num_updates=23"]}
    alone = by_epoch(run(f"{name}_alone", ("threads", 1), **longer), updates=range(23))
    heard: dict[int, list[tuple[int, str]]] = {}
    saved = 0
    for i, size in enumerate(ranks):
        kind = {**longer, "ranks": size, "kill_after": (*kill_after, None)[i]}
        logs = run(f"{name}_killed", readers()[i + 1], **kind)
        names = sorted(path.name for path in (folder / f"{name}_killed" / "checkpoints").glob("step_*"))
        first, saved = saved, int(names[-1].removeprefix("step_"))
        assert first < saved
        for epoch, rows in by_epoch(logs, updates=range(first, saved)).items():
            heard.setdefault(epoch, []).extend(rows)
    assert len(heard) >= 3
    for epoch in (0, 1):
        assert len(heard[epoch]) == len({row for row, _ in heard[epoch]})
        assert set(heard[epoch]) <= set(alone[epoch])
        assert len(alone[epoch]) - len(heard[epoch]) < max(ranks)  # fewer than the ranks may be left over


@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
def test_saved_after_any_update_another_number_of_ranks_hears_the_rest(folder, engine, tmp_path):
    """The real plan, loader and record of place, for every update of a pass."""
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")

    def heard(size: int, progress: Progress) -> list[list[tuple[int, str]]]:
        """(row, hash) by update, of all ranks."""
        updates: list[list[tuple[int, str]]] = []
        for rank in range(size):
            config = configured(
                folder, "good.tsv", f"run.dir={tmp_path}", f"data.engine={engine}", "data.num_workers=1"
            )
            _, source = opened(config, World(rank, size, torch.device("cpu")))
            saved = Progress(**json.loads(json.dumps(asdict(replace(progress, plan=source.fingerprint)))))
            stub = SimpleNamespace(
                names=lambda: ["step"], restore=lambda *_, saved=saved, **__: saved, settle=lambda _: None
            )
            task = SimpleNamespace(module=None, optimizer=None, document=None)
            session = SimpleNamespace(updates=source, task=task, remarks=[])
            place = starting_point(session, stub, console=Console(quiet=True))
            assert place.epoch == progress.epoch
            for i, batches in enumerate(source.epoch(place.epoch, place.update_in_epoch)):
                updates += [[]] if len(updates) <= i else []
                updates[i] += [pair for b in batches for pair in zip(b.rows, digests(b), strict=True)]
        return updates

    whole = {size: heard(size, Progress(epoch=1, ranks=size)) for size in (1, 2, 3)}
    every = {pair for update in whole[1] for pair in update}
    assert len(every) == 18
    for before, after in ((1, 2), (2, 1), (3, 2), (2, 3)):
        for k in range(1, len(whole[before])):
            done = [pair for update in whole[before][:k] for pair in update]
            if len(every) - len(done) < after:
                continue
            rest = [p for u in heard(after, Progress(epoch=1, update_in_epoch=k, ranks=before)) for p in u]
            assert len(done + rest) == len({row for row, _ in done + rest})
            assert set(done + rest) <= every
            assert len(every) - len(done + rest) < after
