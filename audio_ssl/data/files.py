"""Files under a folder, in an order that depends on their names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from audio_ssl.data.audio import AUDIO_EXTENSIONS
from audio_ssl.errors import ManifestError


@dataclass(frozen=True)
class FoundFiles:
    """What lies under a folder; names are posix paths relative to it, sorted.

    Attributes:
        audio: files with an audio extension, in any case.
        others: all other files.
        hidden: names that start with a dot (macOS puts ``._name.wav`` beside ``name.wav``); not looked into.
    """

    audio: tuple[str, ...]
    others: tuple[str, ...]
    hidden: tuple[str, ...]


def find_files(root: Path) -> FoundFiles:
    """List a folder and all below it; links to folders are followed once.

    Raises:
        ManifestError: it is no folder, or cannot be listed.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} must be a folder of audio, got {'a file' if root.exists() else 'nothing there'}")
    try:
        names = sorted(_walk(root))
    except OSError as error:
        raise ManifestError(f"every folder under {root} must be readable: {error}") from error
    hidden = tuple(name for name in names if PurePosixPath(name).name.startswith("."))
    seen = [name for name in names if not PurePosixPath(name).name.startswith(".")]
    return FoundFiles(
        audio=tuple(name for name in seen if extension(name) in AUDIO_EXTENSIONS),
        others=tuple(name for name in seen if extension(name) not in AUDIO_EXTENSIONS),
        hidden=hidden,
    )


def extension(name: str) -> str:
    """Lower-case extension with its dot, or an empty string."""
    return PurePosixPath(name).suffix.lower()


def stem_path(name: str) -> str:
    """The path without its extension."""
    return name[: len(name) - len(PurePosixPath(name).suffix)]


def _walk(root: Path) -> Iterator[str]:
    visited: set[str] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        place = os.path.realpath(root / folder)
        if place in visited:  # a link that leads back up
            continue
        visited.add(place)
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir():
                    if not entry.name.startswith("."):
                        pending.append(f"{name}/")
                else:
                    yield name
        pending.sort(reverse=True)
