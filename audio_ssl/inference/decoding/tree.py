"""Trees of sequences, laid out in plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from audio_ssl.inference.decoding.tables import Ints


class Tree(NamedTuple):
    """A tree in breadth-first order: edge e leads to node e + 1, and the edges of a node stand together.

    Attributes:
        first: (N + 1,) first edge of each node.
        label: (N - 1,) of each edge, ascending within a node.
    """

    first: Ints
    label: Ints


def build_tree(sequences: Sequence[Sequence[int]]) -> tuple[Tree, Ints]:
    """The tree of sequences of labels (none negative), breadth first.

    Returns:
        The tree, and (len(sequences),) the node at which each of them ends.
    """
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    flat = np.array([label for s in sequences for label in s], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    span = int(flat.max(initial=0)) + 1
    node = np.zeros(len(lengths), dtype=np.int64)
    parents, labels, count = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 1
    for depth in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > depth)
        keys = node[longer] * span + flat[starts[longer] + depth]
        unique, inverse = np.unique(keys, return_inverse=True)
        node[longer] = count + inverse
        parents.append(unique // span)
        labels.append(unique % span)
        count += len(unique)
    first = np.searchsorted(np.concatenate(parents), np.arange(count + 1))
    return Tree(first.astype(np.int32), np.concatenate(labels).astype(np.int32)), node.astype(np.int32)
