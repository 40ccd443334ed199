"""Audio on a web server that breaks off, stalls and refuses: tried again, then counted; nothing hangs or leaks."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar, TypeVar

import fsspec
import numpy as np
import pytest
from fsspec.asyn import AsyncFileSystem

from audio_ssl.data import remote as remote_module
from audio_ssl.data.addresses import Address, RemoteFile
from audio_ssl.data.audio import load_waveform, probe, read_audio
from audio_ssl.data.cache import AudioCache, current_cache, use_cache
from audio_ssl.data.checks import Refusal, inspect_file
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.pack import write_shards
from audio_ssl.data.packed import open_bytes, size_bytes
from audio_ssl.data.remote import Fetcher, OutsideShardError, TransferError, TransferSettings
from audio_ssl.data.summary import find_faults
from audio_ssl.errors import AudioError, AudioSSLError, MissingExtraError
from tests.unit.data.bad_recordings import BAD as BAD_RECORDINGS
from tests.unit.data.bad_recordings import SPANS, listed_rows, opened
from tests.unit.data.file_server import FileServer, file_server

T = TypeVar("T")
PATIENT = TransferSettings(first_wait_s=0.01)  # a busy machine must not look like a server that stalls
BRISK = replace(PATIENT, stall_s=0.5)
HANGS_S = 120  # far above what any case takes here


def ends(work: Callable[[], T]) -> T:
    """What a piece of work gives, or a failure where it hangs."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=HANGS_S)


def read_through(fetch: Callable[[RemoteFile, Path], None], folder: Path) -> None:
    use_cache(AudioCache(folder, max_bytes=10**8, fetch=fetch))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    """A web server, and a cache of this test alone to read it through."""
    read_through(Fetcher(PATIENT), tmp_path / "cache")
    with file_server() as running:
        yield running
    use_cache(None)


def whole(url: str) -> RemoteFile:
    return RemoteFile(Address(url), id="row")


KINDS = [
    ("a.wav", {}, 16000), ("語 2.flac", {}, 22050), ("b#1?.opus", {"format": "OGG", "subtype": "OPUS"}, 48000),
    ("50%.mp3", {}, 16000), ("f.WAV", {"subtype": "FLOAT"}, 8000), ("o.ogg", {}, 16000),
]  # fmt: skip


@pytest.fixture
def local(tmp_path: Path, write_audio) -> Manifest:
    """Six files of six kinds under names that mean something in addresses, and a segment."""
    rows = []
    for i, (name, kind, rate) in enumerate(KINDS):
        write_audio(tmp_path / "in" / "sub" / name, rate + 997 * i, rate=rate, seed=i, **kind)
        length = probe(tmp_path / "in" / "sub" / name).num_samples
        rows.append(Utterance(f"u{i}", f"sub/{name}", 0, length, rate, f"text {i}"))
    rows.append(replace(rows[1], id="segment", start=1001, num_samples=5003))
    return Manifest.from_rows(rows, root=tmp_path / "in")


def test_whole_files_and_segments_give_the_bits_of_local_files(local: Manifest, server: FileServer):
    away = local.moved_to(server.add_tree(local.root))
    for row in range(len(local)):
        expected = load_waveform(local, row, sample_rate_hz=16000)
        np.testing.assert_array_equal(load_waveform(away, row, sample_rate_hz=16000), expected)
        assert probe(away.audio_file(row)) == probe(local.audio_file(row))
        assert size_bytes(away.audio_file(row)) == local.audio_path(row).stat().st_size
    assert len(server.requests) == len(KINDS)  # each file once, whatever was asked of it
    assert find_faults(away, decode=True) == ()


def test_rows_in_shards_come_by_their_range_alone(local: Manifest, server: FileServer, tmp_path: Path):
    packed = write_shards(local, tmp_path / "pack", shard_bytes=200_000).manifest
    away = packed.moved_to(server.add_tree(tmp_path / "pack"))
    for row in range(len(local)):
        expected = load_waveform(local, row, sample_rate_hz=16000)
        np.testing.assert_array_equal(load_waveform(away, row, sample_rate_hz=16000), expected)
    places = {(f"/{row.path}", f"bytes={row.offset}-{row.offset + row.num_bytes - 1}") for row in packed}
    assert sorted(server.requests) == sorted(places)
    with open_bytes(away.audio_file(0)) as stream:
        assert stream.read() == local.audio_path(0).read_bytes()
    assert find_faults(away, decode=True) == ()


