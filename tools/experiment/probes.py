"""The probes of models and of their baselines, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_ssl.data.manifest import Manifest
from audio_ssl.inference.models import open_encoder
from audio_ssl.interop.source import read_model
from audio_ssl.probe.candidates import random_encoder
from audio_ssl.probe.standard import Standard
from benchmarks.report import BenchError, note
from experiment import digits, phones
from experiment.corpora import Prepared, load_phones
from experiment.features import WIDE, Features, log_mel, of_encoder

RANDOM = "random weights"


def run(models: Sequence[Path], data: Prepared, out: Path) -> dict[str, Any]:
    """Probe log-mel, random weights and each model; write and give the results by name.

    The file is written anew after each kind of features, so that a run that is ended leaves what it found.

    Raises:
        BenchError: two models have one name, or an utterance cannot be used.
        CheckpointError: a MODEL is none.
    """
    if not out.parent.is_dir():
        raise BenchError(f"--out {out} must be in a folder that exists")
    results: dict[str, Any] = {}
    for features in _candidates(models):
        started = time.perf_counter()
        of_digits = probe_digits(features, data)
        turned = time.perf_counter()
        of_phones = probe_phones(features, data)
        ended = time.perf_counter()
        results[features.name] = {"digits": asdict(of_digits), "phones": asdict(of_phones)}
        note(f"{features.name}: digits {turned - started:.0f} s, phones {ended - turned:.0f} s")
        out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _candidates(models: Sequence[Path]) -> Iterator[Features]:
    names = [_name(path) for path in models]
    if len(set(names)) < len(names):
        raise BenchError(f"models must have different names, got {', '.join(names)}")
    configs = [read_model(path).model for path in models]  # a wrong path is told before minutes of work
    yield log_mel(2)
    yield log_mel(WIDE)
    shapes = list(dict.fromkeys(configs))
    for config in shapes:
        name = RANDOM if len(shapes) == 1 else f"{RANDOM}, {names[configs.index(config)]}"
        yield of_encoder(name, random_encoder(config))
    for name, path in zip(names, models, strict=True):
        yield of_encoder(name, open_encoder(path))


def _name(model: Path) -> str:
    path = model.resolve()
    return path.parent.name if path.name == "model" else path.name


def probe_digits(features: Features, data: Prepared) -> digits.DigitResult:
    """Leave one speaker out; see :mod:`experiment.digits`."""
    manifest = Manifest.read(data.digits)
    return digits.leave_one_speaker_out(digits.pooled(features, manifest), digits.digit_task(manifest))


def probe_phones(features: Features, data: Prepared) -> phones.PhoneResult:
    """Train speakers to test speakers; see :mod:`experiment.phones`."""
    spoken = load_phones(data.phones)
    train, test = (Manifest.read(data.part(name)) for name in ("train", "test"))
    standard = Standard()
    to_learn = phones.load(
        features, train, phones.train_rows(train), phones=spoken, standard=standard, learns=True
    )  # fmt: skip
    to_test = phones.load(
        features, test, range(len(test)), phones=spoken, standard=standard, learns=False
    )  # fmt: skip
    return phones.probe(to_learn, to_test)


def show(results: dict[str, Any]) -> None:
    """Print the table; differences are of pairs: the same speaker, features against log-mel."""
    table = Table(
        "features", "digits, accuracy %", "95 % over speakers", "minus log-mel", "95 %",
        "phones, error %", "95 % over speakers", "nats a phone",
    )  # fmt: skip
    log_mels = results[log_mel(2).name]["digits"]["of_speaker"]
    for name, found in results.items():
        of_digits, of_phones = found["digits"], found["phones"]
        gains = [of_digits["of_speaker"][speaker] - of_log_mel for speaker, of_log_mel in log_mels.items()]
        table.add_row(
            name, _percent(of_digits["accuracy"]), _percent(*of_digits["interval"]), _percent(sum(gains) / len(gains)),
            _percent(*digits.t_interval(gains)), _percent(of_phones["error_rate"]), _percent(*of_phones["interval"]),
            f"{of_phones['nats']:.3f}",
        )  # fmt: skip
    Console(width=150).print(table)


def _percent(*values: float) -> str:
    return " – ".join(f"{100 * value:.1f}" for value in values)
