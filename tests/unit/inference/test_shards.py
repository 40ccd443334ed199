"""Shards as plain arithmetic, ranks as the environment says them, and what a folder's index is made of."""

import fcntl
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.folder import OutputFolder
from audio_ssl.inference.index import FolderIndex
from audio_ssl.inference.ranks import Rank
from audio_ssl.inference.rows import BLOCK_ROWS, Rows
from audio_ssl.inference.shards import PlannedRows, cut, name_of
from audio_ssl.inference.source import Refusal


def shards_of(num_bytes: list[float], seconds: list[float] | None = None, *, shard_bytes: float = 100) -> list[tuple]:
    seconds = [0.0] * len(num_bytes) if seconds is None else seconds
    found = cut(np.array(num_bytes, dtype=float), np.array(seconds), shard_bytes=shard_bytes)
    return [(shard.first, shard.stop) for shard in found]


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([30, 30, 30], [(0, 3)]),
        ([30] * 7, [(0, 2), (2, 5), (5, 7)]),  # 210 bytes in 3 shards of 70: middles at 15, 45 | 75, 105, 135 | 165 ...
        ([25] * 6, [(0, 3), (3, 6)]),  # even, not 4 and 2
        ([10, 500, 10], [(0, 1), (1, 2), (2, 3)]),  # a long one is one of its own
    ],
)
def test_shards_are_even_and_as_large_as_they_may_be(num_bytes, expected) -> None:
    assert shards_of(num_bytes) == expected


def test_an_hour_of_audio_or_ten_thousand_rows_make_a_shard_too() -> None:
    assert shards_of([0.0] * 4, [1800.0] * 4) == [(0, 2), (2, 4)]
    assert shards_of([0.0] * 20_000) == [(0, 10_000), (10_000, 20_000)]


@given(st.lists(st.floats(0, 300), min_size=1, max_size=60), st.floats(10, 200))
def test_every_row_is_in_one_shard_and_none_is_far_too_large(num_bytes, shard_bytes) -> None:
    found = shards_of(num_bytes, shard_bytes=shard_bytes)
    assert [first for first, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == len(num_bytes)
    for first, stop in found:
        rows = [max(size, shard_bytes / 10_000) for size in num_bytes[first:stop]]
        assert first < stop
        assert sum(rows) <= (shard_bytes + (rows[0] + rows[-1]) / 2) * 1.000001


def manifest_of(ids: list[str], *, lengths: int = 1000) -> Manifest:
    return Manifest.from_rows([Utterance(i, f"{i}.wav", 0, lengths, 16_000) for i in ids], root=Path("/speech"))


def test_a_name_is_that_of_its_rows_alone() -> None:
    rows = Rows(manifest_of(["a", "b", "c"]))
    assert name_of(rows, [0, 1]) == name_of(Rows(manifest_of(["a", "b", "z"])), [0, 1])
    others = [name_of(rows, [0, 2]), name_of(rows, [0]), name_of(Rows(manifest_of(["a", "b"], lengths=999)), [0, 1])]
    assert len({name_of(rows, [0, 1]), *others}) == 4
    assert all(name.startswith("00000000-") for name in others)


def test_rows_are_found_by_id_in_any_order() -> None:
    ids = [f"u{i}" for i in range(BLOCK_ROWS + 7)]
    rows = Rows(manifest_of(ids))
    order = np.random.default_rng(0).permutation(len(ids))[:20].tolist()
    assert [rows.find(f"u{i}") for i in [*order, 3, 4, 5]] == [*order, 3, 4, 5]
    assert rows.find("other") is None
    planned = PlannedRows(rows, np.arange(len(ids)))
    assert (planned[-1].row, planned[-1].id, planned[-1].num_frames) == (len(ids) - 1, ids[-1], len(ids) - 1)
    assert [row.id for row in planned[1:3]] == ["u1", "u2"]


def test_the_digest_of_an_input_sees_every_part_of_it() -> None:
    digests = {
        Rows(manifest).digest()
        for manifest in (
            manifest_of(["a", "b"]),
            manifest_of(["b", "a"]),
            manifest_of(["a"]),
            manifest_of(["a", "b"], lengths=999),
            Manifest(manifest_of(["a", "b"]).table, root=Path("/other")),
        )
    }
    assert len(digests) == 5


def test_ranks_as_torchrun_sets_them() -> None:
    assert Rank.of_environment({}) == Rank(0, 1)
    assert Rank.of_environment({"WORLD_SIZE": "1"}) == Rank(0, 1)
    assert Rank.of_environment({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}) == Rank(3, 4, 1)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WORLD_SIZE": "2"}, "both RANK and WORLD_SIZE .* got RANK=not set, WORLD_SIZE=2"),
        ({"RANK": "0"}, "both RANK and WORLD_SIZE"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "whole numbers, or neither, got RANK=-1"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE=two"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK must be 0 to WORLD_SIZE - 1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK must be 0 to WORLD_SIZE - 1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK must be a whole number, got 'x'"),
    ],
)
def test_ranks_that_cannot_be_are_refused(environment, named) -> None:
    with pytest.raises(ConfigError, match=named):
        Rank.of_environment(environment)