@pytest.mark.parametrize(
    "faults", [["drop"], ["drop", "drop", "drop"], [500, 503, 429], ["stall", "silent"], ["silent", 502, "drop"]]
)
@pytest.mark.parametrize("part", [{}, {"offset": 1000, "num_bytes": 30_000}])
def test_a_transfer_that_breaks_is_tried_again(server: FileServer, faults: list, part: dict):
    content = np.random.default_rng(0).bytes(100_000)
    url = server.add("a.flac", content)
    server.faults["/a.flac"].extend(faults)
    stalls = {"stall", "silent"} & set(faults)
    if stalls:
        read_through(Fetcher(replace(BRISK, tries=20)), current_cache().folder)
    with open_bytes(RemoteFile(Address(url), **part)) as stream:
        assert stream.read() == (content[1000:31_000] if part else content)
    assert stalls or server.num_requests("a.flac") == len(faults) + 1
    assert not server.faults["/a.flac"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("drop", "Response payload is not completed"),
        (
            "stall",
            r"0 bytes came in 0\.5 s, the least is 5000",
        ),  # the second half of a second, after a first one with bytes
        ("silent", r"0 bytes came in 0\.5 s"),
        (500, "the server answered 500 Internal Server Error"),
    ],
)
def test_after_four_tries_the_message_says_so(server: FileServer, fault: str | int, reason: str):
    read_through(Fetcher(BRISK if fault in ("stall", "silent") else PATIENT), current_cache().folder)
    url = server.add("a.flac", bytes(100_000))
    server.always["/a.flac"] = fault
    with pytest.raises(TransferError, match=rf"{url} must be .* did not come in 4 tries; the last: .*{reason}"):
        ends(lambda: read_audio(whole(url)))
    assert server.num_requests("a.flac") <= 4
    assert [p for p in current_cache().folder.rglob("*") if p.is_file() and p.name != "num_bytes"] == []


def test_waits_between_the_tries_double(server: FileServer, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(remote_module.time, "sleep", waits.append)
    with pytest.raises(TransferError, match="Cannot connect to host"):
        Fetcher()(whole("http://127.0.0.1:9/a.wav"), _empty(current_cache().folder))  # a port that nobody serves
    assert waits == [1, 2, 4]


def _empty(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    draft = folder / "draft"
    draft.touch()
    return draft


def test_a_slow_transfer_that_moves_is_left_alone(server: FileServer, monkeypatch: pytest.MonkeyPatch):
    """It takes longer than one window of half a second, but in each some bytes come."""
    url = server.add("a.flac", b"")

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        server.requests.append((handler.path, None))
        handler.send_response(200)
        handler.send_header("Content-Length", "4000")
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(bytes(100))
            handler.wfile.flush()
            time.sleep(0.03)

    monkeypatch.setattr(server, "answer", slowly)
    read_through(Fetcher(replace(BRISK, min_bytes_s=0.1, tries=20)), current_cache().folder)
    assert size_bytes(whole(url)) == 4000


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (404, "there is no such file"), (410, "there is no such file"), (401, "permission was refused"),
        (403, "permission was refused"), (400, "the server answered 400 Bad Request"),
    ],
)  # fmt: skip
def test_what_another_try_cannot_mend_is_asked_for_once(server: FileServer, fault: int, reason: str):
    url = server.add("a.flac", b"x")
    server.always["/a.flac"] = fault
    with pytest.raises(TransferError, match=f"{url} must be readable audio: {reason}"):
        read_audio(whole(url))
    assert server.num_requests("a.flac") == 1


