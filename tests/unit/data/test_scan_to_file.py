"""A scan into a file: rows and refusals as ``scan`` gives them, few of them held, and nothing half-written."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audio_ssl.data import scan as scan_module
from audio_ssl.data import sidecars
from audio_ssl.data.audio import AudioInfo
from audio_ssl.data.checks import Refusal
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.scan import ScanSettings, scan, scan_to_file
from audio_ssl.data.scan_report import ScanReport
from audio_ssl.errors import ManifestError

INFO = AudioInfo(16000, 16000, 1, "WAV", "PCM_16")


def build(root: Path, out: Path, **settings) -> ScanReport:
    return scan_to_file(root, out, settings=ScanSettings(**settings))


def empty_files(root: Path, count: int, *, extension: str = "wav") -> Path:
    """Names alone, a hundred a folder; ``fake_inspector`` makes audio of them."""
    for i in range(count):
        folder = root / f"{i // 100:03d}"
        if i % 100 == 0:
            folder.mkdir(parents=True)
        (folder / f"u{i:05d}.{extension}").touch()
    return root


@pytest.fixture
def fake_inspector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "inspect_file", lambda path, *, name, check: INFO)


@pytest.mark.parametrize("suffix", [".arrow", ".parquet", ".tsv", ".TSV"])
@pytest.mark.parametrize("rows_a_batch", [1, 4, 1000])
def test_a_file_holds_what_scan_gives(
    bad_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, rows_a_batch: int
):
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", rows_a_batch)
    out = tmp_path / f"m{suffix}"
    report = build(bad_folder, out, max_s=0.9)
    wanted = scan(bad_folder, max_s=0.9)
    assert list(Manifest.read(out)) == list(wanted.manifest)
    assert Manifest.read(out).root == bad_folder
    lines = (tmp_path / f"m{suffix}.refused.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == ["path\treason\tdetail", *("\t".join((r.path, r.reason, r.detail)) for r in wanted.refusals)]
    assert report == ScanReport(*(getattr(wanted, name) for name in ScanReport.__dataclass_fields__))
    assert (report.num_rows, round(report.hours * 3600)) == (6, 3605)
    assert [(kind.reason, kind.count, kind.example.path) for kind in report.refused] == [
        ("truncated", 2, "cut.flac"),
        ("NaN or infinity", 1, "nan.wav"),
        ("too short", 1, "short.wav"),
        ("not audio", 1, "text.wav"),
        ("empty file", 1, "zero.flac"),
    ]
    assert report.notes[0].startswith("6 rows are longer than 0.9 s (the longest has 3600.0 s: hour.flac)")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"m{suffix}", f"m{suffix}.refused.tsv"]


@pytest.mark.parametrize("suffix", [".arrow", ".parquet", ".tsv"])
def test_ids_that_clash_batches_apart_are_told_apart(
    tmp_path: Path, write_audio, monkeypatch: pytest.MonkeyPatch, suffix: str
):
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", 2)
    for name in ("a.flac", "a.x/b.wav", "a.x/c.wav", "a.x/d.wav", "a.wav", "b.wav", "c/a.wav"):
        write_audio(tmp_path / "audio" / name, 1000)
    build(tmp_path / "audio", tmp_path / f"m{suffix}")
    rows = [(row.id, row.path) for row in Manifest.read(tmp_path / f"m{suffix}")]
    assert rows == [
        ("a.flac", "a.flac"),
        ("a.wav", "a.wav"),
        ("a.x/b", "a.x/b.wav"),
        ("a.x/c", "a.x/c.wav"),
        ("a.x/d", "a.x/d.wav"),
        ("b", "b.wav"),
        ("c/a", "c/a.wav"),
    ]


@pytest.mark.usefixtures("fake_inspector")
def test_arrow_and_parquet_are_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", 40)
    root = empty_files(tmp_path / "audio", 100)
    for suffix in (".arrow", ".parquet"):
        build(root, tmp_path / f"m{suffix}")
    with pa.memory_map(str(tmp_path / "m.arrow")) as source:
        reader = pa.ipc.open_file(source)
        assert [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)] == [40, 40, 20]
    assert pq.ParquetFile(tmp_path / "m.parquet").num_row_groups == 3


def test_refusals_stand_in_the_order_of_paths_with_those_of_sidecars(tmp_path: Path, write_audio):
    write_audio(tmp_path / "audio" / "c.wav", 1000)
    for name in ("b.wav", "d.wav", "f.wav"):
        (tmp_path / "audio" / name).touch()
    (tmp_path / "audio" / "wav.scp").write_text("u1 e.wav\nu2 a |\nu3 c.wav\n")
    report = build(tmp_path / "audio", tmp_path / "m.tsv")
    lines = (tmp_path / "m.tsv.refused.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == ["a |", "b.wav", "d.wav", "e.wav", "f.wav"]
    assert report.refusal_counts() == {"empty file": 3, "command in wav.scp": 1, "missing file": 1}
    assert Manifest.read(tmp_path / "m.tsv").column("id") == ["u3"]


def peak_bytes(root: Path, out: Path) -> int:
    """Most bytes that Python and Arrow held at once during a scan.

    The lower of two runs: tables of the interpreter, as that of interned strings, grow now and then for good.
    """
    return min(_peak_bytes(root, out) for _ in range(2))


def _peak_bytes(root: Path, out: Path) -> int:
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    gc.collect()
    tracemalloc.start()
    try:
        build(root, out, num_workers=2)
        return tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.parametrize("suffix", [".arrow", ".parquet", ".tsv"])
@pytest.mark.parametrize("is_refused", [False, True])
def test_memory_does_not_grow_with_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, is_refused: bool
):
    """Ten times the files: 8 bytes a row, not the 500 and more of a row or a refusal held as objects."""

    def inspect(path: Path, *, name: str, check: str) -> AudioInfo | Refusal:
        return Refusal(name, "odd", name * 5) if is_refused and not name.endswith("00.wav") else INFO

    monkeypatch.setattr(scan_module, "inspect_file", inspect)
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", 256)
    monkeypatch.setattr(scan_module, "FILES_IN_FLIGHT", 64)
    few = empty_files(tmp_path / "few", 600)
    many = empty_files(tmp_path / "many", 6000)
    grown = peak_bytes(many, tmp_path / f"many{suffix}") - peak_bytes(few, tmp_path / f"few{suffix}")
    assert len(Manifest.read(tmp_path / f"many{suffix}")) == (60 if is_refused else 6000)
    assert grown < 5400 * 40


def test_few_files_are_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first file is slow: others go on up to the window, and no further."""
    root = empty_files(tmp_path / "audio", 600)
    lock, looked_at, most = threading.Lock(), 0, 0
    release = threading.Event()

    def inspect(path: Path, *, name: str, check: str) -> AudioInfo:
        nonlocal looked_at
        if name == "000/u00000.wav":
            assert release.wait(10)
        with lock:
            looked_at += 1
            if looked_at == 39:
                release.set()
        return INFO

    def progress(done: int, total: int) -> None:
        nonlocal most
        most = max(most, looked_at - done)
        assert total == 600

    monkeypatch.setattr(scan_module, "inspect_file", inspect)
    monkeypatch.setattr(scan_module, "FILES_IN_FLIGHT", 40)
    monkeypatch.setattr(scan_module, "_FILES_A_CHUNK", 1)
    scan_to_file(root, tmp_path / "m.arrow", settings=ScanSettings(num_workers=3), progress=progress)
    assert looked_at == 600
    assert 38 <= most <= 40


