"""Files from elsewhere, kept in a folder of this machine: bounded, shared by threads and processes.

What is kept is named by a hash of where it comes from, so no manifest decides where anything is written. An address is
taken to mean the same bytes for ever; only what cannot be decoded is fetched once more (:meth:`AudioCache.discard`).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from audio_ssl.data.addresses import RemoteFile
from audio_ssl.data.remote import Fetcher
from audio_ssl.errors import AudioSSLError, ConfigError

logger = logging.getLogger(__name__)

DIR_VARIABLE, GIB_VARIABLE = "AUDIO_SSL_CACHE_DIR", "AUDIO_SSL_CACHE_GIB"
DEFAULT_GIB = 20.0
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
_KEPT = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,5})?")
_DRAFTS, _LEDGER = "drafts", "num_bytes"
_OLD_DRAFT_S = 60.0
_LOW_SHARE = 0.9  # room is made down to this share of the bound, so that the folder is not listed for every file

Fetch = Callable[[RemoteFile, Path], None]


@dataclass(frozen=True)
class LocalCopy:
    """A file from elsewhere, open here.

    Attributes:
        stream: its bytes, from the first; good until it is closed, whatever happens to ``path``.
        path: where they are; may go away when room is made for others.
    """

    stream: IO[bytes]
    path: Path


class AudioCache:
    """Encoded files by where they come from; the least recently used go first.

    Files are written beside and moved into place whole. The bytes of all that is kept never exceed the bound, whatever
    the number of processes; drafts of what is being fetched come on top. A file larger than the bound is fetched for
    each reading, and not kept.

    Args:
        folder: made where it is not there. Only files with names of the cache's own are ever removed.
        max_bytes: the bound.
        fetch: writes the bytes of a file to a draft.
    """

    def __init__(self, folder: Path, *, max_bytes: int, fetch: Fetch | None = None) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._fetch = fetch or Fetcher()
        self._lock = threading.Lock()
        self._coming: dict[Path, Future[None]] = {}
        self._discarded: set[Path] = set()
        self._is_started = False
        self._has_warned = False

    @contextmanager
    def opened(self, file: RemoteFile) -> Iterator[LocalCopy]:
        """A file's bytes, fetched where they are not here. Threads that ask for the same at once fetch it once.

        Raises:
            TransferError: it did not come.
            MissingExtraError: the package that fetches such addresses is not here.
            AudioSSLError: the folder cannot be written: no room, no permission, or no locks.
        """
        place = self.place_of(file)
        copy = self._kept(place, file)
        while copy is None:  # what others fetch may be gone again before it is opened here
            copy = self._fetched(place, file) or self._kept(place, file)
        try:
            with copy.stream:
                yield copy
        finally:
            if copy.path != place:
                copy.path.unlink(missing_ok=True)

    def place_of(self, file: RemoteFile) -> Path:
        """Where a file is kept."""
        key = f"{file.address.text}\0{file.offset}\0{file.num_bytes}"
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
        suffix = file.address.suffix if file.offset is None else ""
        return self.folder / digest[:2] / f"{digest}{suffix if _SUFFIX.fullmatch(suffix) else ''}"

    def discard(self, file: RemoteFile) -> bool:
        """Forget a file that cannot be decoded, so that it is fetched again; once for each file in a cache's life.

        Returns:
            Whether it was forgotten now, and so may be another when it is asked for again.
        """
        place = self.place_of(file)
        with self._lock:
            if place in self._discarded:
                return False
            self._discarded.add(place)
        return self._remove(place)

    def _remove(self, place: Path) -> bool:
        with suppress(OSError), self._ledger() as ledger:
            num_bytes = place.stat().st_size
            place.unlink()
            total = _noted(ledger)
            if total is not None:
                _note(ledger, max(0, total - num_bytes))
            return True
        return False

    def _kept(self, place: Path, file: RemoteFile) -> LocalCopy | None:
        try:
            stream = place.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        num_bytes = os.fstat(stream.fileno()).st_size
        # a machine that lost its power may leave empty files, or short ones, under names that were there already
        if num_bytes == 0 or file.num_bytes not in (None, num_bytes):
            stream.close()
            return None
        with suppress(OSError):
            os.utime(stream.fileno())  # when it was last used
        return LocalCopy(stream, place)

    def _fetched(self, place: Path, file: RemoteFile) -> LocalCopy | None:
        """Fetch a file; None where another thread has done so meanwhile.

        Raises:
            TransferError: as the other thread's, too.
        """
        with self._lock:
            coming = self._coming.get(place)
            is_ours = coming is None
            if coming is None:
                coming = self._coming[place] = Future()
        if not is_ours:
            error = coming.exception()
            if isinstance(error, AudioSSLError):
                raise type(error)(str(error))
            return None
        try:
            copy = self._fetch_now(place, file)
        except BaseException as error:
            coming.set_exception(error)
            raise
        else:
            coming.set_result(None)
            return copy
        finally:
            with self._lock:
                del self._coming[place]

    def _fetch_now(self, place: Path, file: RemoteFile) -> LocalCopy:
        draft, stream = self._new_draft()
        try:
            self._fetch(file, draft)
            num_bytes = os.fstat(stream.fileno()).st_size
            if num_bytes > self.max_bytes:
                self._warn_large(file, num_bytes)
                return LocalCopy(stream, draft)
            self._keep(draft, place, num_bytes)
        except BaseException as error:
            stream.close()
            draft.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._unusable(error) from error
            raise
        return LocalCopy(stream, place)

    def _new_draft(self) -> tuple[Path, IO[bytes]]:
        """An empty file that is locked as long as its stream is open: by that others know that its writer lives."""
        drafts = self.folder / _DRAFTS
        try:
            drafts.mkdir(parents=True, exist_ok=True)
            if not self._is_started:
                self._is_started = True
                _remove_leftovers(drafts)
            descriptor, name = tempfile.mkstemp(suffix=".tmp", dir=drafts)
            stream = os.fdopen(descriptor, "rb")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise self._unusable(error) from error
        return Path(name), stream

    def _keep(self, draft: Path, place: Path, num_bytes: int) -> None:
        place.parent.mkdir(exist_ok=True)
        with self._ledger() as ledger:
            total = _noted(ledger)
            if total is None or total + num_bytes > self.max_bytes:
                total = self._make_room(num_bytes)
                _remove_leftovers(draft.parent)
            with suppress(FileNotFoundError):  # another process may have fetched it, too
                total -= place.stat().st_size
            _note(ledger, total + num_bytes)  # first: who is killed here leaves a number that is too large, and mends
            draft.replace(place)

    def _make_room(self, num_bytes: int) -> int:
        """Remove what was used longest ago; the bytes of what is left."""
        found = []
        for path in self.folder.glob("??/*"):
            if _KEPT.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, path, status.st_size))
        total = sum(size for *_, size in found)
        if total + num_bytes <= self.max_bytes:
            return total
        target = min(self.max_bytes - num_bytes, int(self.max_bytes * _LOW_SHARE))
        for _, path, size in sorted(found):
            if total <= target:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    @contextmanager
    def _ledger(self) -> Iterator[IO[bytes]]:
        """The file that holds the bytes of all that is kept, locked against other threads and processes."""
        with (self.folder / _LEDGER).open("a+b", buffering=0) as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            yield ledger

    def _unusable(self, error: OSError) -> AudioSSLError:
        return AudioSSLError(
            f"the cache for audio from elsewhere, {self.folder}, must be a folder that can be written, with room and "
            f"with locks: {error}; free some room, or give another place or a smaller size (data.cache_dir and "
            f"data.cache_gib in training, {DIR_VARIABLE} and {GIB_VARIABLE} elsewhere)"
        )

    def _warn_large(self, file: RemoteFile, num_bytes: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s has %.2f GiB, more than the whole cache (%.2f GiB): it is fetched again for each reading, as are "
                "others of that size; make the cache larger, or cut such files", file, num_bytes / 2**30,
                self.max_bytes / 2**30,
            )  # fmt: skip


def _remove_leftovers(drafts: Path) -> None:
    """Remove drafts whose writers were killed: old enough, and locked by nobody."""
    for draft in drafts.glob("*.tmp"):
        with suppress(OSError), draft.open("rb") as handle:
            if time.time() - os.fstat(handle.fileno()).st_mtime > _OLD_DRAFT_S:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()


def _noted(ledger: IO[bytes]) -> int | None:
    ledger.seek(0)
    text = ledger.read(32)
    return int(text) if text.isdigit() else None


def _note(ledger: IO[bytes], num_bytes: int) -> None:
    ledger.truncate(0)
    ledger.write(str(num_bytes).encode())  # opened to append: it goes to the start of an empty file


class _Current:
    """The process's cache; made from the environment where nobody has said which."""

    def __init__(self) -> None:
        self.cache: AudioCache | None = None
        self.lock = threading.Lock()


