"""A folder that ``audio-ssl extract`` wrote, read back: ``open_embeddings(folder)[id]``, whatever its format.

Nothing is held but the ids and where each index line stands; frames are mapped into memory where the format allows
(npy, matrix, safetensors and arrow, with fp32 or int32). No file is unpickled.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from struct import error as StructError
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pyarrow.lib import ArrowException
from safetensors import SafetensorError

from audio_ssl.errors import ManifestError
from audio_ssl.inference.folder import INDEX_FILE, PARTS_FOLDER, SETTINGS_FILE
from audio_ssl.inference.sinks.formats import Reader, reader_of
from audio_ssl.inference.sinks.numbers import DTYPES_OF
from audio_ssl.inference.sinks.writer import Form

# what a file that was cut off, swapped or spoilt makes the libraries say
_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, StructError, SafetensorError, ArrowException)


def open_embeddings(folder: str | Path) -> Embeddings:
    """Open the output folder of ``audio-ssl extract``.

    Args:
        folder: where it wrote.

    Raises:
        ManifestError: no such folder, one that the run has not completed, or one that it did not write.
    """
    folder = Path(folder)
    if not (folder / SETTINGS_FILE).is_file():
        found = "it is not there" if not folder.exists() else f"it has no {SETTINGS_FILE}"
        raise ManifestError(f"{folder} must be a folder that `audio-ssl extract` wrote; {found}")
    is_begun = any((folder / PARTS_FOLDER).glob("*.jsonl"))
    if is_begun or not (folder / INDEX_FILE).is_file():
        found = f"it has {PARTS_FOLDER}/, which are not in {INDEX_FILE} yet" if is_begun else f"it has no {INDEX_FILE}"
        raise ManifestError(
            f"{folder} must be complete, {found}: the run that writes it goes on or was cut off. Run the same "
            "`audio-ssl extract` again"
        )
    return Embeddings(folder, _read_settings(folder / SETTINGS_FILE))


class Embeddings:
    """Embeddings by id. Made by :func:`open_embeddings`; can be sent to other processes, which open the folder anew.

    Iterating gives ``(index line, frames)`` of each utterance, in the order of the index.

    Args:
        folder: of the files.
        settings: the document of ``embeddings.json``.

    Attributes:
        folder: of the files.
        settings: what all utterances share: ``format``, ``dtype``, ``layer``, ``hop_s``, ``model_hash`` ...
        lines: of the index, parsed when asked for.
        ids: in the order of the index.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.lines = _Lines(folder / INDEX_FILE)
        self.ids = self.lines.ids
        self._number = {name: number for number, name in enumerate(self.ids)}
        self._form = Form(settings["dtype"], settings.get("pool") is not None, tuple(settings.get("layers") or ()))
        self._reader: Reader | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._number

    def __iter__(self) -> Iterator[tuple[Mapping[str, Any], NDArray[Any]]]:
        return ((line, self._read(line)) for line in self.lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_embeddings, (self.folder,)

    def __getitem__(self, utterance_id: str) -> NDArray[Any]:
        """Frames of an utterance.

        Returns:
            (T, D) float32 (int32 for codes), (L, T, D) for several layers; pooled vectors have no T. Read-only where it
            is mapped: copy before changing.

        Raises:
            KeyError: no such id.
            ManifestError: its file is not what the index says.
        """
        return self._read(self.line(utterance_id))

    def line(self, utterance_id: str) -> Mapping[str, Any]:
        """The index line of an utterance.

        Raises:
            KeyError: no such id.
        """
        return self.lines[self._number[utterance_id]]

    def times_s(self, utterance_id: str) -> NDArray[np.float64]:
        """(T,) centre of each frame in seconds from the utterance's start.

        Raises:
            KeyError: no such id.
            ManifestError: the vectors are pooled, and have no times.
        """
        if self._form.is_pooled:
            raise ManifestError(f"{self.folder} must hold frames to have times, it holds vectors (--pool)")
        count = self.line(utterance_id)["num_frames"]
        first_s, hop_s = float(self.settings["first_centre_s"]), float(self.settings["hop_s"])
        return first_s + hop_s * np.arange(count, dtype=np.float64)

    def _read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        place = self.folder / str(line.get("file"))
        try:
            _check_inside(line["file"])
            if self._reader is None:
                self._reader = reader_of(self.settings["format"], self.folder, self._form)
            frames = self._reader.read(line)
            if not self._form.is_pooled and frames.shape[-2] != line["num_frames"]:
                raise ValueError(f"there are {frames.shape[-2]} frames, not {line['num_frames']}")
        except _UNREADABLE as error:
            raise ManifestError(
                f"{place} must hold {line.get('id')!r} as {INDEX_FILE} beside it says; {_said(error)}. Remove the file "
                "and run the same `audio-ssl extract` again"
            ) from error
        return frames


class _Lines(Sequence[Mapping[str, Any]]):
    """The lines of an index, each parsed when it is asked for.

    Args:
        path: of the index.

    Attributes:
        ids: of all lines.

    Raises:
        ManifestError: a line that is none, or an id that comes twice.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            empty = path.stat().st_size == 0  # which cannot be mapped
            self._text: mmap.mmap | bytes = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        ids: dict[str, None] = {}
        self._starts, start = [0], 0
        while start < len(self._text):
            end = self._text.find(b"\n", start) + 1
            name = _id_of(self._text[start:end])  # no end: a line that was cut off
            if name is None or name in ids:
                fault = "it is not" if name is None else f"id {name!r} comes twice"
                raise ManifestError(
                    f"{path}:{len(self._starts)} must be a line that `audio-ssl extract` wrote; {fault}. Run the same "
                    "command again"
                )
            ids[name] = None
            self._starts.append(end)
            start = end
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, number: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, number: slice) -> list[Mapping[str, Any]]: ...
    def __getitem__(self, number: int | slice) -> Mapping[str, Any] | list[Mapping[str, Any]]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        number = range(len(self))[number]  # negative ones, and IndexError
        line: dict[str, Any] = json.loads(self._text[self._starts[number] : self._starts[number + 1]])
        return line


def _id_of(raw: bytes) -> str | None:
    try:
        name = json.loads(raw)["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        known = settings["format"] in DTYPES_OF and settings["dtype"] in DTYPES_OF[settings["format"]]
        times = [float(settings[key]) for key in ("hop_s", "first_centre_s")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} must be what `audio-ssl extract` wrote; {_said(error)}") from error
    if not known or not np.isfinite(times).all():
        raise ManifestError(
            f"{path} must name a format and dtype of this version ({', '.join(DTYPES_OF)}), it names "
            f"{settings['format']!r} and {settings['dtype']!r}"
        )
    return MappingProxyType(settings)


def _check_inside(file: str) -> None:
    parts = PurePosixPath(file).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise ValueError("a file must lie in the folder")


def _said(error: BaseException) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)
