"""The cache of files from elsewhere: bounded, oldest use goes first, one fetch at a time, shared by processes."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from audio_ssl.data import cache as cache_module
from audio_ssl.data.addresses import Address, RemoteFile
from audio_ssl.data.cache import AudioCache, configure_cache, current_cache, use_cache
from audio_ssl.data.remote import TransferError
from audio_ssl.errors import AudioSSLError, ConfigError


def file(name: str, **part) -> RemoteFile:
    return RemoteFile(Address(f"s3://bucket/{name}"), **part)


class Source:
    """Gives every file 300 bytes (or what ``sizes`` says), and remembers what it was asked for."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.asked: list[str] = []

    def __call__(self, wanted: RemoteFile, draft: Path) -> None:
        name = wanted.address.text.rpartition("/")[2]
        self.asked.append(name)
        draft.write_bytes(name[:1].encode() * self.sizes.get(name, 300))


def read(cache: AudioCache, name: str) -> bytes:
    with cache.opened(file(name)) as copy:
        return copy.stream.read()


def kept(cache: AudioCache) -> dict[str, int]:
    """First letter to size of what is kept."""
    paths = [path for path in cache.folder.glob("??/*") if path.is_file()]
    return {path.read_bytes()[:1].decode(): path.stat().st_size for path in paths}


def test_a_file_is_fetched_once_and_then_read_from_the_folder(tmp_path: Path):
    source = Source()
    cache = AudioCache(tmp_path / "new" / "cache", max_bytes=1000, fetch=source)
    assert [read(cache, "a.flac") for _ in range(3)] == [b"a" * 300] * 3
    assert source.asked == ["a.flac"]
    again = AudioCache(tmp_path / "new" / "cache", max_bytes=1000, fetch=source)  # as another process would
    assert read(again, "a.flac") == b"a" * 300
    assert source.asked == ["a.flac"]


def test_names_are_hashes_inside_the_folder_with_the_extension(tmp_path: Path):
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=Source())
    places = [
        cache.place_of(f)
        for f in (
            file("a.FLAC"), file("b.flac"), file("x/a.FLAC"), file("s.tar", offset=0, num_bytes=5),
            file("s.tar", offset=5, num_bytes=5), file("s.tar", offset=0, num_bytes=6), file("s.tar"),
            file("a.so/../../../x"), file("a.$(ls)"), file("a.waytoolong"),
        )
    ]  # fmt: skip
    assert len(set(places)) == len(places)
    for place in places:
        assert place.parent.parent == tmp_path
        assert place.parent.name == place.name[:2]
        assert cache_module._KEPT.fullmatch(place.name)
    assert [p.suffix for p in places] == [".flac", ".flac", ".flac", "", "", "", ".tar", "", "", ""]


def test_the_least_recently_used_goes_first_and_the_bound_holds(tmp_path: Path):
    source = Source()
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=source)
    for name in ("a", "b", "c"):
        read(cache, name)
        time.sleep(0.01)  # the clock of files is coarse
    read(cache, "a")
    time.sleep(0.01)
    read(cache, "d")  # 1200 bytes would be too many: b was used longest ago
    assert set(kept(cache)) == {"a", "c", "d"}
    read(cache, "b")
    assert set(kept(cache)) == {"a", "d", "b"}
    assert source.asked == ["a", "b", "c", "d", "b"]


def test_room_is_made_for_a_large_file_before_it_comes_in(tmp_path: Path):
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=Source(z=950))
    for name in "abc":
        read(cache, name)
    assert read(cache, "z") == b"z" * 950
    assert kept(cache) == {"z": 950}


def test_a_file_larger_than_the_bound_is_read_and_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = Source(z=1001)
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=source)
    read(cache, "a")
    with cache.opened(file("z")) as copy:
        assert copy.path.read_bytes() == copy.stream.read() == b"z" * 1001
    assert read(cache, "z") == b"z" * 1001
    assert source.asked == ["a", "z", "z"]
    assert kept(cache) == {"a": 300}
    assert list((tmp_path / "drafts").iterdir()) == []
    (message,) = (r.getMessage() for r in caplog.records)
    assert "s3://bucket/z has 0.00 GiB, more than the whole cache" in message


def test_what_is_being_read_may_be_evicted(tmp_path: Path):
    cache = AudioCache(tmp_path, max_bytes=700, fetch=Source())
    with cache.opened(file("a")) as copy:
        for name in "bcd":
            read(cache, name)
        assert not copy.path.exists()
        assert copy.stream.read() == b"a" * 300


def test_files_of_others_are_never_removed(tmp_path: Path):
    mine = tmp_path / "ab" / "thesis.flac"
    mine.parent.mkdir()
    mine.write_bytes(b"x" * 5000)
    cache = AudioCache(tmp_path, max_bytes=700, fetch=Source())
    for name in "abcd":
        read(cache, name)
    assert mine.stat().st_size == 5000
    assert len(kept(cache)) == 3  # two of 300 bytes, and the user's own


