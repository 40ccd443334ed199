"""Kind ``classify``: one label an utterance, from the mean and deviation of its frames.

Everything is fixed in advance: features are standardised by the items that are learned from, the linear head has
scikit-learn's default penalty, the MLP the settings of the task. Nothing is chosen, so ``valid`` is not looked at, and
nothing of the test items is used before they are guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.items import Fold, Frames, Items
from audio_ssl.probe.regression import fit, fit_mlps, standardised
from audio_ssl.probe.scores import Draws, Result, Score, share_score

Guesses = NDArray[np.int64]


def run(
    frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int], heads: Sequence[str]
) -> list[Result]:
    """Accuracy of each head over the test items of all folds, and its macro F1.

    A label that no item of a fold's ``train`` has is never guessed there, and counts as wrong.

    Args:
        frames: of the items.
        items: with one name a label.
        folds: with items in ``train`` and ``test``.
        task: its ``training`` is used.
        seeds: of the MLP; the linear head has none, and runs once.
        heads: ``linear``, ``mlp``.

    Raises:
        ConfigError: labels that are no single names.
        ManifestError: a fold without items to learn from or to test on, or with one label alone to learn.
    """
    names, labels = _classes(items)
    pooled = frames.pooled()
    guesses: dict[str, dict[int, list[Guesses]]] = {head: {} for head in heads}
    weights: dict[str, list[Tensor]] = {head: [] for head in heads}
    for number, fold in enumerate(folds):
        part = _Part.of(pooled, labels, fold)
        for head in heads:
            own = _seeds_of(head, seeds)
            guessed, of_layers = part.learn_and_guess(head, task, seeds=own, number=number)
            weights[head].append(of_layers)
            for seed, found in zip(own, guessed, strict=True):
                guesses[head].setdefault(seed, []).append(found)
    rows = np.concatenate([fold.test for fold in folds])
    tested = Tested(labels.numpy()[rows], tuple(items.speakers[row] for row in rows), len(names))
    return [
        _result(head, {seed: np.concatenate(own) for seed, own in guesses[head].items()}, tested, weights[head])
        for head in heads
    ]


def _seeds_of(head: str, seeds: Sequence[int]) -> Sequence[int]:
    return seeds[:1] if head == "linear" else seeds


def _classes(items: Items) -> tuple[list[str], Tensor]:
    odd = next((row for row, label in enumerate(items.labels) if not isinstance(label, str)), None)
    if odd is not None:
        raise ConfigError(
            f"labels of kind 'classify' must be one name each, got {items.labels[odd]!r} for "
            f"{items.manifest.describe(odd)}; symbols in order are for kind 'recognise'"
        )
    names = sorted({str(label) for label in items.labels})
    place = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([place[str(label)] for label in items.labels])


@dataclass(frozen=True)
class _Part:
    """A fold in numbers.

    Attributes:
        known: (K,) class numbers that ``train`` has, ascending.
        labels: (n,) of the items that are learned from, as places in ``known``.
        train: (n, L, F) standardised.
        test: (m, L, F) standardised alike.
    """

    known: Tensor
    labels: Tensor
    train: Tensor
    test: Tensor

    @classmethod
    def of(cls, pooled: Tensor, labels: Tensor, fold: Fold) -> _Part:
        if not len(fold.train) or not len(fold.test):
            raise ManifestError(
                f"fold {fold.name!r} must have items to learn from and to test on, got {len(fold.train)} and "
                f"{len(fold.test)}"
            )
        known, places = torch.unique(labels[fold.train], return_inverse=True)
        if len(known) < 2:
            raise ManifestError(f"fold {fold.name!r} must have two labels to learn or more, all items have one")
        return cls(known, places, *standardised(pooled[fold.train], pooled[fold.test]))

    def learn_and_guess(
        self, head: str, task: ProbeTask, *, seeds: Sequence[int], number: int
    ) -> tuple[list[Guesses], Tensor]:
        """Class numbers of the test items, (m,) of each seed, and (L,) the weights of layers, mean over seeds."""
        num, training = len(self.known), task.training
        if head == "linear":
            line = fit(self.train, self.labels, num_classes=num, penalty=training.penalty)
            return [self._best(line(self.test))], line.layer_logits.detach().softmax(0)
        mlps = fit_mlps(self.train, self.labels, num_classes=num, training=training, seeds=seeds, fold=number)
        of_layers = mlps.layer_logits.detach().softmax(1).mean(0)
        with torch.no_grad():
            return [self._best(logits) for logits in mlps(self.test[None])], of_layers

    def _best(self, logits: Tensor) -> Guesses:
        return np.asarray(self.known[logits.argmax(-1)].numpy())


@dataclass(frozen=True)
class Tested:
    """What was asked.

    Attributes:
        truth: (M,) class numbers.
        blocks: of each, who says it.
        num_classes: above every class number.
    """

    truth: Guesses
    blocks: tuple[str, ...]
    num_classes: int


def _result(head: str, guesses: Mapping[int, Guesses], tested: Tested, weights: Sequence[Tensor]) -> Result:
    draws = Draws.of(sorted(set(tested.blocks)), len(guesses))
    learned = torch.stack(list(weights)).mean(0)
    return Result(
        head, accuracy(guesses, tested, draws), {"macro F1": macro_f1(guesses, tested, draws)},
        tuple(learned.tolist()) if len(learned) > 1 else None,
    )  # fmt: skip


def accuracy(guesses: Mapping[int, Guesses], tested: Tested, draws: Draws) -> Score:
    """Share of right guesses.

    Args:
        guesses: of each seed, (M,).
        tested: what was asked.
        draws: over its blocks and as many seeds.
    """
    blocks = _places(tested, draws)
    asked = np.bincount(blocks, minlength=len(draws.names))
    counts = {}
    for seed, own in guesses.items():
        right = np.bincount(blocks, weights=own == tested.truth, minlength=len(draws.names))
        counts[seed] = {
            name: (float(a), float(b)) for name, a, b in zip(draws.names, right, asked, strict=True)
        }  # fmt: skip
    return share_score("accuracy", counts, draws=draws, higher_is_better=True)


def macro_f1(guesses: Mapping[int, Guesses], tested: Tested, draws: Draws) -> Score:
    """Mean F1 of the classes that are asked for or guessed; scikit-learn's ``f1_score(average="macro")``."""
    blocks, shape = _places(tested, draws), (len(draws.names), tested.num_classes)
    asked = _count(blocks, tested.truth, shape)
    of_seed, drawn = {}, []
    for seed, own in guesses.items():
        guessed = _count(blocks, own, shape)
        right = own == tested.truth
        hits = _count(blocks[right], own[right], shape)
        of_seed[seed] = float(_mean_f1(hits.sum(0), (asked + guessed).sum(0)))
        drawn.append(_mean_f1(draws.blocks @ hits, draws.blocks @ (asked + guessed)))
    resamples = (np.stack(drawn, axis=1) * draws.seeds).sum(1) / draws.seeds.sum(1)  # (R, S) -> (R,)
    return Score("macro F1", float(np.mean(list(of_seed.values()))), resamples, len(draws.names), of_seed, True)


def _places(tested: Tested, draws: Draws) -> NDArray[np.int64]:
    place = {name: i for i, name in enumerate(draws.names)}
    return np.array([place[name] for name in tested.blocks], dtype=np.int64)


def _count(blocks: NDArray[np.int64], classes: Guesses, shape: tuple[int, int]) -> NDArray[np.int64]:
    """(B, K) how often each class is in each block."""
    return np.bincount(blocks * shape[1] + classes, minlength=shape[0] * shape[1]).reshape(shape)


def _mean_f1(hits: NDArray[np.int64], sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """(..., K) hits, and askings plus guesses, to (...) the mean of 2 hits / sums over classes that there are."""
    there = sums > 0
    f1 = np.where(there, 2 * hits / np.where(there, sums, 1), 0.0)
    mean: NDArray[np.float64] = f1.sum(-1) / there.sum(-1)
    return mean
