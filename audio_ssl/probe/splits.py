"""Which items a probe learns from, chooses by and is measured on: by speaker, and the same on every machine."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import PARTS, Listed, Part, ProbeSplit
from audio_ssl.data.formats.sidecar_files import read_lines
from audio_ssl.data.partition import deal
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.items import Fold, Items, Label, as_rows
from audio_ssl.probe.row_index import AmbiguousError, RowIndex
from audio_ssl.probe.split_lists import find_list, read_list
from audio_ssl.probe.told import few
from audio_ssl.rng import numpy_generator

_NEED_SPEAKERS = ("leave_one_speaker_out", "speakers", "list")


@dataclass(frozen=True)
class Split:
    """How items were split.

    Attributes:
        folds: one; or several, of which each tests other items.
        notes: what was left out.
    """

    folds: tuple[Fold, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Size:
    """How much a part holds, over all folds.

    Attributes:
        num_items: utterances.
        hours: of audio in them.
        num_speakers: people; files where nobody is known.
    """

    num_items: int
    hours: float
    num_speakers: int


def split_items(
    items: Items, split: ProbeSplit, *, given: Sequence[Part] | None = None, folder: Path | None = None
) -> Split:
    """Split items as a task says.

    Args:
        items: N.
        split: how.
        given: part of each item, of ``kind = "given"``.
        folder: that lists of files lie in, of ``kind = "files"``.

    Raises:
        ConfigError: there is no such list.
        ManifestError: speakers are needed and not known; a list does not know a speaker, or means several files by one
            name; or nothing is left to learn from or to measure.
    """
    if split.kind in _NEED_SPEAKERS and not items.are_speakers:
        raise ManifestError(
            f"split.kind = {split.kind!r} must know who speaks, but no row has a speaker: say where the speaker stands "
            'by data.speaker_from; where nobody knows, kind = "utterances" splits by file'
        )
    notes: list[str] = []
    if split.kind == "leave_one_speaker_out":
        folds = _one_out(items)
    elif split.kind == "utterances":
        folds = _by_label(items, split)
    else:
        folds = (_fold("split", _parts(items, split, given=given, folder=folder, notes=notes)),)
    for fold in folds:
        empty = [part for part in ("train", "test") if not len(getattr(fold, part))]
        if empty:
            raise ManifestError(f"every fold must have rows of train and test, but {fold.name} has none of {empty[0]}")
    folds = tuple(_within_hours(fold, items, split.hours, notes) for fold in folds)
    return Split(folds, tuple(dict.fromkeys(notes)))


def speakers_of(items: Items, folds: Sequence[Fold], part: Part) -> tuple[str, ...]:
    """Speakers of a part of any fold, ascending."""
    rows = {row for fold in folds for row in getattr(fold, part).tolist()}
    return tuple(sorted({items.speakers[row] for row in rows}))


def size_of(items: Items, folds: Sequence[Fold], part: Part) -> Size:
    """How much a part holds; what is in it in several folds counts once."""
    rows = sorted({row for fold in folds for row in getattr(fold, part).tolist()})
    seconds = items.manifest.durations_s()[rows].sum() if rows else 0.0
    return Size(len(rows), float(seconds) / 3600, len(speakers_of(items, folds, part)))


def spread(seconds: NDArray[np.float64], hours: float) -> NDArray[np.int64]:
    """Places at equal distances, as many as stay within ``hours``; one at least.

    Args:
        seconds: (N,) length of each row, in an order in which rows of a speaker are neighbours.
        hours: most audio.
    """
    num_rows = len(seconds)
    most = min(num_rows, round(1.1 * num_rows * hours * 3600 / seconds.sum()) + 1)  # few lengths are far from the mean
    for num_kept in range(most, 1, -1):
        places = np.arange(num_kept) * num_rows // num_kept
        if seconds[places].sum() <= hours * 3600:
            return places
    return np.arange(min(1, num_rows))


def _fold(name: str, parts: Sequence[Part | None]) -> Fold:
    rows = {part: as_rows([row for row, own in enumerate(parts) if own == part]) for part in PARTS}
    return Fold(name, rows["train"], rows["valid"], rows["test"])


def _one_out(items: Items) -> tuple[Fold, ...]:
    names = sorted(set(items.speakers))
    if len(names) < 2:
        raise ManifestError(f"there must be 2 speakers at least to leave one out, got {', '.join(names) or 'none'}")
    return tuple(_fold(name, ["test" if own == name else "train" for own in items.speakers]) for name in names)


def _parts(
    items: Items, split: ProbeSplit, *, given: Sequence[Part] | None, folder: Path | None, notes: list[str]
) -> Sequence[Part | None]:
    if split.kind == "given":
        assert given is not None
        return given
    if split.kind == "paths":
        return _by_path(items, split.paths, notes)
    if split.kind == "files":
        return _by_file(items, split.files, folder=folder, notes=notes)
    if split.kind == "list":
        return _by_list(items, split.file or "", notes)
    named = [part for part in PARTS if split.share(part)]
    shares = [split.share(part) for part in named]
    dealt = deal(items.speakers, items.manifest.durations_s(), shares=shares, seed=split.seed)
    return [named[part] for part in dealt.tolist()]


def _by_list(items: Items, file: str, notes: list[str]) -> list[Part | None]:
    parts = read_list(find_list(file))
    strangers = sorted(set(items.speakers) - set(parts))
    if strangers:
        raise ManifestError(
            f"every speaker must be on the list {file} (split.file), {len(strangers)} are not: {few(strangers)}; "
            "the list is of another corpus, or of another version of it"
        )
    absent = sorted(set(parts) - set(items.speakers))
    if absent:
        notes.append(f"{len(absent)} of {len(parts)} speakers on the list {file} have no recording: {few(absent)}")
    return [parts[speaker] for speaker in items.speakers]


def _by_path(items: Items, paths: Mapping[Part, str], notes: list[str]) -> list[Part | None]:
    asked = {part: re.compile(pattern) for part, pattern in paths.items()}
    parts: list[Part | None] = []
    left_out, faults = [], []
    for row, path in enumerate(items.manifest.column("path")):
        found = [part for part, pattern in asked.items() if pattern.search(path)]
        parts.append(found[0] if found else None)
        if not found:
            left_out.append(path)
        elif len(found) > 1:
            faults.append(f"{items.manifest.describe(row)} has that of {' and of '.join(found)}")
    if faults:
        raise ManifestError(listed("every path must have the expression of one part alone (split.paths)", faults))
    if left_out:
        notes.append(f"{len(left_out)} rows are in no part (split.paths) and are left out: {few(left_out)}")
    return parts


def _by_file(
    items: Items, files: Mapping[Listed, str], *, folder: Path | None, notes: list[str]
) -> list[Part | None]:  # fmt: skip
    if folder is None:
        raise ConfigError("split.files must lie in the folder of the audio, but the audio is elsewhere")
    index = RowIndex(items.manifest, np.ones(len(items), dtype=np.bool_))
    parts: list[Part | None] = ["train"] * len(items)
    faults = []
    for part in PARTS:
        if part == "train" or part not in files:
            continue
        unknown = []
        names = read_lines(folder / files[part])
        for name in names:
            try:
                rows = index.find(name.strip())
            except AmbiguousError as error:
                faults.append(f"{files[part]}: {name} must mean one recording, but there are {error}")
                continue
            if not rows:
                unknown.append(name)
            for row in rows:
                if parts[row] not in ("train", part):
                    faults.append(f"{files[part]}: {name} is on the list of {parts[row]}, too")
                parts[row] = part
        if unknown:
            notes.append(f"{files[part]}: {len(unknown)} of {len(names)} names have no recording: {few(unknown)}")
    if faults:
        raise ManifestError(listed("lists of files (split.files) must name each recording once", faults))
    return parts


def _by_label(items: Items, split: ProbeSplit) -> tuple[Fold, ...]:
    """Whole files dealt out within each label, so that parts hold labels alike; each of several folds tests others."""
    files: defaultdict[tuple[str, int | None], list[int]] = defaultdict(list)
    for row, key in enumerate(items.manifest.file_keys()):
        files[key].append(row)
    groups = [files[key] for key in sorted(files, key=str)]
    places = numpy_generator(split.seed, "probe split").permutation(len(groups))
    strata = [_stratum(items.labels[own[0]]) for own in groups]
    order = sorted(range(len(groups)), key=lambda i: (strata[i], places[i]))
    shares = {part: split.share(part) for part in PARTS}
    if split.folds == 1:
        return (_fold("split", _dealt(order, groups, strata, shares=shares)),)
    folds = []
    for number in range(split.folds):
        tested = set(order[number :: split.folds])
        kept = [i for i in order if i not in tested]
        parts = _dealt(kept, groups, strata, shares={**shares, "test": 0.0})
        for i in tested:
            for row in groups[i]:
                parts[row] = "test"
        folds.append(_fold(f"fold {number + 1}", parts))
    return tuple(folds)


def _stratum(label: Label) -> str:
    return label if isinstance(label, str) else ""  # sequences of symbols hardly come twice


def _dealt(
    order: Sequence[int], groups: Sequence[Sequence[int]], strata: Sequence[str], *, shares: Mapping[Part, float]
) -> list[Part | None]:
    """Part of each row: each group in its turn goes to the part that lacks most, the first of a label to train."""
    parts: list[Part | None] = [None] * sum(map(len, groups))
    total = sum(shares.values())
    lacking = dict.fromkeys(PARTS, 0.0)
    before = None
    for i in order:
        for part in PARTS:
            lacking[part] += shares[part] / total
        is_first = strata[i] != "" and strata[i] != before
        part = "train" if is_first else max(PARTS, key=lambda part: lacking[part])
        before = strata[i]
        lacking[part] -= 1
        for row in groups[i]:
            parts[row] = part
    return parts


def _within_hours(fold: Fold, items: Items, hours: float | None, notes: list[str]) -> Fold:
    if hours is None:
        return fold
    seconds = items.manifest.durations_s()[fold.train]
    kept = spread(seconds, hours)
    if len(kept) == len(seconds):
        return fold
    notes.append(
        f"{fold.name}: {seconds[kept].sum() / 3600:.2f} of {seconds.sum() / 3600:.2f} h are learned from (split.hours)"
    )
    return Fold(fold.name, fold.train[kept], fold.valid, fold.test)
