"""Small real runs of pre-training, and a record of what reached the model and the optimizer in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from peers import random_config
from rich.console import Console
from torch import Tensor

from audio_ssl.config import ModelConfig, OptimConfig, PretrainConfig, RunConfig, Wav2Vec2Config
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.feature_encoder import FeatureEncoder
from audio_ssl.model.files import pretraining_document
from audio_ssl.objective import wav2vec2
from audio_ssl.objective.quantizer import GumbelQuantizer
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train import loop, stepper
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.pretrain import PretrainModule, pretrain
from audio_ssl.train.state import Progress

RATE = 16_000
LENGTHS = (16_001, 4_001, 9_973, 1_999, 523)  # 49, 12, 30, 5 and 1 frames
OBJECTIVE = {
    "num_groups": 2, "num_entries": 5, "code_dim": 6, "target_dim": 7, "mask_span_frames": 3, "num_distractors": 13,
    "target_dropout": 0.0, "gumbel_decay": 0.5,
}  # fmt: skip


def noise(num_samples: int, *, seed: int, loudness: float = 0.1, offset: float = 0.0) -> np.ndarray:
    """(S,) float32 with a mean and a variance that are the utterance's own."""
    return (offset + loudness * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def padded_batch(lengths: Sequence[int] = LENGTHS, *, rows: Sequence[int] | None = None) -> Batch:
    """Utterance ``i`` is the same in whatever batch it is."""
    rows = range(len(lengths)) if rows is None else rows
    waveforms = torch.zeros(len(rows), max(lengths[i] for i in rows))
    for place, i in enumerate(rows):
        waveforms[place, : lengths[i]] = torch.from_numpy(noise(lengths[i], seed=i, loudness=0.1 * 3**i))
    return Batch(waveforms, torch.tensor([lengths[i] for i in rows]), tuple(rows))


def in_float64(batch: Batch) -> Batch:
    """The same batch in double precision."""
    return replace(batch, waveforms=batch.waveforms.double())


def use_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package asks for float32 of a float64 tensor, it stays float64."""
    as_float = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else as_float(x))


def write_speech(folder: Path, lengths: Sequence[int], *, extension: str = "flac") -> Path:
    """A manifest of files that differ in length, loudness and offset; speakers s0, s1, s2 in turn."""
    folder.mkdir()
    rows = []
    for i, length in enumerate(lengths):
        waveform = noise(length, seed=i, loudness=0.02 * (i + 1), offset=0.05 * i)
        sf.write(folder / f"u{i}.{extension}", waveform, RATE, subtype="PCM_16")
        rows.append(Utterance(f"u{i}", f"u{i}.{extension}", 0, length, RATE, speaker=f"s{i % 3}"))
    Manifest.from_rows(rows, root=folder).write(folder.parent / f"{folder.name}.tsv")
    return folder.parent / f"{folder.name}.tsv"


@dataclass
class Seen:
    """What a run did, in order: waveforms at the encoder, draws of the objective, steps of the optimizer."""

    inputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    first_weights: dict[str, Tensor] = field(default_factory=dict)
    masks: list[Tensor] = field(default_factory=list)
    distractors: list[Tensor] = field(default_factory=list)
    events: list[float | str] = field(default_factory=list)
    """The temperature of each forward pass, and ``step`` for each optimizer step."""
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    """Those that each step was given, by the name of the parameter."""
    module: Any = None


def watch(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Record everything from now on; nothing is changed."""
    seen = Seen()

    def spy(owner: Any, name: str, note: Any) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if name in ("forward", "step_if_finite"):  # before, as these may change what they are given
                note(args, kwargs)
                return original(*args, **kwargs)
            result = original(*args, **kwargs)
            note(result, kwargs)
            return result

        monkeypatch.setattr(owner, name, watched)

    def note_module(args: Any, _: Any) -> None:
        seen.module = args[0]
        seen.rows.append(args[1].rows)
        if not seen.first_weights:
            seen.first_weights = {name: p.detach().clone() for name, p in seen.module.named_parameters()}

    def note_step(_args: Any, _kwargs: Any) -> None:
        seen.events.append("step")
        found = {name: p.grad for name, p in seen.module.named_parameters() if p.grad is not None}
        seen.gradients.append({name: grad.clone() for name, grad in found.items()})

    spy(PretrainModule, "forward", note_module)
    spy(FeatureEncoder, "forward", lambda args, _: seen.inputs.append((args[1].clone(), args[2].clone())))
    spy(GumbelQuantizer, "forward", lambda _, kwargs: seen.events.append(kwargs["temperature"]))
    spy(wav2vec2, "sample_span_mask", lambda mask, _: seen.masks.append(mask))
    spy(wav2vec2, "sample_distractors", lambda idx, _: seen.distractors.append(idx))
    spy(stepper, "step_if_finite", note_step)
    return seen


class UtteranceDraws:
    """The objective's draws, named by utterance instead of by batch: equal in whatever batch an utterance is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._rows: tuple[int, ...] = ()
        forward = wav2vec2.Wav2Vec2Objective.forward

        def remember_rows(objective: Any, encoder: Any, batch: Batch, **settings: Any) -> Any:
            self._rows = batch.rows
            return forward(objective, encoder, batch, **settings)

        monkeypatch.setattr(wav2vec2.Wav2Vec2Objective, "forward", remember_rows)
        for purpose in ("masking", "quantizer", "contrastive"):
            monkeypatch.setattr(
                f"audio_ssl.objective.{purpose}.uniform", lambda shape, *_, p=purpose, **__: self._draw(p, shape)
            )

    def _draw(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        per_row = (shape[0] // len(self._rows), *shape[1:]) if purpose == "quantizer" else shape[1:]
        drawn = [self._of(row, f"{purpose}{len(shape)}", per_row) for row in self._rows]
        return torch.stack(drawn).view(shape)

    @staticmethod
    def _of(row: int, purpose: str, shape: tuple[int, ...]) -> Tensor:
        generator = torch_generator(0, purpose, row)
        if not shape:
            return torch.rand((), generator=generator)
        return torch.rand(101, *shape[1:], generator=generator)[: shape[0]]  # the start of one long stream


def fresh_module(seed: int = 0, **objective: Any) -> tuple[PretrainModule, ModelConfig, Wav2Vec2Config]:
    """A model without dropout, the same for the same seed."""
    torch.manual_seed(5)
    model, config = random_config(seed), Wav2Vec2Config(**{**OBJECTIVE, **objective})
    heads = build_objective(config, latent_dim=model.conv_dims[-1], dim=model.dim)
    return PretrainModule(build_encoder(model), heads), model, config


def one_update(
    module: PretrainModule, model: ModelConfig, objective: Wav2Vec2Config, micro_batches: Sequence[Batch], run_dir: Path
) -> None:
    """One update of the real loop on given micro-batches; nothing is clipped."""

    class Given:
        def epoch(self, epoch: int, first: int) -> Any:
            yield tuple(micro_batches)

    optim = OptimConfig(clip_norm=1e9)
    task = loop.Task(
        module=module, optimizer=build_optimizer([(list(module.parameters()), 1.0)], optim), source=Given(),
        summarize=module.objective.summarize, validate=None, metric="loss",
        document=pretraining_document(model, objective),
    )  # fmt: skip
    run, world = RunConfig(dir=run_dir, num_updates=1, keep_last=1), World(0, 1, torch.device("cpu"))
    around = loop.Surroundings(
        run, optim, world, "fp32", CheckpointFolder(run, world), [], sample_rate_hz=RATE, console=Console(quiet=True)
    )
    loop.train(task, Progress(), around)


def settings_of(run_dir: Path, manifest: Path, **changes: dict[str, Any]) -> PretrainConfig:
    """A whole configuration: one micro-batch an update, every update logged."""
    values: dict[str, dict[str, Any]] = {
        "data": {"train": [manifest], "num_workers": 0, "engine": "threads", "min_s": 0.05, "max_s": 2.0},
        "optim": {"clip_norm": 1e9},
        "run": {"dir": run_dir, "num_updates": 1, "device": "cpu", "precision": "fp32", "log_every": 1},
        "objective": OBJECTIVE,
        "model": random_config(0).model_dump(),
    }
    return PretrainConfig(**{name: {**values[name], **changes.get(name, {})} for name in values})


def run_pretraining(run_dir: Path, manifest: Path, **changes: dict[str, Any]) -> tuple[loop.Outcome, str]:
    """The real thing, as ``audio-ssl pretrain`` starts it; and what it said."""
    said = StringIO()
    config = settings_of(run_dir, manifest, **changes)
    outcome = pretrain(config, resume="never", init_from=None, console=Console(file=said, width=400))
    return outcome, said.getvalue()
