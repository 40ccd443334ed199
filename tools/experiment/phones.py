"""Phones of read speech: a linear CTC head on frozen frames, tested on speakers that nobody has heard.

A softmax-weighted sum over layers is learned with the head (:mod:`audio_ssl.probe.ctc`). Everything is fixed in
advance: at most an hour of training utterances (every n-th of the train speakers'), a number of passes, Adam at one
rate, frames standardised by the training utterances. Of the test speakers nothing is used before the error rate.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_ssl.config.probe import ProbeTraining
from audio_ssl.data.manifest import Manifest
from audio_ssl.evaluate.error_rate import EditCounts, total
from audio_ssl.evaluate.intervals import Interval, bootstrap_interval
from audio_ssl.probe.ctc import Spoken, edits, fit, hear
from audio_ssl.probe.standard import Standard
from benchmarks.report import BenchError
from experiment.features import Features

TRAIN_HOURS = 1.0
SEEDS = (1, 2, 3)
NUM_EPOCHS, BATCH, LEARNING_RATE = 20, 16, 1e-2
Phones = tuple[str, ...]


@dataclass(frozen=True)
class Utterance:
    """Frames and what is said in them.

    Attributes:
        frames: (T, L, D) bfloat16, standardised: an hour of a small model's layers is a gigabyte.
        phones: in order.
        speaker: who says them.
    """

    frames: Tensor
    phones: Phones
    speaker: str


@dataclass(frozen=True)
class PhoneResult:
    """What a kind of features reached.

    Attributes:
        error_rate: phone error rate over all test utterances and seeds.
        interval: 95 %, bootstrap over speakers.
        nats: mean CTC loss a phone, which tells features apart where greedy transcripts are nearly all blank.
        of_seed: error rate of each seed.
        layer_weights: mean over seeds.
    """

    error_rate: float
    interval: tuple[float, float]
    nats: float
    of_seed: dict[int, float]
    layer_weights: tuple[float, ...]


def train_rows(manifest: Manifest, hours: float = TRAIN_HOURS) -> list[int]:
    """Every n-th row, n the smallest that leaves no more than ``hours``: all speakers take part."""
    seconds = manifest.durations_s()
    for step in itertools.count(1):
        if seconds[::step].sum() <= hours * 3600 or step >= len(manifest):
            return list(range(0, len(manifest), step))
    raise AssertionError


def load(
    features: Features, manifest: Manifest, rows: Sequence[int], *, phones: Mapping[str, Phones], standard: Standard,
    learns: bool,
) -> list[Utterance]:  # fmt: skip
    """Frames of utterances, in the order of ``rows``; those to learn from make the standard."""
    ids, speakers = manifest.column("id"), manifest.column("speaker")
    found = {row: frames.bfloat16() for row, frames in features.of(manifest, rows)}
    if learns:
        for frames in found.values():
            standard.add(frames)
    return [Utterance(standard.apply(found.pop(row)), phones[ids[row]], speakers[row]) for row in rows]


def probe(train: Sequence[Utterance], test: Sequence[Utterance]) -> PhoneResult:
    """Train a head a seed, and count the edits of its greedy transcripts, speaker by speaker.

    Raises:
        BenchError: nothing to learn from.
    """
    if not train or not test:
        raise BenchError(f"phones need utterances to learn from and to test on, got {len(train)} and {len(test)}")
    to_learn, to_test = _spoken(train, test)
    training = ProbeTraining(epochs=NUM_EPOCHS, batch=BATCH, lr=LEARNING_RATE)
    counts: dict[str, list[EditCounts]] = {utterance.speaker: [] for utterance in test}
    of_seed, weights, nats = {}, [], []
    for seed in SEEDS:
        head = fit("linear", to_learn, training=training, seed=seed)
        heard = hear(head, to_test, batch=BATCH)
        found = [edits(said, own.symbols) for said, own in zip(to_test.targets, heard, strict=True)]
        for utterance, count in zip(test, found, strict=True):
            counts[utterance.speaker].append(count)
        of_seed[seed] = total(found).rate
        losses = [
            (own.nats, len(said)) for said, own in zip(to_test.targets, heard, strict=True) if own.nats is not None
        ]
        nats.append(sum(loss for loss, _ in losses) / max(sum(length for _, length in losses), 1))
        weights.append(head.layer_weights().detach())
    of_speaker = [total(own) for own in counts.values()]
    rate = total(of_speaker).rate
    interval = bootstrap_interval(of_speaker) or Interval(rate, rate)  # its blocks are speakers; all may be alike
    layer_weights = tuple(torch.stack(weights).mean(0).tolist())
    return PhoneResult(rate, (interval.low, interval.high), sum(nats) / len(nats), of_seed, layer_weights)


def _spoken(train: Sequence[Utterance], test: Sequence[Utterance]) -> tuple[Spoken, Spoken]:
    known = sorted({phone for utterance in train for phone in utterance.phones})
    unheard = sorted({phone for utterance in test for phone in utterance.phones} - set(known))
    index = {phone: number for number, phone in enumerate((*known, *unheard), start=1)}

    def spoken(utterances: Sequence[Utterance]) -> Spoken:
        clips = [utterance.frames for utterance in utterances]
        targets = [tuple(index[phone] for phone in utterance.phones) for utterance in utterances]
        return Spoken(clips, [len(clip) for clip in clips], targets, len(known))

    return spoken(train), spoken(test)
