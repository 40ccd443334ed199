"""A task file becomes labelled items and folds, checked for leaks; what was left out is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio_ssl.config import load_config, shipped_configs
from audio_ssl.config.probe import Part, ProbeTask
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.items import Fold, Items
from audio_ssl.probe.labels import Labels, read_labels
from audio_ssl.probe.leaks import refuse_leaks, told_lacks, told_repeats
from audio_ssl.probe.recordings import Recordings, read_recordings
from audio_ssl.probe.splits import Size, size_of, speakers_of, split_items
from audio_ssl.probe.subset import subset

_FOLDER = "probe/"
_LEARN_LABELS = ("classify", "frames", "recognise")


@dataclass(frozen=True)
class OpenedTask:
    """A task that can be run.

    Attributes:
        task: its settings; file names in it are whole paths.
        items: what some fold uses, and nothing else.
        folds: of these items.
        notes: sentences for people: what was left out, and what the figures must be read with.
        source: the shipped name (``probe/digits``), or the file.
    """

    task: ProbeTask
    items: Items
    folds: tuple[Fold, ...]
    notes: tuple[str, ...]
    source: str

    @property
    def name(self) -> str:
        """Short name, for tables and files."""
        return Path(self.source).name.removesuffix(".toml")

    def size_of(self, part: Part) -> Size:
        """How much a part holds, over all folds."""
        return size_of(self.items, self.folds, part)

    def speakers_of(self, part: Part) -> tuple[str, ...]:
        """Speakers of a part, over all folds."""
        return speakers_of(self.items, self.folds, part)


def find_task(name: str | Path) -> tuple[Path, str]:
    """The file of a task, and what it is called: a path, or a shipped one (``digits``, ``probe/digits``).

    Raises:
        ConfigError: neither exists; the message lists the shipped ones.
    """
    path = Path(name)
    if path.is_file():
        return path, str(name)
    shipped = {key: file for key, file in shipped_configs().items() if key.startswith(_FOLDER)}
    key = _FOLDER + str(name).removeprefix("configs/").removeprefix(_FOLDER).removesuffix(".toml")
    if key in shipped:
        return shipped[key], key
    known = ", ".join(key.removeprefix(_FOLDER) for key in shipped)
    raise ConfigError(f"--task {name} must be a TOML file or one of the shipped tasks: {known}")


def open_task(name: str | Path, *, corpora: Path | None, overrides: Sequence[str] = ()) -> OpenedTask:
    """Read a task's settings, its recordings and their labels; split them, and look for leaks.

    Args:
        name: a TOML file, or a shipped task such as ``digits``.
        corpora: the folder of ``data.root`` and of relative manifests.
        overrides: ``section.key=value``.

    Raises:
        ConfigError: the settings are wrong, or a folder or list that they name is not there.
        ManifestError: recordings or label files are wrong, or test holds what train does.
    """
    path, source = find_task(name)
    task = load_config(ProbeTask, path, overrides)
    recordings = read_recordings(task.data, corpora=corpora)
    labels = read_labels(task, recordings)
    items, rows = _items(recordings, labels)
    is_about_speakers = items.are_speakers and items.labels == items.speakers
    _check_kind(task, items, is_about_speakers=is_about_speakers)
    given = None if recordings.parts is None else [recordings.parts[row] for row in rows]
    split = split_items(items, task.split, given=given, folder=recordings.folder)
    items, folds = _compact(items, split.folds)
    refuse_leaks(items, folds, may_share_speakers=is_about_speakers and task.kind == "classify")
    notes = [*recordings.notes, *labels.notes]
    if not items.are_speakers:
        notes.append("nobody says who speaks, so a voice may be in train and in test; blocks of intervals are files")
    notes += [*split.notes, *_told(task, items, folds)]
    return OpenedTask(_with_whole_paths(task, recordings), items, folds, tuple(notes), source)


def _items(recordings: Recordings, labels: Labels) -> tuple[Items, list[int]]:
    """What is labelled, and which recordings that are; where nobody is known, each file is a speaker of its own."""
    labelled = [(row, label) for row, label in enumerate(labels.labels) if label is not None]
    rows = [row for row, _ in labelled]
    manifest = recordings.manifest.select(rows)
    known = tuple(speaker for row in rows if (speaker := recordings.speakers[row]) is not None)
    files = tuple(path if offset is None else f"{path}:{offset}" for path, offset in manifest.file_keys())
    are_speakers = len(known) == len(rows)
    items = Items(
        manifest,
        tuple(label for _, label in labelled),
        known if are_speakers else files,
        tuple(recordings.languages[row] for row in rows),
        tuple(labels.segments[row] for row in rows),
        are_speakers,
    )
    return items, rows


def _check_kind(task: ProbeTask, items: Items, *, is_about_speakers: bool) -> None:
    if task.split.kind == "utterances" and items.are_speakers and not is_about_speakers:
        raise ManifestError(
            'split.kind = "utterances" is for tasks whose label is the speaker, or whose speakers nobody knows, but '
            f"these rows have {len(set(items.speakers))} speakers: a voice in train and in test is a leak; take "
            '"speakers", "leave_one_speaker_out" or "list"'
        )
    if task.kind in ("abx", "retrieve", "verify") and task.across == "speaker" and not items.are_speakers:
        raise ManifestError(
            f"kind {task.kind!r} must know who speaks, but no row has a speaker: say where the speaker stands by "
            "data.speaker_from"
        )
    if task.across == "language":
        _check_languages(items)


def _check_languages(items: Items) -> None:
    unknown = [row for row, language in enumerate(items.languages) if language is None]
    if unknown:
        raise ManifestError(
            f'every row must have a language with across = "language", but {len(unknown)} of {len(items)} have none, '
            f"such as {items.manifest.describe(unknown[0])}"
        )
    known = sorted({str(language) for language in items.languages})
    if len(known) < 2:
        raise ManifestError(f'there must be 2 languages at least with across = "language", got {known[0]} alone')


def _compact(items: Items, folds: Sequence[Fold]) -> tuple[Items, tuple[Fold, ...]]:
    """Without the items that no fold uses: nobody should wait for their frames."""
    used = np.unique(np.concatenate([part for fold in folds for part in (fold.train, fold.valid, fold.test)]))
    return subset(items, folds, used)


def _told(task: ProbeTask, items: Items, folds: Sequence[Fold]) -> list[str]:
    if task.kind not in _LEARN_LABELS:
        return []
    lacks = told_lacks([(label,) if isinstance(label, str) else label for label in items.labels], folds)
    return lacks + (told_repeats(items.labels, folds) if task.kind == "recognise" else [])


def _with_whole_paths(task: ProbeTask, recordings: Recordings) -> ProbeTask:
    if task.trials is None:
        return task
    path = (recordings.folder or Path()) / task.trials
    if not path.is_file():
        raise ConfigError(
            f"trials must be a file below the folder of the audio, or a whole path, but there is no {path}"
        )
    return task.model_copy(update={"trials": str(path)})
