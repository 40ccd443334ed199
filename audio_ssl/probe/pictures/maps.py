"""Maps: embeddings of utterances in the plane, by speaker or by label, told by colour and by shape.

Two ways into the plane, since neither tells all. PCA shows what varies most, with true distances but for what the two
axes leave out, whose share is said. t-SNE shows who is near whom and nothing else: neither the distance of two groups
nor their size means anything. (UMAP tells what t-SNE does, and would be a package more.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from audio_ssl.evaluate.report.charts import SIDE
from audio_ssl.rng import derive_seed

MAX_POINTS = 1500
MAX_GROUPS = 12
NUM_COLOURS = 6
PERPLEXITY = 30.0
PCA_BEFORE = 50  # dimensions that t-SNE reads
MARGIN = 0.03  # of the side, on each end
# Paths around a point, of about the same area; a group's number tells colour and shape apart from one another.
SHAPES = (
    "m-9 0a9 9 0 1 0 18 0a9 9 0 1 0-18 0z",  # circle
    "m-8-8h16v16h-16z",  # square
    "m0-11l10.5 18h-21z",  # triangle
    "m0-11.5l11.5 11.5l-11.5 11.5l-11.5-11.5z",  # diamond
    "m-4-11h8v7h7v8h-7v7h-8v-7h-7v-8h7z",  # cross
    "m0 11l-10.5-18h21z",  # triangle, point down
)
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """Embeddings in the plane.

    Attributes:
        points: (n, 2).
        rows: (n,) which of the embeddings they are; evenly taken where there are more than :data:`MAX_POINTS`.
        num_all: embeddings that there were.
        told: how they came here, for people.
    """

    points: Points
    rows: NDArray[np.int64]
    num_all: int
    told: str


def plane(embeddings: NDArray[np.floating], *, method: Literal["pca", "tsne"]) -> Plane:
    """Bring embeddings into the plane; the same ones always to the same places.

    Args:
        embeddings: (N, D), N >= 1.
        method: ``pca`` or ``tsne``.
    """
    num_all = len(embeddings)
    rows = np.unique(np.linspace(0, num_all - 1, min(num_all, MAX_POINTS)).round().astype(np.int64))
    places, shares = principal(np.asarray(embeddings, dtype=np.float64)[rows], num=PCA_BEFORE)
    if method == "pca" or len(rows) < 5:
        told = f"PCA: {shares[0]:.0%} of the variance across, {shares[1]:.0%} up"
        return Plane(places[:, :2], rows, num_all, told)
    from sklearn.manifold import TSNE

    start = places[:, :2] / max(float(places[:, 0].std()), 1e-12) * 1e-4  # as scikit-learn scales it
    search = TSNE(
        perplexity=min(PERPLEXITY, (len(rows) - 1) / 3), init=start, random_state=derive_seed(0, "t-SNE") % 2**32
    )
    told = f"t-SNE, perplexity {search.perplexity:.3g}: near ones are alike; other distances mean nothing"
    return Plane(np.asarray(search.fit_transform(places), dtype=np.float64), rows, num_all, told)


def principal(vectors: Points, *, num: int) -> tuple[Points, Points]:
    """Principal components.

    Args:
        vectors: (n, D).
        num: at most so many components.

    Returns:
        (n, max(2, k)) places, k at most ``num``, n and D, each axis turned so that its farthest point is positive;
        and the share of the variance of each.
    """
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = (left * sizes)[:, :num]
    places = np.pad(places, ((0, 0), (0, max(0, 2 - places.shape[1]))))
    signs = np.sign(places[np.abs(places).argmax(0), np.arange(places.shape[1])])
    total = float((sizes**2).sum())
    shares = np.pad(sizes**2, (0, 2)) / (total if total > 0 else 1.0)
    return places * np.where(signs == 0, 1.0, signs), shares[: places.shape[1]]


def embedding_map(title: str, found: Plane, groups: Sequence[str], *, by: str) -> str:
    """HTML of a figure.

    Args:
        title: of it.
        found: the points.
        groups: of all embeddings, whose rows ``found.rows`` are.
        by: what a group is: ``speaker``, ``digit``.
    """
    own = [groups[row] for row in found.rows.tolist()]
    counts = Counter(own)
    named = sorted(name for name, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_GROUPS])
    xs, ys = (_scaled(found.points[:, axis], is_up=axis == 1) for axis in (0, 1))
    shapes = []
    other = [i for i, name in enumerate(own) if name not in set(named)]
    if other:
        shapes.append(_group("others", [(xs[i], ys[i]) for i in other], None))
    for number, name in enumerate(named):
        shapes.append(_group(name, [(xs[i], ys[i]) for i, one in enumerate(own) if one == name], number))
    few = f"{len(own):,} of {found.num_all:,}" if len(own) < found.num_all else f"{len(own):,}"
    label = f"Map of {few} utterances by {by}: {len(counts)} groups. {found.told}."
    keys = [_key(f"{name} ({counts[name]})", number) for number, name in enumerate(named)]
    keys += [_key(f"{len(counts) - len(named)} others ({len(other)})", None)] if other else []
    return (
        f'<figure class="map" aria-label="{escape(title, quote=True)}"><h4>{escape(title)} '
        f'<span class="unit">by {escape(by)}</span></h4><div class="plot square map">'
        f'<svg viewBox="0 0 {SIDE:.0f} {SIDE:.0f}" role="img" aria-label="{escape(label, quote=True)}">'
        f"<title>{escape(label)}</title>{''.join(shapes)}</svg></div>"
        f'<ul class="legend">{"".join(keys)}</ul><figcaption>{few} utterances, a point each. {escape(found.told)}.'
        "</figcaption></figure>"
    )


def _scaled(values: Points, *, is_up: bool) -> list[int]:
    """Places on the plot's side; a plane whose values are all alike lies in the middle."""
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    shares = MARGIN + (1 - 2 * MARGIN) * (1 - shares if is_up else shares)
    return [round(place) for place in (SIDE * shares).tolist()]


def _group(name: str, places: Sequence[tuple[int, int]], number: int | None) -> str:
    """A group as one path, which tells its name when pointed at."""
    path = "".join(f"M{x} {y}{_shape(number)}" for x, y in places)
    return f'<path class="{_style(number)}" d="{path}"><title>{escape(name)}</title></path>'


def _key(text: str, number: int | None) -> str:
    mark = f'<svg class="mark" viewBox="-14 -14 28 28" aria-hidden="true"><path class="{_style(number)}" '
    return f'<li>{mark}d="M0 0{_shape(number)}"/></svg>{escape(text)}</li>'


def _style(number: int | None) -> str:
    return "rest" if number is None else f"m{number % NUM_COLOURS}"


def _shape(number: int | None) -> str:
    """Groups of one colour differ in shape."""
    return SHAPES[0] if number is None else SHAPES[(number + number // NUM_COLOURS) % len(SHAPES)]
