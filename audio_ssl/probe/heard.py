"""Whether a model's own training heard the recordings, or the voices, that a task measures it on.

What was heard without labels is no leak of labels, but a representation of voices that were heard says less about
voices that were not; so it is told beside the figures, and forbids nothing.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from audio_ssl.checkpoint import CONFIG_FILE
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioSSLError
from audio_ssl.evaluate.report.run_folder import EVENTS_FILE
from audio_ssl.probe.items import Fold, Items

UNLABELLED, LABELLED = "in pre-training, without their labels", "in fine-tuning, with their texts"


def heard(model: Path, items: Items, folds: Sequence[Fold]) -> str | None:
    """What a model heard of the test items, in a sentence; None where it heard nothing of them.

    Looked up are the manifests that the run of the model names in its settings, and those of the models that it began
    from. Whatever cannot be looked up is told.

    Args:
        model: its path.
        items: of the task.
        folds: whose test items are meant.
    """
    told, known, next_one = list[str](), set[str](), [model]
    while next_one:
        one = next_one.pop()
        if os.path.realpath(one) in known:
            continue
        known.add(os.path.realpath(one))
        past = _past_of(one)
        next_one += past.begun_from
        who = str(one) if one == model else f"{one}, which {model} began from,"
        if past.manifests:
            found = heard_in(past.manifests, items, folds, who=who, how=LABELLED if past.is_labelled else UNLABELLED)
            told += [] if found is None else [found]
        else:
            told.append(
                f"what {who} heard in training is not known (no run folder that names manifests which are there), so "
                "it may have heard the test recordings"
            )
    return "; ".join(told) or None


def heard_in(
    manifests: Sequence[Path], items: Items, folds: Sequence[Fold], *, who: str, how: str = UNLABELLED
) -> str | None:  # fmt: skip
    """What a run over these manifests hears of the test items, in a sentence; None where it hears nothing of them.

    Args:
        manifests: that are learned from.
        items: of the task.
        folds: whose test items are meant.
        who: hears them, for the sentence.
        how: it hears them, for the sentence.
    """
    rows = sorted({row for fold in folds for row in fold.test.tolist()})
    places = _places(items.manifest, rows)
    own = _files_heard(manifests, set(places), root=os.path.realpath(str(items.manifest.root)))
    num = sum(place in own.files for place in places)
    voices = {items.speakers[row] for row in rows} if items.are_speakers else set()
    num_voices = len(voices & own.speakers)
    told = []
    if num or num_voices:
        of_voices = f", and {num_voices} of their {len(voices)} speakers" if voices else ""
        told.append(
            f"{who} heard {num} of {len(rows)} test recordings{of_voices} {how} "
            f"({', '.join(map(str, manifests))}); its figure says less about voices that it has not heard"
        )
    if own.num_nameless and num_voices < len(voices):
        told.append(
            f"whether {who} heard more of the test speakers is not known: {own.num_nameless} recordings of this corpus "
            "that it learned from name no speaker"
        )
    if own.unread:
        told.append(f"what {who} heard of {', '.join(own.unread)} is not known: it cannot be read")
    return "; ".join(told) or None


def heard_manifests(model: Path) -> list[Path]:
    """The manifests that the run of a model learned from; none where one of them is gone, or nobody says."""
    return list(_past_of(model).manifests)


@dataclass(frozen=True)
class _Past:
    """What a model learned from.

    Attributes:
        manifests: none where one of them is gone, or nobody says.
        begun_from: models.
        is_labelled: whether it learned texts of them.
    """

    manifests: Sequence[Path] = ()
    begun_from: Sequence[Path] = ()
    is_labelled: bool = False


def _past_of(model: Path) -> _Past:
    for folder in (model, *model.resolve().parents[:2]):
        try:
            config = tomllib.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        manifests = [Path(name) for name in config.get("data", {}).get("train", [])]
        if manifests:
            begun_from = {config["init_from"]} if "init_from" in config else _begun_from(folder / EVENTS_FILE)
            return _Past(
                manifests if all(path.exists() for path in manifests) else [],
                [Path(name) for name in sorted(begun_from)],
                "ctc" in config,
            )
    return _Past()


def _begun_from(events: Path) -> set[str]:
    """What pre-training began from, which is no setting of it."""
    found = set[str]()
    with suppress(OSError, ValueError):
        for line in events.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError):  # of a run that was killed as it wrote, or that began from nothing
                found.add(json.loads(line)["init_from"])
    return found


class _Heard:
    """Test files, and speakers of the test corpus, that are in a model's manifests, and what these do not say."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.speakers: set[str] = set()
        self.num_nameless = 0  # rows of the test corpus
        self.unread: list[str] = []


def _files_heard(manifests: Iterable[Path], wanted: set[str], *, root: str) -> _Heard:
    """Speakers are known by the corpus and their name: another corpus may call somebody else so."""
    found = _Heard()
    for path in manifests:
        try:
            manifest = Manifest.read(path)
        except AudioSSLError:
            found.unread.append(str(path))
            continue
        speakers = manifest.column("speaker")
        for place, speaker in zip(_places(manifest, range(len(manifest))), speakers, strict=True):
            if place in wanted:
                found.files.add(place)
            if place.startswith(root + os.sep):
                found.num_nameless += speaker is None
                found.speakers |= set() if speaker is None else {speaker}
    return found


def _places(manifest: Manifest, rows: Iterable[int]) -> list[str]:
    return [_real(str(manifest.audio_path(row))) for row in rows]


def _real(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)  # noqa: PTH118 - of a million rows, and some are addresses


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return folder if "://" in folder else os.path.realpath(folder)
