"""Addresses of audio elsewhere, ``s3://bucket/a.flac``: which are taken, how they are joined, and how they are shown.

Nothing is fetched here: ``remote`` does that, and ``cache`` keeps what came.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

from audio_ssl.errors import ManifestError

# What a manifest may name, and the package that fetches it. Only implementations of fsspec whose transfers are
# coroutines: those alone can be ended from outside when they stall. None reads files of this machine, opens archives,
# or runs anything.
PACKAGES = {
    "http": "aiohttp", "https": "aiohttp",
    "s3": "s3fs", "s3a": "s3fs",
    "gs": "gcsfs", "gcs": "gcsfs",
    "az": "adlfs", "abfs": "adlfs",
}  # fmt: skip
_MARK = "://"
_WEB = ("http", "https")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A file or a folder elsewhere. Shown without what may be secret: see :func:`shown`.

    Attributes:
        text: as it is asked for.
    """

    text: str

    def __str__(self) -> str:
        return shown(self.text)

    def __repr__(self) -> str:
        return f"Address({shown(self.text)!r})"

    @property
    def protocol(self) -> str:
        """Such as ``s3``."""
        return self.text.partition(_MARK)[0]

    @property
    def suffix(self) -> str:
        """The file's extension with its dot, in lower case; the query of a web address is no part of it."""
        path = self.text.partition(_MARK)[2]
        if self.protocol in _WEB:
            path = unquote(path.partition("#")[0].partition("?")[0])
        return PurePosixPath(path).suffix.lower()


Place = Path | Address


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An encoded file elsewhere, or a part of one.

    Attributes:
        address: the file; the shard where it is a part of one.
        offset: its first byte in the shard; None for a whole file.
        num_bytes: its length in the shard; None together with ``offset``.
        id: the manifest row that it was asked for by, for messages.
    """

    address: Address
    offset: int | None = None
    num_bytes: int | None = None
    id: str = ""

    def __str__(self) -> str:
        if self.offset is None or self.num_bytes is None:
            return str(self.address)
        return f"{self.address} bytes {self.offset} to {self.offset + self.num_bytes} (row {self.id})"


def is_address(path: str) -> bool:
    """Whether a path says that it is elsewhere. One that is not allowed (:func:`address_fault`) is no local file."""
    return _MARK in path


def shown(path: str) -> str:
    """A path for messages: without the query of an address and without a user's name, either of which may be a key."""
    protocol, mark, rest = path.partition(_MARK)
    if not mark:
        return path
    rest = rest.partition("#")[0]
    rest, query, _ = rest.partition("?")
    host, slash, name = rest.partition("/")
    if protocol in _WEB or ":" in host.rpartition("@")[0]:
        host = host.rpartition("@")[2]
    return f"{protocol}{mark}{host}{slash}{name}{'?...' if query else ''}"


def address_fault(address: str) -> str | None:
    """Why an address is not taken; None where it is."""
    protocol, _, rest = address.partition(_MARK)
    host = rest.partition("?")[0].partition("/")[0]
    if protocol not in PACKAGES:
        return f"an address must start with one of {', '.join(f'{name}://' for name in PACKAGES)}"
    if "::" in protocol or "::" in rest.removeprefix(host) or ("::" in host and not host.startswith("[")):
        return "an address must name one file, and chains (`::`) are not read"
    if "@" in host and (protocol in _WEB or ":" in host.rpartition("@")[0]):
        return (
            "an address must hold no user and no password: fsspec takes them from its configuration, or from the "
            "environment"
        )
    if host.rpartition("@")[2] in ("", ".", "..") or not rest.removeprefix(host).strip("/"):
        return "an address must have a host or a bucket, and a path in it"
    path = unquote(rest.partition("#")[0].partition("?")[0]) if protocol in _WEB else rest
    if _CONTROLS.search(address) or any(part in (".", "..") for part in path.replace("\\", "/").split("/")):
        return "an address must be without the folders `.` and `..` and without control characters"
    return None


def root_of(text: str) -> Address:
    """An address that relative paths may start from.

    Raises:
        ManifestError: not an address that is taken, or with a query, behind which nothing can be joined.
    """
    # a bucket or a host may be a root as it is
    fault = address_fault(text.rstrip("/") + "/x")
    if text.startswith(tuple(f"{name}{_MARK}" for name in _WEB)) and set(text) & set("?#"):
        fault = "an address that paths start from must be without `?` and `#`"
    if fault is not None:
        raise ManifestError(f"the root must be a folder or an address: {fault}; got {shown(text)!r}")
    return Address(text.rstrip("/"))


def place_of(root: Place, path: str) -> Place:
    """Where a row's path leads; the path has been checked (``table.path_fault``)."""
    if is_address(path):
        return Address(path)
    if isinstance(root, Path) or path.startswith("/"):
        return Path(path) if isinstance(root, Address) else Path(root, path)
    name = posixpath.normpath(path)
    # in a web address % ? and # mean something; in a file's name they are letters
    return Address(f"{root.text}/{quote(name) if root.protocol in _WEB else name}")


def looks_like_address(path: Path) -> bool:
    """True for an address that became a path, which takes one of the two slashes away."""
    head, colon, _ = str(path).partition(":")
    return bool(colon) and head.rpartition("::")[2].lower() in PACKAGES and not path.exists()