def test_threads_that_ask_for_the_same_at_once_fetch_it_once(tmp_path: Path):
    started, released, source = threading.Event(), threading.Event(), Source()

    def slow(wanted: RemoteFile, draft: Path) -> None:
        started.set()
        assert released.wait(20)
        source(wanted, draft)

    cache = AudioCache(tmp_path, max_bytes=1000, fetch=slow)
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(read, cache, "a")
        assert started.wait(20)
        others = [pool.submit(read, cache, "a") for _ in range(4)]
        time.sleep(0.05)
        released.set()
        assert {f.result(20) for f in (first, *others)} == {b"a" * 300}
    assert source.asked == ["a"]


def test_threads_that_wait_for_a_failing_fetch_hear_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started, released, calls = threading.Event(), threading.Event(), []

    def failing(wanted: RemoteFile, draft: Path) -> None:
        calls.append(wanted)
        started.set()
        assert released.wait(20)
        raise TransferError("gone")

    cache = AudioCache(tmp_path, max_bytes=1000, fetch=failing)
    asking = threading.Semaphore(0)
    fetched = cache._fetched

    def ask(*args):
        asking.release()
        return fetched(*args)

    monkeypatch.setattr(cache, "_fetched", ask)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(read, cache, "a")]
        assert started.wait(20)
        futures += [pool.submit(read, cache, "a") for _ in range(2)]
        assert all(asking.acquire(timeout=20) for _ in range(3))
        time.sleep(0.3)  # from there to waiting for the first is a step
        released.set()
        for future in futures:
            with pytest.raises(TransferError, match="gone"):
                future.result(20)
    assert len(calls) == 1
    assert list((tmp_path / "drafts").iterdir()) == []
    with pytest.raises(TransferError):  # and it is tried again when it is asked for again
        read(cache, "a")
    assert len(calls) == 2


def test_many_threads_in_a_tiny_cache_always_read_the_right_bytes(tmp_path: Path):
    cache = AudioCache(tmp_path, max_bytes=650, fetch=Source())
    names = "abcdefg" * 30
    with ThreadPoolExecutor(6) as pool:
        for name, content in zip(names, pool.map(lambda n: read(cache, n), names), strict=True):
            assert content == name.encode() * 300
    assert sum(kept(cache).values()) <= 650
    assert list((tmp_path / "drafts").iterdir()) == []


WORKER = """
import sys
from pathlib import Path
from audio_ssl.data.addresses import Address, RemoteFile
from audio_ssl.data.cache import AudioCache

def fetch(wanted, draft):
    draft.write_bytes(wanted.address.text[-1:].encode() * 300)

cache = AudioCache(Path(sys.argv[1]), max_bytes=1000, fetch=fetch)
for name in sys.argv[2]:
    with cache.opened(RemoteFile(Address(f"s3://bucket/{name}"))) as copy:
        assert copy.stream.read() == name.encode() * 300
    with cache._ledger():  # nobody adds or makes room meanwhile
        total = sum(path.stat().st_size for path in cache.folder.glob("??/*"))
    assert total <= 1000, total
print("good")
"""


def test_two_processes_share_a_folder_and_its_bound(tmp_path: Path):
    orders = ("abcdefghij" * 8, "jihgfedcba" * 8)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), order], stdout=subprocess.PIPE, text=True)
        for order in orders
    ]
    assert [worker.communicate(timeout=120)[0] for worker in workers] == ["good\n", "good\n"]
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=Source())
    assert int((tmp_path / "num_bytes").read_text()) == sum(kept(cache).values()) <= 1000


def test_what_two_processes_fetch_at_once_counts_once(tmp_path: Path):
    source = Source()
    other = AudioCache(tmp_path, max_bytes=1000, fetch=source)

    def late(wanted: RemoteFile, draft: Path) -> None:
        read(other, "a")
        source(wanted, draft)

    assert read(AudioCache(tmp_path, max_bytes=1000, fetch=late), "a") == b"a" * 300
    assert source.asked == ["a", "a"]
    assert (kept(other), (tmp_path / "num_bytes").read_text()) == ({"a": 300}, "300")


def test_what_killed_processes_left_is_removed_and_what_lives_stays(tmp_path: Path):
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=Source())
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    long_ago = time.time() - 3600
    for name in ("killed.tmp", "living.tmp", "young.tmp"):
        (drafts / name).write_bytes(b"half")
        if name != "young.tmp":
            os.utime(drafts / name, (long_ago, long_ago))
    with (drafts / "living.tmp").open("rb") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)  # as its writer does
        read(cache, "a")
        assert {path.name for path in drafts.iterdir()} == {"living.tmp", "young.tmp"}


