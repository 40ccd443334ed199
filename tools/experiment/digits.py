"""Spoken digits, leave one speaker out: logistic regression on pooled frozen frames.

Features of an utterance are the mean and the standard deviation over its frames, of each layer; a softmax-weighted sum
over layers is learned with the regression. Everything is fixed in advance: the penalty is scikit-learn's default
(C = 1), features are standardised by the training speakers, and nothing is chosen by looking at the test speaker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import torch
from torch import Tensor

from audio_ssl.data.manifest import Manifest
from audio_ssl.probe.frames import pool
from audio_ssl.probe.regression import fit, standardised
from benchmarks.report import BenchError
from experiment.features import Features


@dataclass(frozen=True)
class Task:
    """Labelled utterances.

    Attributes:
        labels: (N,) int64.
        speakers: of each.
        num_classes: labels are below it.
    """

    labels: Tensor
    speakers: tuple[str, ...]
    num_classes: int


@dataclass(frozen=True)
class DigitResult:
    """What a kind of features reached.

    Attributes:
        accuracy: mean over speakers, each held out once.
        interval: 95 %, Student's t over speakers.
        of_speaker: accuracy on each.
        layer_weights: mean over the regressions.
    """

    accuracy: float
    interval: tuple[float, float]
    of_speaker: dict[str, float]
    layer_weights: tuple[float, ...]


def digit_task(manifest: Manifest) -> Task:
    """The digit stands in the file's name, ``{digit}_{speaker}_{index}``.

    Raises:
        BenchError: a name or a speaker is missing.
    """
    digits = [PurePath(path).name[:2] for path in manifest.column("path")]
    speakers = manifest.column("speaker")
    for digit, speaker in zip(digits, speakers, strict=True):
        if digit[:1] not in "0123456789" or digit[1:] != "_" or speaker is None:
            raise BenchError(f"files of digits must be named DIGIT_SPEAKER_INDEX, got {digit!r} of {speaker!r}")
    return Task(torch.tensor([int(digit[0]) for digit in digits]), tuple(speakers), 10)


def pooled(features: Features, manifest: Manifest) -> Tensor:
    """(N, L, 2D): mean and standard deviation over frames."""
    rows: list[Tensor | None] = [None] * len(manifest)
    for row, frames in features.of(manifest, range(len(manifest))):
        rows[row] = pool(frames)
    return torch.stack([row for row in rows if row is not None])


def leave_one_speaker_out(pooled_features: Tensor, task: Task) -> DigitResult:
    """Train on all speakers but one and test on that one, for each.

    Args:
        pooled_features: (N, L, F).
        task: N utterances.
    """
    names = sorted(set(task.speakers))
    of_speaker, weights = {}, []
    for name in names:
        is_test = torch.tensor([speaker == name for speaker in task.speakers])
        to_learn, to_test = standardised(pooled_features[~is_test], pooled_features[is_test])
        model = fit(to_learn, task.labels[~is_test], num_classes=task.num_classes)
        hits = model(to_test).argmax(-1) == task.labels[is_test]
        of_speaker[name] = float(hits.double().mean())
        weights.append(model.layer_logits.detach().softmax(0))
    mean_accuracy = sum(of_speaker.values()) / len(names)
    interval = t_interval(list(of_speaker.values()))
    return DigitResult(mean_accuracy, interval, of_speaker, tuple(torch.stack(weights).mean(0).tolist()))


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t; of one value it has no bounds."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return mean - half, mean + half
