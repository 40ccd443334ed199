"""Phones of read speech: a linear CTC head on frozen frames, tested on speakers that nobody has heard.

A softmax-weighted sum over layers is learned with the head. Everything is fixed in advance: at most an hour of
training utterances (every n-th of the train speakers'), a number of passes, Adam at one rate, frames standardised by
the training utterances. Of the test speakers nothing is used before the error rate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_ssl.data.manifest import Manifest
from audio_ssl.evaluate.error_rate import EditCounts, count_edits, total
from audio_ssl.evaluate.intervals import Interval, bootstrap_interval
from audio_ssl.rng import derive_seed, torch_generator
from audio_ssl.train.precision import resolve_precision
from benchmarks.cases import CPU
from benchmarks.report import BenchError
from experiment.features import Features

TRAIN_HOURS = 1.0
SEEDS = (1, 2, 3)
NUM_EPOCHS, BATCH, LEARNING_RATE = 20, 16, 1e-2
BLANK = 0
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


class Standard:
    """Mean and deviation of each layer and channel over frames, from sums."""

    def __init__(self) -> None:
        self._count, self._sum, self._square = 0, torch.zeros(()), torch.zeros(())

    def add(self, frames: Tensor) -> None:
        """Take (L, T, D) frames in."""
        self._count += frames.shape[1]
        self._sum = self._sum + frames.double().sum(1)  # (L, T, D) -> (L, D)
        self._square = self._square + frames.double().square().sum(1)

    def apply(self, frames: Tensor) -> Tensor:
        """(L, T, D) -> (T, L, D) bfloat16."""
        mean = self._sum / self._count
        std = (self._square / self._count - mean.square()).clamp(min=1e-12).sqrt()
        return ((frames - mean[:, None]) / std[:, None]).transpose(0, 1).bfloat16().contiguous()


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


class Head(nn.Module):
    """Softmax-weighted sum over layers, then a linear map to phones and the blank.

    Args:
        shape: (L, D) of the frames.
        num_symbols: phones and the blank.
    """

    def __init__(self, shape: Sequence[int], num_symbols: int) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(shape[0]))
        self.linear = nn.Linear(shape[1], num_symbols)
        self.dtype = torch.bfloat16 if resolve_precision("auto", CPU) == "bf16" else torch.float32

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, L, D) bfloat16 -> (B, T, A) float32 log-probabilities.

        The weights of layers go into the map, so that the frames meet one matrix product, in bfloat16 where the
        machine multiplies it.
        """
        weight = torch.einsum("l,ad->ald", self.layer_logits.softmax(0), self.linear.weight).flatten(1)  # -> (A, L*D)
        logits = F.linear(frames.flatten(2).to(self.dtype), weight.to(self.dtype)).float() + self.linear.bias
        return F.log_softmax(logits, dim=-1)


def probe(train: Sequence[Utterance], test: Sequence[Utterance]) -> PhoneResult:
    """Train a head a seed, and count the edits of its greedy transcripts, speaker by speaker.

    Raises:
        BenchError: nothing to learn from.
    """
    if not train or not test:
        raise BenchError(f"phones need utterances to learn from and to test on, got {len(train)} and {len(test)}")
    symbols = ("<blank>", *sorted({phone for utterance in train for phone in utterance.phones}))
    counts: dict[str, list[EditCounts]] = {utterance.speaker: [] for utterance in test}
    of_seed, weights, nats = {}, [], []
    for seed in SEEDS:
        head = fit(train, symbols, seed=seed)
        found = [edits(head, utterance, symbols) for utterance in test]
        for utterance, count in zip(test, found, strict=True):
            counts[utterance.speaker].append(count)
        of_seed[seed] = total(found).rate
        nats.append(unseen_nats(head, test, symbols))
        weights.append(head.layer_logits.detach().softmax(0))
    of_speaker = [total(own) for own in counts.values()]
    rate = total(of_speaker).rate
    interval = bootstrap_interval(of_speaker) or Interval(rate, rate)  # its blocks are speakers; all may be alike
    layer_weights = tuple(torch.stack(weights).mean(0).tolist())
    mean_nats = sum(nats) / len(nats)
    return PhoneResult(rate, (interval.low, interval.high), mean_nats, of_seed, layer_weights)


def fit(train: Sequence[Utterance], symbols: Sequence[str], *, seed: int) -> Head:
    """Adam on the mean CTC loss a phone, the rate falling to 0 along a half cosine."""
    torch.manual_seed(derive_seed(seed, "phone head"))
    head = Head(train[0].frames.shape[1:], len(symbols))
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_EPOCHS * -(-len(train) // BATCH))
    for epoch in range(NUM_EPOCHS):
        for chosen in _batches(train, seed=seed, epoch=epoch):
            loss = _ctc_sum(head, chosen, symbols) / sum(len(utterance.phones) for utterance in chosen)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return head


def _ctc_sum(head: Head, chosen: Sequence[Utterance], symbols: Sequence[str]) -> Tensor:
    """Nats of all the utterances' phones; those that no path through the frames can spell count 0."""
    index = {symbol: i for i, symbol in enumerate(symbols)}
    frames = nn.utils.rnn.pad_sequence([utterance.frames for utterance in chosen], batch_first=True)
    return F.ctc_loss(
        head(frames).transpose(0, 1),  # (B, T, A) -> (T, B, A)
        torch.tensor([index[phone] for utterance in chosen for phone in utterance.phones]),
        torch.tensor([len(utterance.frames) for utterance in chosen]),
        torch.tensor([len(utterance.phones) for utterance in chosen]),
        blank=BLANK, reduction="sum", zero_infinity=True,
    )  # fmt: skip


@torch.no_grad()
def unseen_nats(head: Head, test: Sequence[Utterance], symbols: Sequence[str]) -> float:
    """Mean CTC loss a phone, of the utterances whose phones were all seen in training."""
    spelt = [utterance for utterance in test if set(utterance.phones) <= set(symbols)]
    num_phones = sum(len(utterance.phones) for utterance in spelt)
    return float(sum(_ctc_sum(head, [utterance], symbols) for utterance in spelt)) / max(num_phones, 1)


def _batches(train: Sequence[Utterance], *, seed: int, epoch: int) -> Iterator[list[Utterance]]:
    """Neighbours in length, shuffled within and as batches."""
    generator = torch_generator(seed, "phone batches", epoch)
    noise = 1 + 0.1 * torch.rand(len(train), generator=generator)
    order = (torch.tensor([len(utterance.frames) for utterance in train]) * noise).argsort()
    batches = [order[first : first + BATCH].tolist() for first in range(0, len(train), BATCH)]
    for i in torch.randperm(len(batches), generator=generator).tolist():
        yield [train[j] for j in batches[i]]


@torch.no_grad()
def edits(head: Head, utterance: Utterance, symbols: Sequence[str]) -> EditCounts:
    """Of the greedy transcript: the best symbol of each frame, repeats and blanks taken out."""
    best = head(utterance.frames[None]).argmax(-1)[0].unique_consecutive().tolist()
    heard = " ".join(symbols[i] for i in best if i != BLANK)
    return count_edits(" ".join(utterance.phones), heard, unit="word")
