"""The systems that learn: ours and transformers, with the same weights and settings at the start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audio_ssl.config import PretrainConfig
from audio_ssl.interop.huggingface import OBJECTIVE_KEYS, TERMS
from audio_ssl.rng import derive_seed
from benchmarks.candidates import require_same_model
from benchmarks.cases import Case
from benchmarks.ours import Ours
from benchmarks.peers import Transformers
from benchmarks.report import BenchError

Learner = Ours | Transformers
LEARNERS: dict[str, type[Ours] | type[Transformers]] = {system.name: system for system in (Ours, Transformers)}
# Settings of ours that transformers has under its own names, or that the driver here gives it.
_DRIVEN = {"preset", "name", "sample_rate_hz", "normalize_waveform", "norm_order", "quantizer_logit_scale"}
_SHARED = {ours for ours, _ in OBJECTIVE_KEYS} | set(TERMS) | {"gumbel_start", "gumbel_end", "gumbel_decay"} | _DRIVEN
_NEUTRAL = {"feature_grad_scale": 1.0, "feature_penalty_weight": 0.0}  # others: as the class has them by default


def open_learner(system: str, config: PretrainConfig, tensors: dict[str, Tensor]) -> Learner:
    """A system with the given weights, after it has shown that these make the same model there.

    Raises:
        BenchError: it is not installed, or gives other frames.
    """
    case = Case("quality", config.model, config.objective, rows=1, seconds=1.0)
    learner_type = LEARNERS[system]
    try:
        learner_type.load()
    except ImportError as error:
        raise BenchError(f"--system {system} must be installed: {error}") from error
    seed = config.run.seed
    learner = learner_type(case, trains=True, optim=config.optim, seed=seed)
    learner.take(tensors)
    if not isinstance(learner, Ours):
        ours = Ours(case, trains=True)
        ours.take(tensors)
        require_same_model(ours, learner)
    # transformers draws masks and negatives from numpy's global generator, and dropout from torch's
    np.random.seed(derive_seed(seed, "quality") % 2**32)
    torch.manual_seed(derive_seed(seed, "quality"))
    return learner


def refuse_settings_without_place(config: PretrainConfig) -> None:
    """Compare systems only under settings that both have.

    Raises:
        BenchError: naming every setting that transformers' training lacks.
    """
    faults = []
    if config.optim.optimizer != "adamw":
        faults.append(f"optim.optimizer must be 'adamw', got {config.optim.optimizer!r}")
    for name in ("model", "objective"):
        section = getattr(config, name)
        for key, field in type(section).model_fields.items():
            value, neutral = getattr(section, key), _NEUTRAL.get(key, field.default)
            if key not in _SHARED and value != neutral:
                faults.append(f"{name}.{key} must be {neutral!r}, got {value!r}")
    if faults:
        raise BenchError("transformers' pre-training has no place for some settings: " + "; ".join(faults))
