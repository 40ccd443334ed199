"""The recordings of a task: a scanned folder or manifests, who speaks in them, and which of them are left out."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import Part, ProbeData
from audio_ssl.data.checks import Refusal
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.scan import scan
from audio_ssl.data.scan_rows import speaker_rule
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.told import few


@dataclass(frozen=True)
class Recordings:
    """All N recordings that there are.

    Attributes:
        manifest: N rows.
        speakers: of each; all None where nobody is known.
        languages: of each, or None.
        parts: of each where the manifests say it; None where a split has to.
        is_used: (N,) bool; False for what ``data.only`` or ``data.max_s`` leaves out.
        folder: that label files lie in; None where the audio is elsewhere.
        notes: what was left out.
    """

    manifest: Manifest
    speakers: tuple[str | None, ...]
    languages: tuple[str | None, ...]
    parts: tuple[Part, ...] | None
    is_used: NDArray[np.bool_]
    folder: Path | None
    notes: tuple[str, ...]

    def ids(self, rows: Sequence[int]) -> list[str]:
        """Names of some rows."""
        column = self.manifest.table.column("id")
        return [column[row].as_py() for row in rows]


def read_recordings(data: ProbeData, *, corpora: Path | None) -> Recordings:
    """Find the recordings.

    Args:
        data: where they are, and which of them are meant.
        corpora: the folder that ``data.root`` and relative manifests start from.

    Raises:
        ConfigError: no such folder.
        ManifestError: no usable audio, or rows of which some have a speaker and some have none.
    """
    parts: tuple[Part, ...] | None = None
    notes: list[str] = []
    if data.root is not None:
        manifest, notes = _scanned(data, _folder(corpora, data.root))
    else:
        manifest, parts = _read(data, corpora)
    rule = speaker_rule(data.speaker_from or "none")
    paths = manifest.column("path")
    speakers = tuple(
        rule(path) or known for path, known in zip(paths, manifest.column("speaker"), strict=True)
    )  # fmt: skip
    languages = tuple(known or data.language for known in manifest.column("language"))
    is_used, left_out = _used(manifest, paths, data=data)
    _check_speakers(manifest, speakers, is_used)
    folder = manifest.root if isinstance(manifest.root, Path) else None
    return Recordings(manifest, speakers, languages, parts, is_used, folder, (*notes, *left_out))


def _folder(corpora: Path | None, root: str) -> Path:
    if corpora is None:
        raise ConfigError(
            f"data.root = {root!r} is a folder below --corpora: give --corpora DIR, or set AUDIO_SSL_CORPORA"
        )
    folder = corpora / root
    if not folder.is_dir():
        raise ConfigError(f"--corpora {corpora} must hold a folder {root} (data.root), but there is none")
    return folder


def _scanned(data: ProbeData, folder: Path) -> tuple[Manifest, list[str]]:
    found = scan(folder, speaker_from=data.speaker_from or "none", language=data.language, max_s=math.inf)
    asked = re.compile(data.only or "")
    notes = _told_refusals([refusal for refusal in found.refusals if asked.search(refusal.path)])
    if not found.num_rows:
        raise ManifestError(listed(f"{folder} must hold at least one usable recording", notes))
    notes += [
        f"{source.file}: {source.num_unmatched} entries have no audio file ({', '.join(source.examples)} ...)"
        for source in found.sources
        if source.num_unmatched
    ]
    return found.manifest, notes


def _told_refusals(refusals: Sequence[Refusal]) -> list[str]:
    by_reason: defaultdict[str, list[Refusal]] = defaultdict(list)
    for refusal in refusals:
        by_reason[refusal.reason].append(refusal)
    return [
        f"{len(own)} files are left out: {reason}, such as {own[0].path} ({own[0].detail})"
        for reason, own in by_reason.items()
    ]


def _read(data: ProbeData, corpora: Path | None) -> tuple[Manifest, tuple[Part, ...] | None]:
    named: list[tuple[Part, str | None]] = [
        ("train", data.manifest), ("valid", data.valid_manifest), ("test", data.test_manifest),
    ]  # fmt: skip
    read = [(part, Manifest.read((corpora or Path()) / name)) for part, name in named if name is not None]
    for _, manifest in read:
        manifest.check_root()
    whole = Manifest.concat([manifest for _, manifest in read])
    return whole, tuple(part for part, manifest in read for _ in range(len(manifest))) if len(read) > 1 else None


def _used(manifest: Manifest, paths: Sequence[str], *, data: ProbeData) -> tuple[NDArray[np.bool_], list[str]]:
    is_used = np.ones(len(manifest), dtype=np.bool_)
    if data.only is not None:
        asked = re.compile(data.only)
        is_used &= np.array([asked.search(path) is not None for path in paths])
        if not is_used.any():
            raise ManifestError(
                f"data.only = {data.only!r} must be in the path of a row, but is in none ({few(paths)})"
            )
    is_long = is_used & (manifest.durations_s() > data.max_s)
    names = [manifest.table.column("id")[row].as_py() for row in np.flatnonzero(is_long).tolist()]
    notes = [f"{len(names)} rows longer than {data.max_s:g} s (data.max_s) are left out: {few(names)}"] if names else []
    if names and not (is_used & ~is_long).any():
        raise ManifestError(f"rows must be no longer than data.max_s = {data.max_s:g} s, but all are: {few(names)}")
    return is_used & ~is_long, notes


def _check_speakers(manifest: Manifest, speakers: Sequence[str | None], is_used: NDArray[np.bool_]) -> None:
    nameless = [row for row in np.flatnonzero(is_used).tolist() if speakers[row] is None]
    if nameless and len(nameless) < int(is_used.sum()):
        headline = (
            f"every row must have a speaker, or none must, but {len(nameless)} of {int(is_used.sum())} have none: "
            "say where the speaker stands by data.speaker_from, or leave these rows out by data.only"
        )
        raise ManifestError(listed(headline, [manifest.describe(row) for row in nameless]))
