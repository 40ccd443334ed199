"""Each format is written in pieces, with gaps, and read by somebody else: the same numbers, whole or not there."""

from __future__ import annotations

import errno
import json
import os
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.sinks import drafts, shard_file, tables
from audio_ssl.inference.sinks.base import PlannedRow, open_sink
from audio_ssl.inference.sinks.numbers import DTYPES_OF
from tests.unit.inference.sink_cases import (
    DIM,
    GOOD,
    ROWS,
    fill,
    frames_of,
    settings_of,
    sink_for,
    whole,
    windows,
    write_folder,
)

ROW = {row.id: row for row in ROWS}
BOTH = [(file_format, dtype) for file_format, dtypes in DTYPES_OF.items() for dtype in dtypes]


def expected(frames: np.ndarray, dtype: str) -> np.ndarray:
    """What a file may hold of these frames, said by other means than the writer's."""
    if dtype == "bf16":
        return torch.from_numpy(frames).bfloat16().float().numpy()
    if dtype == "int8":
        scale = np.float32(1 / 127) * np.abs(frames).max(-1, keepdims=True)
        return np.round(frames / scale) * scale
    return frames.astype({"fp32": np.float32, "fp16": np.float16, "int32": np.int32}[dtype])


def read_npy(folder: Path, layers: int) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.rglob("*.npy"):
        stored = np.load(path, allow_pickle=False)
        name = path.relative_to(folder).with_suffix("").as_posix()
        found[name] = stored["values"] * stored["scale"][..., None] if stored.dtype.names else stored
    return found


def read_matrix(folder: Path, layers: int) -> dict[str, np.ndarray]:
    frames, offsets = np.load(folder / "frames.npy"), np.load(folder / "offsets.npy")
    if (folder / "scales.npy").exists():
        frames = frames * np.load(folder / "scales.npy")[..., None]
    assert frames.shape[-2] == sum(row.num_frames for row in ROWS)
    assert offsets.shape == (len(ROWS), 2)
    found = {row.id: frames[..., slice(*offsets[row.row]), :] for row in ROWS}
    return {name: values for name, values in found.items() if values.shape[-2]}


def read_safetensors(folder: Path, layers: int) -> dict[str, np.ndarray]:
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= safetensors.torch.load_file(path)
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith("//scale")}
    if scales:
        tensors = {name: tensor * scales[f"{name}//scale"][..., None] for name, tensor in tensors.items()}
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}


def read_rows(rows: list[dict[str, Any]], layers: int) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {}
    suffixes = [f"_{layer}" for layer in ("6", "9")] if layers else [""]
    for row in rows:
        parts = []
        for suffix in suffixes:
            values = np.array(row[f"frames{suffix}"])
            assert len(values) == row["num_frames"]
            parts.append(values * np.array(row[f"scales{suffix}"])[:, None] if f"scales{suffix}" in row else values)
        done = found.setdefault(row["id"], [])
        assert sum(part.shape[-2] for part in done) == row["first_frame"]
        done.append(np.stack(parts) if layers else parts[0])
    return {name: np.concatenate(parts, axis=-2) for name, parts in found.items()}


def read_parquet(folder: Path, layers: int) -> dict[str, np.ndarray]:
    return read_rows([row for p in sorted(folder.glob("*.parquet")) for row in pq.read_table(p).to_pylist()], layers)


def read_arrow(folder: Path, layers: int) -> dict[str, np.ndarray]:
    tables_ = [pa.ipc.open_file(path).read_all() for path in sorted(folder.glob("*.arrow"))]
    return read_rows([row for table in tables_ for row in table.to_pylist()], layers)


