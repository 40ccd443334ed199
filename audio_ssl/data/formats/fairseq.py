"""fairseq's manifests: ``NAME.tsv`` with ``NAME.ltr`` and ``NAME.wrd`` beside it, aligned by line.

The first line of the TSV is the root folder, each other line ``path TAB number of samples``. The format has no sample
rate, so the audio's headers are read; it has no segments, so rows that are segments are refused on export.

Reference: fairseq, examples/wav2vec/wav2vec_manifest.py and libri_labels.py.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from audio_ssl.data.addresses import Place, is_address, place_of, root_of, shown
from audio_ssl.data.formats.common import count_losses, elsewhere, read_headers, refuse, stem_id, with_distinct_ids
from audio_ssl.data.table import Utterance, listed, path_fault, table_from_rows
from audio_ssl.errors import AudioError, ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest

LABELS = ("ltr", "wrd")
_SLICE = re.compile(r"\.(zip|tar|bin|h5|npy):\d+:\d+$")


def read_fairseq(path: Path) -> tuple[pa.Table, Place]:
    """Read a fairseq manifest and the labels beside it (``.wrd`` rather than ``.ltr`` where both are there).

    Returns:
        The table in ``table.SCHEMA`` and the root: a folder, or the address of one.

    Raises:
        ManifestError: not a fairseq manifest, labels with another number of lines, or audio whose header cannot be
            read or disagrees; all rows in one message.
    """
    lines = _lines(path)
    root = _root(path, lines[0]) if lines else None
    if root is None:
        raise ManifestError(
            f"{path}:1: the first line must be `#audio_ssl-manifest ...` (our TSV) or an existing folder (fairseq's), "
            f"got {lines[0][:80] if lines else 'an empty file'!r}"
        )
    entries = _entries(lines[1:], path)
    headers = read_headers(place_of(root, name) for name, _ in entries)
    faults = []
    rows = []
    texts = _texts(path, len(entries))
    for i, (name, num_samples) in enumerate(entries):
        header = headers[place_of(root, name)]
        if isinstance(header, AudioError):
            faults.append(f"{path}:{i + 2}: {header}")
        elif header.num_samples != num_samples:
            faults.append(
                f"{path}:{i + 2}: {shown(name)} must have {num_samples} samples, its header says {header.num_samples}"
            )
        else:
            rows.append(Utterance(stem_id(name), name, 0, num_samples, header.sample_rate, texts[i]))
    if faults:
        raise ManifestError(listed(f"{path}: the format has no sample rate, so every header must be readable", faults))
    return table_from_rows(with_distinct_ids(rows)), root


def write_fairseq(manifest: Manifest, path: Path, *, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Write a fairseq manifest, and its labels if asked (``ltr``, ``wrd``); each file whole or not at all.

    Returns:
        What is lost, by field.

    Raises:
        ManifestError: rows that the format cannot say (segments, tabs in paths), rows without text where labels are
            asked for, an unknown label kind, or a place that cannot be written.
    """
    from audio_ssl.data.manifest_io import replaced_file

    unknown = [kind for kind in labels if kind not in LABELS]
    if unknown:
        raise ManifestError(f"labels must be among {', '.join(LABELS)}, got {', '.join(unknown)}")
    refuse_unsayable(manifest, with_text=bool(labels))
    texts = manifest.column("text")
    with replaced_file(path) as draft:
        rows = zip(manifest.column("path"), manifest.column("num_samples"), strict=True)
        body = "".join(f"{name}\t{num_samples}\n" for name, num_samples in rows)
        draft.write_text(f"{manifest.root}\n{body}", encoding="utf-8")
    for kind in labels:
        with replaced_file(path.with_suffix(f".{kind}")) as draft:
            spell = letters if kind == "ltr" else str
            draft.write_text("".join(f"{spell(' '.join(t.split()))}\n" for t in texts), encoding="utf-8")
    return _losses(manifest, labels)


def letters(text: str) -> str:
    """``the dog`` as ``t h e | d o g |``."""
    return " ".join(" ".join((*word, "|")) for word in text.split())


def words(line: str) -> str:
    """``t h e | d o g |`` as ``the dog``."""
    return " ".join("".join(word.split()) for word in line.split("|")).strip()


def _root(path: Path, line: str) -> Place | None:
    """What the first line says; None where it is no folder."""
    if "\t" in line:
        return None
    if is_address(line):
        return root_of(line)
    root = Path(os.path.normpath(path.parent.absolute() / line))
    return root if root.is_dir() else None


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    lines = [line.rstrip("\r") for line in lines]
    return lines[:-1] if lines and lines[-1] == "" else lines


def _entries(lines: list[str], path: Path) -> list[tuple[str, int]]:
    entries, faults = [], []
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != 2 or not cells[1].strip().isdigit():
            faults.append(f"{path}:{number}: must be `path TAB number of samples`, got {line[:80]!r}")
        elif _SLICE.search(cells[0]):
            faults.append(f"{path}:{number}: slices of archives are not read; unpack {cells[0].split(':')[0]}")
        elif (fault := path_fault(cells[0])) is not None:
            faults.append(f"{path}:{number}: {fault}, got {shown(cells[0])!r}")
        else:
            entries.append((cells[0], int(cells[1])))
    if faults:
        raise ManifestError(listed(f"{path} must be a fairseq manifest", faults))
    return entries


def _texts(path: Path, num_rows: int) -> list[str | None]:
    """Texts of the label files; each that is there must have one line a row."""
    found: dict[str, list[str]] = {}
    for kind in LABELS:
        file = path.with_suffix(f".{kind}")
        if file.is_file():
            found[kind] = _lines(file)
            if len(found[kind]) != num_rows:
                raise ManifestError(
                    f"{file} must have a line for each of the {num_rows} rows of {path.name}, got {len(found[kind])}: "
                    "labels are aligned by line number, so one missing line would shift them all"
                )
    if "wrd" in found:
        return list(found["wrd"])
    return [words(line) for line in found["ltr"]] if "ltr" in found else [None] * num_rows


def refuse_unsayable(manifest: Manifest, *, with_text: bool) -> None:
    """Check that a fairseq manifest can say every row.

    Raises:
        ManifestError: it cannot; the rows are named.
    """
    files = Counter(manifest.file_keys())
    faults = elsewhere(manifest, tool="fairseq")
    for i, row in enumerate(manifest):
        if row.offset is not None:
            faults.append(f"{manifest.describe(i)}: lies in a shard, where fairseq's format cannot point to its audio")
        if row.start or files[row.path, row.offset] > 1:
            faults.append(f"{manifest.describe(i)}: is a segment of a file, which fairseq's format cannot say")
        if "\t" in row.path or "\n" in row.path:
            faults.append(f"{manifest.describe(i)}: its path has a tab or a line break")
        if with_text and row.text is None:
            faults.append(f"{manifest.describe(i)}: has no text, which labels need in every row")
    refuse(faults, what="a fairseq manifest")


def _losses(manifest: Manifest, labels: Sequence[str]) -> tuple[str, ...]:
    """Fields that do not come back when the files are read again."""
    texts = [text for text in manifest.column("text") if text is not None]

    def read_again(text: str) -> str:
        plain = " ".join(text.split())
        return plain if "wrd" in labels else words(letters(plain))

    return count_losses(
        {
            "id": sum(row.id != stem_id(row.path) for row in manifest),
            "text": 0 if labels else len(texts),
            "white space and bars in text": sum(read_again(text) != text for text in texts) if labels else 0,
            "speaker": sum(speaker is not None for speaker in manifest.column("speaker")),
            "language": sum(language is not None for language in manifest.column("language")),
        }
    )