def test_a_server_without_ranges_is_refused_before_the_shard_comes(server: FileServer):
    url = server.add("shard.tar", bytes(10**6))
    server.always["/shard.tar"] = "whole"
    with pytest.raises(TransferError, match=r"must give parts of files \(range requests\), but answered 200"):
        read_audio(RemoteFile(Address(url), 512, 1000, "row"))
    assert server.num_requests("shard.tar") == 1


@pytest.mark.parametrize("offset", [9_500, 20_000])
def test_a_shard_that_ends_too_early_is_said_to_be_truncated(server: FileServer, offset: int):
    file = RemoteFile(Address(server.add("shard.tar", bytes(10_000))), offset, 1000, "u7")
    with pytest.raises(OutsideShardError, match=r"\(row u7\).*must lie inside the shard, which has 10000: .*truncated"):
        read_audio(file)
    assert server.num_requests("shard.tar") == 1
    refusal = inspect_file(file, name="x", check="ends")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "truncated"


BAD = ["zero.flac", "text.wav", "short.wav", "cut.flac", "cut.wav", "nan.wav", "good.wav", "48k stereo.wav", "gone.wav"]


@pytest.mark.parametrize("check", ["headers", "ends", "full"])
def test_every_kind_of_bad_file_has_the_verdict_of_a_local_one(bad_folder: Path, server: FileServer, check):
    root = server.add_tree(bad_folder)
    for name in BAD:
        here = inspect_file(bad_folder / name, name=name, check=check)
        there = inspect_file(whole(f"{root}/{name}"), name=name, check=check)
        if name == "gone.wav":
            assert isinstance(here, Refusal)
            assert isinstance(there, Refusal)
            assert here.reason == there.reason == "unreadable"
        else:
            assert there == here


def test_every_kind_of_bad_row_is_refused_on_reading_in_the_same_words(bad_folder: Path, server: FileServer):
    root = server.add_tree(bad_folder)
    rows = [
        Utterance(name, name, 0, 16000, 16000) for name in ("zero.flac", "text.wav", "short.wav", "nan.wav", "8k.wav")
    ]
    rows += [Utterance("cut", "cut.wav", 0, 48000, 16000), Utterance("late", "good.wav", 9000, 9000, 16000)]
    here = Manifest.from_rows(rows, root=bad_folder)
    away = here.moved_to(root)
    for row in range(len(rows)):
        with pytest.raises(AudioError) as local_error:
            load_waveform(here, row, sample_rate_hz=16000)
        with pytest.raises(AudioError) as remote_error:
            load_waveform(away, row, sample_rate_hz=16000)
        assert str(remote_error.value).replace(root, str(bad_folder)) == str(local_error.value)


def test_what_cannot_be_decoded_is_fetched_once_more_by_a_process(local: Manifest, server: FileServer):
    """A server that does not say how long a file is can break off unseen; and bad files get mended."""
    url = server.add("a.flac", local.audio_path(1))
    server.faults["/a.flac"].append("unsized")
    row = local[1]
    assert len(read_audio(whole(url), start=0, num_samples=row.num_samples)[0]) == row.num_samples
    assert server.num_requests("a.flac") == 2
    url = server.add("b.wav", b"not audio")
    for _ in range(5):  # as many segments of one recording
        with pytest.raises(AudioError, match="Format not recognised"):
            read_audio(whole(url), start=0, num_samples=100)
        assert isinstance(inspect_file(whole(url), name="b", check="ends"), Refusal)
    assert server.num_requests("b.wav") == 2
    server.add("b.wav", local.audio_path(0))
    for look in (lambda: read_audio(whole(url)), lambda: inspect_file(whole(url), name="b", check="ends")):
        current_cache().place_of(whole(url)).write_bytes(b"not audio")  # as it was kept
        read_through(Fetcher(PATIENT), current_cache().folder)  # as in another process
        assert not isinstance(look(), Refusal)


