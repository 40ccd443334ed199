"""The labels of recordings, from any of the sources that a task may name; what has none is counted and named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from audio_ssl.config.probe import SOURCES, ProbeTask
from audio_ssl.config.text import TextRules
from audio_ssl.data.normalize import Normalizer
from audio_ssl.data.scan_rows import SEGMENT_SLACK_S
from audio_ssl.data.table import listed
from audio_ssl.data.text import WORD_SEPARATOR
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.items import Label, Segment
from audio_ssl.probe.label_files import Entry, read_csv, read_ctm, read_json, read_phone_entries, read_table
from audio_ssl.probe.recordings import Recordings
from audio_ssl.probe.row_index import AmbiguousError, RowIndex
from audio_ssl.probe.told import few

Value = TypeVar("Value")


@dataclass(frozen=True)
class Labels:
    """What the N recordings of a task are labelled with.

    Attributes:
        labels: of each; None where there is none, or the recording is not used.
        segments: of each, in order of time.
        notes: what was left out.
    """

    labels: tuple[Label | None, ...]
    segments: tuple[tuple[Segment, ...], ...]
    notes: tuple[str, ...]


def read_labels(task: ProbeTask, recordings: Recordings) -> Labels:
    """Label the recordings.

    Raises:
        ConfigError: a label file cannot be looked for, since the audio is not in a folder.
        ManifestError: a label file cannot be read, means several recordings by one name, or labels one twice; or no
            recording is labelled.
    """
    notes: list[str] = []
    segments: list[tuple[Segment, ...]] = [()] * len(recordings.manifest)
    if task.labels.ctm is not None:
        segments = _timed(task.labels.ctm, recordings, notes)
        labels: list[Label | None] = [tuple(s.label for s in own) or None for own in segments]
    else:
        labels = [_tidy(label) for label in _read(task, recordings, notes)]
    used = recordings.is_used.tolist()
    labels = [label if is_used else None for label, is_used in zip(labels, used, strict=True)]
    _check_some(labels, task, recordings, notes)
    without = [row for row, label in enumerate(labels) if label is None and used[row]]
    if without:
        told = f"{len(without)} of {sum(used)} rows have no label and are left out"
        notes.append(f"{told}: {few(recordings.ids(without))}")
    if task.labels.ctm is not None:
        segments = _without_rare_segments(segments, task.labels.min_count, notes)
        labels = [tuple(s.label for s in own) or None for own in segments]
    elif task.kind != "recognise":
        labels = _without_rare(labels, task.labels.min_count, notes)
    if all(label is None for label in labels):
        raise ManifestError(f"labels must be there {task.labels.min_count} times (labels.min_count), but none is")
    return Labels(tuple(labels), tuple(segments), tuple(notes))


def _tidy(label: Label | None) -> Label | None:
    return label or None  # nothing said is no label: CTC has nothing to find in it


def _read(task: ProbeTask, recordings: Recordings, notes: list[str]) -> list[Label | None]:
    labels, is_spelled = task.labels, task.kind == "recognise"
    if labels.pattern is not None:
        asked = re.compile(labels.pattern)
        found = (asked.search(path) for path in recordings.manifest.column("path"))
        return [match["label"] if match else None for match in found]
    if labels.column == "text":
        spell = _speller(labels.unit) if is_spelled else lambda text: " ".join(text.split())
        return [None if text is None else spell(text) for text in recordings.manifest.column("text")]
    if labels.column is not None:
        return list(recordings.speakers if labels.column == "speaker" else recordings.languages)
    folder = _folder(recordings, task)
    if labels.phones is not None:
        spelled = _of_rows(read_phone_entries(folder / labels.phones), labels.phones, recordings, notes)
        return list(spelled)
    entries, name = _named_entries(task, folder)
    values = _of_rows(entries, name, recordings, notes)
    return [tuple(value.split()) if is_spelled and value is not None else value for value in values]


def _named_entries(task: ProbeTask, folder: Path) -> tuple[list[Entry[str]], str]:
    labels = task.labels
    if labels.json_file is not None:
        return read_json(folder / labels.json_file, key=labels.json_key or ""), labels.json_file
    if labels.csv is not None:
        return read_csv(labels.csv, folder, key=labels.csv_key or "", columns=labels.csv_label), labels.csv
    assert labels.table is not None
    return read_table(folder / labels.table), labels.table


def _folder(recordings: Recordings, task: ProbeTask) -> Path:
    if recordings.folder is None:
        source = next(name for name in SOURCES if getattr(task.labels, name) is not None)
        raise ConfigError(
            f"labels.{source} must be a file in the folder of the audio, but the audio is at "
            f"{recordings.manifest.root}; take labels from the manifest (labels.column, labels.pattern)"
        )
    return recordings.folder


def _speller(unit: str) -> Callable[[str], tuple[str, ...]]:
    """Texts to symbols: lower case, without punctuation but inside words; ``|`` parts words of characters."""
    normalize = Normalizer(TextRules(punctuation="remove"))
    if unit == "word":
        return lambda text: tuple(normalize(text).split())
    return lambda text: tuple(normalize(text).replace(" ", WORD_SEPARATOR))


def _of_rows(
    entries: Sequence[Entry[Value]], name: str, recordings: Recordings, notes: list[str]
) -> list[Value | None]:
    """Value of each row; names that mean no row are told."""
    index = RowIndex(recordings.manifest, recordings.is_used)
    found: dict[int, Entry[Value]] = {}
    faults, unknown = [], []
    for entry in entries:
        try:
            rows = index.find(entry.key)
        except AmbiguousError as error:
            faults.append(f"{entry.where}: {entry.key} must mean one recording, but there are {error}")
            continue
        if not rows and not index.is_known(entry.key):
            unknown.append(entry.key)
        for row in rows:
            twin = found.setdefault(row, entry)
            if twin.value != entry.value:
                faults.append(f"{entry.where}: {entry.key} is {entry.value}, but {twin.where} has {twin.value} for it")
    if faults:
        raise ManifestError(listed(f"{name} must label each recording once", faults))
    if unknown:
        notes.append(f"{name}: {len(unknown)} of {len(entries)} names have no recording: {few(unknown)}")
    return [found[row].value if row in found else None for row in range(len(recordings.manifest))]


def _timed(name: str, recordings: Recordings, notes: list[str]) -> list[tuple[Segment, ...]]:
    folder = recordings.folder
    if folder is None:
        raise ConfigError(
            f"labels.ctm must be a file in the folder of the audio, which is at {recordings.manifest.root}"
        )
    values = _of_rows(read_ctm(folder / name), name, recordings, notes)
    durations_s = recordings.manifest.durations_s().tolist()
    faults = []
    fitting: list[tuple[Segment, ...]] = []
    for row, (segments, duration_s) in enumerate(zip(values, durations_s, strict=True)):
        if segments and segments[-1].end_s > duration_s + SEGMENT_SLACK_S:
            last = segments[-1]
            faults.append(
                f"{recordings.manifest.describe(row)}: {last.label} ends at {last.end_s:.2f} s, the row at "
                f"{duration_s:.2f} s; times count from the row's first sample"
            )
        cut = (replace(s, end_s=min(s.end_s, duration_s)) for s in segments or ())
        fitting.append(tuple(s for s in cut if s.start_s < s.end_s))
    if faults:
        raise ManifestError(listed(f"labels of {name} must lie within their recordings", faults))
    return fitting


def _check_some(labels: Sequence[Label | None], task: ProbeTask, recordings: Recordings, notes: Sequence[str]) -> None:
    if any(label is not None for label in labels):
        return
    source = next(name for name in SOURCES if getattr(task.labels, name) is not None)
    used = [row for row, is_used in enumerate(recordings.is_used.tolist()) if is_used]
    first = recordings.manifest[used[0]]
    raise ManifestError(
        f"labels.{source} = {getattr(task.labels, source)!r} must label recordings, but labels none of {len(used)}, "
        f"such as id {first.id!r}, path {first.path!r}" + "".join(f"; {note}" for note in notes)
    )


def _without_rare(labels: list[Label | None], min_count: int, notes: list[str]) -> list[Label | None]:
    counts = Counter(label for label in labels if label is not None)
    rare = {label for label, count in counts.items() if count < min_count}
    if rare:
        lost = sum(counts[label] for label in rare)
        told = few(f"{label} ({counts[label]})" for label in sorted(rare, key=str))
        notes.append(
            f"{len(rare)} labels of fewer than {min_count} utterances (labels.min_count) are left out, and with them "
            f"{lost} utterances: {told}"
        )
    return [None if label in rare else label for label in labels]


def _without_rare_segments(
    segments: Sequence[tuple[Segment, ...]], min_count: int, notes: list[str]
) -> list[tuple[Segment, ...]]:
    counts = Counter(label for own in segments for label in {segment.label for segment in own})
    rare = {label for label, count in counts.items() if count < min_count}
    if rare:
        lost = sum(segment.label in rare for own in segments for segment in own)
        told = few(f"{label} ({counts[label]})" for label in sorted(rare))
        notes.append(
            f"{len(rare)} labels of fewer than {min_count} utterances (labels.min_count) are left out, "
            f"{lost} segments: {told}"
        )
    return [tuple(segment for segment in own if segment.label not in rare) for own in segments]
