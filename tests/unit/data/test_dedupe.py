"""Equal audio by its bytes: which row stays, what is named, and how little is read."""

from dataclasses import replace
from pathlib import Path

import pytest

from audio_ssl.data import dedupe as dedupe_module
from audio_ssl.data.dedupe import drop_duplicates
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.pack import write_shards


@pytest.fixture
def twins(tmp_path: Path, write_audio) -> Manifest:
    """b.flac is a.flac again; c.flac has their size and other bytes; d.flac has a size of its own."""
    for name, seed in (("a.flac", 0), ("b.flac", 0), ("d.flac", 1)):
        write_audio(tmp_path / name, 9000 if name == "d.flac" else 8000, seed=seed)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[-1] ^= 1
    (tmp_path / "c.flac").write_bytes(content)
    rows = [Utterance(n, f"{n[0]}.flac", 0, 8000, 16000, text="x") for n in ("a", "b", "c", "d")]
    rows.append(Utterance("b2", "b.flac", 100, 500, 16000, text="y"))
    rows.append(Utterance("a2", "a.flac", 100, 500, 16000, text="z"))
    rows.append(Utterance("a3", "a.flac", 100, 501, 16000))
    rows.append(Utterance("d2", "d.flac", 0, 8000, 16000))
    return Manifest.from_rows(rows, root=tmp_path)


def check(result: object) -> None:
    assert result.manifest.column("id") == ["a", "c", "d", "b2", "a3"]
    assert [(r.reason, r.detail.partition(" (")[0]) for r in result.refusals] == [
        ("duplicate", "b has the same audio as a"),
        ("duplicate", "a2 has the same audio as b2"),
        ("duplicate", "d2 has the same audio as d"),
    ]
    assert (result.num_duplicates, result.num_texts_differ) == (3, 1)


def test_the_first_of_equal_rows_stays(twins: Manifest):
    result = drop_duplicates(twins)
    check(result)
    assert [r.path for r in result.refusals] == ["b.flac", "a.flac", "d.flac"]
    assert list(result.manifest) == [twins[i] for i in (0, 2, 3, 4, 6)]


def test_rows_in_shards_are_compared_by_their_own_bytes(twins: Manifest, tmp_path: Path):
    check(drop_duplicates(with_c(twins, tmp_path)))


def with_c(twins: Manifest, tmp_path: Path) -> Manifest:
    """A pack over the good files, and c.flac (which no pack takes) as it is."""
    packed = write_shards(twins.select([0, 1, 3, 4, 5, 6, 7]), tmp_path / "p", shard_bytes=10**9).manifest
    rows = [replace(row, path=str(tmp_path / "p" / row.path)) for row in packed]
    return Manifest.from_rows([*rows[:2], twins[2], *rows[2:]], root=twins.root)


def test_only_files_of_equal_size_are_read(twins: Manifest, monkeypatch: pytest.MonkeyPatch):
    read = []
    original = dedupe_module.digest_of
    monkeypatch.setattr(dedupe_module, "digest_of", lambda file: (read.append(file.name), original(file))[1])
    drop_duplicates(twins)
    assert sorted(read) == ["a.flac", "b.flac", "c.flac"]


def test_rows_whose_file_cannot_be_read_are_named(twins: Manifest):
    twins.audio_path(3).unlink()
    result = drop_duplicates(twins)
    assert [(r.path, r.reason) for r in result.refusals if r.reason != "duplicate"] == [("d.flac", "unreadable")] * 2
    assert result.manifest.column("id") == ["a", "c", "b2", "a3"]
    assert result.num_duplicates == 2
