"""Recordings that are named one after the other, by whoever feeds standard input: worked on while more are named."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from audio_ssl.data.audio import probe
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioError, AudioSSLError
from audio_ssl.inference.inputs import InputSource, open_one
from audio_ssl.inference.source import OpenedInput, Refusal, Samples
from audio_ssl.inference.transcribe import Transcriber
from audio_ssl.inference.transcripts import Transcript

_PROBES = 1024  # headers that are read ahead of the row that is made


def read_paths(lines: Iterable[bytes]) -> Iterator[str]:
    """One path a line; empty lines part nothing."""
    for line in lines:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield path


class Ids:
    """Names of listed files: their paths, without extension and without what leads out of a folder.

    A name that has been given before gets a number. Of millions, 60 bytes of each are kept.
    """

    def __init__(self) -> None:
        self._given = set[int]()

    def __call__(self, path: str) -> str:
        """The next file's."""
        parts = os.path.splitext(os.path.normpath(path))[0].split("/")  # noqa: PTH122 - of a path that may be odd
        stem = "/".join(part for part in parts if part not in ("", ".", "..")) or "recording"
        name, number = stem, 2
        while hash(name) in self._given:
            name, number = f"{stem}-{number}", number + 1
        self._given.add(hash(name))
        return name


def transcribe_listed(
    transcriber: Transcriber, paths: Iterable[str], *, on_progress: Callable[[float], None] = lambda _: None
) -> Iterator[Transcript | Refusal]:
    """Transcribe files while more of them are named.

    Args:
        transcriber: recogniser and decoder.
        paths: those that are there are worked on; of many, about a batch at once.
        on_progress: called with the seconds of audio that are done.

    Yields:
        A transcript or a refusal for each path, in their order.
    """
    source = _Listed()
    batch_s = transcriber.settings.batch_s
    groups = source.groups(paths, seconds=batch_s)
    with closing(transcriber.run(source, groups, on_progress=on_progress)) as results:
        for result in results:
            assert result.row is not None
            yield from source.refused_before(result.row)
            source.forget(result.row)
            yield result
    yield from source.refused_before(None)


class _Listed:
    """A source that grows as paths are named, and shrinks as results are given out."""

    def __init__(self) -> None:
        self._parts: dict[int, InputSource] = {}
        self._ids = Ids()
        self._names: dict[int, tuple[str, str]] = {}
        self._refused: dict[int, Refusal] = {}  # in their order

    def groups(self, paths: Iterable[str], *, seconds: float) -> Iterator[list[int]]:
        """The rows of the next files, those that cannot be opened left out."""
        row = 0
        for some in _those_there(paths):
            rows, total = list[int](), 0.0
            for path in some:
                name = self._ids(path)
                try:
                    own = open_one(path, row, rate_hz=1)
                    self._names[row], self._parts[row] = (name, path), InputSource({row: own})
                    rows.append(row)
                    total += own.num_samples / own.rate_hz
                except (AudioSSLError, OSError) as error:
                    self._refused[row] = Refusal(name, path, str(error), row)
                row += 1
                if total >= seconds:
                    yield rows
                    rows, total = [], 0.0
            yield rows

    def refused_before(self, row: int | None) -> Iterator[Refusal]:
        """Give out the refused ones up to a row; all of them for None."""
        while self._refused and (row is None or next(iter(self._refused)) < row):
            yield self._refused.pop(next(iter(self._refused)))

    def forget(self, row: int) -> None:
        """A row that has its result."""
        self._parts.pop(row, None)
        self._names.pop(row, None)

    def __len__(self) -> int:
        return len(self._parts)

    def num_samples(self, row: int) -> int:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self._parts[row].num_samples(row)

    def rate_hz(self, row: int) -> int:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self._parts[row].rate_hz(row)

    def name(self, row: int) -> tuple[str, str]:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self._names[row]

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> Samples:
        """See :class:`~audio_ssl.inference.source.Source`."""
        return self._parts[row].load(row, start, num_samples, to_hz=to_hz)


def _those_there(paths: Iterable[str]) -> Iterator[list[str]]:
    """Lists of what has been named since the last one, so that whoever names one file and waits has its text."""
    named: queue.Queue[str | BaseException | None] = queue.Queue(_PROBES)

    def read() -> None:
        try:
            for path in paths:
                named.put(path)
            named.put(None)
        except BaseException as error:
            named.put(error)

    threading.Thread(target=read, name="list", daemon=True).start()
    while True:
        some = [named.get()]
        while len(some) < _PROBES and not named.empty():
            some.append(named.get())
        yield [path for path in some if isinstance(path, str)]
        if isinstance(some[-1], BaseException):
            raise some[-1]
        if some[-1] is None:
            return


def open_list(paths: Iterable[str], *, workers: int) -> OpenedInput:
    """Read a list to its end, and make a manifest of its files.

    Args:
        paths: whole files.
        workers: headers that are read at a time.
    """
    rows, refused, ids, root = list[Utterance](), list[Refusal](), Ids(), Path.cwd()
    with ThreadPoolExecutor(workers, thread_name_prefix="probe") as pool:
        for some in _chunks(paths):
            for path, found in zip(some, pool.map(_probed, some), strict=True):
                name = ids(path)
                if isinstance(found, str):
                    refused.append(Refusal(name, path, found))
                else:
                    place = os.path.normpath(root / path)
                    rows.append(Utterance(name, place, 0, *found))
    return OpenedInput(Manifest.from_rows(rows, root=root), tuple(refused))


def _chunks(paths: Iterable[str]) -> Iterator[list[str]]:
    chunk = list[str]()
    for path in paths:
        chunk.append(path)
        if len(chunk) == _PROBES:
            yield chunk
            chunk = []
    yield chunk


def _probed(path: str) -> tuple[int, int] | str:
    """Samples and rate, or why the file cannot be used."""
    try:
        info = probe(path)
        if info.num_samples < 1:
            raise AudioError(f"{path} must hold samples, got none")
    except (AudioSSLError, OSError) as error:
        return str(error)
    return info.num_samples, info.sample_rate