def test_each_rank_of_a_machine_has_its_own_gpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert [Rank(i, 8, i % 4).device("auto") for i in (0, 1, 7)] == ["cuda:0", "cuda:1", "cuda:3"]
    assert Rank(1, 8, 1).device("cpu") == "cpu"
    assert Rank(1, 8, 1).device("cuda:2") == "cuda:2"
    assert Rank().device("auto") == "auto"


def line(name: str, **more: object) -> dict:
    return {"id": name, "path": f"/speech/{name}.wav", "start": 0, "num_samples": 1000, "file": f"{name}.npy"} | more


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("a", "b", "c", "old1", "old2"):
        (tmp_path / f"{name}.npy").touch()
    (tmp_path / "embeddings.json").write_text('{"version": 1}')
    (tmp_path / "parts").mkdir()
    return tmp_path


def write(path: Path, *lines: dict) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_the_index_is_put_together_in_the_order_of_the_input(out: Path) -> None:
    write(out / "index.jsonl", line("old1"), line("b"), line("gone"))
    write(out / "errors.jsonl", {"id": "c", "path": "x", "reason": "old"}, {"id": "never", "path": "x", "reason": "r"})
    write(out / "parts/00000002-b.jsonl", line("c"), {"id": "d", "path": "/speech/d.wav", "reason": "why"})
    write(out / "parts/00000000-a.jsonl", line("a", num_frames=7), line("b"), line("old2"))
    rows = Rows(manifest_of(["a", "b", "c", "d"]))
    with OutputFolder(out, {}, "plan") as folder:
        index = FolderIndex(folder, rows)
        assert index.is_done.tolist() == [True, True, True, False]
        assert index.merge([Refusal("e.wav", "/speech/e.wav", "empty")])
        assert (out / "parts").is_dir()  # another process may be about to place a part there
    assert ids(out / "index.jsonl") == ["old1", "old2", "a", "b", "c"]  # earlier inputs first, nothing twice
    assert json.loads((out / "index.jsonl").read_text().splitlines()[2]) == line("a", num_frames=7)
    assert ids(out / "errors.jsonl") == ["e.wav", "d"]
    assert not (out / "parts").exists()
    assert not (out / ".drafts").exists()


def test_the_index_waits_for_rows_that_nobody_has_tried(out: Path) -> None:
    write(out / "parts/00000000-a.jsonl", line("a"))
    rows = Rows(manifest_of(["a", "b", "c"]))
    with OutputFolder(out, {}, "plan") as folder:
        index = FolderIndex(folder, rows)
        assert not index.merge([])
        index.write_part("00000001-x", [line("b"), {"id": "c", "path": "x", "reason": "why"}])
        assert index.merge([])
    assert ids(out / "index.jsonl") == ["a", "b"]
    assert ids(out / "errors.jsonl") == ["c"]


