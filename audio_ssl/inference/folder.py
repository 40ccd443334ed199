"""An output folder and who may write it: processes of one plan, each shard by one of them at a time.

``.lock`` names the plan, and everyone at work holds it shared. Whoever is alone clears what killed runs have left.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from audio_ssl.errors import ManifestError
from audio_ssl.inference.output import DRAFTS_FOLDER
from audio_ssl.inference.sinks.drafts import flush

SETTINGS_FILE = "embeddings.json"
INDEX_FILE = "index.jsonl"
ERRORS_FILE = "errors.jsonl"
PARTS_FOLDER = "parts"
FORMAT_VERSION = 1
SHARD_DATA = re.compile(r"\d{8}-[0-9a-f]{12}\.(safetensors|parquet|arrow|ark)")  # shards.name_of
JOIN_TRIES, JOIN_PAUSE_S = 20, 0.1


@dataclass(frozen=True)
class FolderKind:
    """What a folder holds, and how messages call it.

    Attributes:
        verb: that writes it.
        what: it holds.
        settings_file: says what all of it shares.
        has_data: whether lines name files; else they hold all there is.
        not_compared: settings that may be worded otherwise in another version, or come out otherwise where more input
            is there or threads add up.
        is_passing: whether the folder goes when all is done, for what it holds then stands elsewhere.
        or_cut_otherwise: how the same input may be divided otherwise, for messages.
    """

    verb: str
    what: str
    settings_file: str
    has_data: bool = True
    not_compared: tuple[str, ...] = ()
    is_passing: bool = False
    or_cut_otherwise: str = ""


EMBEDDINGS = FolderKind(
    "extract", "embeddings", SETTINGS_FILE, or_cut_otherwise=", or with another --shard-mib",
    not_compared=("layer_convention", "frame_rule", "precision_error"),
)  # fmt: skip


class OutputFolder:
    """A context manager in which this process may write.

    Args:
        path: exists.
        settings: what all results in the folder share; written once, and compared from then on.
        plan: names the input and how it is cut: processes with another one must not write at the same time.
        kind: of the folder.

    Attributes:
        is_complete: to be set when all is done.

    Raises:
        ManifestError: the folder was made with other settings, or another plan is at work on it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], plan: str, *, kind: FolderKind = EMBEDDINGS) -> None:
        self.path, self.drafts, self.parts = path, path / DRAFTS_FOLDER, path / PARTS_FOLDER
        self.kind, self.is_complete = kind, False
        self._settings, self._plan = {"version": FORMAT_VERSION, **settings}, plan

    def __enter__(self) -> OutputFolder:
        self._check_settings()  # before anything is made or changed
        self._lock = (self.path / ".lock").open("a+", encoding="utf-8")
        try:
            if not any(self._joined() for _ in range(JOIN_TRIES)):
                raise ManifestError(
                    f"{self.path} must be written for one input at a time, and another process is at work there with "
                    f"another one{self.kind.or_cut_otherwise}; wait until it ends"
                )
            self._check_settings()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if _taken(self._lock):  # the last one out
                if not any(path.is_dir() for path in self.drafts.glob("*")):  # else another was killed: _begin_alone
                    shutil.rmtree(self.drafts, ignore_errors=True)
                with suppress(OSError):  # parts are left, or there were none
                    self.parts.rmdir()
                if self.kind.is_passing and self.is_complete:
                    shutil.rmtree(self.path, ignore_errors=True)
        finally:
            self._lock.close()

    @contextmanager
    def locked(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Hold a lock of this name; gives False where another process holds it.

        Args:
            name: usable as a file name.
            wait: until it is free.
        """
        self.drafts.mkdir(exist_ok=True)
        with (self.drafts / f"{name}.lock").open("ab") as lock:
            if wait:
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield wait or _taken(lock)

    def place(self, file: str, draft: Path) -> None:
        """Move a finished draft to its place; both the content and the name are on the disk afterwards."""
        final = self.path / file
        final.parent.mkdir(exist_ok=True)
        flush(draft)
        draft.replace(final)
        flush(final.parent)

    def index_lines(self) -> Iterator[dict[str, Any]]:
        """The lines of a complete index."""
        if (self.path / INDEX_FILE).exists():  # not of an input without rows
            with (self.path / INDEX_FILE).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def draft(self, file: str) -> Path:
        """Where a file of the folder is written first."""
        self.drafts.mkdir(exist_ok=True)
        return self.drafts / f"{Path(file).name}.{os.getpid()}"

    def _joined(self) -> bool:
        """Share the lock with those at work, if they have our plan; be the first one where nobody is."""
        if _taken(self._lock):
            self._begin_alone()
        fcntl.flock(self._lock, fcntl.LOCK_SH)  # those who begin together wait here for the first one
        self._lock.seek(0)
        if self._lock.read() == self._plan:
            return True
        # another plan, or a first one that was killed before it wrote ours: then whoever asks next is the first
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        time.sleep(random.uniform(0, JOIN_PAUSE_S))  # noqa: S311 - so that two who wait do not meet again
        return False

    def _begin_alone(self) -> None:
        if self.drafts.exists():
            self._clear_up()
        if not (self.path / self.kind.settings_file).exists():
            text = json.dumps(self._settings, ensure_ascii=False, indent=2) + "\n"
            draft = self.draft(self.kind.settings_file)
            draft.write_text(text, encoding="utf-8")
            self.place(self.kind.settings_file, draft)
        self._lock.seek(0)
        if self._lock.read() != self._plan:
            self._lock.truncate(0)
            self._lock.write(self._plan)
            self._lock.flush()

    def _clear_up(self) -> None:
        """Remove what killed runs left: drafts, and data that were in place before a line could say so."""
        data = {path.name for path in self.path.iterdir() if SHARD_DATA.fullmatch(path.name)}
        for lines in (*self.parts.glob("*.jsonl"), self.path / INDEX_FILE):
            with suppress(FileNotFoundError), lines.open("rb") as stream:
                for line in stream:
                    data.discard(_file_of(lines, line))
        for name in data:
            (self.path / name).unlink()
        shutil.rmtree(self.drafts)

    def _check_settings(self) -> None:
        kind, file = self.kind, self.path / self.kind.settings_file
        advice = "Choose another output folder, or remove this one"
        if kind.is_passing:
            advice = "Give the options of that run, or remove this folder to begin anew"
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(known, dict):
                raise ValueError("it holds no settings")
        except FileNotFoundError as error:
            if (self.path / INDEX_FILE).exists():
                raise ManifestError(
                    f"{self.path} must hold {kind.settings_file} beside {INDEX_FILE}; there is none, so the folder was "
                    f"made by an older version or by something else. {advice}"
                ) from error
            return
        except ValueError as error:
            raise ManifestError(
                f"{file} must be as `audio-ssl {kind.verb}` wrote it, it is not ({error}). {advice}"
            ) from error
        faults = [
            f"{key} is {known.get(key)!r}, now it is {self._settings.get(key)!r}"
            for key in sorted(known.keys() | self._settings.keys())
            if key not in kind.not_compared and known.get(key) != self._settings.get(key)
        ]
        if faults:
            raise ManifestError(
                f"{self.path} holds {kind.what} made otherwise ({file.name}): {'; '.join(faults)}. {advice}"
            )


def _file_of(path: Path, line: bytes) -> str:
    try:
        return str(json.loads(line).get("file", ""))
    except (ValueError, AttributeError) as error:
        raise ManifestError(
            f"{path} must hold lines that `audio-ssl extract` wrote, one is not ({error}); choose another output folder"
        ) from error


def _taken(lock: IO[Any]) -> bool:
    """Take a lock for oneself if nobody holds it."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
