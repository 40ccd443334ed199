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
from torch import Generator, Tensor, nn

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import CTCConfig, FinetuneConfig, ModelConfig
from audio_ssl.data.cache import configure_cache
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError
from audio_ssl.interop.source import read_model
from audio_ssl.model.ctc import CTCModel, ctc_loss_sum
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.files import ctc_document
from audio_ssl.objective.masking import sample_channel_mask, sample_whole_spans
from audio_ssl.tensors import Batch, LossTerms
from audio_ssl.train.compiling import prepare_blocks
from audio_ssl.train.ctc_validation import CTCValidation
from audio_ssl.train.datasets import TrainingData, open_training_data
from audio_ssl.train.distributed import World, lay_out
from audio_ssl.train.dry_run import dry_run
from audio_ssl.train.health import Sign, finetuning_signs
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


class FinetuneModule(nn.Module):
    """A CTC model in training: features are masked, the encoder may be frozen for a while.

    The names of its tensors are those of a CTC model directory.

    Args:
        model: encoder and head.
        transcripts: labels by row of the training manifest.
        config: freezing and masks.
    """

    def __init__(self, model: CTCModel, *, transcripts: Transcripts, config: CTCConfig) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.head = model.head
        self.dropout = model.dropout  # registered, so that eval() reaches it
        self._model = (model,)  # in a tuple: its parts are already registered above
        self._transcripts = transcripts
        self._config = config
        if config.freeze_feature_encoder:
            self.encoder.feature_encoder.requires_grad_(requires_grad=False)

    def forward(self, batch: Batch, *, update: int, generator: Generator) -> LossTerms:
        """CTC loss of one micro-batch; counts are utterances, as fairseq's sentence average.

        On CUDA torch's CTC reads the lengths on the host: a fine-tuning step waits there, forward and backward.
        """
        encoder: Encoder = self.encoder
        # No gradient instead of frozen parameters: what data parallelism registered at the start stays true.
        with torch.set_grad_enabled(torch.is_grad_enabled() and update >= self._config.freeze_encoder_updates):
            latents, num_frames = encoder.feature_encoder(batch.waveforms, batch.num_samples, is_full=batch.is_full)
            features, _ = encoder.feature_projection(latents)
            features = self._mask(features, num_frames, generator)
            output = encoder.context_network(features, num_frames, is_full=batch.is_full)
        log_probs = self._model[0].log_probs(output.frames)
        labels, num_labels = self._transcripts.of_rows(batch.rows, log_probs.device)
        loss_sum = ctc_loss_sum(log_probs, num_frames, labels, num_labels)
        num_rows = torch.full((), len(batch.rows), device=log_probs.device)  # written there: a copy would wait
        num_blank = ((log_probs.argmax(dim=-1) == 0) & output.is_valid).sum()
        sums = {
            "ctc": loss_sum.detach(), "rows": num_rows.float(), "labels": num_labels.sum().float(),
            "blank": num_blank.float(), "frames": num_frames.sum().float(),
        }  # fmt: skip
        return LossTerms(loss_sum, num_rows, sums)

    def _mask(self, features: Tensor, num_frames: Tensor, generator: Generator) -> Tensor:
        """Spans of frames become the mask embedding, spans of channels zero (2006.11477 section 4.3)."""
        config, (num_rows, max_frames, dim) = self._config, features.shape
        is_masked = sample_whole_spans(
            num_frames, mask_prob=config.mask_prob, span=config.mask_span_frames,
            generator=generator, max_frames=max_frames,
        )  # fmt: skip
        features = torch.where(is_masked[..., None], self.encoder.mask_embedding.to(features.dtype), features)
        is_dropped = sample_channel_mask(
            num_rows, dim, mask_prob=config.channel_mask_prob, span=config.channel_mask_span,
            generator=generator, device=features.device,
        )  # fmt: skip
        return features.masked_fill(is_dropped[:, None, :], 0.0)


def summarize(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Figures of fine-tuning: CTC loss in nats per label, and the share of frames whose best symbol is blank."""
    total = {name: float(value) for name, value in sums.items()}
    return {"loss": total["ctc"] / max(total["labels"], 1.0), "blank_share": total["blank"] / max(total["frames"], 1.0)}


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
        torch.manual_seed(config.run.seed)
        encoder, model_config = _build_encoder(config)
        prepare_blocks(encoder, config.run)
        labelled = _label(config, encoder)
        model = CTCModel(encoder, len(labelled.vocabulary), final_dropout=config.ctc.final_dropout)
        module = FinetuneModule(model, transcripts=labelled.transcripts, config=config.ctc)
        lay_out(module, world, config.run.parallel)
        updates = open_updates(labelled.train, config.data, seed=config.run.seed, world=world)
        learning = [p for p in encoder.parameters() if p.requires_grad]
        validation = None
        if labelled.valid is not None:
            validation = CTCValidation(
                model, labelled.valid, labelled.vocabulary, labelled.valid_texts,
                micro_batch_s=config.data.micro_batch_s, world=world,
                console=console if world.is_main else Console(quiet=True),
            )  # fmt: skip
        task = Task(
            module=module,
            optimizer=build_optimizer(
                [(learning, 1.0), (list(module.head.parameters()), config.ctc.head_lr_scale)],
                config.optim,
                matrices=hidden_matrices(encoder),
            ),
            source=updates,
            summarize=summarize,
            validate=validation,
            metric="cer",
            document=ctc_document(model_config, symbols=labelled.vocabulary.symbols, rules=config.text),
        )
        data = labelled.train, labelled.valid, labelled.remarks
        return Session(task, updates, *data, partial(_signs, config), thaws_at=config.ctc.freeze_encoder_updates)

    if is_dry:
        dry_run(build, config, console=console)
        return None
    if dump is not None:
        replay(build, config, dump, restores=True, console=console)
        return None
    return run_session(build, config, resume=resume, console=console)


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
    texts = [text for text in manifest.column("text") if text]
    vocabulary = Vocabulary.from_texts(texts, rules=config.text, min_count=config.vocabulary.min_count)
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


def _build_encoder(config: FinetuneConfig) -> tuple[Encoder, ModelConfig]:
    """The loaded or the fresh encoder, with the dropouts that fine-tuning asks for, and its settings."""
    files = None if config.init_from is None else read_model(config.init_from)
    shape = config.model if files is None else files.model
    assert shape is not None  # FinetuneConfig checks that one of the two is given
    shape = shape.model_copy(update=config.dropouts.model_dump(exclude_none=True))
    encoder = build_encoder(shape)
    if files is not None:
        load_strict(encoder, with_prefix(files.tensors, "encoder."), source=files.path)
    return encoder, shape
