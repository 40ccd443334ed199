"""What the user points at, as numbered utterances whose samples can be asked for piece by piece.

A file, a folder or a manifest becomes a :class:`ManifestSource`; arrays in memory an :class:`ArraySource`.
Nothing is left out in silence: what a scan refuses travels along with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.addresses import looks_like_address
from audio_ssl.data.audio import load_segment, probe
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.manifest_io import is_manifest_file
from audio_ssl.data.waveform import resample
from audio_ssl.errors import AudioError, ManifestError

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Refusal:
    """An utterance that gave no result.

    Attributes:
        id: its id, or its path where the scan refused it.
        path: its file.
        reason: why, for people.
        row: its row; None where it never became a row.
    """

    id: str
    path: str
    reason: str
    row: int | None = None

    def error(self) -> AudioError:
        """It as an error, where nobody goes on without a result."""
        is_named = self.reason.startswith((self.id, self.path))
        return AudioError(self.reason if is_named else f"{self.id} ({self.path}): {self.reason}")


class Source(Protocol):
    """Numbered utterances."""

    def __len__(self) -> int: ...

    def num_samples(self, row: int) -> int:
        """Samples at the utterance's own rate."""

    def rate_hz(self, row: int) -> int:
        """The utterance's own rate."""

    def name(self, row: int) -> tuple[str, str]:
        """Id and path (or what stands for it) of an utterance, for messages and indices."""

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        """Part of an utterance, given at its own rate, as (S,) float32 mono at ``to_hz``.

        Raises:
            AudioError: it cannot be read.
        """


class ManifestSource:
    """The rows of a manifest.

    Args:
        manifest: opened.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._num_samples = manifest.table.column("num_samples").to_numpy()  # there may be millions
        self._rates = manifest.table.column("sample_rate").to_numpy()

    def __len__(self) -> int:
        return len(self.manifest)

    def num_samples(self, row: int) -> int:
        """See :class:`Source`."""
        return int(self._num_samples[row])

    def rate_hz(self, row: int) -> int:
        """See :class:`Source`."""
        return int(self._rates[row])

    def name(self, row: int) -> tuple[str, str]:
        """See :class:`Source`."""
        return self.manifest[row].id, str(self.manifest.audio_path(row))

    def seconds(self, row: int) -> float:
        """Length of an utterance."""
        return self.num_samples(row) / self.rate_hz(row)

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        """See :class:`Source`."""
        return load_segment(
            self.manifest.audio_file(row),
            start=self.manifest[row].start + start,
            num_samples=num_samples,
            expected_rate_hz=self.rate_hz(row),
            sample_rate_hz=to_hz,
        )


class ArraySource:
    """Waveforms in memory.

    Args:
        waveforms: each (S,) float32.
        sample_rate_hz: of all of them.
    """

    def __init__(self, waveforms: Sequence[Samples], *, sample_rate_hz: int) -> None:
        self._waveforms, self._rate = waveforms, sample_rate_hz

    def __len__(self) -> int:
        return len(self._waveforms)

    def num_samples(self, row: int) -> int:
        """See :class:`Source`."""
        return len(self._waveforms[row])

    def rate_hz(self, row: int) -> int:  # noqa: ARG002 - the protocol's signature
        """See :class:`Source`."""
        return self._rate

    def name(self, row: int) -> tuple[str, str]:
        """See :class:`Source`."""
        return f"array {row}", "(in memory)"

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        """See :class:`Source`."""
        return resample(self._waveforms[row][start : start + num_samples], from_hz=self._rate, to_hz=to_hz)


@dataclass(frozen=True)
class OpenedInput:
    """A user's INPUT.

    Attributes:
        manifest: its readable utterances.
        refused: files of a folder that are not usable, with reasons.
    """

    manifest: Manifest
    refused: tuple[Refusal, ...] = ()


def open_input(path: str | Path) -> OpenedInput:
    """Open a manifest, an audio file, or a folder of audio files.

    Raises:
        ManifestError: no such path, a manifest that breaks the rules or whose audio was moved, or a folder without
            audio.
        AudioError: a single file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _scan(path)
    if not path.exists():
        hint = "; an address goes into a row of a manifest" if looks_like_address(path) else ""
        raise ManifestError(f"INPUT must be an audio file, a folder or a manifest; there is no {path}{hint}")
    if is_manifest_file(path):
        manifest = Manifest.read(path)
        manifest.check()  # before hours of work: a mapped file is not checked when it is opened
        manifest.check_root()
        return OpenedInput(manifest)
    return OpenedInput(manifest_of_files([path]))


def manifest_of_files(paths: Sequence[Path]) -> Manifest:
    """A manifest of whole files, ids from their names (numbered where the same name comes twice).

    Raises:
        AudioError: a file cannot be read.
    """
    rows, seen = [], set[str]()
    for path in paths:
        info = probe(path)
        if info.num_samples < 1:
            raise AudioError(f"{path} must hold samples, got none")
        name, number = path.stem, 2
        while name in seen:
            name, number = f"{path.stem}-{number}", number + 1
        seen.add(name)
        rows.append(Utterance(name, str(path.absolute()), 0, info.num_samples, info.sample_rate))
    return Manifest.from_rows(rows, root=Path.cwd())


def _scan(folder: Path) -> OpenedInput:
    from audio_ssl.data.scan import scan

    found = scan(folder)
    refused = tuple(Refusal(r.path, str(folder / r.path), f"{r.reason}: {r.detail}") for r in found.refusals)
    return OpenedInput(found.manifest, refused)
