"""Pre-training: an encoder learns with an objective on manifests of raw speech."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Generator, nn

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import ModelConfig, OptimConfig, PretrainConfig
from audio_ssl.errors import ConfigError, TrainingError
from audio_ssl.interop.source import read_model
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.files import ModelFiles, pretraining_document
from audio_ssl.objective.registry import build_objective
from audio_ssl.objective.wav2vec2 import Wav2Vec2Objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch, LossTerms
from audio_ssl.train.compiling import prepare_blocks
from audio_ssl.train.datasets import NOT_READABLE, TrainingData, open_training_data
from audio_ssl.train.distributed import World, lay_out, of_all, shared_out
from audio_ssl.train.dry_run import dry_run
from audio_ssl.train.health import Sign, pretraining_signs
from audio_ssl.train.loop import Outcome, Task
from audio_ssl.train.meters import SumMeter
from audio_ssl.train.muon import hidden_matrices
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.probing import MakeMeasurer, Probing
from audio_ssl.train.replay import replay
from audio_ssl.train.run import run_session
from audio_ssl.train.session import Resume, Session
from audio_ssl.train.updates import open_updates


class PretrainModule(nn.Module):
    """Encoder and objective as one module; the names of its tensors are those of the checkpoint."""

    def __init__(self, encoder: Encoder, objective: Wav2Vec2Objective) -> None:
        super().__init__()
        self.encoder = encoder
        self.objective = objective

    def forward(self, batch: Batch, *, update: int, generator: Generator) -> LossTerms:
        """Loss sums of one micro-batch; see the objective."""
        terms: LossTerms = self.objective(self.encoder, batch, update=update, generator=generator)
        return terms


def pretrain(
    config: PretrainConfig,
    *,
    resume: Resume,
    init_from: Path | None,
    console: Console,
    is_dry: bool = False,
    dump: Path | None = None,
    make_probe: MakeMeasurer | None = None,
) -> Outcome | None:
    """Pre-train as ``config`` says; the run folder then holds ``model/``, the encoder ready for use.

    Args:
        config: the whole run.
        resume: whether to go on from the run folder's checkpoints.
        init_from: a model directory whose encoder (and objective, where it has one) to start from; a new run with
            a fresh optimizer, not a resumed one.
        console: where to speak.
        is_dry: only try a few updates and say what the run will take; nothing is written.
        dump: only run this update of ``dumps/`` again (:func:`replay`), with the weights of ``init_from`` or else of
            the newest checkpoint before it; nothing is written.
        make_probe: opens what measures the encoder every ``probe.every`` updates, on the main rank's device.

    Returns:
        How the run ended; None where none was to be.

    Raises:
        AudioSSLError: for everything that a user can mend.
    """

    def build(world: World) -> Session:
        torch.manual_seed(config.run.seed)
        module = build_module(config, init_from)
        lay_out(module, world, config.run.parallel)
        train_data = open_data(config, module.encoder, is_train=True)
        valid_data = open_data(config, module.encoder, is_train=False) if config.data.valid else None
        updates = open_updates(train_data, config.data, seed=config.run.seed, world=world)
        validation = None
        if valid_data is not None:
            validation = PretrainValidation(module, valid_data, micro_batch_s=config.data.micro_batch_s, world=world)
        task = Task(
            module=module,
            optimizer=_optimizer(module, config.optim),
            source=updates,
            summarize=module.objective.summarize,
            validate=validation,
            metric="contrastive_error",
            document=pretraining_document(config.model, config.objective),
            probe=None if dump is not None else _probing(config, module.encoder, world, make_probe),
        )
        remarks = [*_remarks(init_from), *(task.probe.describe() if task.probe else ())]
        return Session(task, updates, train_data, valid_data, remarks, partial(_signs, config), init_from=init_from)

    if is_dry:
        dry_run(build, config, console=console)
        return None
    if dump is not None:
        replay(build, config, dump, restores=init_from is None, console=console)
        return None
    return run_session(build, config, resume=resume, console=console)


def _optimizer(module: PretrainModule, optim: OptimConfig) -> torch.optim.Optimizer:
    return build_optimizer([(list(module.parameters()), 1.0)], optim, matrices=hidden_matrices(module.encoder))


def _remarks(init_from: Path | None) -> list[str]:
    return [] if init_from is None else [f"a new run starts from the weights of {init_from}"]


def _probing(
    config: PretrainConfig, encoder: Encoder, world: World, make_probe: MakeMeasurer | None
) -> Probing | None:  # fmt: skip
    if config.probe is None:
        return None
    if make_probe is None:
        raise ConfigError("probe must be left out where make_probe is not given: nobody is there to measure")
    return Probing(config.probe.every, encoder, world, make_probe(world.device) if world.is_main else None)


def _signs(config: PretrainConfig, num_updates: int) -> Sequence[Sign]:
    warmup = config.optim.warmup_updates(num_updates)
    return pretraining_signs(config.guard, config.objective, warmup_updates=warmup)


class PretrainValidation:
    """The objective on validation data with masks, noise and distractors that are the same at every update.

    Args:
        module: measured in the mode (train or eval) that it is in.
        data: opened for validation.
        micro_batch_s: most seconds of a batch, padding included.
        world: the ranks that share the batches out, and the module's device.
    """

    def __init__(self, module: PretrainModule, data: TrainingData, *, micro_batch_s: float, world: World) -> None:
        self._module, self._data, self._world = module, data, world
        self._batches = shared_out(data.eval_batches(micro_batch_s), module, world)

    def __call__(self, update: int) -> dict[str, float]:
        """Figures over all validation rows.

        Raises:
            TrainingError: none of them can be read.
        """
        meter = SumMeter()
        device = self._world.device
        for batch in self._data.loader.batches(self._batches, epoch=0):
            generator = torch_generator(0, "valid", batch.rows[0], device=device)  # not the run's seed: runs compare
            meter.add(self._module(batch.to(device), update=update, generator=generator).sums)
        total = SumMeter()
        for sums in of_all({name: value.cpu() for name, value in meter.take().items()}, self._module, self._world):
            total.add(sums)
        sums = total.take()
        if not sums:
            raise TrainingError(f"data.valid must hold at least one readable utterance; {NOT_READABLE}")
        figures = self._module.objective.summarize(sums)
        # The best checkpoint is chosen by it: a collapsed codebook has loss 0, but no correct target.
        return {**figures, "contrastive_error": 1 - figures["accuracy"]}


def build_module(config: PretrainConfig, init_from: Path | None) -> PretrainModule:
    """Encoder and objective: fresh ones from torch's global generator, or with the weights of ``init_from``.

    Raises:
        CheckpointError: ``init_from`` is no model, or one of other shapes.
        ConfigError: ``init_from`` has other settings than ``config.model``.
    """
    encoder = build_encoder(config.model)
    objective = build_objective(config.objective, latent_dim=encoder.latent_dim, dim=encoder.dim)
    if init_from is not None:
        files = read_model(init_from)
        _refuse_another_model(config.model, files)
        tensors = files.tensors
        load_strict(encoder, with_prefix(tensors, "encoder."), source=init_from)
        heads = with_prefix(tensors, "objective.")
        if heads:
            load_strict(objective, heads, source=init_from)
    prepare_blocks(encoder, config.run)
    return PretrainModule(encoder, objective)


def _refuse_another_model(model: ModelConfig, files: ModelFiles) -> None:
    """Weights mean something under the settings that they were trained with; shapes do not tell all of these.

    Raises:
        ConfigError: naming every setting that differs, dropouts and gradient scale apart.
    """
    free = {"preset", "feature_grad_scale", *(name for name in ModelConfig.model_fields if "drop" in name)}
    said = [key for key in ModelConfig.model_fields if key not in free]
    pairs = [(key, getattr(files.model, key), getattr(model, key)) for key in said]
    faults = [f"  - model.{key} must be {theirs!r}, got {ours!r}" for key, theirs, ours in pairs if theirs != ours]
    if faults:
        raise ConfigError(
            f"[model] must describe the model of --init-from {files.path}:\n" + "\n".join(faults) + "\n"
            "set these, or leave --init-from out"
        )


def open_data(config: PretrainConfig, encoder: Encoder, *, is_train: bool) -> TrainingData:
    """The rows of ``data.train`` or ``data.valid`` that take part; see :func:`open_training_data`."""
    return open_training_data(
        config.data.train if is_train else config.data.valid, config.data,
        sample_rate_hz=encoder.sample_rate_hz, normalize=encoder.normalize_waveform,
        min_samples=encoder.geometry.receptive_field_samples, seed=config.run.seed, is_train=is_train,
        augment=config.augment,
    )  # fmt: skip
