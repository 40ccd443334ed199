"""Heads on one vector an utterance: a softmax-weighted sum over layers, then a linear map or a small MLP.

Knows neither items nor scores: standardised features and class numbers in, a model out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.config.probe import ProbeTraining
from audio_ssl.rng import derive_seed, torch_generator

MAX_ITERATIONS = 200


class MixedRegression(torch.nn.Module):
    """Softmax-weighted sum over layers, then a linear map; all weights start at 0.

    Args:
        shape: (L, F) of the features.
        num_classes: of the labels.
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.layer_logits = torch.nn.Parameter(torch.zeros(shape[0]))
        self.weight = torch.nn.Parameter(torch.zeros(num_classes, shape[1]))
        self.bias = torch.nn.Parameter(torch.zeros(num_classes))

    def forward(self, features: Tensor) -> Tensor:
        """(N, L, F) -> (N, classes)."""
        return F.linear(mixed(features, self.layer_logits), self.weight, self.bias)


class MixedMlp(torch.nn.Module):
    """Softmax-weighted sum over layers, a hidden layer with ReLU, then a linear map.

    Args:
        shape: (L, F) of the features.
        num_classes: of the labels.
        hidden: width.
    """

    def __init__(self, shape: Sequence[int], num_classes: int, *, hidden: int) -> None:
        super().__init__()
        self.layer_logits = torch.nn.Parameter(torch.zeros(shape[0]))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, num_classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, L, F) -> (N, classes)."""
        logits: Tensor = self.layers(mixed(features, self.layer_logits))
        return logits


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of features, by those that are learned from.

    Attributes:
        mean: (L, F).
        std: (L, F), above 0.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standard:
        """Of (N, L, F) features."""
        return cls(features.mean(0), features.std(0, correction=0).clamp(min=1e-6))

    def apply(self, features: Tensor) -> Tensor:
        """(N, L, F) to the same with zero mean and unit variance, where they are those of :meth:`of`."""
        return (features - self.mean) / self.std


def mixed(features: Tensor, layer_logits: Tensor) -> Tensor:
    """(N, L, F) -> (N, F); one layer is there as it is."""
    if features.shape[1] == 1:
        return features[:, 0]
    return torch.einsum("nlf,l->nf", features, layer_logits.softmax(0))


def fit(features: Tensor, labels: Tensor, *, num_classes: int, penalty: float = 1.0) -> MixedRegression:
    """Minimise mean cross entropy + penalty |W|² / 2N by L-BFGS from zero: no seed, no rate to choose.

    With one layer that is scikit-learn's ``LogisticRegression(C=1 / penalty)``.

    Args:
        features: (N, L, F) float32, standardised.
        labels: (N,) int64 below ``num_classes``.
        num_classes: classes.
        penalty: on weights; the bias is free.
    """
    model = MixedRegression(features.shape[1:], num_classes)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=MAX_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features), labels) + penalty * model.weight.square().sum() / (2 * len(labels))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model


def fit_mlp(
    features: Tensor, labels: Tensor, *, num_classes: int, training: ProbeTraining, draw: tuple[int, int]
) -> MixedMlp:
    """Adam on the mean cross entropy, the rate falling to 0 along a half cosine.

    Args:
        features: (N, L, F) float32, standardised.
        labels: (N,) int64 below ``num_classes``.
        num_classes: classes.
        training: epochs, batch, rate and width.
        draw: seed and number of the fold; they name first weights and order.
    """
    seed, fold = draw
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "mlp head", fold))
        model = MixedMlp(features.shape[1:], num_classes, hidden=training.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=training.lr, fused=True)
    num_updates = training.epochs * -(-len(labels) // training.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_updates)
    for epoch in range(training.epochs):
        order = torch.randperm(len(labels), generator=torch_generator(seed, "mlp batches", fold, epoch))
        for rows in torch.split(order, training.batch):
            loss = F.cross_entropy(model(features[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model