@pytest.mark.parametrize("text", ["no json\n", "[]\n", '{"id": "a"}\n', '{"id": 3, "file": 4}\n', '{"file": "a"}\n'])
def test_a_line_that_is_not_ours_is_named(out: Path, text: str) -> None:
    write(out / "index.jsonl", line("old1"))
    with (out / "index.jsonl").open("a") as index:
        index.write(text)
    with (
        OutputFolder(out, {}, "plan") as folder,
        pytest.raises(ManifestError, match=r"index.jsonl:2 must be a line that `audio-ssl extract` wrote"),
    ):
        FolderIndex(folder, Rows(manifest_of(["a"])))


def test_settings_are_written_once_and_compared(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, {"layer": "2", "frame_rule": "words"}, "plan"):
        pass
    written = (tmp_path / "embeddings.json").read_bytes()
    assert json.loads(written) == {"version": 1, "layer": "2", "frame_rule": "words"}
    with OutputFolder(tmp_path, {"layer": "2", "frame_rule": "other words"}, "another plan"):
        pass
    assert (tmp_path / "embeddings.json").read_bytes() == written
    for settings in ({"layer": "3"}, {}, {"layer": "2", "exact": True}):
        with pytest.raises(ManifestError, match="made otherwise"), OutputFolder(tmp_path, settings, "plan"):
            pass


def test_a_folder_of_an_older_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").touch()
    with (
        pytest.raises(ManifestError, match=r"must hold embeddings.json beside index.jsonl"),
        OutputFolder(tmp_path, {}, "plan"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["index.jsonl"]


def test_what_a_killed_run_left_goes_and_nothing_else(tmp_path: Path) -> None:
    names = ["00000000-0123456789ab.ark", "00000000-0123456789ab.npy", "00000000-0123456789abc.ark", "notes.txt"]
    for name in (*names, "00000001-0123456789ab.ark", "00000002-0123456789ab.ark"):
        (tmp_path / name).touch()
    (tmp_path / ".drafts/shard").mkdir(parents=True)
    (tmp_path / "parts").mkdir()
    (tmp_path / "embeddings.json").write_text('{"version": 1}')
    write(tmp_path / "index.jsonl", line("a", file="00000001-0123456789ab.ark"))
    write(tmp_path / "parts/p.jsonl", line("b", file="00000002-0123456789ab.ark"))
    with OutputFolder(tmp_path, {}, "plan"):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        *names[1:], "00000001-0123456789ab.ark", "00000002-0123456789ab.ark",
        "parts", "embeddings.json", "index.jsonl", ".lock",
    }  # fmt: skip


def test_a_draft_of_one_at_work_stays(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, {}, "plan") as first:
        draft = first.draft("x")
        draft.touch()
        with (
            OutputFolder(tmp_path, {}, "plan") as second,
            first.locked("shard") as is_ours,
            second.locked("shard") as is_theirs,
        ):
            assert (is_ours, is_theirs) == (True, False)
        assert draft.exists()
        with pytest.raises(ManifestError, match="one input at a time"), OutputFolder(tmp_path, {}, "other"):
            pass
        assert draft.exists()
    assert not (tmp_path / ".drafts").exists()


def test_who_waits_for_a_first_one_that_dies_is_the_first_one(tmp_path: Path, monkeypatch) -> None:
    first, flock = (tmp_path / ".lock").open("ab"), fcntl.flock
    flock(first, fcntl.LOCK_EX)

    def dies_meanwhile(lock, operation: int) -> None:
        if operation == fcntl.LOCK_SH:
            first.close()  # before it wrote anything
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", dies_meanwhile)
    with OutputFolder(tmp_path, {}, "plan"):
        assert (tmp_path / ".lock").read_text() == "plan"
        assert (tmp_path / "embeddings.json").is_file()