def test_a_writer_owns_its_draft(tmp_path: Path):
    held = []

    def look(_: RemoteFile, draft: Path) -> None:
        with draft.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(draft.parent.name)
        draft.write_bytes(b"x")

    read(AudioCache(tmp_path, max_bytes=10, fetch=look), "a")
    assert held == ["drafts"]


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_what_a_power_cut_left_is_fetched_again(tmp_path: Path, content: bytes):
    source = Source(a=10)
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=source)
    part = file("a", offset=7, num_bytes=10)
    for _ in range(2):
        with cache.opened(part) as copy:
            assert copy.stream.read() == b"a" * 10
        cache.place_of(part).write_bytes(content)
    assert source.asked == ["a", "a"]


def test_a_folder_that_someone_emptied_is_filled_again(tmp_path: Path):
    import shutil

    cache = AudioCache(tmp_path / "c", max_bytes=1000, fetch=Source())
    for _ in range(3):
        for name in "abc":
            assert read(cache, name) == name.encode() * 300
        shutil.rmtree(tmp_path / "c")


def test_a_ledger_that_says_too_much_mends_itself(tmp_path: Path):
    source = Source()
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=source)
    read(cache, "a")
    for wrong in ("999999", "", "nonsense"):
        (tmp_path / "num_bytes").write_text(wrong)
        cache._remove(cache.place_of(file("b")))
        read(cache, "b")
        assert set(kept(cache)) == {"a", "b"}
        assert (tmp_path / "num_bytes").read_text() == "600"


def test_discarding_forgets_a_file_once(tmp_path: Path):
    source = Source()
    cache = AudioCache(tmp_path, max_bytes=1000, fetch=source)
    assert not cache.discard(file("b"))  # nothing there
    read(cache, "a")
    assert cache.discard(file("a"))
    assert (kept(cache), (tmp_path / "num_bytes").read_text()) == ({}, "0")
    read(cache, "a")
    assert not cache.discard(file("a"))  # a second time mends nothing
    assert source.asked == ["a", "a"]
    assert set(kept(cache)) == {"a"}


def test_a_place_that_cannot_be_written_ends_the_work_and_says_what_to_do(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    cache = AudioCache(tmp_path / "file" / "cache", max_bytes=1000, fetch=Source())
    with pytest.raises(AudioSSLError, match=r"(?s)file/cache, must be a folder.*data\.cache_dir.*AUDIO_SSL_CACHE_DIR"):
        read(cache, "a")

    def full(_: RemoteFile, draft: Path) -> None:
        raise OSError(28, "No space left on device")

    cache = AudioCache(tmp_path / "full", max_bytes=1000, fetch=full)
    with pytest.raises(AudioSSLError, match="No space left on device") as caught:
        read(cache, "a")
    assert not isinstance(caught.value, TransferError)  # no row is to blame
    assert list((tmp_path / "full" / "drafts").iterdir()) == []


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("AUDIO_SSL_CACHE_DIR", "AUDIO_SSL_CACHE_GIB", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    use_cache(None)
    yield
    use_cache(None)


@pytest.mark.usefixtures("plain_environment")
def test_the_place_and_the_bound_come_from_settings_then_environment_then_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def settled(folder=None, gib=None) -> tuple[str, float]:
        configure_cache(folder, gib)
        return str(current_cache().folder), current_cache().max_bytes / 2**30

    assert (str(current_cache().folder), current_cache().max_bytes) == (f"{tmp_path}/.cache/audio_ssl/remote", 20 << 30)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert settled()[0] == f"{tmp_path}/.cache/audio_ssl/remote"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert settled() == ("/xdg/audio_ssl/remote", 20)
    monkeypatch.setenv("AUDIO_SSL_CACHE_DIR", "~/mine")
    monkeypatch.setenv("AUDIO_SSL_CACHE_GIB", "0.5")
    assert settled() == (f"{tmp_path}/mine", 0.5)
    assert settled(Path("/set"), 2.0) == ("/set", 2)
    for wrong in ("0", "-1", "nan", "inf", "many"):
        monkeypatch.setenv("AUDIO_SSL_CACHE_GIB", wrong)
        with pytest.raises(ConfigError, match=f"AUDIO_SSL_CACHE_GIB must be a number of GiB > 0, got '{wrong}'"):
            settled()


@pytest.mark.usefixtures("plain_environment")
def test_configuring_the_same_twice_keeps_what_is_on_its_way():
    configure_cache(Path("/a"), 1.0)
    before = current_cache()
    configure_cache(Path("/a"), 1.0)
    assert current_cache() is before
    configure_cache(Path("/a"), 2.0)
    assert current_cache() is not before
