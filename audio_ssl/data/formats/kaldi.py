"""Kaldi data directories: ``wav.scp``, ``segments``, ``text``, ``utt2spk``, ``utt2lang``.

A line of ``wav.scp`` that is a shell command (it ends in a bar) is refused: nothing from data is ever run.

Reference: Kaldi, "Data preparation".
"""

from __future__ import annotations

import math
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from audio_ssl.data.addresses import is_address, shown
from audio_ssl.data.checks import Refusal
from audio_ssl.data.formats.sidecar_files import Entry, read_numbered_pairs, read_pairs
from audio_ssl.data.table import listed
from audio_ssl.errors import ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.sidecars import AudioIndex, Sidecars

COMMAND = "command in wav.scp"
MISSING = "missing file"
ELSEWHERE = "address in wav.scp"
_MAX_S = 2.0**40  # also NaN and infinity are no times


def add_kaldi(found: Sidecars, index: AudioIndex, *, root: Path, scp: str, others: set[str]) -> None:
    """Add what a Kaldi data directory says.

    Args:
        found: added to.
        index: the audio under ``root``.
        root: the scanned folder.
        scp: the ``wav.scp``, relative to ``root``.
        others: the files that are there, relative to ``root``.

    Raises:
        ManifestError: a file cannot be read; names file and line.
    """
    from audio_ssl.data.sidecars import Segment, report

    folder = posixpath.dirname(scp)
    tables = _tables(found, root, folder, others)
    audio_of = _resolve(found, index, root=root, scp=scp)
    segments = read_segments(root / folder / "segments") if tables["segments"] else None
    spans = segments if segments is not None else {utt: (0, utt, 0.0, None) for utt in audio_of}
    matched, unmatched = [], []
    for utt, (_, recording, start_s, end_s) in spans.items():
        text, speaker, language = (tables[name].get(utt) for name in ("text", "utt2spk", "utt2lang"))
        entry = Entry(utt, text, known_speaker(utt, speaker), language)
        audio = audio_of.get(recording)
        if audio is None:
            unmatched.append(utt)
        elif segments is None:
            matched.append(entry)
            found.ids.setdefault(audio, utt)
            found.add(audio, entry)
        else:
            matched.append(entry)
            found.segments.setdefault(audio, []).append(Segment(utt, start_s, end_s, entry))
    unmatched += [utt for utt in tables["text"] if utt not in spans]
    found.reports.append(report(scp, matched, unmatched))


def _tables(found: Sidecars, root: Path, folder: str, others: set[str]) -> dict[str, dict[str, str]]:
    tables: dict[str, dict[str, str]] = {}
    for name in ("wav.scp", "text", "utt2spk", "utt2lang", "segments"):
        file = posixpath.join(folder, name)
        tables[name] = read_pairs(root / file) if file in others else {}
        if file in others:
            found.used.add(file)
    return tables


def _resolve(found: Sidecars, index: AudioIndex, *, root: Path, scp: str) -> dict[str, str]:
    """Recording to audio name; commands and missing files become refusals."""
    folder = posixpath.dirname(scp)
    resolved: dict[str, str] = {}
    for recording, value in read_pairs(root / scp).items():
        if value.endswith("|"):
            found.refusals.append(
                Refusal(value, COMMAND, f"{recording} in {scp}: commands are not run; write the audio to a file")
            )
            continue
        if is_address(value):
            detail = f"{recording} in {scp}: a scan looks at files of this machine; `manifest convert` reads it"
            found.refusals.append(Refusal(shown(value), ELSEWHERE, detail))
            continue
        audio = _find(index, root, folder, value)
        if audio is None:
            found.refusals.append(Refusal(value, MISSING, f"{recording} in {scp} names a file that is not there"))
        else:
            resolved[recording] = audio
    return resolved


def _find(index: AudioIndex, root: Path, folder: str, value: str) -> str | None:
    """Under the data directory or a folder above it (Kaldi paths start where the recipe runs), else on disk."""
    if posixpath.isabs(value):
        path = Path(value)
        inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else None
        return index.find("", inside) if inside else value if path.is_file() else None
    while True:
        name = index.find(folder, value)
        if name is not None:
            return name
        if not folder:
            break
        folder = posixpath.dirname(folder)
    return str(Path(value).absolute()) if Path(value).is_file() else None


def known_speaker(utt: str, speaker: str | None) -> str | None:
    """Kaldi's way to say that a speaker is unknown is to call the speaker as the utterance ("Data preparation")."""
    return None if speaker == utt else speaker


def read_segments(path: Path) -> dict[str, tuple[int, str, float, float | None]]:
    """Utterance to (line, recording, start, end); Kaldi writes a negative end for the recording's end.

    Raises:
        ManifestError: lines of another kind; all in one message.
    """
    spans: dict[str, tuple[int, str, float, float | None]] = {}
    faults = []
    for utt, (number, value) in read_numbered_pairs(path).items():
        try:
            recording, start_s, end_s = (
                kind(cell) for kind, cell in zip((str, float, float), value.split(), strict=True)
            )
        except ValueError:
            start_s = end_s = math.nan
        if not (abs(start_s) < _MAX_S and abs(end_s) < _MAX_S):
            faults.append(f"{path}:{number}: must be `utt recording start end`, got {utt} {value[:80]}")
            continue
        spans[utt] = (number, recording, start_s, end_s if end_s >= 0 else None)
    if faults:
        raise ManifestError(listed(f"{path} must hold segments in seconds", faults))
    return spans
