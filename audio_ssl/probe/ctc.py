"""A small CTC head on frozen frames: what it learns from, what it hears, and what of that is wrong.

Reference: Graves et al., "Connectionist temporal classification" (2006).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from audio_ssl.config.probe import ProbeTraining
from audio_ssl.errors import ConfigError
from audio_ssl.evaluate.error_rate import EditCounts, count_edits
from audio_ssl.probe.heads import Head, build, learn
from audio_ssl.probe.standard import Clips

BLANK = 0
STEP_S = 0.02  # a head says a symbol or a blank at least this often, whatever the frames' own period
BLANK_SHARE = 0.85  # of the probability, before anything is learned
_PRIVATE = 0xF0000  # code points that stand for symbols where edits of strings are counted
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Spoken:
    """Utterances and what is said in them.

    Attributes:
        clips: (T, L, D) bfloat16 each.
        num_frames: T of each.
        targets: symbols of each, 1 and above; those above ``num_known`` were never heard in training.
        num_known: symbols that the head can say.
        steps: symbols or blanks that the head says in a frame.
    """

    clips: Clips
    num_frames: Sequence[int]
    targets: Sequence[Ids]
    num_known: int
    steps: int = 1

    def is_short(self, number: int) -> bool:
        """Whether an utterance has fewer steps than its symbols take: one each, and a blank between two alike."""
        said = self.targets[number]
        repeats = sum(left == right for left, right in pairwise(said))
        return len(said) + repeats > self.steps * self.num_frames[number]

    def is_known(self, number: int) -> bool:
        """Whether all symbols of an utterance were heard in training."""
        return max(self.targets[number], default=0) <= self.num_known


@dataclass(frozen=True)
class Heard:
    """What a head makes of an utterance.

    Attributes:
        symbols: of the greedy transcript.
        nats: CTC loss of what was said; None where the head cannot say it.
    """

    symbols: Ids
    nats: float | None


def steps_a_frame(hop_s: float) -> int:
    """How many symbols or blanks a head says in a frame, so that it has one at least every :data:`STEP_S`."""
    return max(1, math.ceil(hop_s / STEP_S - 1e-6))


def fit(kind: str, train: Spoken, *, training: ProbeTraining, seed: int) -> Head:
    """A head that has learned the mean CTC loss a symbol; utterances that are too short are left out.

    Args:
        kind: ``linear`` or ``recurrent``.
        train: what it learns from.
        training: passes, batch, rate and width.
        seed: of weights and order.

    Raises:
        ConfigError: every utterance is too short.
    """
    usable = [i for i in range(len(train.targets)) if not train.is_short(i)]
    if not usable:
        raise ConfigError(
            f"training utterances must have as many frames as symbols, none of {len(train.targets)} has; do the labels "
            "belong to this audio?"
        )
    shape = train.clips[usable[0]].shape[1:]
    head = build(kind, shape, train.steps * (1 + train.num_known), hidden=training.hidden, seed=seed)
    expect_blanks(head.linear.bias, train.steps)

    def loss_of(chosen: list[int]) -> Tensor:
        targets = [train.targets[usable[i]] for i in chosen]
        log_probs, num_steps = say(head, [train.clips[usable[i]] for i in chosen], steps=train.steps)
        return losses(log_probs, num_steps, targets).sum() / max(sum(map(len, targets)), 1)

    learn(head, loss_of, [train.num_frames[i] for i in usable], training=training, seed=seed)
    return head


@torch.no_grad()
def expect_blanks(bias: Tensor, steps: int) -> None:
    """Let outputs start at :data:`BLANK_SHARE` for the blank and the rest for all symbols alike; in place.

    Blanks are what every head with CTC learns first. Where it has to, all its weights go one way for dozens of updates,
    and an LSTM may come out of that able to learn utterances by heart and nothing else (decision 58).

    Args:
        bias: (steps * A,) of the outputs.
        steps: outputs of a frame.
    """
    own = bias.view(steps, -1)
    own.zero_()
    own[:, BLANK] = math.log(BLANK_SHARE / (1 - BLANK_SHARE) * (own.shape[1] - 1))


def say(head: Head, clips: Sequence[Tensor], *, steps: int) -> tuple[Tensor, Tensor]:
    """(B, T * steps, A) float32 log-probabilities of the blank and the symbols, and (B,) int64 how many are valid."""
    num_frames = torch.tensor([len(clip) for clip in clips])
    outputs = head(pad_sequence(list(clips), batch_first=True), num_frames)
    outputs = outputs.unflatten(-1, (steps, -1)).flatten(1, 2)  # (B, T, s * A) -> (B, T * s, A)
    return F.log_softmax(outputs, dim=-1), num_frames * steps


def losses(log_probs: Tensor, num_steps: Tensor, targets: Sequence[Ids]) -> Tensor:
    """(B,) nats of all symbols of each utterance."""
    return F.ctc_loss(
        log_probs.transpose(0, 1),  # (B, T, A) -> (T, B, A)
        torch.tensor([symbol for said in targets for symbol in said], dtype=torch.int64), num_steps,
        torch.tensor([len(said) for said in targets]), blank=BLANK, reduction="none",
    )  # fmt: skip


@torch.no_grad()
def hear(head: Head, test: Spoken, *, batch: int) -> list[Heard]:
    """Greedy transcripts and losses, in the order of ``test``."""
    found = dict[int, Heard]()
    for chosen in _by_length(test.num_frames, batch):
        log_probs, num_steps = say(head, [test.clips[i] for i in chosen], steps=test.steps)
        can_say = [test.is_known(i) and not test.is_short(i) for i in chosen]
        nats = losses(
            log_probs, num_steps, [test.targets[i] if can else () for i, can in zip(chosen, can_say, strict=True)]
        )
        for place, (i, can) in enumerate(zip(chosen, can_say, strict=True)):
            symbols = greedy(log_probs[place, : int(num_steps[place])])
            found[i] = Heard(symbols, float(nats[place]) if can else None)
    return [found[i] for i in range(len(test.targets))]


def greedy(log_probs: Tensor) -> Ids:
    """The best symbol of each step, repeats and blanks taken out; of (T, A)."""
    best: Tensor = log_probs.argmax(-1).unique_consecutive()  # type: ignore[no-untyped-call]
    return tuple(symbol for symbol in best.tolist() if symbol != BLANK)


def edits(said: Ids, heard: Ids) -> EditCounts:
    """Edits of symbols, whatever they look like in print: each is one character to the aligner."""
    reference, hypothesis = ("".join(chr(_PRIVATE + symbol) for symbol in ids) for ids in (said, heard))
    return count_edits(reference, hypothesis, unit="character")


def _by_length(num_frames: Sequence[int], size: int) -> Iterator[list[int]]:
    order = np.argsort(np.asarray(num_frames), kind="stable").tolist()
    for first in range(0, len(order), size):
        yield order[first : first + size]
