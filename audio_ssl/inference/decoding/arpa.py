"""ARPA files of n-gram models, read block by block without help from other libraries, and written.

The form is that of the CMU and SRILM toolkits: base-10 logarithms, a section an order, back-off weights in the
last column.
"""

from __future__ import annotations

import gzip
import math
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.ngrams import UNKNOWN_WORD_NAME, NgramModel, Section
from audio_ssl.inference.decoding.tables import Ints

MISSING_LOG10 = -100.0  # of <unk> where a model has none, as in KenLM
BLOCK_BYTES = 16 * 2**20
LN_10 = math.log(10)


def read_arpa(path: Path) -> NgramModel:
    """Read an ARPA file, compressed by gzip or not.

    Raises:
        ConfigError: no such file, or none in ARPA form; the message says what is wrong in which section.
    """
    try:
        with _opened(path) as data:
            return _read(path, data)
    except (OSError, EOFError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ConfigError(f"--lm must be an ARPA file (or binary KenLM), {path} cannot be read: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[bytes | mmap.mmap]:
    if path.suffix == ".gz":
        yield gzip.decompress(path.read_bytes())
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _read(path: Path, data: bytes | mmap.mmap) -> NgramModel:
    counts = _header(path, data)
    words: list[str] = []
    sections = list[Section]()
    place = 0
    for order, count in enumerate(counts, start=1):
        place, stop = _bounds(path, data, order, place)
        section, names = _section(data, (place, stop), order, words, path)
        if order == 1:
            words = names
        if len(section.log_prob) != count:
            raise ConfigError(
                f"{path}: section \\{order}-grams: must hold the {count} lines that its head announces, "
                f"got {len(section.log_prob)}; the file is cut short or changed"
            )
        sections.append(section)
        place = stop
    if UNKNOWN_WORD_NAME not in words:
        words.append(UNKNOWN_WORD_NAME)
        first = sections[0]
        sections[0] = Section(
            np.arange(len(words), dtype=np.int32)[:, None],
            np.append(first.log_prob, MISSING_LOG10 * LN_10),
            np.append(first.backoff, 0.0),
        )
    try:
        return NgramModel(words, sections)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _header(path: Path, data: bytes | mmap.mmap) -> list[int]:
    stop = data.find(b"\\1-grams:")
    head = bytes(data[: max(stop, 0)])
    found = re.findall(rb"^ngram\s+(\d+)\s*=\s*(\d+)\s*$", head, flags=re.MULTILINE)
    counts = [int(count) for _, count in found]
    if b"\\data\\" not in head or not counts or [int(order) for order, _ in found] != list(range(1, len(counts) + 1)):
        raise ConfigError(f"--lm must be an ARPA file: {path} must begin with \\data\\ and lines such as ngram 1=42")
    return counts


def _bounds(path: Path, data: bytes | mmap.mmap, order: int, place: int) -> tuple[int, int]:
    """Where the lines of a section start and stop."""
    title = b"\\%d-grams:" % order
    start = data.find(title, place)
    stop = data.find(b"\n\\", start + 1)
    if start < 0 or stop < 0:
        raise ConfigError(f"{path} must have a section {title.decode()} that another section or \\end\\ follows")
    return data.find(b"\n", start) + 1, stop + 1


def _section(
    data: bytes | mmap.mmap, place: tuple[int, int], order: int, words: Sequence[str], path: Path
) -> tuple[Section, list[str]]:
    """Parse a section block by block; the names are those of unigrams."""
    import pyarrow as pa

    known = pa.array(words, pa.string()) if order > 1 else None
    parts, names, start = list[Section](), list[str](), place[0]
    while start < place[1]:
        stop = min(start + BLOCK_BYTES, place[1])
        if stop < place[1]:
            stop = data.rfind(b"\n", start, stop) + 1
            if stop <= start:
                raise ConfigError(f"{path}: section \\{order}-grams: a line is longer than {BLOCK_BYTES} bytes")
        part, new = _block(bytes(data[start:stop]), order, known, path, len(names))
        parts.append(part)
        names += new
        start = stop
    if not parts:
        return Section(np.empty((0, order), np.int32), np.empty(0), np.empty(0)), names
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in ("words", "log_prob", "backoff"))
    return Section(*joined), names


def _block(block: bytes, order: int, known: Any, path: Path, offset: int) -> tuple[Section, list[str]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    where = f"{path}: section \\{order}-grams:"
    try:
        lines = [line for line in block.decode("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} must be UTF-8: {error}") from error
    fields = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(pa.array(lines, pa.large_string())))
    sizes = fields.value_lengths().to_numpy()
    wrong = (sizes != order + 1) & (sizes != order + 2)
    if wrong.any():
        line = lines[int(wrong.argmax())]
        raise ConfigError(
            f"{where} a line must be a log10 probability, {order} words and maybe a back-off, got {line!r:.120}"
        )
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)
    flat = fields.flatten()
    try:
        log_prob = pc.cast(flat.take(starts), pa.float64()).to_numpy()
        backoff = np.zeros(len(lines))
        has_backoff = sizes == order + 2
        backoff[has_backoff] = pc.cast(flat.take(starts[has_backoff] + order + 1), pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{where} probabilities must be numbers: {error}") from error
    columns = [flat.take(starts + 1 + k) for k in range(order)]
    if known is None:
        names = columns[0].to_pylist()
        numbers = np.arange(offset, offset + len(names), dtype=np.int32)[:, None]
    else:
        names = []
        numbers = np.stack([_numbers(column, known, where) for column in columns], axis=1)
    return Section(numbers, log_prob * LN_10, backoff * LN_10), names


def _numbers(column: Any, known: Any, where: str) -> Ints:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(column, value_set=known.cast(pa.large_string()))
    if found.null_count:
        word = column.filter(pc.is_null(found))[0].as_py()
        raise ConfigError(f"{where} every word must be a unigram, {word!r} is none")
    numbers: Ints = found.to_numpy().astype(np.int32)
    return numbers


def write_arpa(path: Path, words: Sequence[str], sections: Sequence[Section]) -> None:
    """Write an ARPA file, whole or not at all; compressed by gzip where the name ends in ``.gz``.

    Args:
        path: of the file; its folder is made.
        words: names.
        sections: one an order.

    Raises:
        ConfigError: the place cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as plain, ExitStack() as stack:
            file = stack.enter_context(gzip.GzipFile(fileobj=plain, mode="wb")) if path.suffix == ".gz" else plain
            file.writelines(line.encode() for line in _lines(words, sections))
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} must be writable with room to spare: {error}; choose another place") from error
    finally:
        draft.unlink(missing_ok=True)


def _lines(words: Sequence[str], sections: Sequence[Section]) -> Iterator[str]:
    yield "\\data\\\n"
    for order, section in enumerate(sections, start=1):
        yield f"ngram {order}={len(section.log_prob)}\n"
    for order, section in enumerate(sections, start=1):
        yield f"\n\\{order}-grams:\n"
        has_backoff = order < len(sections)
        for numbers, log_prob, backoff in zip(section.words, section.log_prob, section.backoff, strict=True):
            # seven digits after the point, as float32 readers hold them; a back-off of 0 may be left out but is clearer
            end = f"\t{backoff / LN_10:.7f}" if has_backoff else ""
            yield f"{log_prob / LN_10:.7f}\t{' '.join([words[i] for i in numbers])}{end}\n"
    yield "\n\\end\\\n"
