"""Fetches a file, or a part of one, from elsewhere: through fsspec, tried again where that may help, never for ever.

Who may read what is fsspec's and its implementations' own affair: their configuration files and environment variables
are honoured, and nothing here knows a key. Messages hold neither keys nor the queries of addresses.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_ssl.data.addresses import PACKAGES, Address, RemoteFile, address_fault
from audio_ssl.errors import AudioError, MissingExtraError

_CHUNK_BYTES = 1 << 20
_HERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE)  # not what s3fs says
_RETRIED_STATUS = frozenset({408, 425, 429})  # and those from 500 on
_NO_RANGE = re.compile(r"range (is )?not satisfiable", re.IGNORECASE)  # s3fs keeps the words of the store alone
_QUERY = re.compile(r"(\w+://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*")
_USER = re.compile(r"(\w+://)[^\s/@'\"]*@")


@dataclass(frozen=True)
class TransferSettings:
    """How long and how often a transfer is tried.

    Attributes:
        tries: in all.
        first_wait_s: before the second try; each wait is twice the one before.
        stall_s: a transfer that brings less than ``min_bytes_s`` over so long is given up.
        min_bytes_s: the lowest rate, in bytes a second.
    """

    tries: int = 4
    first_wait_s: float = 1.0
    stall_s: float = 30.0
    min_bytes_s: float = 10_000.0


class TransferError(AudioError):
    """A file elsewhere that did not come; the message names address, tries and the last reason."""


class OutsideShardError(TransferError):
    """A shard elsewhere that ends before the row's bytes do."""


class _FinalError(Exception):
    """A reason for which trying again is of no use."""


class _ShardEndError(_FinalError):
    """The shard ends before the bytes that were asked for."""


_FINAL = (_FinalError, FileNotFoundError, PermissionError, IsADirectoryError, ValueError, TypeError)


def require_protocol(address: Address) -> None:
    """Check that the package which fetches such addresses is here; fetches nothing.

    Raises:
        MissingExtraError: it is not; says what to install.
    """
    _implementation(address)


