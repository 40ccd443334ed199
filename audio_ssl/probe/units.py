"""Probes of kind ``units``: how much k-means units of frames tell of the labels that were spoken.

Units are fitted on the training frames, without labels and without standardising, as HuBERT's are; on the test frames
each label meets the units that it gets.

Reference: HuBERT (2106.07447) section 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.inference.units.kmeans import KMeans, KMeansSettings, plan_fit
from audio_ssl.inference.units.nearest import Nearest
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.joint import MEASURES, Joint, Meetings
from audio_ssl.probe.scores import Draws, Result, Score
from audio_ssl.probe.segments import FrameLabels

HEAD, MAIN, CHANCE = "k-means", "pnmi", "pnmi_of_chance"
FRAMES_AN_EPOCH = 200_000  # an hour at 50 Hz and a little
FRAMES_A_UNIT = 2  # at least


def run(
    frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int], heads: Sequence[str]
) -> list[Result]:
    """Fit units with each seed on every fold, and measure what they tell of the labels of test frames.

    With several layers that one is taken whose units, of the first seed, tell most of the labels of ``valid``, or of
    ``train`` where frames of ``valid`` have no two labels.

    Args:
        frames: of a candidate.
        items: with segments.
        folds: units of different folds are different units of one table.
        task: ``clusters`` is how many.
        seeds: of the fits.
        heads: none.

    Returns:
        One result: ``pnmi``, and beside it both purities and ``pnmi_of_chance``, which the same units and labels have
        where they have nothing to do with one another (:meth:`~audio_ssl.probe.joint.Meetings.moved`). Blocks are the
        speakers of the test items.

    Raises:
        ConfigError: too few frames for so many clusters, or no labelled frames to measure on.
    """
    del heads
    chosen = (
        choose_layer(frames, items, folds, clusters=task.clusters, seed=seeds[0]) if frames.num_layers > 1 else None
    )
    layer = frames if chosen is None else frames.layer(chosen)
    parts = [(fold.train, fold.test) for fold in folds]
    labels = [FrameLabels(layer, items, fold.test) for fold in folds]
    names = sorted({items.speakers[row] for fold in folds for row in fold.test.tolist()})
    tables, apart = dict[int, Joint](), dict[int, Joint]()
    for seed in seeds:
        met = meet(layer, items, parts, labels=labels, clusters=task.clusters, seed=seed)
        tables[seed] = met.table(names, num_units=task.clusters)
        apart[seed] = met.moved().table(names, num_units=task.clusters)
    if len(tables[seeds[0]].labels) < 2:
        raise ConfigError("labels of frames to measure on must be at least two labels, all have the same")
    draws = Draws.of(names, len(seeds))
    scores = score_all(tables, draws=draws)
    others = {name: scores[name] for name in MEASURES if name != MAIN}
    others[CHANCE] = score_all(apart, draws=draws)[MAIN]
    notes = tuple(own.note(f"{fold.name}, test") for fold, own in zip(folds, labels, strict=True))
    return [Result(HEAD, scores[MAIN], others, layer=chosen, notes=notes)]


def choose_layer(frames: Frames, items: Items, folds: Sequence[Fold], *, clusters: int, seed: int) -> int:
    """The layer of the highest PNMI on ``valid``, or on ``train`` (see :func:`run`); test items take no part.

    Raises:
        ConfigError: no two labels in either; or as :func:`meet`.
    """
    chosen = [_to_choose_by(frames, items, fold) for fold in folds]
    parts = [(fold.train, rows) for fold, (rows, _) in zip(folds, chosen, strict=True)]
    labels = [own for _, own in chosen]
    names = sorted({items.speakers[row] for _, rows in parts for row in rows.tolist()})
    values = list[float]()
    for number in range(frames.num_layers):
        met = meet(frames.layer(number), items, parts, labels=labels, clusters=clusters, seed=seed)
        table = met.table(names, num_units=clusters)
        values.append(float(table.measures(np.ones((1, len(names)), dtype=np.int64))[MAIN][0]))
    return int(np.argmax(values))


def _to_choose_by(frames: Frames, items: Items, fold: Fold) -> tuple[Rows, FrameLabels]:
    """Rows and labels of ``valid``, or of ``train``: there is nothing to know of frames that all have one label."""
    for rows in (fold.valid, fold.train):
        labels = FrameLabels(frames, items, rows)
        if len({label for own in labels.labels for label in own}) > 1:
            return rows, labels
    raise ConfigError(
        f"the layer must be chosen without the test items, but frames of neither valid nor train of fold {fold.name!r} "
        "have two labels or more; see labels.ctm"
    )


def meet(
    layer: Frames, items: Items, parts: Sequence[tuple[Rows, Rows]], *, labels: Sequence[FrameLabels], clusters: int,
    seed: int,
) -> Meetings:  # fmt: skip
    """Units of labelled frames.

    Args:
        layer: one layer alone.
        items: whose frames they are.
        parts: rows to fit on and rows to look at, of each fold.
        labels: of the rows that are looked at.
        clusters: K.
        seed: of the fits.

    Raises:
        ConfigError: no labelled frame among those to look at, or too few to fit on.
    """
    if not sum(own.num_labelled for own in labels):
        raise ConfigError("items must have frames inside segments to measure on, none has; see labels.ctm")
    met = Meetings()
    for fold, ((learned, looked_at), own) in enumerate(zip(parts, labels, strict=True)):
        nearest = fit(layer, learned, clusters=clusters, seed=seed)
        for row, places, names in zip(looked_at.tolist(), own.places, own.labels, strict=True):
            if names:
                units, _ = nearest(layer.of(row)[0].numpy()[places])
                met.add(items.speakers[row], fold, labels=names, units=units.astype(np.int64))
    return met


def fit(layer: Frames, rows: Rows, *, clusters: int, seed: int) -> Nearest:
    """k-means units of the frames of some items, as ``audio-ssl units fit`` makes them.

    Raises:
        ConfigError: too few frames.
    """
    view = _View(layer, rows)
    total = int(view.num_frames.sum())
    if clusters < 2 or total < FRAMES_A_UNIT * clusters:
        raise ConfigError(
            f"clusters must be at least 2, with {FRAMES_A_UNIT} frames to learn from for each, got {clusters} clusters "
            f"and {total} frames of {len(rows)} utterances"
        )
    settings = KMeansSettings(clusters, frames_per_epoch=FRAMES_AN_EPOCH, seed=seed)
    return Nearest(KMeans(view, settings, plan_fit(view.num_frames, view.dim, settings)).fit().centroids)


class _View:
    """Frames of some items and of one layer, as :class:`audio_ssl.inference.units.draws.Frames` are read."""

    def __init__(self, layer: Frames, rows: Rows) -> None:
        self._layer, self._rows = layer, rows
        self._num_frames = np.array([layer.of(row).shape[1] for row in rows.tolist()], dtype=np.int64)

    @property
    def num_frames(self) -> NDArray[np.int64]:
        return self._num_frames

    @property
    def dim(self) -> int:
        return self._layer.dim

    def read(self, row: int, start: int, stop: int) -> NDArray[np.float32]:
        return np.asarray(self._layer.of(int(self._rows[row]))[0, start:stop].numpy(), dtype=np.float32)


def score_all(tables: Mapping[int, Joint], *, draws: Draws) -> dict[str, Score]:
    """Scores of :data:`~audio_ssl.probe.joint.MEASURES`.

    A draw with replacement has fewer different speakers than there are, and so tells more of itself than all of them
    do; the draws of each seed are moved so that their mean is the value.

    Args:
        tables: of each seed, with the speakers of ``draws``.
        draws: as many seeds.
    """
    once = np.ones((1, len(draws.names)), dtype=np.int64)
    values = {seed: table.measures(once) for seed, table in tables.items()}
    drawn = {seed: table.measures(draws.blocks) for seed, table in tables.items()}
    scores = {}
    for name in MEASURES:
        of_seed = {seed: float(found[name][0]) for seed, found in values.items()}
        rates = np.stack(
            [drawn[seed][name] - np.nanmean(drawn[seed][name]) + of_seed[seed] for seed in tables], axis=1
        )  # (R, S)
        resamples = (rates * draws.seeds).sum(1) / draws.seeds.sum(1)
        scores[name] = Score(
            name, float(np.mean(list(of_seed.values()))), resamples, len(draws.names), of_seed, higher_is_better=True
        )
    return scores