def test_threads_that_finish_in_any_order_give_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    generator = random.Random(5)

    def inspect(path: Path, *, name: str, check: str) -> AudioInfo | Refusal:
        time.sleep(generator.random() / 500)
        number = int(name[-9:-4])
        return Refusal(name, "odd", "") if number % 7 == 0 else AudioInfo(1000 + number, 8000, 1, "WAV", "PCM_16")

    monkeypatch.setattr(scan_module, "inspect_file", inspect)
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", 64)
    root = empty_files(tmp_path / "audio", 300)
    for num_workers in (1, 3, 8):
        build(root, tmp_path / str(num_workers) / "m.arrow", num_workers=num_workers)
    for name in ("m.arrow", "m.arrow.refused.tsv"):
        assert len({(tmp_path / str(n) / name).read_bytes() for n in (1, 3, 8)}) == 1
    assert Manifest.read(tmp_path / "1" / "m.arrow").column("num_samples")[:7] == [
        1001,
        1002,
        1003,
        1004,
        1005,
        1006,
        1008,
    ]


@pytest.mark.usefixtures("fake_inspector")
def test_rows_are_on_the_disk_while_files_are_still_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", 10)
    root = empty_files(tmp_path / "audio", 100)
    sizes: list[int] = []

    def progress(done: int, total: int) -> None:
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "out").glob(".m.arrow.*.rows")))

    scan_to_file(root, tmp_path / "out" / "m.arrow", settings=ScanSettings(), progress=progress)
    assert sizes[50] > sizes[20] > sizes[5]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.usefixtures("fake_inspector")
