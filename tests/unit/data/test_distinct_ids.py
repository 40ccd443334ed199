"""Ids of rows that are written as they come: which clash, exactly, whatever their hashes are."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.data import distinct_ids
from audio_ssl.data.distinct_ids import IdHashes, with_whole_ids
from audio_ssl.errors import ManifestError

Row = tuple[str, str, int]  # id, path, start


def batches_of(rows: list[Row], size: int) -> list[pa.RecordBatch]:
    schema = pa.schema(
        [pa.field("path", pa.string()), pa.field("id", pa.string(), nullable=False), pa.field("start", pa.int64())]
    )
    return [
        pa.record_batch(
            {
                "path": [path for _, path, _ in rows[i : i + size]],
                "id": [name for name, _, _ in rows[i : i + size]],
                "start": pa.array([start for _, _, start in rows[i : i + size]], pa.int64()),
            },
            schema=schema,
        )
        for i in range(0, len(rows), size)
    ]


def final_ids(rows: list[Row], *, size: int = 3) -> list[str]:
    batches = batches_of(rows, size)
    ids = IdHashes()
    for batch in batches:
        ids.add(batch.column("id").to_pylist())
    renamed = list(with_whole_ids(batches, ids.clashing(batches)))
    assert [batch.schema for batch in renamed] == [batch.schema for batch in batches]
    assert [batch.column("path") for batch in renamed] == [batch.column("path") for batch in batches]
    return [name for batch in renamed for name in batch.column("id").to_pylist()]


@pytest.fixture(params=["own", "one", "three"])
def any_hash(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes as they are; one for all ids; the same for ids of the same length modulo 3."""
    if request.param != "own":
        forced = {"one": lambda _: -7, "three": lambda name: len(name) % 3 - 1}[request.param]
        monkeypatch.setattr(distinct_ids, "_hash", forced)


@pytest.mark.usefixtures("any_hash")
def test_rows_whose_ids_clash_take_their_whole_path():
    rows = [
        ("a", "a.flac", 0),
        ("a", "a.wav", 0),
        ("b", "b.wav", 0),
        ("s1", "long.wav", 0),
        ("s1", "long.wav", 500),
        ("s2", "long.wav", 900),
        ("c", "x/c.wav", 0),
        ("s2", "other.wav", 0),
    ]
    assert final_ids(rows) == ["a.flac", "a.wav", "b", "long.wav", "long.wav:500", "long.wav:900", "c", "other.wav"]


@pytest.mark.usefixtures("any_hash")
def test_ids_that_differ_stay_whatever_their_hashes():
    rows = [(f"id {i}", f"{i}.wav", 0) for i in range(20)]
    assert final_ids(rows) == [f"id {i}" for i in range(20)]
    assert final_ids([]) == []


@pytest.mark.usefixtures("any_hash")
def test_a_whole_path_that_is_another_rows_id_makes_that_row_take_its_path_too():
    rows = [("a", "a.flac", 0), ("a", "a.wav", 0), ("a.wav", "a.wav.mp3", 0), ("a.wav.mp3", "a.wav.mp3.ogg", 0)]
    assert final_ids(rows) == ["a.flac", "a.wav", "a.wav.mp3", "a.wav.mp3.ogg"]


@pytest.mark.usefixtures("any_hash")
def test_rows_that_differ_in_nothing_are_refused_by_name():
    rows = [("x", "x.wav", 0), ("s", "r.wav", 100), ("t", "r.wav", 0), ("s", "r.wav", 100)]
    with pytest.raises(ManifestError) as raised:
        final_ids(rows)
    assert "break the manifest's rules" in str(raised.value)
    assert "manifest row 4 (r.wav:100, r.wav): id 'r.wav:100' is already that of manifest row 2" in str(raised.value)
    assert str(raised.value).count("\n") == 1


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "a.wav", "c"]), st.integers(0, 2)), max_size=20, unique=True),
    st.integers(1, 7),
)
def test_as_if_all_ids_were_counted(keys: list[tuple[str, int]], size: int):
    rows = [(name, f"{name}-{number}.wav", number) for name, number in keys]
    counts = Counter(name for name, _, _ in rows)
    wanted = [name if counts[name] == 1 else f"{path}:{start}" if start else path for name, path, start in rows]
    assert final_ids(rows, size=size) == wanted
