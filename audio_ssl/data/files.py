"""Files under a folder, in an order that depends on their names alone; of millions, few names are held at a time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from audio_ssl.data.audio import AUDIO_EXTENSIONS
from audio_ssl.errors import ManifestError


@dataclass(frozen=True)
class FoundFiles:
    """What lies under a folder; names are posix paths relative to it.

    Attributes:
        root: the folder.
        num_audio: how many files have an audio extension, in any case.
        kept: the other files that were asked for, sorted.
        unused: by extension, how many files are no audio; hidden ones (their names start with a dot: macOS puts
            ``._name.wav`` beside ``name.wav``; they are not looked into) come last.
        num_hidden: how many of these are hidden.
    """

    root: Path
    num_audio: int
    kept: tuple[str, ...]
    unused: Mapping[str, int]
    num_hidden: int

    def audio(self) -> Iterator[str]:
        """The audio files, sorted. They are looked for again, so that nobody has to hold a million names."""
        return (name for name in walk(self.root) if is_audio(name))


def find_files(root: Path, *, keep: Callable[[str], bool]) -> FoundFiles:
    """Look through a folder and all below it.

    Args:
        root: folder.
        keep: which names, of those that are neither audio nor hidden, are to be held.

    Raises:
        ManifestError: it is no folder, or cannot be listed.
    """
    num_audio = 0
    kept: list[str] = []
    others, hidden = Counter[str](), Counter[str]()
    for name in walk(root):
        if is_audio(name):
            num_audio += 1
        elif is_hidden(name):
            hidden[extension(name)] += 1
        else:
            others[extension(name)] += 1
            if keep(name):
                kept.append(name)
    return FoundFiles(root, num_audio, tuple(kept), others + hidden, hidden.total())


def walk(root: Path) -> Iterator[str]:
    """Names of all files under a folder, sorted; links to folders are followed once.

    Only the names of one folder, and of those above it, are held at a time.

    Raises:
        ManifestError: it is no folder, or cannot be listed.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} must be a folder of audio, got {'a file' if root.exists() else 'nothing there'}")
    visited: set[str] = set()
    pending = [_listed(root, "", visited)]
    while pending:
        if not pending[-1]:
            pending.pop()
            continue
        name = pending[-1].pop()
        if name.endswith("/"):
            pending.append(_listed(root, name, visited))
        else:
            yield name


def _listed(root: Path, folder: str, visited: set[str]) -> list[str]:
    """What lies in a folder, last first; folders end in a slash, which also puts them where their files belong."""
    place = os.path.realpath(root / folder)
    if place in visited:  # a link that leads back up
        return []
    visited.add(place)
    names = []
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    names.append(f"{folder}{entry.name}")
                elif not entry.name.startswith("."):
                    names.append(f"{folder}{entry.name}/")
    except OSError as error:
        raise ManifestError(f"every folder under {root} must be readable: {error}") from error
    names.sort(reverse=True)
    return names


def is_audio(name: str) -> bool:
    """Whether a file is audio by its name."""
    return extension(name) in AUDIO_EXTENSIONS and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Whether a file's own name starts with a dot."""
    return name.startswith(".", name.rfind("/") + 1)


def extension(name: str) -> str:
    """Lower-case extension with its dot, or an empty string."""
    return name[_dot(name) :].lower()


def stem_path(name: str) -> str:
    """The path without its extension."""
    return name[: _dot(name)]


def count_extensions(counts: Mapping[str, int]) -> dict[str, int]:
    """How many files there are of each extension, most frequent first, as it can be printed."""
    return {
        os.fsencode(name).decode("utf-8", "backslashreplace") or "(none)": count
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
    }


def _dot(name: str) -> int:
    """Where a path's extension starts, or its end where it has none: as pathlib, whose objects cost ten times more."""
    first, dot = name.rfind("/") + 1, name.rfind(".")
    return dot if first < dot < len(name) - 1 else len(name)
