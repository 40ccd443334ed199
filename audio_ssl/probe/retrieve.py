"""Retrieval: are the nearest utterances of other speakers (or in other languages) those with the same label?

An utterance is the mean of its frames, less the mean of such vectors over the training items, for what all have in
common would make all cosines alike; where there is nothing to train on it is left as it is. Nothing else is learned.
Each test item asks once, among the test items of others; one whose label none of them has is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.scores import Draws, Result, Score, share_score
from audio_ssl.probe.subset import spread_labels
from audio_ssl.rng import numpy_generator

DIGITS = 6  # of a cosine; what differs less is a tie
QUERIES_AT_ONCE = 256
MAX_CHOOSING = 4000  # items by which a layer is chosen, as many of each label
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What N queries found; NaN where there is nothing to find.

    Attributes:
        first: (N,) 1 where the nearest has the query's label, else 0: precision at 1.
        average_precision: (N,) mean precision at the places of those that have it.
        chance_first: (N,) what an order by lot gives in place of the first.
        chance_precision: (N,) and of the second.
    """

    first: NDArray[np.float64]
    average_precision: NDArray[np.float64]
    chance_first: NDArray[np.float64]
    chance_precision: NDArray[np.float64]


@dataclass(frozen=True)
class Neighbour:
    """An utterance near a query.

    Attributes:
        item: its row.
        cosine: to the query.
        is_right: whether it has the query's label.
    """

    item: int
    cosine: float
    is_right: bool


@dataclass(frozen=True)
class Query:
    """An utterance and those of others that lie nearest, nearest first."""

    item: int
    neighbours: tuple[Neighbour, ...]


def run(
    frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int], heads: Sequence[str]
) -> list[Result]:
    """The runner of kind ``retrieve``: precision at 1; mean average precision and both by chance beside it.

    Where frames have layers, that of the highest mean average precision on the fold's ``valid`` is taken, or on its
    ``train`` where nothing can be found in ``valid``. ``others["answerable"]`` is the share of queries that have
    something to find, where it is not all.

    Raises:
        ConfigError: no query has anything to find, or there is nothing to choose a layer by.
    """
    del heads  # this kind has none
    found: list[tuple[int, Fold, Answers]] = []
    for fold in folds:
        layer = _layer(frames, items, fold, task=task)
        found.append((layer, fold, search(vectors_of(frames, fold, layer)[fold.test], items, fold.test, task=task)))
    speakers = [items.speakers[row] for fold in folds for row in fold.test.tolist()]
    table = np.stack(
        [np.concatenate([getattr(answers, name) for *_, answers in found]) for name in Answers.__dataclass_fields__]
    )
    has_answer = np.isfinite(table[0])
    if not has_answer.any():
        raise ConfigError(
            f"{task.title}: a label of a test item must be that of a test item of another {task.across} too, but none "
            f"of {len(speakers)} is; take another label, or a split with more {task.across}s in test"
        )
    figures = ("precision_at_1", "mean_average_precision", "precision_at_1", "mean_average_precision")
    scores = [
        _score(name, values[has_answer], [s for s, has in zip(speakers, has_answer, strict=True) if has], seeds[0])
        for name, values in zip(figures, table, strict=True)
    ]
    others = dict(zip(("mean_average_precision", "chance", "chance_mean_average_precision"), scores[1:], strict=True))
    if not has_answer.all():
        others["answerable"] = _score("share", has_answer.astype(np.float64), speakers, seeds[0])
    chosen = int(np.bincount([layer for layer, *_ in found]).argmax()) if frames.num_layers > 1 else None
    return [Result("cosine", scores[0], others, layer=chosen)]


def vectors_of(frames: Frames, fold: Fold, layer: int) -> Vectors:
    """(N, D) float64: what stands for each item: the mean of its frames, centred by ``fold.train``, of length 1."""
    means = frames.pooled()[:, layer, : frames.dim].numpy().astype(np.float64)  # (N, L, 2D) -> (N, D)
    if len(fold.train):
        means = means - means[fold.train].mean(0)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    vectors: Vectors = np.divide(means, lengths, out=np.zeros_like(means), where=lengths != 0)
    return vectors


def search(vectors: Vectors, items: Items, rows: Rows, *, task: ProbeTask) -> Answers:
    """Let each of some items ask for those of others with its label.

    Equal cosines are put in an order by lot, the same for every candidate.

    Args:
        vectors: (n, D) of length 1, or 0.
        items: of the task.
        rows: (n,) which items the vectors are of.
        task: says whose items are others.

    Raises:
        ConfigError: languages are compared and one is unknown; or a vector is not finite.
    """
    if not np.isfinite(vectors).all():
        raise ConfigError(f"{task.title}: frames must be finite to be measured, but some are NaN or infinite")
    lot = numpy_generator(0, "retrieval ties", len(rows)).permutation(len(rows))
    labels, sides = _numbered([items.labels[row] for row in rows.tolist()]), _sides(items, rows, task=task)
    gallery = vectors[lot].T
    parts = []
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        stop = start + QUERIES_AT_ONCE
        cosines = np.round(vectors[start:stop] @ gallery, DIGITS)  # (n, N)
        is_other = sides[start:stop, None] != sides[None, lot]
        is_right = is_other & (labels[start:stop, None] == labels[None, lot])
        parts.append(_measured(np.where(is_other, cosines, -np.inf), is_right, is_other.sum(1)))
    columns = np.concatenate([np.empty((4, 0)), *parts], axis=1)
    return Answers(*columns)


