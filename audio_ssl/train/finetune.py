"""Fine-tuning: a CTC head on a pre-trained encoder (or, for comparison, a fresh one) learns from transcripts.

Reference: wav2vec 2.0 (2006.11477) sections 3.4 and 4.3; fairseq's fine-tuning configurations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from audio_ssl.config import FinetuneConfig
from audio_ssl.data.vocabulary import parts_of
from audio_ssl.interop.source import read_model
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.files import ctc_document, with_conditions
from audio_ssl.train.adapting import of_training, starting_encoder
from audio_ssl.train.blanks import finetuning_signs
from audio_ssl.train.compiling import prepare_blocks
from audio_ssl.train.ctc_module import FinetuneModule, summarize
from audio_ssl.train.ctc_validation import CTCValidation
from audio_ssl.train.distributed import World, lay_out
from audio_ssl.train.dry_run import dry_run
from audio_ssl.train.growing import old_head, start_head
from audio_ssl.train.health import Sign
from audio_ssl.train.labelled import open_splits, read_labelled, tell_found
from audio_ssl.train.learning import learning_groups, learning_remarks
from audio_ssl.train.loop import Outcome, Task
from audio_ssl.train.muon import hidden_matrices
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.replay import replay
from audio_ssl.train.run import run_session
from audio_ssl.train.session import Resume, Session
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
        return _session(config, world, console, is_kept=not is_dry and dump is None)

    if is_dry:
        dry_run(build, config, console=console)
        return None
    if dump is not None:
        replay(build, config, dump, restores=True, console=console)
        return None
    return run_session(build, config, resume=resume, console=console)


def _session(config: FinetuneConfig, world: World, console: Console, *, is_kept: bool) -> Session:
    torch.manual_seed(config.run.seed)
    files = None if config.init_from is None else read_model(config.init_from)
    encoder, model_config = starting_encoder(config, files)
    old = None if files is None or config.ctc.old_head == "new" else old_head(files)
    prepare_blocks(encoder, config.run)
    labelled = read_labelled(config, encoder, old)
    tell_found(labelled.found, config.run.dir, console=console, is_main=world.is_main, is_kept=is_kept)
    train_data, valid_data = open_splits(config, encoder, labelled)
    conditioned = config.ctc.intermediate_layers if config.ctc.self_conditioned else ()
    model = CTCModel(
        encoder, len(labelled.vocabulary), final_dropout=config.ctc.final_dropout, conditioned_after=conditioned
    )
    if old is not None:
        start_head(model, old, labelled.vocabulary)
    module = FinetuneModule(model, transcripts=labelled.train, config=config.ctc)
    lay_out(module, world, config.run.parallel)
    updates = open_updates(train_data, config.data, seed=config.run.seed, world=world)
    validation = None
    if valid_data is not None and labelled.valid is not None:
        validation = CTCValidation(
            model, valid_data, labelled.vocabulary, labelled.valid.texts,
            micro_batch_s=config.data.micro_batch_s, world=world,
            console=console if world.is_main else Console(quiet=True),
        )  # fmt: skip
    document = ctc_document(model_config, **parts_of(labelled.vocabulary))
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
    data = train_data, valid_data, remarks
    return Session(task, updates, *data, partial(_signs, config), thaws_at=config.ctc.thaws_at)


def _signs(config: FinetuneConfig, num_updates: int) -> Sequence[Sign]:
    warmup = config.optim.warmup_updates(num_updates)
    last_thaw = max((thaw for thaw in config.ctc.thaws_at if thaw < num_updates), default=0)
    return finetuning_signs(config.guard, warmup_updates=warmup, frozen_updates=last_thaw, num_updates=num_updates)
