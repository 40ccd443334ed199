"""Results to files, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.source import Refusal

DRAFTS_FOLDER = ".drafts"


def file_name(utterance_id: str, suffix: str, *, reserved: Sequence[str] = (), instead: str = "") -> str:
    """Path of an utterance's file, relative to the folder; slashes of the id make sub-folders.

    Args:
        utterance_id: names it.
        suffix: of the file.
        reserved: names that the folder needs for itself.
        instead: what may be done but to change the id, for the message.

    Raises:
        ManifestError: the id would lead out of the folder or is no file name.
    """
    parts, name = utterance_id.split("/"), f"{utterance_id}{suffix}"
    is_odd = any(part in ("", ".", "..") or len(f"{part}{suffix}".encode()) > 255 for part in parts)
    is_taken = parts[0] == DRAFTS_FOLDER or name in reserved
    if is_odd or is_taken or any(ord(c) < 32 or c in "\\\x7f" for c in utterance_id):
        raise ManifestError(
            f"id {utterance_id!r} must be usable as a file name below the output folder (no empty, '.' or '..' part, "
            f"none in {', '.join((DRAFTS_FOLDER, *reserved))}, no control character or backslash, at most "
            f"{255 - len(suffix)} bytes a part); change the id in the manifest{instead}"
        )
    return name


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text beside its place, then move it there; folders are made.

    Raises:
        ConfigError: the place cannot be written; what was there is intact.
    """
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str], *, drafts: Path | None = None) -> None:
    """As :func:`write_text`, piece by piece.

    Args:
        path: the place.
        lines: with their ends; asked for one by one.
        drafts: as :func:`draft_of`.

    Raises:
        ConfigError: as there.
    """
    with draft_of(path, drafts=drafts) as stream:
        stream.writelines(lines)


@contextmanager
def draft_of(path: Path, *, drafts: Path | None = None) -> Iterator[TextIO]:
    """A file beside its place, to be written; it moves there when all went well.

    Args:
        path: the place; folders are made.
        drafts: a folder of the same file system for it, in which someone clears up after a kill; None: beside.

    Raises:
        ConfigError: as :func:`write_text`.
    """
    draft = (drafts or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        # paths may hold bytes that are no UTF-8
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            yield stream
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} must be writable with room to spare: {error}; choose another place") from error
    finally:
        draft.unlink(missing_ok=True)


def write_refused(path: Path, refused: Sequence[Refusal]) -> None:
    """Write ``id``, ``path`` and ``reason`` of each refusal; without any, the file goes."""
    if not refused:
        path.unlink(missing_ok=True)
        return
    rows = [("id", "path", "reason"), *((r.id, r.path, r.reason) for r in refused)]
    write_text(path, "".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows))