def read_ark(path: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    """By Kaldi's description alone: key, space, "\\0B", "FM ", 4, rows, 4, columns, floats."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        space = data.index(b" ", at)
        key, start = data[at:space].decode(), space + 1
        assert data[start : start + 2] == b"\0B"
        assert data[start + 2 : start + 6] == b"FM \x04"
        (num_rows,) = struct.unpack("<i", data[start + 6 : start + 10])
        assert data[start + 10] == 4
        (num_columns,) = struct.unpack("<i", data[start + 11 : start + 15])
        at = start + 15 + 4 * num_rows * num_columns
        yield key, start, np.frombuffer(data[start + 15 : at], "<f4").reshape(num_rows, num_columns)


def read_kaldi(folder: Path, layers: int) -> dict[str, np.ndarray]:
    entries = {(p.name, start): (key, m) for p in folder.glob("*.ark") for key, start, m in read_ark(p)}
    found: dict[str, list[np.ndarray]] = {}
    for suffix in ("6", "9") if layers else ("",):
        lines = (folder / (f"feats_{suffix}.scp" if suffix else "feats.scp")).read_text().splitlines()
        assert lines == sorted(lines, key=lambda line: line.split(" ")[0].encode())
        for name, place in (line.split(" ", 1) for line in lines):
            path, start = place.rsplit(":", 1)
            assert Path(path).parent == folder.resolve()
            key, matrix = entries.pop((Path(path).name, int(start)))
            assert key == (f"{name}-{suffix}" if suffix else name)
            found.setdefault(name, []).append(matrix)
    assert not entries
    return {name: np.stack(parts) if layers else parts[0] for name, parts in found.items()}


READERS: dict[str, Callable[[Path, int], dict[str, np.ndarray]]] = {
    "npy": read_npy, "matrix": read_matrix, "safetensors": read_safetensors, "parquet": read_parquet,
    "arrow": read_arrow, "kaldi": read_kaldi,
}  # fmt: skip


@pytest.mark.parametrize("layers", [(), ("6", "9")], ids=["one", "two"])
@pytest.mark.parametrize(("file_format", "dtype"), BOTH)
def test_others_read_what_was_written_in_pieces(
    tmp_path: Path, file_format: str, dtype: str, layers: tuple[str, ...]
) -> None:
    is_codes = dtype == "int32"
    keys = write_folder(tmp_path, settings_of(file_format, dtype, layers), codes=is_codes)
    found = READERS[file_format](tmp_path, len(layers))
    assert sorted(found) == sorted(keys) == sorted(GOOD)
    for name, values in found.items():
        frames = frames_of(ROW[name], len(layers), codes=is_codes)
        np.testing.assert_allclose(values, expected(frames, dtype), rtol=1e-6 if dtype == "int8" else 0)
        assert (tmp_path / keys[name]["file"]).is_file()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name not in HIDDEN]
    assert ("error_percent" in keys["u0"]) == (dtype in ("fp16", "bf16", "int8"))


HIDDEN = (".drafts", ".matrix.lock")


def test_files_do_not_depend_on_the_order_in_which_utterances_come(tmp_path: Path) -> None:
    for file_format in ("safetensors", "parquet", "arrow", "kaldi"):
        written = []
        for order in (1, -1):
            folder = tmp_path / f"{file_format}{order}"
            writer = sink_for(folder, settings_of(file_format, "fp32")).open_shard("s", ROWS)
            for row in [row for row in ROWS if row.id in GOOD][::order]:
                writer.take(row.id, whole(row, frames_of(row)))
            writer.commit()
            written.append(next(folder.glob("s.*")).read_bytes())
        assert written[0] == written[1]


@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_windows_of_several_utterances_may_mix(tmp_path: Path, file_format: str) -> None:
    sink = sink_for(tmp_path, settings_of(file_format, "fp32"))
    writer, long = sink.open_shard("s", ROWS), [ROW["ann/day-2"], ROW["spoilt"]]
    for pair in zip(*(windows(row, frames_of(row)) for row in long), strict=True):
        for row, piece in zip(long, pair, strict=True):
            writer.take(row.id, piece)
    sink.finish([{"id": name, **key} for name, key in writer.commit().items()])
    found = READERS[file_format](tmp_path, 0)
    for row in long:
        np.testing.assert_array_equal(found[row.id], frames_of(row))
    assert len(found) == 2


@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_what_cannot_be_kept_is_told_and_leaves_nothing(tmp_path: Path, file_format: str) -> None:
    sink = sink_for(tmp_path, settings_of(file_format, "fp32"))
    writer, row = sink.open_shard("s", ROWS), ROW["spoilt"]
    frames = frames_of(row)
    frames[6, 2] = np.nan
    answers = [writer.take(row.id, piece) for piece in windows(row, frames)]
    reason = "the model gives NaN or infinity for it"
    assert answers == [None, reason, reason]  # also for the windows after it
    assert writer.take("u0", whole(ROW["u0"], frames_of(ROW["u0"]))) is None
    writer.drop("u6")  # nothing of it came
    keys = writer.commit()
    sink.finish([{"id": name, **key} for name, key in keys.items()])
    assert list(keys) == list(READERS[file_format](tmp_path, 0)) == ["u0"]


@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_a_shard_without_results_or_that_was_abandoned_is_no_file(tmp_path: Path, file_format: str) -> None:
    sink = sink_for(tmp_path, settings_of(file_format, "fp32"))
    assert sink.open_shard("empty", ROWS).commit() == {}
    writer = sink.open_shard("left", ROWS)
    fill(writer, ROWS)
    writer.abandon()
    assert [p for p in tmp_path.glob("[!.]*") if p.name not in ("frames.npy", "offsets.npy")] == []
    assert list(tmp_path.glob(".drafts/*/*")) == []
    if file_format == "matrix":
        offsets = np.load(tmp_path / "offsets.npy")
        assert (offsets[:, 0] == offsets[:, 1]).all()


@pytest.mark.parametrize(
    ("file_format", "dies_in"),
    [(name, call) for name in DTYPES_OF for call in ("replace", "fsync") if (name, call) != ("matrix", "replace")],
)
def test_a_kill_in_the_middle_of_a_commit_is_mended_by_the_next(
    tmp_path: Path, file_format: str, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    settings = settings_of(file_format, "fp32")
    writer = sink_for(tmp_path, settings).open_shard("shard-00000", ROWS[:5])
    fill(writer, ROWS[:5])
    calls = []

    def die(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > (1 if file_format == "npy" else 0):
            raise KilledError
        real(*arguments)

    real = os.fsync if dies_in == "fsync" else os.replace
    with monkeypatch.context() as patch:
        if dies_in == "fsync":
            patch.setattr(os, "fsync", die)
        else:
            patch.setattr(Path, "replace", die)
        with pytest.raises(KilledError):
            writer.commit()
    for path in tmp_path.glob("[!.]*.npy"):
        np.load(path)  # whole, each one
    assert not [p for p in tmp_path.glob("shard-*") if file_format != "npy"]
    write_folder(tmp_path, settings)
    found = READERS[file_format](tmp_path, 0)
    assert sorted(found) == sorted(GOOD)
    for name, values in found.items():
        np.testing.assert_array_equal(values, frames_of(ROW[name]))


@pytest.mark.parametrize("file_format", ["safetensors", "parquet", "arrow", "kaldi"])
def test_memory_does_not_grow_with_a_shard(tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 1 << 20)
    monkeypatch.setattr(tables, "ROW_BYTES", 1 << 20)
    rows = [PlannedRow(0, "long", 32_000), PlannedRow(1, "gone", 500)]  # 256 floats a frame: 33 MB
    seams = range(0, 32_001, 500)
    frames = np.random.default_rng(0).standard_normal((500, 256)).astype(np.float32)
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        writer = sink_for(tmp_path, settings_of(file_format, "fp32"), rows).open_shard("s", rows)
        for piece in windows(rows[0], np.empty((0, 256)), seams):
            writer.take("long", replace(piece, frames=frames))
        writer.take("gone", whole(rows[1], frames))
        writer.drop("gone")  # so that the file is copied
        assert writer.commit().keys() == {"long"}
        peak = tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert next(tmp_path.glob("s.*")).stat().st_size > 32_000 * 256 * 4
    assert peak < 24 << 20, peak


@pytest.mark.parametrize("layers", [(), ("6", "9")], ids=["one", "two"])
@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_pooled_vectors_have_no_axis_of_frames(tmp_path: Path, file_format: str, layers: tuple[str, ...]) -> None:
    rows = [replace(row, num_frames=1) for row in ROWS if row.id in GOOD]
    rows = [replace(row, row=number) for number, row in enumerate(rows)]
    sink = sink_for(tmp_path, settings_of(file_format, "fp32", layers, "mean+std"), rows)
    writer = sink.open_shard("s", rows)
    frames = {row.id: frames_of(ROW[row.id], len(layers)) for row in rows}
    for row in rows:
        for piece in windows(ROW[row.id], frames[row.id], (0, ROW[row.id].num_frames)):
            writer.take(row.id, piece)
    keys = writer.commit()
    sink.finish([{"id": name, **key} for name, key in keys.items()])
    vectors = {name: np.concatenate([f.mean(-2), f.std(-2)], axis=-1) for name, f in frames.items()}
    found: Any
    if file_format == "npy":
        found = {name: np.load(tmp_path / f"{name}.npy") for name in vectors}
    elif file_format == "matrix":
        found = dict(zip(vectors, np.moveaxis(np.load(tmp_path / "frames.npy"), -2, 0), strict=True))
    elif file_format == "safetensors":
        found = {n: t.numpy() for n, t in safetensors.torch.load_file(tmp_path / "s.safetensors").items()}
    elif file_format == "kaldi":
        found = {name: [] for name in vectors}
        for suffix in [f"_{layer}" for layer in layers] or [""]:
            for line in (tmp_path / f"vectors{suffix}.scp").read_text().splitlines():
                name, place = line.split(" ")
                start = int(place.rsplit(":")[1])
                data = (tmp_path / "s.ark").read_bytes()[start : start + 10 + 4 * 2 * DIM]
                assert data[:10] == b"\0BFV \x04" + struct.pack("<i", 2 * DIM)
                found[name].append(np.frombuffer(data[10:], "<f4"))
        found = {name: np.stack(parts) if layers else parts[0] for name, parts in found.items()}
    else:
        table = pq.read_table(tmp_path / "s.parquet") if file_format == "parquet" else read_ipc(tmp_path / "s.arrow")
        suffixes = [f"_{layer}" for layer in layers] or [""]
        stacked = [np.array(table[f"vector{suffix}"].to_pylist()) for suffix in suffixes]
        found = dict(zip(table["id"].to_pylist(), np.stack(stacked, 1) if layers else stacked[0], strict=True))
    assert list(found) == list(vectors)
    for name, vector in vectors.items():
        assert found[name].shape == vector.shape
        np.testing.assert_allclose(found[name], vector, rtol=1e-5, atol=1e-6)


def read_ipc(path: Path) -> pa.Table:
    return pa.ipc.open_file(path).read_all()


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_an_utterance_that_is_large_has_several_rows(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 8 * DIM * 4)
    monkeypatch.setattr(tables, "ROW_BYTES", 6 * DIM * 4)
    keys = write_folder(tmp_path, settings_of(file_format, "fp32"))
    assert [keys[name]["num_rows"] for name in GOOD] == [2, 3, 1, 2, 1]
    table = read_ipc(tmp_path / "shard-00000.arrow") if file_format == "arrow" else None
    table = table or pq.read_table(tmp_path / "shard-00000.parquet")
    assert table["id"].to_pylist() == ["u0"] * 2 + ["ann/day-2"] * 3 + ["нет"]
    assert table["first_frame"].to_pylist() == [0, 6, 0, 6, 12, 0]
    assert table["num_frames"].to_pylist() == [6, 1, 6, 6, 1, 3]
    found = READERS[file_format](tmp_path, 0)
    for name, values in found.items():
        np.testing.assert_array_equal(values, frames_of(ROW[name]))


@pytest.mark.parametrize(("dtype", "kind"), [("fp32", pa.float32()), ("fp16", pa.float16()), ("int8", pa.int8())])
def test_columns_are_fixed_size_lists_a_frame(tmp_path: Path, dtype: str, kind: pa.DataType) -> None:
    settings = settings_of("parquet", dtype)
    write_folder(tmp_path, settings)
    schema = pq.read_schema(tmp_path / "shard-00001.parquet")
    assert pa.types.is_list(schema.field("frames").type)
    assert schema.field("frames").type.value_type.list_size == DIM
    assert schema.field("frames").type.value_type.value_type == kind
    assert json.loads(schema.metadata[b"audio_ssl"]) == settings


def test_numbers_in_safetensors_are_aligned(tmp_path: Path) -> None:
    sink = sink_for(tmp_path, settings_of("safetensors", "fp32"))
    for length in range(1, 9):  # of the header, for all remainders
        row = PlannedRow(0, "u" * length, 7)
        writer = sink.open_shard(f"s{length}", [row])
        writer.take(row.id, whole(row, frames_of(ROW["u0"])))
        writer.commit()
        with (tmp_path / f"s{length}.safetensors").open("rb") as file:
            assert int.from_bytes(file.read(8), "little") % 8 == 0


@pytest.mark.parametrize("layers", [(), ("6", "9")], ids=["one", "two"])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_int8_takes_a_byte_in_parquet(tmp_path: Path, pool: str | None, layers: tuple[str, ...]) -> None:
    rows = [PlannedRow(row, f"u{row}", 1 if pool else 40) for row in range(40 if pool else 1)]
    frames = np.random.default_rng(0).standard_normal((*([2] if layers else []), 40, 512)).astype(np.float32)
    writer = sink_for(tmp_path, settings_of("parquet", "int8", layers, pool), rows).open_shard("s", rows)
    for row in rows:
        writer.take(row.id, whole(replace(row, num_frames=40), frames))
    writer.commit()
    assert (tmp_path / "s.parquet").stat().st_size < 1.3 * frames.size  # plain would be 4


@pytest.mark.parametrize("file_format", ["safetensors", "parquet", "arrow", "kaldi"])
def test_nothing_is_copied_where_nothing_was_dropped(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_file, "copy_range", None)
    rows = [row for row in ROWS if row.id != "spoilt"]  # what is too short is there
    writer = sink_for(tmp_path, settings_of(file_format, "fp32")).open_shard("s", rows)
    fill(writer, rows)
    assert len(writer.commit()) == 5


def test_safetensors_say_what_they_hold(tmp_path: Path) -> None:
    write_folder(tmp_path, settings_of("safetensors", "int8"))
    with safetensors.safe_open(tmp_path / "shard-00000.safetensors", "np") as opened:
        about = opened.metadata()
        assert list(opened.get_tensor("u0//scale").shape) == [7]
    assert about["hop_s"] == "0.02"
    assert about["model_hash"] == "h1"
    assert "ID//scale" in about["int8"]


def test_a_shard_with_too_many_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audio_ssl.inference.sinks.safetensors_shards._MAX_HEADER_BYTES", 400)
    writer = sink_for(tmp_path, settings_of("safetensors", "fp32")).open_shard("s", ROWS)
    with pytest.raises(ConfigError, match="smaller --shard-mib"):
        fill(writer, ROWS)


def test_processes_fill_one_matrix_side_by_side(tmp_path: Path) -> None:
    settings = settings_of("matrix", "fp32")
    one, other = sink_for(tmp_path, settings), sink_for(tmp_path, settings)
    writers = one.open_shard("a", ROWS[:5]), other.open_shard("b", ROWS[5:])
    fill(writers[0], ROWS[:5])
    fill(writers[1], ROWS[5:])
    assert writers[1].commit()["u5"] == {"file": "frames.npy", "first_frame": 36}
    writers[0].commit()
    np.testing.assert_array_equal(
        np.load(tmp_path / "offsets.npy"), [[0, 7], [7, 7], [7, 20], [20, 20], [33, 36], [36, 47], [47, 48]]
    )
    found = read_matrix(tmp_path, 0)
    for name in GOOD:
        np.testing.assert_array_equal(found[name], frames_of(ROW[name]))


def test_a_matrix_does_not_grow(tmp_path: Path) -> None:
    settings = settings_of("matrix", "fp32")
    write_folder(tmp_path, settings)
    before = (tmp_path / "frames.npy").read_bytes()
    more = [*ROWS, PlannedRow(7, "new", 3)]
    for rows in (more, ROWS[:-1], [replace(ROWS[0], num_frames=6), *ROWS[1:]]):
        with pytest.raises(ManifestError, match="a matrix cannot grow"):
            sink_for(tmp_path, settings, rows)
    writer = sink_for(tmp_path, settings).open_shard("s", ROWS)
    wide = np.zeros((7, DIM + 1), np.float32)
    with pytest.raises(ManifestError, match=r"must be \(54, 6\)|must be \(48, 6\)"):
        writer.take("u0", whole(ROWS[0], wide))
    assert (tmp_path / "frames.npy").read_bytes() == before


def test_a_full_disk_is_told_before_the_first_frame(tmp_path: Path) -> None:
    rows = [PlannedRow(0, "u0", 7), PlannedRow(1, "u1", 2_000_000)]
    writer = sink_for(tmp_path, settings_of("matrix", "fp32"), rows).open_shard("s", rows)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        with pytest.raises(ConfigError, match=r"must have room for 0.0 GiB, the matrix of 2000007 frames"):
            writer.take("u0", whole(rows[0], np.zeros((7, DIM), np.float32)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    writer.abandon()
    assert not list(tmp_path.glob("*.npy"))


def test_a_full_disk_under_a_shard_leaves_the_error_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for file_format in ("npy", "safetensors", "parquet", "arrow", "kaldi"):
        writer = sink_for(tmp_path / file_format, settings_of(file_format, "fp32")).open_shard("s", ROWS)
        with pytest.raises(OSError, match="No space left"):
            writer.take("ann/day-2", windows(ROWS[2], frames_of(ROWS[2]))[0])
        writer.abandon()
        assert [path for path in (tmp_path / file_format).rglob("*") if path.is_file()] == []


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: real(descriptor, data[:7], at))
    with (tmp_path / "f").open("wb") as file:
        drafts.write_at(file.fileno(), 3, np.arange(9, dtype="<f4"))
    assert (tmp_path / "f").read_bytes() == bytes(3) + np.arange(9, dtype="<f4").tobytes()


@pytest.mark.parametrize(
    ("file_format", "name", "named"),
    [
        ("kaldi", "a b", "no white space"),
        ("kaldi", "", "no white space"),
        ("safetensors", "__metadata__", "name of a tensor"),
        ("safetensors", "a//scale", "name of a tensor"),
        ("npy", "../a", "usable as a file name"),
    ],
)
def test_ids_that_a_format_cannot_have_are_refused_beforehand(
    tmp_path: Path, file_format: str, name: str, named: str
) -> None:
    rows = [PlannedRow(row, f"{name}" if row else "good", 3) for row in range(8)]
    with pytest.raises(ManifestError, match=named) as caught:
        sink_for(tmp_path, settings_of(file_format, "fp32"), rows)
    assert "and 2 more" in str(caught.value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/ann").symlink_to(tmp_path / "elsewhere")
    writer = sink_for(tmp_path / "out", settings_of("npy", "fp32")).open_shard("s", ROWS)
    fill(writer, ROWS)
    with pytest.raises(ManifestError, match="link leads out"):
        writer.commit()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("fault", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_takes_no_room_beforehand_will_do(
    tmp_path: Path, fault: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> None:
        raise OSError(fault, "not here")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    write_folder(tmp_path, settings_of("safetensors", "fp32"))
    np.testing.assert_array_equal(read_safetensors(tmp_path, 0)["ann/day-2"], frames_of(ROW["ann/day-2"]))


def test_no_such_pooling(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--pool must be mean or mean\+std, got 'max'"):
        open_sink("npy", tmp_path, dtype="fp32", pool="max")


@pytest.mark.parametrize("pool", [None, "mean"])
def test_kaldiio_reads_the_archives(tmp_path: Path, pool: str | None) -> None:
    kaldiio = pytest.importorskip("kaldiio")
    sink = sink_for(tmp_path, settings_of("kaldi", "fp32", pool=pool))
    rows = [row for row in ROWS if row.id in GOOD]
    writer = sink.open_shard("s", [replace(row, num_frames=1) for row in rows] if pool else rows)
    for row in rows:
        writer.take(row.id, whole(row, frames_of(row)))
    sink.finish([{"id": name, **key} for name, key in writer.commit().items()])
    frames = {row.id: frames_of(row).mean(0) if pool else frames_of(row) for row in rows}
    for found in (
        dict(kaldiio.load_scp(str(tmp_path / ("vectors.scp" if pool else "feats.scp")))),
        dict(kaldiio.load_ark(str(tmp_path / "s.ark"))),
    ):
        assert found.keys() == frames.keys()
        for name, values in frames.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_pandas_reads_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_folder(tmp_path, settings_of("parquet", "fp16"))
    table = pandas.read_parquet(tmp_path / "shard-00000.parquet").set_index("id")
    frames = np.stack(table.loc["ann/day-2", "frames"])
    np.testing.assert_array_equal(frames, frames_of(ROW["ann/day-2"]).astype(np.float16))