class Fetcher:
    """Fetches files; may be called from several threads.

    Args:
        settings: tries and time limits.
    """

    def __init__(self, settings: TransferSettings | None = None) -> None:
        self.settings = settings or TransferSettings()
        self._systems: dict[tuple[int, str, str], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, file: RemoteFile, draft: Path) -> None:
        """Write a file's bytes to ``draft``, which is there and empty.

        With the defaults a server that never answers takes 4 x 30 s of waiting and 7 s between the tries.

        Raises:
            TransferError: it did not come, or not whole; :class:`OutsideShardError` where its shard is too short.
            MissingExtraError: the package that fetches such addresses is not here.
            OSError: the draft cannot be written.
        """
        fault = address_fault(file.address.text)
        if fault is not None:
            raise TransferError(f"{file} must be readable audio: {fault}")
        reason = ""
        for number in range(self.settings.tries):
            if number:
                time.sleep(self.settings.first_wait_s * 2 ** (number - 1))
            outcome = self._try(file, draft)
            if outcome is None:
                return
            reason = _said(outcome, file.address)
            if isinstance(outcome, _ShardEndError):
                raise OutsideShardError(f"{file} must be readable audio: {reason}")
            if _is_final(outcome):
                raise TransferError(f"{file} must be readable audio: {reason}")
        tries = f"{self.settings.tries} tries"
        raise TransferError(f"{file} must be readable audio, but did not come in {tries}; the last: {reason}")

    def _try(self, file: RemoteFile, draft: Path) -> Exception | None:
        """Fetch once. What failed is returned, not raised: a chain of exceptions would show the address."""
        with draft.open("r+b") as out:
            out.truncate(0)
        try:
            system = self._system(file.address)
            if file.address.protocol in ("http", "https"):
                transfer = _from_web(system, file, draft)
                received = _size_of(draft)
            else:
                counted = _Counter(draft)
                transfer = _from_store(system, file, draft, counted)
                received = counted.received if file.num_bytes is None else self._as_if_slow(file.num_bytes)
            self._supervised(transfer, system.loop, received)
        except MissingExtraError:
            raise
        except Exception as error:  # implementations raise kinds of their own
            if isinstance(error, OSError) and error.errno in _HERE:
                raise
            return error
        return None

    def _supervised(
        self, transfer: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, received: Callable[[], float]
    ) -> None:
        """Run a transfer in fsspec's own thread, and end it where too little comes.

        Raises:
            TimeoutError: it was given up.
        """
        future = asyncio.run_coroutine_threadsafe(transfer, loop)
        before, least = 0.0, self.settings.min_bytes_s * self.settings.stall_s
        try:
            while not wait([future], timeout=self.settings.stall_s).done:
                now = received()
                if now - before < least:
                    raise TimeoutError(
                        f"{now - before:.0f} bytes came in {self.settings.stall_s:g} s, the least is {least:.0f}"
                    )
                before = now
            future.result()
        finally:
            future.cancel()

    def _as_if_slow(self, num_bytes: int) -> Callable[[], float]:
        """For a part that arrives in memory, out of sight: it has the time that the lowest rate takes."""
        begun = time.monotonic()
        return lambda: min(float(num_bytes), (time.monotonic() - begun) * self.settings.min_bytes_s * 1.001)

    def _system(self, address: Address) -> Any:
        """The file system of fsspec's for an address, made once: connections are kept from one file to the next."""
        implementation = _implementation(address)
        options = implementation._get_kwargs_from_urls(address.text)
        key = (os.getpid(), address.protocol, repr(sorted(options.items())))
        with self._lock:
            if key not in self._systems:
                self._systems[key] = implementation(**options, skip_instance_cache=True)
            return self._systems[key]


class _Counter:
    """Bytes that a store has brought so far: what it says of itself, or the size of the draft."""

    def __init__(self, draft: Path) -> None:
        from fsspec.callbacks import Callback

        self.callback = Callback()
        self._size = _size_of(draft)

    def received(self) -> float:
        return max(float(self.callback.value), self._size())


def _size_of(draft: Path) -> Callable[[], float]:
    return lambda: float(draft.stat().st_size)


def _implementation(address: Address) -> Any:
    import fsspec

    try:
        implementation = fsspec.get_filesystem_class(address.protocol)
    except (ImportError, ValueError):
        package = PACKAGES[address.protocol]
        extra = "`audio_ssl[remote]`" if package in ("aiohttp", "s3fs") else f"the package `{package}`"
        raise MissingExtraError(
            f"addresses that start with {address.protocol}:// need the package {package}, which cannot be imported; "
            f"install {extra}"
        ) from None
    if not implementation.async_impl:
        raise MissingExtraError(
            f"addresses that start with {address.protocol}:// need an implementation whose transfers can be ended, got "
            f"{implementation.__module__}.{implementation.__name__}; install a newer {PACKAGES[address.protocol]}"
        )
    return implementation


async def _from_web(system: Any, file: RemoteFile, draft: Path) -> None:
    """GET, straight into the draft; fsspec's own call would take a whole shard where a server knows no ranges."""
    import aiohttp

    # its own limit of 300 s for all of a file would cut long ones off; _supervised ends what stalls
    options = {**system.kwargs, "timeout": aiohttp.ClientTimeout(total=None)}
    headers = {**options.get("headers", {}), "Accept-Encoding": "identity"}
    if file.offset is not None and file.num_bytes is not None:
        headers["Range"] = f"bytes={file.offset}-{file.offset + file.num_bytes - 1}"
    session = await system.set_session()
    async with session.get(system.encode_url(file.address.text), **{**options, "headers": headers}) as reply:
        _check_reply(reply, file)
        num_bytes = 0
        with draft.open("r+b") as out:
            async for chunk in reply.content.iter_chunked(_CHUNK_BYTES):
                num_bytes += out.write(chunk)
                out.flush()  # the draft's size says how much has come
    if file.num_bytes is not None:
        _check_length(num_bytes, file, shard_bytes=_shard_bytes(reply.headers.get("Content-Range", "")))


