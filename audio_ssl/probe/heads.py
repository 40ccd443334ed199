"""Heads that learn on frozen frames with a softmax-weighted sum of their layers, and how they learn.

The same few numbers for all candidates: Adam, gradients clipped, the rate falling to 0 along a half cosine, batches of
neighbours in length.

References: SUPERB (2105.01051) section 2 for the weighted sum; CTC by Graves et al. (2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_ssl.config.probe import ProbeTraining
from audio_ssl.rng import derive_seed, torch_generator
from audio_ssl.train.precision import resolve_precision

CPU = torch.device("cpu")
# Names of draws: those of the tables that were made before there were other heads, which come out the same.
HEAD_DRAW, BATCH_DRAW = "phone head", "phone batches"
LENGTH_NOISE = 0.1
MAX_GRADIENT_NORM = 1.0  # one batch with CTC can have thirty times that of others, and took heads to blanks for good


class Head(nn.Module):
    """What maps frames to outputs.

    Args:
        num_layers: L.
    """

    rate_share: ClassVar[float] = 1.0
    """Of the task's rate."""
    linear: nn.Linear
    """Gives the outputs."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))

    def layer_weights(self) -> Tensor:
        """(L,) that sum to 1."""
        return self.layer_logits.softmax(0)

    def mixed(self, frames: Tensor) -> Tensor:
        """(..., L, D) bfloat16 -> (..., D) float32."""
        weights = self.layer_weights()
        mixed = frames[..., 0, :].float() * weights[0]
        for layer in range(1, len(weights)):
            mixed = mixed + frames[..., layer, :].float() * weights[layer]
        return mixed

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """Score outputs for each frame.

        Args:
            frames: (B, T, L, D) bfloat16, padded with anything finite.
            num_frames: (B,) int64.

        Returns:
            (B, T, outputs) float32; on valid frames it does not depend on the padding.
        """
        raise NotImplementedError


class LinearHead(Head):
    """Softmax-weighted sum over layers, then a linear map.

    Args:
        shape: (L, D) of the frames.
        num_outputs: of the map.
    """

    def __init__(self, shape: Sequence[int], num_outputs: int) -> None:
        super().__init__(shape[0])
        self.linear = nn.Linear(shape[1], num_outputs)
        self.dtype = torch.bfloat16 if resolve_precision("auto", CPU) == "bf16" else torch.float32

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:  # noqa: ARG002 - a frame sees itself alone
        """See :meth:`Head.forward`.

        The weights of layers go into the map, so that the frames meet one matrix product, in bfloat16 where the
        machine multiplies it.
        """
        weight = torch.einsum("l,od->old", self.layer_weights(), self.linear.weight).flatten(1)  # -> (O, L*D)
        logits = F.linear(frames.flatten(2).to(self.dtype), weight.to(self.dtype)).float()
        return logits + self.linear.bias


class MlpHead(Head):
    """Softmax-weighted sum over layers, one hidden layer, ReLU, and a linear map.

    Args:
        shape: (L, D) of the frames.
        num_outputs: of the map.
        hidden: width.
    """

    rate_share = 0.3

    def __init__(self, shape: Sequence[int], num_outputs: int, *, hidden: int) -> None:
        super().__init__(shape[0])
        self.inner = nn.Linear(shape[1], hidden)
        self.linear = nn.Linear(hidden, num_outputs)

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:  # noqa: ARG002
        """See :meth:`Head.forward`."""
        return self.linear(F.relu(self.inner(self.mixed(frames))))  # type: ignore[no-any-return]


class RecurrentHead(Head):
    """Softmax-weighted sum over layers, one bidirectional LSTM layer, and a linear map.

    Args:
        shape: (L, D) of the frames.
        num_outputs: of the map.
        hidden: width of each direction.
    """

    rate_share = 0.3

    def __init__(self, shape: Sequence[int], num_outputs: int, *, hidden: int) -> None:
        super().__init__(shape[0])
        self.onwards = nn.LSTM(shape[1], hidden, batch_first=True)
        self.backwards = nn.LSTM(shape[1], hidden, batch_first=True)
        self.linear = nn.Linear(2 * hidden, num_outputs)

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """See :meth:`Head.forward`.

        Two LSTMs that go one way, of which one sees each utterance from its end: padding then comes last for both. A
        bidirectional one needs packed sequences for that, and torch runs those five times as slowly on a CPU.
        """
        mixed = self.mixed(frames)
        turned = reversed_frames(num_frames, frames.shape[1])[..., None]  # (B, T, 1)
        behind, _ = self.onwards(mixed)
        ahead, _ = self.backwards(mixed.gather(1, turned.expand_as(mixed)))
        return self.linear(torch.cat((behind, ahead.gather(1, turned.expand_as(ahead))), dim=-1))  # type: ignore[no-any-return]


def reversed_frames(num_frames: Tensor, length: int) -> Tensor:
    """Frame numbers that turn each row's valid part round and leave its padding; its own inverse.

    Args:
        num_frames: (B,) int64.
        length: T.

    Returns:
        (B, T) int64.
    """
    frame, last = torch.arange(length), num_frames[:, None] - 1
    return torch.where(frame <= last, last - frame, frame)


def build(kind: str, shape: Sequence[int], num_outputs: int, *, hidden: int, seed: int) -> Head:
    """A head with fresh weights; the global generator is left as it was.

    Args:
        kind: ``linear``, ``mlp`` or ``recurrent``.
        shape: (L, D) of the frames.
        num_outputs: of the head.
        hidden: width of what lies between.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, HEAD_DRAW))
        if kind == "linear":
            return LinearHead(shape, num_outputs)
        if kind == "mlp":
            return MlpHead(shape, num_outputs, hidden=hidden)
        return RecurrentHead(shape, num_outputs, hidden=hidden)


def learn(
    head: Head, loss_of: Callable[[list[int]], Tensor], num_frames: Sequence[int], *, training: ProbeTraining, seed: int
) -> None:
    """Adam with the rate falling to 0 along a half cosine, on gradients of norm :data:`MAX_GRADIENT_NORM` at most.

    Args:
        head: changed in place.
        loss_of: the loss of some utterances, by their numbers.
        num_frames: of each utterance.
        training: epochs, utterances an update and rate.
        seed: of the order.
    """
    optimizer = torch.optim.Adam(head.parameters(), lr=training.lr * head.rate_share)
    num_updates = training.epochs * -(-len(num_frames) // training.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for epoch in range(training.epochs):
        for chosen in batches(num_frames, training.batch, seed=seed, epoch=epoch):
            loss = loss_of(chosen)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(head.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()


def batches(num_frames: Sequence[int], size: int, *, seed: int, epoch: int) -> Iterator[list[int]]:
    """Utterance numbers, neighbours in length together, shuffled within and as batches."""
    generator = torch_generator(seed, BATCH_DRAW, epoch)
    noise = 1 + LENGTH_NOISE * torch.rand(len(num_frames), generator=generator)
    order = (torch.tensor(num_frames) * noise).argsort()
    found = [order[first : first + size].tolist() for first in range(0, len(num_frames), size)]
    for i in torch.randperm(len(found), generator=generator).tolist():
        yield found[i]
