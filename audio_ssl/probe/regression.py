"""Heads on one vector an utterance: a softmax-weighted sum over layers, then a linear map or a small MLP.

Knows neither items nor scores: standardised features and class numbers in, a model out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.config.probe import ProbeTraining
from audio_ssl.rng import torch_generator

MAX_ITERATIONS = 200
LEAST_DEVIATION = 1e-6  # of a feature that moves


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


class MixedMlps(torch.nn.Module):
    """S small MLPs side by side, one a seed: a step of all of them takes hardly longer than a step of one.

    Each is a softmax-weighted sum over layers, a hidden layer with ReLU, and a linear map; none sees the others.

    Args:
        shape: (L, F) of the features.
        num_classes: of the labels.
        hidden: width.
        generators: S, for the first weights, which are drawn as ``torch.nn.Linear`` does.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, *, hidden: int, generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        num_layers, size = shape
        self.layer_logits = torch.nn.Parameter(torch.zeros(len(generators), num_layers))
        self.first = _drawn((size, hidden), size, generators)
        self.first_bias = _drawn((1, hidden), size, generators)
        self.second = _drawn((hidden, num_classes), hidden, generators)
        self.second_bias = _drawn((1, num_classes), hidden, generators)

    def forward(self, features: Tensor) -> Tensor:
        """(S, B, L, F), or (1, B, L, F) for all alike, -> (S, B, classes)."""
        features = features.expand(len(self.layer_logits), -1, -1, -1)
        summed = torch.einsum("sblf,sl->sbf", features, self.layer_logits.softmax(1))
        hidden = torch.baddbmm(self.first_bias, summed, self.first).relu()
        return torch.baddbmm(self.second_bias, hidden, self.second)


def _drawn(shape: tuple[int, int], size_in: int, generators: Sequence[torch.Generator]) -> torch.nn.Parameter:
    bound = size_in**-0.5
    return torch.nn.Parameter(
        torch.stack([torch.empty(shape).uniform_(-bound, bound, generator=g) for g in generators])
    )


def standardised(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """(N, L, F) features with zero mean and unit variance, and others (M, L, F) moved and stretched as they were.

    A feature that never moved in training is moved to 0 and not stretched, as in :mod:`audio_ssl.probe.standard`.
    """
    mean, std = train.mean(0), train.std(0, correction=0)
    std = torch.where(std > LEAST_DEVIATION, std, 1.0)
    return tuple((features - mean) / std for features in (train, *others))


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


def fit_mlps(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    training: ProbeTraining,
    seeds: Sequence[int],
    fold: int,
) -> MixedMlps:
    """Adam on the mean cross entropy, the rate falling to 0 along a half cosine; for each seed by itself.

    Args:
        features: (N, L, F) float32, standardised.
        labels: (N,) int64 below ``num_classes``.
        num_classes: classes.
        training: epochs, batch, rate and width.
        seeds: S; with the fold they name first weights and order.
        fold: its number.
    """
    generators = [torch_generator(seed, "mlp head", fold) for seed in seeds]
    models = MixedMlps(features.shape[1:], num_classes, hidden=training.hidden, generators=generators)
    optimizer = torch.optim.Adam(models.parameters(), lr=training.lr, fused=True)
    num_updates, update = training.epochs * -(-len(labels) // training.batch), 0
    for epoch in range(training.epochs):
        orders = [
            torch.randperm(len(labels), generator=torch_generator(seed, "mlp batches", fold, epoch)) for seed in seeds
        ]
        for rows in torch.split(torch.stack(orders), training.batch, dim=1):  # (S, B)
            optimizer.param_groups[0]["lr"] = training.lr * (1 + math.cos(math.pi * update / num_updates)) / 2
            logits = models(features[rows]).flatten(0, 1)  # -> (S * B, classes)
            loss = F.cross_entropy(logits, labels[rows].flatten(), reduction="sum") / rows.shape[1]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            update += 1
    return models