@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
def test_the_loader_goes_on_without_what_never_comes(
    corpus: Manifest, server: FileServer, engine: str, caplog: pytest.LogCaptureFixture
):
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")
    away = corpus.moved_to(server.add_tree(corpus.root))
    server.faults["/s0/u0.flac"].extend(["drop", 500])  # comes in the end
    server.always |= {"/s1/u1.flac": "drop", "/s2/u2.flac": "silent", "/s0/u3.flac": 404}
    patient, brisk = Fetcher(PATIENT), Fetcher(BRISK)
    read_through(lambda f, draft: (brisk if "u2" in f.id else patient)(f, draft), current_cache().folder)
    settings = {"sample_rate_hz": 16000, "normalize": False, "engine": engine, "num_workers": 3}
    batches = [(0, 1, 4), (2, 5), (3, 6)]
    loader = Loader(away, **settings)
    with caplog.at_level(logging.WARNING):
        found = ends(lambda: list(loader.batches(batches)))
    assert [batch.rows for batch in found] == [(0, 4), (5,), (6,)]
    for batch in found:
        (expected,) = Loader(corpus, **settings).batches([batch.rows])
        assert (batch.waveforms == expected.waveforms).all()
    assert (loader.bad_rows.num_bad, loader.bad_rows.num_asked) == (3, 7)
    assert {name.partition(" (")[0]: reason for name, reason in loader.bad_rows.reasons.items()}.keys() == {
        "manifest row 2", "manifest row 3", "manifest row 4",
    }  # fmt: skip
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert f"{server.url}/s1/u1.flac must be readable audio, but did not come in 4 tries" in said
    assert f"{server.url}/s0/u3.flac must be readable audio: there is no such file" in said


def test_no_secret_is_said(server: FileServer, caplog: pytest.LogCaptureFixture):
    url = server.add("a.flac", b"not audio") + "?X-Signature=SECRET"
    rows = [Utterance(str(i), f"{address}?X-Signature=SECRET#SECRET", 0, 8000, 16000) for i, address in enumerate(
        (f"{server.url}/a.flac", f"{server.url}/gone.flac", "http://127.0.0.1:9/a.flac", f"{server.url}/b.flac")
    )]  # fmt: skip
    server.always["/b.flac"] = 500
    manifest = Manifest.from_rows(rows, root="/")
    loader = Loader(manifest, sample_rate_hz=16000, normalize=False, engine="threads", replace=False)
    with caplog.at_level(logging.DEBUG, logger="audio_ssl"):
        assert list(loader.batches([(0, 1, 2, 3)])) == []
    said = [loader.bad_rows.summary(), *(record.getMessage() for record in caplog.records), *find_faults(manifest)]
    assert len(loader.bad_rows) == 4
    assert "SECRET" not in "\n".join(said)
    with pytest.raises(AudioError) as caught:
        read_audio(whole(url))
    error: BaseException | None = caught.value
    while error is not None:
        assert "SECRET" not in str(error)
        error = error.__cause__ or error.__context__
    assert server.requests[0][0].endswith("?X-Signature=SECRET")  # but it is sent


def test_an_address_that_is_not_taken_is_never_fetched(server: FileServer, tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"x")
    for address in (f"file://{tmp_path}/a.wav", f"simplecache::{server.url}/a.wav", f"{server.url}/x/../a.wav"):
        with pytest.raises(AudioError, match="an address must"):
            read_audio(whole(address))
    assert server.requests == []


def test_fsspecs_configuration_is_honoured(server: FileServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"Authorization": "Bearer WORD"}})
    seen = []
    monkeypatch.setattr(server, "answer", _also(server.answer, lambda h: seen.append(dict(h.headers))))
    with open_bytes(whole(server.add("a", b"abc"))) as stream:
        assert stream.read() == b"abc"
    assert (seen[0]["Authorization"], seen[0]["Accept-Encoding"]) == ("Bearer WORD", "identity")


def _also(call, look):
    def both(handler):
        look(handler)
        call(handler)

    return both


