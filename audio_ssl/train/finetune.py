"""Fine-tuning: a CTC head on a pre-trained encoder (or, for comparison, a fresh one) learns from transcripts.

Reference: wav2vec 2.0 (2006.11477) sections 3.4 and 4.3; fairseq's fine-tuning configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from audio_ssl.config import FinetuneConfig
from audio_ssl.data.cache import configure_cache
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.files import ctc_document, with_conditions
from audio_ssl.train.adapting import of_training, starting_encoder
from audio_ssl.train.compiling import prepare_blocks
from audio_ssl.train.ctc_module import FinetuneModule, summarize
from audio_ssl.train.ctc_validation import CTCValidation
from audio_ssl.train.datasets import TrainingData, open_training_data
from audio_ssl.train.distributed import World, lay_out
from audio_ssl.train.dry_run import dry_run
from audio_ssl.train.health import Sign, finetuning_signs
from audio_ssl.train.learning import learning_groups, learning_remarks
from audio_ssl.train.loop import Outcome, Task
from audio_ssl.train.muon import hidden_matrices
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.replay import replay
from audio_ssl.train.run import run_session
from audio_ssl.train.session import Resume, Session
from audio_ssl.train.transcripts import (
    EMPTY,
    Transcripts,
    rare_characters,
    read_transcripts,
    refuse_odd_share,
)
from audio_ssl.train.updates import open_updates


def finetune(
    config: FinetuneConfig, *, resume: Resume, console: Console, is_dry: bool = False, dump: Path | None = None
) -> Outcome | None:
    """Fine-tune as ``config`` says; the run folder then holds ``model/``, a self-contained recogniser.

    Args:
        config: the whole run.
        resume: whether to go on from the run folder's checkpoints.
        console: where to speak.
        is_dry: only try a few updates and say what the run will take; nothing is written.
        dump: only run this update of ``dumps/`` again (:func:`replay`), with the weights of the newest checkpoint
            before it; nothing is written.

    Returns:
        How the run ended; None where none was to be.

    Raises:
        AudioSSLError: for everything that a user can mend.
    """

    def build(world: World) -> Session:
        return _session(config, world, console)

    if is_dry:
        dry_run(build, config, console=console)
        return None
    if dump is not None:
        replay(build, config, dump, restores=True, console=console)
        return None
    return run_session(build, config, resume=resume, console=console)


def _session(config: FinetuneConfig, world: World, console: Console) -> Session:
    torch.manual_seed(config.run.seed)
    encoder, model_config = starting_encoder(config)
    prepare_blocks(encoder, config.run)
    labelled = _label(config, encoder)
    conditioned = config.ctc.intermediate_layers if config.ctc.self_conditioned else ()
    model = CTCModel(
        encoder, len(labelled.vocabulary), final_dropout=config.ctc.final_dropout, conditioned_after=conditioned
    )
    module = FinetuneModule(model, transcripts=labelled.transcripts, config=config.ctc)
    lay_out(module, world, config.run.parallel)
    updates = open_updates(labelled.train, config.data, seed=config.run.seed, world=world)
    validation = None
    if labelled.valid is not None:
        validation = CTCValidation(
            model, labelled.valid, labelled.vocabulary, labelled.valid_texts,
            micro_batch_s=config.data.micro_batch_s, world=world,
            console=console if world.is_main else Console(quiet=True),
        )  # fmt: skip
    document = ctc_document(model_config, symbols=labelled.vocabulary.symbols, lowercase=config.ctc.lowercase)
    task = Task(
        module=module,
        optimizer=build_optimizer(
            learning_groups(encoder, module.beyond_encoder, config.ctc),
            config.optim,
            matrices=hidden_matrices(encoder),
        ),
        source=updates,
        summarize=summarize,
        validate=validation,
        metric="cer",
        document=of_training(with_conditions(document, conditioned), config.adapt),
    )
    remarks = (*labelled.remarks, *learning_remarks(encoder, module.beyond_encoder, config.ctc))
    data = labelled.train, labelled.valid, remarks
    return Session(task, updates, *data, partial(_signs, config), thaws_at=config.ctc.thaws_at)


def _signs(config: FinetuneConfig, num_updates: int) -> Sequence[Sign]:
    warmup = config.optim.warmup_updates(num_updates)
    return finetuning_signs(config.guard, warmup_updates=warmup, frozen_updates=config.ctc.freeze_encoder_updates)


@dataclass(frozen=True)
class _Labelled:
    vocabulary: Vocabulary
    transcripts: Transcripts
    valid_texts: tuple[str, ...]
    train: TrainingData
    valid: TrainingData | None
    remarks: tuple[str, ...]


def _label(config: FinetuneConfig, encoder: Encoder) -> _Labelled:
    """Read both splits' transcripts, build the vocabulary, and set aside what cannot be learned from."""
    remarks = [f"encoder from {config.init_from}" if config.init_from else "encoder starts from random weights"]
    configure_cache(config.data.cache_dir, config.data.cache_gib)
    manifest = _read(config.data.train)
    vocabulary = Vocabulary.from_texts([t for t in manifest.column("text") if t], lowercase=config.ctc.lowercase)
    train = _transcripts(manifest, vocabulary, encoder)
    refuse_odd_share(train, manifest, max_share=config.ctc.max_odd_share, where="data.train")
    remarks.append(f"vocabulary: {len(vocabulary)} symbols: {' '.join(vocabulary.symbols)}")
    rare = rare_characters(train.texts)
    if rare:
        remarks.append(f"characters that stand in one transcript only: {rare!r}")
    train_data = _open(config, encoder, train, is_train=True, refused=train.refused)
    if not config.data.valid:
        return _Labelled(vocabulary, train, (), train_data, None, tuple(remarks))
    valid = _transcripts(_read(config.data.valid), vocabulary, encoder)
    # What the vocabulary lacks stays in: the model must answer for it in its error rate.
    remarks += [f"data.valid has a character that data.train lacks: {line}" for line in valid.unknown]
    empty = {reason: rows for reason, rows in valid.refused.items() if reason == EMPTY}
    valid_data = _open(config, encoder, valid, is_train=False, refused=empty)
    return _Labelled(vocabulary, train, valid.texts, train_data, valid_data, tuple(remarks))


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
