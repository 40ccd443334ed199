"""``index.jsonl`` of an embedding folder: one line an utterance, appended as files appear, in input order at the end.

A line is written only after its file stands in place, so what the index says is there, is there.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from audio_ssl.errors import ManifestError

INDEX_FILE = "index.jsonl"
SETTINGS = ("model_hash", "layer", "dtype", "precision", "normalized", "max_s", "overlap_s")
"""Keys that must be the same in all lines of one folder."""


class EmbeddingIndex:
    """The index of a folder, held by one process at a time. A context manager.

    Args:
        folder: exists.
        settings: what this run would write under :data:`SETTINGS`.

    Raises:
        ManifestError: another process writes here, a line cannot be read, or the folder was made otherwise.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._path = folder, folder / INDEX_FILE
        self._lock: IO[bytes] = (folder / ".lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise ManifestError(f"{folder} must be written by one process at a time; another one is at work") from error
        try:
            self.lines = self._read(settings)
            self._rewrite(list(self.lines.values()))
            self._file = self._path.open("a", encoding="utf-8")
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> EmbeddingIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._lock.close()

    def add(self, line: Mapping[str, Any]) -> None:
        """Append a line; its file must be in place."""
        self.lines[line["id"]] = dict(line)
        self._file.write(_text(line))
        self._file.flush()

    def sort(self, ids: Sequence[str]) -> None:
        """Put the lines of ``ids`` into that order, after those of earlier inputs; nothing is written in vain."""
        own = set(ids)
        order = [name for name in self.lines if name not in own] + [name for name in ids if name in self.lines]
        self.lines = {name: self.lines[name] for name in order}
        self._file.close()
        self._rewrite(list(self.lines.values()))
        self._file = self._path.open("a", encoding="utf-8")

    def has(self, line: Mapping[str, Any]) -> bool:
        """Whether this utterance is done and its file in place.

        Args:
            line: ``id``, ``path``, ``start`` and ``num_samples`` of the utterance, ``offset`` where it is in a shard.

        Raises:
            ManifestError: the id stands for another piece of audio.
        """
        known = self.lines.get(line["id"])
        if known is None:
            return False
        for key in ("path", "offset", "start", "num_samples"):  # offset: of files in shards alone
            if known.get(key) != line.get(key):
                raise ManifestError(
                    f"{self._path}: id {line['id']!r} must mean one piece of audio; there {key} is "
                    f"{known.get(key)!r}, now it is {line.get(key)!r}. Choose another output folder"
                )
        return Path(self._folder, known["file"]).is_file()

    def _read(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        if not self._path.is_file():
            return {}
        lines: dict[str, dict[str, Any]] = {}
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line; its utterance is done again
        for number, raw in enumerate(whole.split("\n")[:-1], start=1):
            try:
                line = json.loads(raw)
                faults = [
                    f"{key} is {line[key]!r}, now it is {settings[key]!r}"
                    for key in SETTINGS if line[key] != settings[key]
                ]  # fmt: skip
                lines[line["id"]] = line
            except (ValueError, KeyError, TypeError) as error:
                raise ManifestError(
                    f"{self._path}:{number} must be a line that `audio-ssl extract` wrote, it is not ({error!r}); "
                    "choose another output folder"
                ) from error
            if faults:
                raise ManifestError(
                    f"{self._folder} holds embeddings made otherwise ({self._path.name}:{number}): "
                    + "; ".join(faults) + ". Choose another output folder, or remove this one"
                )  # fmt: skip
        return lines

    def _rewrite(self, lines: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(_text(line) for line in lines)
        if self._path.is_file() and self._path.read_text(encoding="utf-8") == text:
            return
        draft = self._path.with_name(f".{INDEX_FILE}.{os.getpid()}.tmp")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._path)


def embedding_file(utterance_id: str) -> str:
    """Path of an utterance's file, relative to the folder; slashes of the id make sub-folders.

    Raises:
        ManifestError: the id would lead out of the folder or is no file name.
    """
    parts = utterance_id.split("/")
    is_odd = any(part in ("", ".", "..") or len(f".{part}.npy.{2**22}.tmp".encode()) > 255 for part in parts)
    if is_odd or any(ord(c) < 32 or c in "\\\x7f" for c in utterance_id):
        raise ManifestError(
            f"id {utterance_id!r} must be usable as a file name below the output folder (no empty, '.' or '..' part, "
            "no control character or backslash, at most 235 bytes a part); change the id in the manifest"
        )
    return f"{utterance_id}.npy"


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