class FakeStore(AsyncFileSystem):
    """An object store under ``az``; each request fails with what ``errors`` has in front, or takes so long."""

    protocol = "az"
    content: ClassVar[bytes] = b""
    errors: ClassVar[list[Exception | float]] = []
    calls: ClassVar[list[tuple]] = []

    async def _fail(self, call: tuple) -> None:
        import asyncio

        FakeStore.calls.append(call)
        if FakeStore.errors:
            error = FakeStore.errors.pop(0)
            await asyncio.sleep(error if isinstance(error, float) else 3600 * isinstance(error, TimeoutError))
            if isinstance(error, Exception):
                raise error

    async def _get_file(self, rpath, lpath, callback=None, **kwargs):
        await self._fail((rpath, None, None))
        Path(lpath).write_bytes(self.content)

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        await self._fail((path, start, end))
        return self.content[start:end]


@pytest.fixture
def store(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> type[FakeStore]:
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "az", FakeStore)
    read_through(Fetcher(replace(PATIENT, stall_s=2.0, tries=5, min_bytes_s=500_000)), current_cache().folder)
    FakeStore.content, FakeStore.errors, FakeStore.calls = b"", [], []
    return FakeStore


class ReplyError(Exception):
    """As gcsfs tells of a reply."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class NoCredentialsError(Exception):
    """As botocore calls it."""


def test_a_store_is_read_whole_and_by_ranges(store: type[FakeStore], local: Manifest):
    store.content = local.audio_path(1).read_bytes()
    length = len(store.content)
    store.errors += [OSError("connection reset"), ReplyError(503), TimeoutError()]
    waveform, _ = read_audio(whole("az://box/a.flac"))
    np.testing.assert_array_equal(waveform, read_audio(local.audio_path(1))[0])
    assert store.calls == [("box/a.flac", None, None)] * 4
    store.calls.clear()
    store.content = bytes(100) + store.content + bytes(100)
    store.errors += [TimeoutError()]
    part, _ = read_audio(RemoteFile(Address("az://box/shard.tar"), 100, length, "row"))
    np.testing.assert_array_equal(part, waveform)
    assert store.calls == [("box/shard.tar", 100, 100 + length)] * 2
    store.calls.clear()
    beyond = [OSError(22, "The requested range is not satisfiable"), ReplyError(416)]
    store.errors += beyond
    for _ in range(3):  # or fewer bytes than asked for
        with pytest.raises(OutsideShardError, match="must lie inside the shard: "):
            read_audio(RemoteFile(Address("az://box/shard.tar"), length, 1000, "row"))
    assert len(store.calls) == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError("box/a"), "there is no such file"),
        (PermissionError("no"), "permission was refused; .* where adlfs looks"),
        (NoCredentialsError("Unable to locate credentials"), "Unable to locate credentials"),
        (ValueError("Invalid bucket"), "ValueError: Invalid bucket"),
        (ReplyError(400), "ReplyError: 400"),
        (OSError(22, "Bad Request"), "OSError: .*Bad Request"),
    ],
)
def test_a_store_that_refuses_is_asked_once(store: type[FakeStore], error: Exception, reason: str):
    store.errors.append(error)
    with pytest.raises(TransferError, match=f"az://box/a.flac must be readable audio: .*{reason}"):
        read_audio(whole("az://box/a.flac"))
    assert len(store.calls) == 1


def test_a_part_that_comes_in_memory_has_the_time_that_the_lowest_rate_takes(store: type[FakeStore]):
    store.content = bytes(60_000)
    store.errors.append(1.2)
    read_through(Fetcher(replace(BRISK, min_bytes_s=1000)), current_cache().folder)  # a minute, for all of them
    with open_bytes(RemoteFile(Address("az://box/shard.tar"), 0, 60_000, "row")) as stream:
        assert stream.read() == store.content
    assert len(store.calls) == 1


def test_a_full_disk_here_is_no_fault_of_the_row(store: type[FakeStore]):
    store.errors.append(OSError(28, "No space left on device"))
    with pytest.raises(AudioSSLError, match=r"must be a folder that can be written, .*No space left") as caught:
        read_audio(whole("az://box/a.flac"))
    assert not isinstance(caught.value, AudioError)
    assert len(store.calls) == 1


def test_s3_is_read_by_its_own_package(
    server: FileServer, local: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What s3fs asks of a store is what this server gives; keys come from fsspec's configuration."""
    pytest.importorskip("s3fs")
    where = {"key": "KEY", "secret": "SECRET", "client_kwargs": {"endpoint_url": server.url, "region_name": "x"}}
    monkeypatch.setitem(fsspec.config.conf, "s3", where)
    packed = write_shards(local, tmp_path / "pack", shard_bytes=10**9).manifest
    server.add_tree(local.root, "box/files/")
    server.add_tree(tmp_path / "pack", "box/pack/")
    server.faults["/box/files/sub/a.wav"].extend(["drop", 500])
    server.faults["/box/pack/shard-000000.tar"].extend([503, "drop"])
    for away in (local.moved_to("s3://box/files"), packed.moved_to("s3://box/pack")):
        for row in range(len(local)):
            expected = load_waveform(local, row, sample_rate_hz=16000)
            np.testing.assert_array_equal(load_waveform(away, row, sample_rate_hz=16000), expected)
    for fault, reason in ((404, "there is no such file"), (403, "permission was refused")):
        server.always[f"/box/{fault}.wav"] = fault
        with pytest.raises(TransferError, match=f"s3://box/{fault}.wav must be readable audio: {reason}") as caught:
            read_audio(whole(f"s3://box/{fault}.wav"))
        assert "SECRET" not in str(caught.value)
    with pytest.raises(OutsideShardError):
        read_audio(RemoteFile(Address("s3://box/pack/shard-000000.tar"), 10**9, 10, "row"))