def _check_reply(reply: Any, file: RemoteFile) -> None:
    if reply.status in (404, 410):
        raise FileNotFoundError
    if reply.status in (401, 403, 407):
        raise PermissionError
    if reply.status == 416:
        raise _ShardEndError(_outside(_shard_bytes(reply.headers.get("Content-Range", ""))))
    if reply.status >= 400:
        message = f"the server answered {reply.status} {reply.reason}"
        raise ConnectionError(message) if _is_passing(reply.status) else _FinalError(message)
    if file.offset is not None and reply.status != 206:
        raise _FinalError(
            f"the server must give parts of files (range requests), but answered {reply.status} to such a request; "
            "put the shards on one that does, or use a manifest of whole files"
        )


async def _from_store(system: Any, file: RemoteFile, draft: Path, counted: _Counter) -> None:
    path = system._strip_protocol(file.address.text)
    if file.offset is None or file.num_bytes is None:
        await system._get_file(path, str(draft), callback=counted.callback)
        return
    try:
        content = await system._cat_file(path, start=file.offset, end=file.offset + file.num_bytes)
    except Exception as error:
        if _status(error) == 416 or _NO_RANGE.search(str(error)):
            raise _ShardEndError(_outside(None)) from None
        raise
    _check_length(len(content), file, shard_bytes=None)
    draft.write_bytes(content)


def _check_length(num_bytes: int, file: RemoteFile, *, shard_bytes: int | None) -> None:
    """A part must have come whole. A store's library tells a broken transfer itself, so less means the shard's end."""
    assert file.offset is not None
    assert file.num_bytes is not None
    if num_bytes == file.num_bytes:
        return
    stop = file.offset + file.num_bytes
    if num_bytes < file.num_bytes and (shard_bytes is None or shard_bytes < stop):
        raise _ShardEndError(_outside(shard_bytes))
    raise ConnectionError(f"{num_bytes} bytes came where {file.num_bytes} were asked for")


def _outside(shard_bytes: int | None) -> str:
    size = "" if shard_bytes is None else f", which has {shard_bytes}"
    return (
        f"its bytes must lie inside the shard{size}: the shard is truncated, or is not the one that the manifest was "
        "written for"
    )


def _shard_bytes(content_range: str) -> int | None:
    """The last number of ``bytes 0-9/100`` or ``bytes */100``."""
    size = content_range.rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _is_passing(status: int) -> bool:
    return status in _RETRIED_STATUS or status >= 500


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: nothing there, no permission, or an address that no server can answer."""
    if isinstance(error, _FINAL):
        return True
    if (status := _status(error)) is not None:
        return not _is_passing(status)
    if isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ENOSYS):  # s3fs's for 400 and the like
        return True
    return "Credential" in type(error).__name__  # botocore's and google.auth's: none were found


def _status(error: Exception) -> int | None:
    """That of a reply which failed, from the errors of aiohttp, gcsfs and azure."""
    found = (getattr(error, name, None) for name in ("status", "code", "status_code"))
    return next((status for status in found if isinstance(status, int) and status >= 400), None)


def _said(error: Exception, address: Address) -> str:
    """A reason for people, in one line and without what may be secret."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return (
            "permission was refused; credentials come from fsspec's configuration, or from where "
            f"{PACKAGES[address.protocol]} looks for them"
        )
    words = " ".join(str(error).replace(address.text, str(address)).split())
    words = _USER.sub(r"\1", _QUERY.sub(r"\1?...", words))[:300]
    if isinstance(error, _FinalError | ConnectionError | TimeoutError) and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