def test_a_scan_that_is_stopped_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type):
    monkeypatch.setattr(scan_module, "ROWS_A_BATCH", 16)
    root = empty_files(tmp_path / "audio", 200)
    out = tmp_path / "out" / "m.arrow"
    build(root, out)
    (out.parent / "m.arrow.refused.tsv").write_text("old\n")
    before = {path.name: path.read_bytes() for path in out.parent.iterdir()}
    (root / "000" / "u00000.wav").unlink()

    def stop(done: int, total: int) -> None:
        if done == 100:
            raise error

    with pytest.raises(error):
        scan_to_file(root, out, settings=ScanSettings(), progress=stop)
    assert {path.name: path.read_bytes() for path in out.parent.iterdir()} == before
    assert threading.active_count() < 8  # nobody goes on working


def test_a_killed_scan_leaves_the_old_manifest(tmp_path: Path, write_audio):
    for i in range(5):
        write_audio(tmp_path / "audio" / f"{i}.wav", 1000)
    out = tmp_path / "m.arrow"
    build(tmp_path / "audio", out)
    before = out.read_bytes()
    (tmp_path / "audio" / "bad.wav").touch()
    code = (
        "import sys, time; from pathlib import Path; from audio_ssl.data import scan\n"
        "scan.ROWS_A_BATCH = 2\n"
        "def stop(done, total):\n"
        "    if done == 5: print('here', flush=True); time.sleep(60)\n"
        "scan.scan_to_file(sys.argv[1], Path(sys.argv[2]), settings=scan.ScanSettings(), progress=stop)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "audio"), str(out)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"here\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert out.read_bytes() == before
    assert not (tmp_path / "m.arrow.refused.tsv").exists()
    report = build(tmp_path / "audio", out)  # and nothing of it stands in the way
    assert (report.num_rows, report.refusal_counts()) == (5, {"empty file": 1})


def test_without_a_usable_file_the_list_alone_is_written(tmp_path: Path):
    root = empty_files(tmp_path / "audio", 3)
    (tmp_path / "m.arrow").write_bytes(b"old")
    with pytest.raises(
        ManifestError, match=r"at least one usable audio file; refused: 3 empty file; see .*m\.arrow\.r"
    ):
        build(root, tmp_path / "m.arrow")
    assert (tmp_path / "m.arrow").read_bytes() == b"old"
    assert len((tmp_path / "m.arrow.refused.tsv").read_text().splitlines()) == 4


def test_what_cannot_be_written_is_said_before_the_audio_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = empty_files(tmp_path / "audio", 3)
    monkeypatch.setattr(scan_module, "inspect_file", lambda *_, **__: pytest.fail("looked at a file"))
    with pytest.raises(ManifestError, match=r"must end in \.arrow, \.parquet or \.tsv"):
        build(root, tmp_path / "m.txt")
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match="must be writable"):
        build(root, tmp_path / "file" / "m.arrow")
    with pytest.raises(ManifestError, match="speaker-from must be"):
        build(root, tmp_path / "m.arrow", speaker_from="(")


def test_a_manifest_inside_the_scanned_folder_is_not_counted(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 1000)
    first = build(tmp_path, tmp_path / "new" / "m.arrow")
    second = build(tmp_path, tmp_path / "new" / "m.arrow")
    assert (first.skipped, second.skipped) == ({}, {".arrow": 1})
    assert first.notes == second.notes == ()


@pytest.mark.usefixtures("fake_inspector")
def test_names_are_held_only_where_a_sidecar_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = empty_files(tmp_path / "audio", 20)
    (root / "000" / "u00003.txt").write_text("three")
    (root / "transcripts.tsv").write_text("id\ttext\n")
    made: list[int] = []
    names_of = sidecars._Names.of
    monkeypatch.setattr(sidecars._Names, "of", lambda names: made.append(1) or names_of(names))
    assert scan(root).manifest.column("text")[2:5] == [None, "three", None]
    assert made == []
    (root / "transcripts.tsv").write_text("id\ttext\nu00004\tfour\nu00005\tfive\n")
    assert scan(root).manifest.column("text")[3:6] == ["three", "four", "five"]
    assert made == [1]


def test_an_empty_file_whose_name_is_not_utf8_is_listed(tmp_path: Path, write_audio):
    write_audio(tmp_path / "audio" / "good.wav", 1000)
    Path(os.fsdecode(os.fsencode(tmp_path / "audio") + b"/caf\xe9.wav")).touch()
    report = build(tmp_path / "audio", tmp_path / "m.tsv")
    assert report.refusal_counts() == {"unreadable": 1}
    assert (tmp_path / "m.tsv.refused.tsv").read_text().splitlines()[
        1
    ] == "caf\\\\xe9.wav\tunreadable\tits path is not UTF-8"
