"""A probe as JSON (``docs/probing.md`` tells the fields), and the learned sums of layers in files of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audio_ssl import __version__
from audio_ssl.evaluate.intervals import Interval
from audio_ssl.inference.output import write_text
from audio_ssl.probe.candidates import Candidate
from audio_ssl.probe.outcome import Measured, Outcome, TaskOutcome
from audio_ssl.probe.record import slug
from audio_ssl.probe.scores import Gain, Result, Score

SCHEMA, SCHEMA_VERSION = "audio_ssl.probe", 1


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """JSON-able values of everything that was found."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "audio_ssl_version": __version__,
        "seeds": list(outcome.seeds),
        "seconds": outcome.seconds,
        "candidates": [_candidate(candidate) for candidate in outcome.candidates],
        "tasks": [_task(found) for found in outcome.tasks],
    }


def write_document(outcome: Outcome, path: Path) -> None:
    """Write :func:`outcome_document`.

    Raises:
        ConfigError: the place cannot be written.
    """
    write_text(path, json.dumps(outcome_document(outcome), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_layer_weights(outcome: Outcome, folder: Path) -> list[Path]:
    """Write ``TASK_CANDIDATE_HEAD.json`` for every model with a learned sum, as ``extract --layer-weights`` takes it.

    Heads learn the sum of standardised layers, so ``layer_norm`` is true: it brings layers to one size in a way that
    needs no statistics of a task, and is the nearest to what was learned that a sum of frames can be.

    Raises:
        ConfigError: the folder cannot be written.
    """
    written = []
    for found in outcome.tasks:
        for one in found.measured:
            for result in one.results:
                weights = result.layer_weights
                if one.candidate.role != "model" or weights is None or len(weights) < 2:
                    continue
                path = folder / f"{slug(f'{found.name}_{one.candidate.name}_{result.head}')}.json"
                write_text(path, json.dumps(weights_document(weights, one.candidate.model_hash)) + "\n")
                written.append(path)
    return written


def weights_document(weights: tuple[float, ...], model_hash: str | None) -> dict[str, Any]:
    """A learned sum as :func:`audio_ssl.inference.layer_weights.read_layer_weights` reads it."""
    total = math.fsum(weights)
    document: dict[str, Any] = {"weights": [round(weight / total, 9) for weight in weights], "layer_norm": True}
    return document if model_hash is None else {**document, "model_hash": model_hash}


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "role": candidate.role,
        "path": None if candidate.path is None else str(candidate.path),
        "model_hash": candidate.model_hash,
        "num_layers": candidate.num_layers,
        "dim": candidate.dim,
        "hop_s": candidate.hop_s,
    }


def _task(found: TaskOutcome) -> dict[str, Any]:
    return {
        "name": found.name,
        "title": found.task.title,
        "source": found.source,
        "settings": found.task.model_dump(mode="json"),
        "amounts": asdict(found.amounts),
        "are_speakers": found.are_speakers,
        "folds": {name: {part: asdict(own) for part, own in parts.items()} for name, parts in found.folds.items()},
        "chance": found.chance,
        "notes": list(found.notes),
        "warnings": list(found.warnings),
        "results": [_measured(found, one) for one in found.measured],
    }


def _measured(found: TaskOutcome, one: Measured) -> dict[str, Any]:
    return {
        "candidate": one.candidate.name,
        "seconds": one.seconds,
        "heads": {result.head: _result(found, one, result) for result in one.results},
        "layers": [score_document(result.score) for result in one.layers],
        "control": None if one.control is None else score_document(one.control.score),
    }


def _result(found: TaskOutcome, one: Measured, result: Result) -> dict[str, Any]:
    """A head's result, with its differences to every other candidate."""
    gains = {}
    for other in found.measured:
        beside = other.of_head(result.head)
        if other is not one and beside is not None:
            gains[other.candidate.name] = _gain(result.score.gain_over(beside.score))
    return {
        **score_document(result.score),
        "others": {name: score_document(score) for name, score in result.others.items()},
        "layer_weights": None if result.layer_weights is None else list(result.layer_weights),
        "layer": result.layer,
        "notes": list(result.notes),
        "gain_over": gains,
    }


def score_document(score: Score) -> dict[str, Any]:
    """A figure; ``interval_95`` is over blocks and seeds."""
    return {
        "metric": score.metric,
        "value": _finite(score.value),
        "interval_95": _ends(score.interval()),
        "higher_is_better": score.higher_is_better,
        "num_blocks": score.num_blocks,
        "of_seed": {str(seed): _finite(value) for seed, value in score.of_seed.items()},
        "of_block": _all_finite(score.of_block),
    }


def _gain(gain: Gain) -> dict[str, Any]:
    return {"value": _finite(gain.value), "interval_95": _ends(gain.interval), "is_sure": gain.is_sure}


def _all_finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no NaN


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
