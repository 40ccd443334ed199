"""What the page of a probe shows beside its tables: layers, maps of embeddings, neighbours to listen to, and units."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import AudioSSLError
from audio_ssl.evaluate.report.sections import notes
from audio_ssl.probe.code_labels import KINDS as WITH_CODES
from audio_ssl.probe.code_labels import code_figures
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.outcome import Measured, Outcome, TaskOutcome, best_layer
from audio_ssl.probe.pictures.codes import code_heatmap
from audio_ssl.probe.pictures.layers import Baseline, Curve, Reading, layer_curves
from audio_ssl.probe.pictures.maps import Plane, embedding_map, plane
from audio_ssl.probe.pictures.neighbours import neighbour_list, sounds_of
from audio_ssl.probe.retrieve import neighbours
from audio_ssl.probe.run import Asked, FramesOf
from audio_ssl.probe.segments import FrameLabels
from audio_ssl.probe.tables import is_share, metric_name
from audio_ssl.probe.units import meet

KINDS = ("classify", "verify", "retrieve")  # whose items have one label each
MAX_MODELS = 4  # that are pictured: the first ones
NUM_QUERIES, NUM_NEIGHBOURS = 6, 3
SEED = 1  # of units: the first one of a probe


def layer_figure(found: TaskOutcome) -> str:
    """HTML of the figures by layer; nothing where no layer was measured by itself."""
    layered = [one for one in found.measured if one.layers]
    if not layered:
        return ""
    first = layered[0].layers[0]
    curves = [Curve(one.candidate.name, [Reading.of(result.score) for result in one.layers]) for one in layered]
    baselines = [
        Baseline(one.candidate.name, Reading.of(result.score))
        for one in found.measured
        if one.candidate.num_layers == 1 and (result := one.of_head(first.head)) is not None
    ]
    return layer_curves(
        found.task.title, curves, baselines, metric=metric_name(first.score.metric),
        higher_is_better=first.score.higher_is_better, is_share=is_share(first.score.metric),
    )  # fmt: skip


def looks_of(outcome: Outcome, tasks: Sequence[Asked], frames_of: FramesOf) -> dict[str, str]:
    """HTML of maps and neighbours of each task whose items have one label, and of units or codes beside labels.

    By the name of the task. Shown are the first models, and the first log-mel beside them. What cannot be shown is told
    in its place.
    """
    shown = {}
    for found, asked in zip(outcome.tasks, tasks, strict=True):
        if found.task.kind in (*KINDS, "units"):
            shown[found.name] = "".join(_look(one, asked, frames_of) for one in _pictured(found))
        if found.task.kind in WITH_CODES:
            shown[found.name] = shown.get(found.name, "") + "".join(_codes(one, asked) for one in _pictured(found))
    return shown


def _codes(one: Measured, asked: Asked) -> str:
    path = one.candidate.path
    return "" if path is None else code_figures(path, asked, heading=one.candidate.name)


def _pictured(found: TaskOutcome) -> list[Measured]:
    models = [one for one in found.measured if one.candidate.role == "model"]
    log_mels = [one for one in found.measured if one.candidate.role == "log_mel"]
    return [*models[:MAX_MODELS], *log_mels[:1]]


def _look(one: Measured, asked: Asked, frames_of: FramesOf) -> str:
    layer = best_layer(one)
    heading = one.candidate.name + (f", layer {layer}" if one.candidate.num_layers > 1 else "")
    try:
        frames = frames_of(one.candidate, asked)
        if asked.task.kind == "units":
            return codes(heading, frames, asked, layer=layer)
        body = maps(heading, frames, asked.items, rows=measured_rows(asked.folds), layer=layer)
        if one.candidate.role == "model":
            body += _neighbours(heading, frames, asked, layer=layer)
    except AudioSSLError as error:
        body = notes([f"{heading}: cannot be shown: {error}"])
    return f"<h3>{escape(heading)}</h3>{body}"


def measured_rows(folds: Sequence[Fold]) -> Rows:
    """Every item that is measured on in some fold, ascending."""
    rows: Rows = np.unique(np.concatenate([fold.test for fold in folds]))
    return rows


def maps(heading: str, frames: Frames, items: Items, *, rows: Rows, layer: int) -> str:
    """HTML of test items in the plane, by label and by speaker.

    Args:
        heading: whose frames.
        frames: of all items.
        items: of the task.
        rows: those that are shown.
        layer: of the frames.
    """
    vectors: NDArray[np.float32] = frames.pooled()[:, layer, : frames.dim].numpy()[rows]  # (N, L, 2D) -> (n, D)
    labels = [str(items.labels[row]) for row in rows.tolist()]
    groups = {"label": labels}
    speakers = [items.speakers[row] for row in rows.tolist()]
    if items.are_speakers and speakers != labels:
        groups["speaker"] = speakers
    near, far = plane(vectors, method="tsne"), plane(vectors, method="pca")
    pictures = [f'<div class="charts">{_by_group(heading, found, groups)}</div>' for found in (near, far)]
    return f"{pictures[0]}<details><summary>the same by PCA</summary>{pictures[1]}</details>"


def _by_group(heading: str, found: Plane, groups: dict[str, list[str]]) -> str:
    return "".join(embedding_map(heading, found, names, by=by) for by, names in groups.items())


def codes(heading: str, frames: Frames, asked: Asked, *, layer: int) -> str:
    """HTML of which unit stands for which label, in the first fold and with the first seed.

    Args:
        heading: whose frames.
        frames: of all items.
        asked: a task of kind ``units``.
        layer: of the frames.
    """
    chosen, items, fold, num = frames.layer(layer), asked.items, asked.folds[0], asked.task.clusters
    labels = [FrameLabels(chosen, items, fold.test)]
    met = meet(chosen, items, [(fold.train, fold.test)], labels=labels, clusters=num, seed=SEED)
    table = met.table(sorted({items.speakers[row] for row in fold.test.tolist()}), num_units=num)
    return code_heatmap(heading, table.matrix(num).T.astype(np.float64), table.labels)  # (Y, K) -> (K, Y)


def _neighbours(heading: str, frames: Frames, asked: Asked, *, layer: int) -> str:
    """Among all test items, for in a fold of one speaker there are no others; centred by them, as nothing is scored."""
    rows = measured_rows(asked.folds)
    fold = Fold("all test items", rows, rows[:0], rows)
    queries = neighbours(
        frames, asked.items, fold, task=asked.task, layer=layer, num_queries=NUM_QUERIES, num=NUM_NEIGHBOURS
    )
    heard = [item for query in queries for item in (query.item, *(near.item for near in query.neighbours))]
    sounds = sounds_of(asked.items.manifest, heard)
    return neighbour_list(f"Neighbours in {heading}", queries, asked.items, sounds.found) + notes(sounds.notes)
