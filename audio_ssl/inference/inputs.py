"""What callers in Python hand over, of mixed kinds, as sources of bounded size.

One input is the path of an audio file, an array or tensor (S,), or a pair of one and its rate in Hz.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.audio import load_segment, probe
from audio_ssl.data.manifest_io import is_manifest_file
from audio_ssl.data.waveform import resample
from audio_ssl.errors import AudioError, AudioSSLError
from audio_ssl.inference.source import ManifestSource, OpenedInput, Refusal, Samples, Source

Waveform: TypeAlias = NDArray[Any] | Tensor
OneInput: TypeAlias = str | os.PathLike[str] | Waveform | tuple[Waveform, int]

IN_MEMORY = "in memory"
_MOST_INPUTS = 4096  # of a group, however short they are


@dataclass(frozen=True)
class _File:
    path: Path
    num_samples: int
    rate_hz: int

    def load(self, start: int, num_samples: int, *, to_hz: int) -> Samples:
        return load_segment(
            self.path, start=start, num_samples=num_samples, expected_rate_hz=self.rate_hz, sample_rate_hz=to_hz
        )


@dataclass(frozen=True)
class _Array:
    waveform: Samples
    rate_hz: int

    @property
    def num_samples(self) -> int:
        return len(self.waveform)

    def load(self, start: int, num_samples: int, *, to_hz: int) -> Samples:
        return resample(self.waveform[start : start + num_samples], from_hz=self.rate_hz, to_hz=to_hz)


class InputSource:
    """Inputs by their number.

    Args:
        items: from :func:`open_one`.
    """

    def __init__(self, items: Mapping[int, _File | _Array]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def num_samples(self, row: int) -> int:
        """See :class:`Source`."""
        return self._items[row].num_samples

    def rate_hz(self, row: int) -> int:
        """See :class:`Source`."""
        return self._items[row].rate_hz

    def name(self, row: int) -> tuple[str, str]:
        """See :class:`Source`."""
        item = self._items[row]
        return (str(item.path), str(item.path)) if isinstance(item, _File) else (f"array {row}", IN_MEMORY)

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        """See :class:`Source`."""
        return self._items[row].load(start, num_samples, to_hz=to_hz)


@dataclass(frozen=True)
class Group:
    """Neighbouring inputs that are worked on together.

    Attributes:
        source: holds those that can be read.
        rows: all of them, in input order.
        refused: those that cannot be read, by row.
    """

    source: Source
    rows: Sequence[int]
    refused: Mapping[int, Refusal] = field(default_factory=dict)


def is_one(inputs: object) -> TypeGuard[OneInput]:
    """Whether this is one input, not many of them."""
    return isinstance(inputs, str | os.PathLike | np.ndarray | Tensor) or _is_pair(inputs)


def _is_pair(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and _is_waveform(item[0]) and isinstance(item[1], Real)


def _is_waveform(item: object) -> bool:
    return isinstance(item, np.ndarray | Tensor)


def open_one(item: Any, number: int, *, rate_hz: int) -> _File | _Array:
    """Read a file's header, or bring a waveform into the house's form.

    Args:
        item: one input.
        number: its number, for messages.
        rate_hz: of arrays that come without their rate.

    Raises:
        AudioError: it is none, or cannot be read.
    """
    if isinstance(item, str | os.PathLike):
        path = Path(item)
        if path.is_dir() or (path.exists() and is_manifest_file(path)):
            raise AudioError(f"input {number} must be one audio file, got {path}; hand folders and manifests to stream")
        info = probe(path)
        if info.num_samples < 1:
            raise AudioError(f"{path} must hold samples, got none")
        return _File(path, info.num_samples, info.sample_rate)
    if _is_pair(item):
        item, rate_hz = item
    if not _is_waveform(item):
        raise AudioError(
            f"input {number} must be a path, an array or tensor of shape (S,), or a pair (array, rate in Hz), "
            f"got {type(item).__name__}"
        )
    if not (rate_hz >= 1 and float(rate_hz).is_integer()):
        raise AudioError(f"the rate of input {number} must be a whole number of Hz >= 1, got {rate_hz}")
    return _Array(_mono_float(item, number), int(rate_hz))


def _mono_float(item: Waveform, number: int) -> Samples:
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item  # numpy has no bfloat16
    array: NDArray[Any] = np.asarray(item)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.ndim != 1:
        raise AudioError(
            f"input {number} must be one mono waveform of shape (S,), got shape {array.shape}; "
            "average or choose a channel first"
        )
    if np.issubdtype(array.dtype, np.signedinteger):
        array = array / float(np.iinfo(array.dtype).max + 1)
    elif not np.issubdtype(array.dtype, np.floating):
        raise AudioError(f"input {number} must hold floating point or signed integer samples, got {array.dtype}")
    return np.ascontiguousarray(array, dtype=np.float32)


def groups_of_items(items: Iterable[Any], *, rate_hz: int, seconds: float) -> Iterator[Group]:
    """Cut any iterable into groups of about ``seconds`` of audio; it is asked for no more inputs than a group holds.

    Args:
        items: inputs, in order.
        rate_hz: of arrays that come without their rate.
        seconds: of a group; its last input may exceed it.
    """
    opened, refused = dict[int, _File | _Array](), dict[int, Refusal]()
    first, total = 0, 0.0
    for number, item in enumerate(items):
        try:
            own = open_one(item, number, rate_hz=rate_hz)
            opened[number] = own
            total += own.num_samples / own.rate_hz
        except (AudioSSLError, OSError) as error:
            name = os.fspath(item) if isinstance(item, str | os.PathLike) else f"input {number}"
            path = name if isinstance(item, str | os.PathLike) else IN_MEMORY
            refused[number] = Refusal(name, path, str(error), number)
        if total >= seconds or number + 1 - first >= _MOST_INPUTS:
            yield Group(InputSource(opened), range(first, number + 1), refused)
            opened, refused, first, total = {}, {}, number + 1, 0.0
    if opened or refused:
        yield Group(InputSource(opened), range(first, first + len(opened) + len(refused)), refused)


def groups_of_rows(opened: OpenedInput, *, seconds: float) -> Iterator[Group]:
    """Cut a folder or manifest into groups of neighbouring rows, of about ``seconds`` of audio each."""
    source = ManifestSource(opened.manifest)
    first, total = 0, 0.0
    for row in range(len(source)):
        total += source.seconds(row)
        if total >= seconds or row + 1 - first >= _MOST_INPUTS or row + 1 == len(source):
            yield Group(source, range(first, row + 1))
            first, total = row + 1, 0.0
