"""How far two stretches of speech are apart: dynamic time warping over angles, compiled by numba.

Plain Python on arrays: ``NUMBA_DISABLE_JIT=1`` does the same, slowly. Angles are one product of matrices for all
partners of a stretch, which is where the arithmetic is; the search for the path is compiled.

Reference: Schatz et al. 2013, "Evaluating speech features with the minimal-pair ABX task"; angular distance and means
over the path as in Libri-light (1912.07875). Deviation: of equally cheap paths the shortest counts, so that the
distance is the same in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audio_ssl.inference.decoding.compiling import compiled

MAX_ANGLES = 4_000_000  # that are held at once: 16 MB
Vectors = NDArray[np.float32]


@compiled
def path_means(
    angles: NDArray[np.float32],
    edges: NDArray[np.int64],
    costs: NDArray[np.float64],
    steps: NDArray[np.int64],
    means: NDArray[np.float64],
) -> None:
    """Mean angle along the best path through each of J rectangles, which stand side by side.

    A path goes from the first pair of frames to the last by one frame of either stretch or of both. It is the one of
    the least sum of angles, and of these the shortest; the mean is the sum over its pairs by their number.

    Args:
        angles: (T, U) of T frames with the frames of all partners.
        edges: (J + 1,) where each partner begins; the last is U.
        costs: (2, W) to write into, W at least the longest partner.
        steps: (2, W) the same.
        means: (J,) the result.
    """
    for j in range(len(means)):
        first, width = edges[j], edges[j + 1] - edges[j]
        for t in range(angles.shape[0]):
            now, before = t % 2, (t + 1) % 2
            for u in range(width):
                cost, length = 0.0, 0
                if t > 0:
                    cost, length = costs[before, u], steps[before, u]
                if u > 0:
                    left, left_length = costs[now, u - 1], steps[now, u - 1]
                    if t == 0 or left < cost or (left == cost and left_length < length):
                        cost, length = left, left_length
                if t > 0 and u > 0:
                    both, both_length = costs[before, u - 1], steps[before, u - 1]
                    if both < cost or (both == cost and both_length < length):
                        cost, length = both, both_length
                costs[now, u] = cost + angles[t, first + u]
                steps[now, u] = length + 1
        last = (angles.shape[0] - 1) % 2
        means[j] = costs[last, width - 1] / steps[last, width - 1]


def distances(stretches: Sequence[Vectors], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """The distance of each pair: mean angle along the path, as a share of pi (0: the same direction, 1: opposite).

    A frame of zeros is at a right angle to all.

    Args:
        stretches: (T_i, D) float32 each, with rows of length 1 (see :func:`directions`), T_i >= 1.
        pairs: (K, 2) numbers of stretches; faster where the first ones repeat.

    Returns:
        (K,) float64; NaN where a frame is not finite.
    """
    found = np.empty(len(pairs))
    order = np.argsort(pairs[:, 0], kind="stable")
    firsts, begins = np.unique(pairs[order, 0], return_index=True)
    for first, places in zip(firsts.tolist(), np.split(order, begins[1:]), strict=True):
        for chunk in _chunks(places, [len(stretches[first]) * len(stretches[j]) for j in pairs[places, 1]]):
            found[chunk] = _from_one(stretches[first], [stretches[j] for j in pairs[chunk, 1]])
    return found


def directions(frames: Vectors) -> Vectors:
    """(T, D) -> (T, D): each frame over its length; zeros stay zeros."""
    lengths = np.linalg.norm(frames, axis=1, keepdims=True)
    scaled: Vectors = np.divide(frames, lengths, out=np.zeros_like(frames), where=lengths != 0)
    return scaled


def _from_one(one: Vectors, partners: Sequence[Vectors]) -> NDArray[np.float64]:
    widths = np.array([len(partner) for partner in partners])
    edges = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)
    cosines = one @ np.concatenate(partners).T  # (T, D) x (D, U) -> (T, U)
    angles = np.arccos(np.clip(cosines, -1.0, 1.0)) / np.float32(math.pi)
    means = np.empty(len(partners))
    width = int(widths.max())
    path_means(angles, edges, np.empty((2, width)), np.empty((2, width), dtype=np.int64), means)
    return means


def _chunks(places: NDArray[np.int64], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Parts of ``places`` of at most :data:`MAX_ANGLES` in all, or of one."""
    part = (np.cumsum(sizes) - 1) // MAX_ANGLES
    return np.split(places, np.flatnonzero(np.diff(part)) + 1)
