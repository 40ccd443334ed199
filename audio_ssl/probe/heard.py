"""Whether a model's own pre-training heard the recordings, or the voices, that a task measures it on.

What was heard without labels is no leak of labels, but a representation of voices that were heard says less about
voices that were not; so it is told beside the figures, and forbids nothing.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from audio_ssl.checkpoint import CONFIG_FILE
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioSSLError
from audio_ssl.probe.items import Fold, Items


def heard(model: Path, items: Items, folds: Sequence[Fold]) -> str | None:
    """What a model heard of the test items, in a sentence; None where it heard nothing of them.

    Looked up are the manifests that the run of the model names in its settings.

    Args:
        model: its path.
        items: of the task.
        folds: whose test items are meant.
    """
    manifests = heard_manifests(model)
    if not manifests:
        return (
            f"what {model} heard in pre-training is not known (no run folder that names manifests which are there), so "
            "it may have heard the test recordings"
        )
    return heard_in(manifests, items, folds, who=str(model))


def heard_in(manifests: Sequence[Path], items: Items, folds: Sequence[Fold], *, who: str) -> str | None:
    """What a run over these manifests hears of the test items, in a sentence; None where it hears nothing of them.

    Args:
        manifests: that are learned from.
        items: of the task.
        folds: whose test items are meant.
        who: hears them, for the sentence.
    """
    rows = sorted({row for fold in folds for row in fold.test.tolist()})
    places = _places(items.manifest, rows)
    own = _files_heard(manifests, set(places), root=os.path.realpath(str(items.manifest.root)))
    num = sum(place in own.files for place in places)
    voices = {items.speakers[row] for row in rows} if items.are_speakers else set()
    num_voices = len(voices & own.speakers)
    if not num and not num_voices:
        return None
    of_voices = f", and {num_voices} of their {len(voices)} speakers" if voices else ""
    return (
        f"{who} heard {num} of {len(rows)} test recordings{of_voices} in pre-training, without their labels "
        f"({', '.join(map(str, manifests))}); its figure says less about voices that it has not heard"
    )


def heard_manifests(model: Path) -> list[Path]:
    """The manifests that the run of a model learned from; none where one of them is gone, or nobody says."""
    for folder in (model, *model.resolve().parents[:2]):
        file = folder / CONFIG_FILE
        if not file.is_file():
            continue
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8")).get("data", {})
        except (OSError, ValueError):
            continue
        found = [Path(name) for name in data.get("train", [])]
        if found:
            return found if all(path.exists() for path in found) else []
    return []


class _Heard:
    """Test files, and speakers of the test corpus, that are in a model's manifests."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.speakers: set[str] = set()


def _files_heard(manifests: Iterable[Path], wanted: set[str], *, root: str) -> _Heard:
    """Speakers are known by the corpus and their name: another corpus may call somebody else so."""
    found = _Heard()
    for path in manifests:
        try:
            manifest = Manifest.read(path)
        except AudioSSLError:
            continue
        speakers = manifest.column("speaker")
        for place, speaker in zip(_places(manifest, range(len(manifest))), speakers, strict=True):
            if place in wanted:
                found.files.add(place)
            if speaker is not None and place.startswith(root + os.sep):
                found.speakers.add(speaker)
    return found


def _places(manifest: Manifest, rows: Iterable[int]) -> list[str]:
    return [_real(str(manifest.audio_path(row))) for row in rows]


def _real(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(_real_folder(folder), name)  # noqa: PTH118 - of a million rows, and some are addresses


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return folder if "://" in folder else os.path.realpath(folder)
