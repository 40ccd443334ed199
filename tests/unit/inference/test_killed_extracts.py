"""kill -9 at any moment of an extraction by shards: the next run makes the folder what it would have been."""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.manifest import Manifest, Utterance
from tests.unit.inference.conftest import noise, write_wav

SHARD_MIB = 0.008  # about 130 frames of 16 numbers
LONG = 90_000  # runs in windows

Run = Callable[..., list[int]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Eleven rows of many lengths: a long one, one in a folder, one too short and one without its file."""
    root = tmp_path_factory.mktemp("killed")
    lengths = [9_000, 12_345, 7_001, 16_000, LONG, 300, 8_000, 20_000, 11_000, 6_000, 14_000]
    rows = []
    for i, length in enumerate(lengths):
        name = f"speaker/u{i}" if i == 3 else f"u{i}"
        write_wav(root / f"{name}.wav", noise(length, seed=i))
        rows.append(Utterance(name, f"{name}.wav", 0, length, 16_000))
    (root / "u8.wav").unlink()
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    return root / "list.tsv"


@pytest.fixture(scope="module")
def run(model_dir, manifest) -> Iterator[Run]:
    """Extract into a folder, in as many processes as there are ranks; the exit status of each."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.inference.killed_extracts", str(model_dir), str(manifest)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:  # fmt: skip

        def call(out: Path, *, ranks=1, kill_at_change=None, kill_after_s=None, form="npy", shard_mib=SHARD_MIB):
            job = {"out": str(out), "ranks": ranks, "kill_at_change": kill_at_change, "kill_after_s": kill_after_s}
            server.stdin.write(json.dumps(job | {"format": form, "shard_mib": shard_mib}) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield call
        server.stdin.close()


def tree(out: Path) -> dict[str, bytes]:
    """Every file below the folder, drafts and locks too."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes().replace(bytes(out), b"OUT") for path in files}


def done_in(out: Path) -> set[str]:
    """Ids that the folder says are done."""
    lines = [line for path in (*out.glob("parts/*.jsonl"), *out.glob("index.jsonl")) for line in path.open()]
    return {line["id"] for line in map(json.loads, lines) if "file" in line}


def written(out: Path, ranks: int) -> list[int]:
    return [int(Path(f"{out}.written{rank}").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory) -> dict[str, bytes]:
    """What a run that nobody disturbs leaves behind."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(out) == [0]
    found = tree(out)
    assert set(found) == {
        ".lock", "embeddings.json", "index.jsonl", "errors.jsonl", "speaker/u3.npy",
        *(f"u{i}.npy" for i in (0, 1, 2, 4, 6, 7, 9, 10)),
    }  # fmt: skip
    assert [json.loads(line)["id"] for line in found["errors.jsonl"].splitlines()] == ["u5", "u8"]
    index = [json.loads(line) for line in found["index.jsonl"].splitlines()]
    assert [line["id"] for line in index] == ["u0", "u1", "u2", "speaker/u3", "u4", "u6", "u7", "u9", "u10"]
    return found


def finishes(run: Run, out: Path, whole: dict[str, bytes], *, ranks: int, **more) -> None:
    """The next run does what is left, no more, and leaves what one run would have left."""
    before = done_in(out)
    assert run(out, ranks=ranks, **more) == [0] * ranks
    assert tree(out) == whole
    assert sum(written(out, ranks)) == 9 - len(before)


def test_ranks_do_together_what_one_does(run: Run, whole, tmp_path) -> None:
    # shards: u0 to u3; u4; u6, u7; u9, u10
    for shares in ([6, 3], [6, 1, 2], [4, 1, 2, 2, 0]):
        ranks, out = len(shares), tmp_path / str(len(shares))
        assert run(out, ranks=ranks) == [0] * ranks
        assert tree(out) == whole
        assert written(out, ranks) == shares


def changes_of(run: Run, out: Path, **more) -> list[list[str]]:
    assert run(out, kill_at_change=[10**6], **more) == [0]
    return [json.loads(line) for line in Path(f"{out}.log0").read_text().splitlines()]


def test_a_kill_between_any_two_steps_of_putting_in_place(run: Run, whole, tmp_path) -> None:
    steps = changes_of(run, tmp_path / "log")
    renames = [i for i, (event, *_) in enumerate(steps) if event == "os.rename"]
    of_parts = [i for i in renames if "parts/" in steps[i][2]]
    removed = [i for i, (event, path, *_) in enumerate(steps) if event == "os.remove" and path.startswith("parts/")]
    (index,) = (i for i in renames if steps[i][2] == "index.jsonl")
    (errors,) = (i for i in renames if steps[i][2] == "errors.jsonl")
    assert len(of_parts) == len(removed) == 4
    first = renames.index(of_parts[0])
    # data half in place; all in place and no part; a part and no more; each step of the merge
    points = [renames[first - 2], of_parts[0], of_parts[0] + 1, index, index + 1, errors, errors + 1, removed[2]]
    ranks = itertools.cycle((1, 2, 3))
    for point in points:
        out = tmp_path / str(point)
        assert run(out, kill_at_change=[point]) == [-signal.SIGKILL]
        finishes(run, out, whole, ranks=next(ranks))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_kills_of_two_ranks_at_drawn_steps(run: Run, whole, tmp_path, ranks: int) -> None:
    rng = np.random.default_rng(ranks)
    out = tmp_path / "out"
    for _ in range(3):  # killed again before it was done
        assert set(run(out, ranks=2, kill_at_change=rng.integers(0, 40, 2).tolist())) <= {0, -signal.SIGKILL}
        assert set(tree(out)) - set(whole) <= {x for x in tree(out) if x.startswith((".drafts/", "parts/"))}
    finishes(run, out, whole, ranks=ranks)


@pytest.mark.parametrize("form", ["matrix", "safetensors", "arrow", "kaldi"])
def test_kills_while_any_other_format_is_written(run: Run, tmp_path, form: str) -> None:
    assert run(tmp_path / "whole", form=form) == [0]
    whole, rng = tree(tmp_path / "whole"), np.random.default_rng(len(form))
    out = tmp_path / "out"
    for _ in range(2):
        assert set(run(out, ranks=2, form=form, kill_at_change=rng.integers(0, 30, 2).tolist())) <= {0, -9}
    finishes(run, out, whole, ranks=2, form=form)


def test_data_of_a_killed_run_that_nobody_will_finish_go(run: Run, tmp_path) -> None:
    """Killed between data and part, then cut otherwise: the data have another name."""
    steps = changes_of(run, tmp_path / "log", form="safetensors")
    at = next(i for i, (event, *paths) in enumerate(steps) if event == "os.rename" and "parts/" in paths[1])
    out = tmp_path / "out"
    run(out, form="safetensors", kill_at_change=[at])
    assert len(list(out.glob("*.safetensors"))) == 1
    assert run(out, form="safetensors", shard_mib=1) == [0]
    assert {path.name for path in out.glob("*.safetensors")} == {
        json.loads(line)["file"] for line in (out / "index.jsonl").open()
    }
    assert len(list(out.glob("*.safetensors"))) == 1


def test_kills_of_two_ranks_at_drawn_times(run: Run, whole, tmp_path) -> None:
    rng = np.random.default_rng(7)
    out, times = tmp_path / "out", rng.uniform(0.0, 0.15, 5)
    for seconds in times.tolist():
        run(out, ranks=2, kill_after_s=seconds)
    finishes(run, out, whole, ranks=2)


def test_a_run_over_a_whole_folder_touches_nothing(run: Run, whole, tmp_path) -> None:
    out = tmp_path / "out"
    run(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    finishes(run, out, whole, ranks=2)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before
