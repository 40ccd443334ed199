"""Results to files, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from audio_ssl.errors import ConfigError
from audio_ssl.inference.source import Refusal


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text beside its place, then move it there; folders are made.

    Raises:
        ConfigError: the place cannot be written; what was there is intact.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths may hold bytes that are no UTF-8
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