_current = _Current()


def current_cache() -> AudioCache:
    """The cache that audio from elsewhere is read through.

    Raises:
        ConfigError: the environment says a size that is none.
    """
    with _current.lock:
        if _current.cache is None:
            _current.cache = _of_settings(None, None)
        return _current.cache


def use_cache(cache: AudioCache | None) -> None:
    """Read through another cache from now on; None: the one that the environment says."""
    with _current.lock:
        _current.cache = cache


def configure_cache(folder: Path | None, size_gib: float | None) -> None:
    """Use a cache of the user's settings; where one is None, the environment says it, or the default.

    Raises:
        ConfigError: the environment says a size that is none.
    """
    cache = _of_settings(folder, size_gib)
    with _current.lock:
        before = _current.cache
        if before is None or (before.folder, before.max_bytes) != (cache.folder, cache.max_bytes):
            _current.cache = cache


def _of_settings(folder: Path | None, size_gib: float | None) -> AudioCache:
    return AudioCache(
        (folder or _default_folder()).expanduser().absolute(),
        max_bytes=int((_default_gib() if size_gib is None else size_gib) * 2**30),
    )


def _default_folder() -> Path:
    """Reference: XDG Base Directory Specification: a relative XDG_CACHE_HOME is ignored."""
    if given := os.environ.get(DIR_VARIABLE):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.cache")) / "audio_ssl" / "remote"


def _default_gib() -> float:
    text = os.environ.get(GIB_VARIABLE) or str(DEFAULT_GIB)
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise ConfigError(f"{GIB_VARIABLE} must be a number of GiB > 0, got {text!r}")
