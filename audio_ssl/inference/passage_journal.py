"""What is done of long recordings while they are not complete: a line a passage, so that a kill costs minutes.

The folder is written by whoever holds the lock of the recording's shard. A line that a kill has cut off is forgotten.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from audio_ssl.inference.align import TimedToken
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.transcripts import PassageText


class PassageJournal:
    """See :class:`audio_ssl.inference.transcribe.Journal`.

    Args:
        folder: made when the first line is written.
        rows: of the input; a recording is known by what it is, not by its number.
    """

    def __init__(self, folder: Path, rows: Rows) -> None:
        self._folder, self._rows = folder, rows

    def known(self, row: int) -> Sequence[PassageText]:
        """See :class:`audio_ssl.inference.transcribe.Journal`; what follows the last whole line is cut off."""
        path, passages, whole = self._path(row), list[PassageText](), 0
        try:
            with path.open("rb") as lines:
                for line in lines:
                    passage = _read(line, after=passages)
                    if passage is None:
                        break
                    passages.append(passage)
                    whole += len(line)
        except FileNotFoundError:
            return ()
        if whole < path.stat().st_size:
            os.truncate(path, whole)
        return passages

    def add(self, row: int, passage: PassageText) -> None:
        """See :class:`audio_ssl.inference.transcribe.Journal`; the line is on the disk afterwards."""
        self._folder.mkdir(exist_ok=True)
        with self._path(row).open("ab") as stream:
            stream.write((json.dumps(asdict(passage), ensure_ascii=False) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())

    def forget(self, rows: Sequence[int]) -> None:
        """Remove what stands in a shard by now."""
        if self._folder.is_dir():
            for row in rows:
                self._path(row).unlink(missing_ok=True)
            with suppress(OSError):  # others are on their way
                self._folder.rmdir()

    def _path(self, row: int) -> Path:
        identity = repr(sorted(self._rows.identity(row).items())).encode("utf-8", "surrogateescape")
        return self._folder / f"{hashlib.blake2b(identity, digest_size=12).hexdigest()}.jsonl"


def _read(line: bytes, *, after: Sequence[PassageText]) -> PassageText | None:
    """A passage; None of a line that is not whole, or does not go on where the one before it ends."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        content = None
    if content is None:
        return None
    words, edges = content.pop("words"), content.pop("edge_labels")
    passage = PassageText(
        **content, words=None if words is None else tuple(TimedToken(**word) for word in words),
        edge_labels=None if edges is None else (edges[0], edges[1]),
    )  # fmt: skip
    return passage if passage.first_frame == (after[-1].stop_frame if after else 0) else None