def test_what_libraries_say_is_cleared_of_secrets(store: type[FakeStore]):
    store.errors += [
        OSError(f"az://box/a.flac?v=1 SECRET: https://me:SECRET@h/x?sig=SECRET#SECRET failed,\n{i}") for i in range(5)
    ]
    with pytest.raises(TransferError) as caught:
        read_audio(whole("az://box/a.flac?v=1 SECRET"))
    assert "the last: OSError: az://box/a.flac?... https://h/x?... failed, 4" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_an_address_without_its_package_says_what_to_install_before_long_work(monkeypatch: pytest.MonkeyPatch):
    def missing(protocol: str) -> None:
        raise ImportError(protocol)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    rows = [Utterance(str(i), f"{i}.wav", 0, 1, 1) for i in range(5000)]
    local = Manifest.from_rows(rows, root="/")
    local.check_root()
    for manifest in (
        Manifest.from_rows([*rows, Utterance("x", "s3://b/a.wav", 0, 1, 1)], root="/"), local.moved_to("s3://bucket"),
    ):  # fmt: skip
        with pytest.raises(MissingExtraError, match=r"s3:// need the package s3fs.*install `audio_ssl\[remote\]`"):
            Loader(manifest, sample_rate_hz=16000, normalize=False)
    with pytest.raises(MissingExtraError, match=r"gs:// need the package gcsfs.*install the package `gcsfs`"):
        read_audio(whole("gs://b/a.wav"))


@pytest.mark.parametrize("kind", [kind for kind in BAD_RECORDINGS if kind not in ("missing", "folder", "locked")])
@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
def test_segments_of_every_bad_recording_fare_as_here(server: FileServer, tmp_path: Path, kind: str, engine: str):
    bad = BAD_RECORDINGS[kind]
    rows = listed_rows(tmp_path / "rec", [bad.file])
    bad.do(tmp_path / "rec" / bad.file)
    url = server.add_tree(tmp_path / "rec")
    server.faults["/good0.flac"].append("drop")
    here = Manifest.from_rows(rows, root=tmp_path / "rec")
    batches = [tuple(range(len(rows))), (0, 3)]
    told, waveforms = [], []
    for manifest in (here, here.moved_to(url)):
        loader = opened(manifest, engine)
        waveforms.append([batch.waveforms for batch in loader.batches(batches)])
        told.append({name: reason.replace(url, str(here.root)) for name, reason in loader.bad_rows.reasons.items()})
    assert told[0] == told[1]
    assert len(told[0]) == len(SPANS) - len(bad.good)
    assert all((a == b).all() for a, b in zip(*waveforms, strict=True))
