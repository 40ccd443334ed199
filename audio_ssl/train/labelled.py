"""What a recogniser learns from: the transcripts of both splits, the vocabulary, and what a look at them found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from audio_ssl.checkpoint import write_text
from audio_ssl.config import FinetuneConfig
from audio_ssl.data.cache import configure_cache
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.preflight.look import Preflight, look
from audio_ssl.data.preflight.notices import Split
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError
from audio_ssl.model.encoder import Encoder
from audio_ssl.train.datasets import TrainingData, open_training_data
from audio_ssl.train.growing import OldHead, chosen_vocabulary, describe_start
from audio_ssl.train.transcripts import EMPTY, Transcripts, read_transcripts

PREFLIGHT_FILE = "preflight.json"
ROWS_SHOWN, ROWS_SHOWN_DRY = 3, 20  # of each notice


@dataclass(frozen=True)
class Labelled:
    """The transcripts of a run.

    Attributes:
        vocabulary: of the head.
        train: transcripts of ``data.train``.
        valid: of ``data.valid``; None where there is none.
        found: what a look at them found.
        remarks: lines to say first.
    """

    vocabulary: Vocabulary
    train: Transcripts
    valid: Transcripts | None
    found: Preflight
    remarks: tuple[str, ...]


def read_labelled(config: FinetuneConfig, encoder: Encoder, old: OldHead | None) -> Labelled:
    """Read both splits' transcripts, choose the vocabulary, and look at everything.

    Args:
        config: the whole run.
        encoder: whose frames must carry the labels.
        old: head to go on with; None for one from nothing.

    Raises:
        ManifestError: a manifest cannot be read, or has no transcript at all.
    """
    configure_cache(config.data.cache_dir, config.data.cache_gib)
    manifest = _read(config.data.train)
    vocabulary = chosen_vocabulary(config, [text for text in manifest.column("text") if text], old)
    train = _transcripts(manifest, vocabulary, encoder)
    valid, valid_split = None, None
    if config.data.valid:
        valid_manifest = _read(config.data.valid)
        valid = _transcripts(valid_manifest, vocabulary, encoder)
        valid_split = Split("valid", valid_manifest, valid.texts, valid.fit)
    found = look(Split("train", manifest, train.texts, train.fit), valid_split, vocabulary, config.preflight)
    remarks = [f"encoder from {config.init_from}" if config.init_from else "encoder starts from random weights"]
    remarks.append(f"vocabulary: {len(vocabulary)} symbols: {' '.join(vocabulary.symbols)}")
    if old is not None:
        start = describe_start(old, vocabulary, Counter(label for row in train.labels for label in row.tolist()))
        remarks += start.remarks()
        if vocabulary.rules != config.text:
            remarks.append(f"text rules are those of {old.source}, as its weights are, and not those of [text]")
        found.figures["head"] = start.document()
    return Labelled(vocabulary, train, valid, found, tuple(remarks))


def tell_found(found: Preflight, run_dir: Path, *, console: Console, is_main: bool, is_kept: bool) -> None:
    """Write ``preflight.json``, say in short what was found, and stop where it must not go on.

    Args:
        found: on looking.
        run_dir: the run folder, which is there where ``is_kept``.
        console: where to speak.
        is_main: whether this process writes and speaks for all.
        is_kept: False: nothing is written, and more rows are named.

    Raises:
        ManifestError: something is over a limit that refuses.
    """
    place = run_dir / PREFLIGHT_FILE if is_kept else None
    num_rows = ROWS_SHOWN if is_kept else ROWS_SHOWN_DRY
    if is_main:
        if place is not None:
            write_text(place, json.dumps(found.document(), ensure_ascii=False, indent=1) + "\n")
        for line in found.lines(num_rows=num_rows):
            style = "yellow" if line.startswith("warning:") else None
            console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
    found.refuse(written=place, num_rows=num_rows)


def open_splits(
    config: FinetuneConfig, encoder: Encoder, labelled: Labelled
) -> tuple[TrainingData, TrainingData | None]:
    """Loaders over the rows that take part; what was refused is counted and named there.

    Raises:
        ManifestError: no row takes part.
    """
    train = _open(config, encoder, labelled.train, is_train=True, refused=labelled.train.refused)
    if labelled.valid is None:
        return train, None
    # Rows that are too long for their audio stay in: the model must answer for them in its error rate.
    empty = {reason: rows for reason, rows in labelled.valid.refused.items() if reason == EMPTY}
    return train, _open(config, encoder, labelled.valid, is_train=False, refused=empty)


def _read(paths: tuple[Path, ...]) -> Manifest:
    manifest = Manifest.concat([Manifest.read(path) for path in paths])
    if not any(manifest.column("text")):
        names = ", ".join(map(str, paths))
        raise ManifestError(f"{names} must have transcripts in the column `text` to fine-tune on; it has none")
    return manifest


def _transcripts(manifest: Manifest, vocabulary: Vocabulary, encoder: Encoder) -> Transcripts:
    return read_transcripts(manifest, vocabulary, sample_rate_hz=encoder.sample_rate_hz, geometry=encoder.geometry)


def _open(
    config: FinetuneConfig,
    encoder: Encoder,
    transcripts: Transcripts,
    *,
    is_train: bool,
    refused: Mapping[str, Sequence[int]],
) -> TrainingData:
    return open_training_data(
        config.data.train if is_train else config.data.valid, config.data,
        sample_rate_hz=encoder.sample_rate_hz, normalize=encoder.normalize_waveform,
        min_samples=encoder.geometry.receptive_field_samples, seed=config.run.seed,
        is_train=is_train, refused=refused, augment=config.augment, label_samples=transcripts.min_samples,
    )  # fmt: skip