def neighbours(
    frames: Frames, items: Items, fold: Fold, *, task: ProbeTask, layer: int = 0, num_queries: int = 12, num: int = 5
) -> list[Query]:
    """The nearest utterances of others for some test items, evenly taken; for a page to listen to.

    Args:
        frames: of a candidate.
        items: of the task.
        fold: whose test items ask and answer.
        task: says whose items are others.
        layer: of the frames.
        num_queries: at most so many items ask.
        num: neighbours of each; fewer where there are fewer others.
    """
    rows = fold.test
    vectors = vectors_of(frames, fold, layer)[rows]
    sides = _sides(items, rows, task=task)
    found = []
    for place in np.unique(np.linspace(0, len(rows) - 1, min(num_queries, len(rows))).round().astype(np.int64)):
        cosines = vectors @ vectors[place]
        order = [i for i in np.argsort(-cosines, kind="stable").tolist() if sides[i] != sides[place]][:num]
        label = items.labels[rows[place]]
        near = [Neighbour(int(rows[i]), float(cosines[i]), items.labels[rows[i]] == label) for i in order]
        found.append(Query(int(rows[place]), tuple(near)))
    return found


def _measured(cosines: Vectors, is_right: NDArray[np.bool_], num_others: Rows) -> NDArray[np.float64]:
    """(4, n) the figures of :class:`Answers`; those who are no others come last in the order."""
    ranked = np.take_along_axis(is_right, np.argsort(-cosines, axis=1, kind="stable"), axis=1)
    places = np.arange(1, ranked.shape[1] + 1)
    num_right = ranked.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing to find: NaN
        precision = (np.cumsum(ranked, axis=1) / places * ranked).sum(1) / num_right
        first = np.where(num_right > 0, ranked[:, 0], np.nan)
        chance_first = np.where(num_right > 0, num_right / num_others, np.nan)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / places)])[num_others]
    rest = np.divide(num_right - 1, num_others - 1, out=np.zeros(len(num_right)), where=num_others > 1)
    # E[AP] = 1/n sum_k (1 + (k - 1) (m - 1) / (n - 1)) / k, m right ones among n
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = np.where(num_right > 0, (harmonic + rest * (num_others - harmonic)) / num_others, np.nan)
    return np.stack([first, precision, chance_first, chance])


def _layer(frames: Frames, items: Items, fold: Fold, *, task: ProbeTask) -> int:
    """The layer of the highest mean average precision on items that are not measured."""
    if frames.num_layers == 1:
        return 0
    for rows in (fold.valid, fold.train):
        labels = _numbered([items.labels[row] for row in rows.tolist()])
        some = spread_labels(rows, labels, _sides(items, rows, task=task), most=MAX_CHOOSING)
        figures = [
            search(vectors_of(frames, fold, layer)[some], items, some, task=task).average_precision
            for layer in range(frames.num_layers)
        ]
        if np.isfinite(figures[0]).any():
            return int(np.argmax([np.nanmean(values) for values in figures]))
    raise ConfigError(
        f"{task.title}: {frames.name} has {frames.num_layers} layers, one of which must be chosen on items of fold "
        f"{fold.name!r} that are not measured, but neither in its valid nor in its train part do two {task.across}s "
        "share a label; give them a larger share of the split, or probe one layer"
    )


def _score(metric: str, values: NDArray[np.float64], speakers: Sequence[str], seed: int) -> Score:
    """Mean over queries, in blocks of the speakers who ask."""
    sums: dict[str, tuple[float, float]] = {}
    for name, value in zip(speakers, values.tolist(), strict=True):
        total, num = sums.get(name, (0.0, 0.0))
        sums[name] = (total + value, num + 1)
    return share_score(metric, {seed: sums}, draws=Draws.of(tuple(sums), 1), higher_is_better=True)


def _sides(items: Items, rows: Rows, *, task: ProbeTask) -> Rows:
    """(n,) numbers of speakers or languages."""
    if task.across == "speaker":
        return _numbered([items.speakers[row] for row in rows.tolist()])
    languages = [items.languages[row] for row in rows.tolist()]
    if None in languages:
        row = int(rows[languages.index(None)])
        raise ConfigError(
            f'{task.title}: across = "language" needs the language of every row, but {items.manifest.describe(row)} '
            "has none; set data.language, or fill the manifest's column"
        )
    return _numbered(languages)


def _numbered(values: Sequence[object]) -> Rows:
    """Each value's number in the order of first sight."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)
