"""The nearest centroid of each frame: matrix products in float32, and float64 where they cannot decide.

So a label depends on the frame alone: not on its neighbours in a product, the number of threads, or the device.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SCORE_BYTES = 8 * 2**20  # of a product's result, and about of each of its few temporaries
WORK_BYTES = 8 * _SCORE_BYTES


class Nearest:
    """Finds nearest centroids by squared Euclidean distance; equal distances go to the lowest number.

    With m the centroids' mean, x' = x - m and c' = c - m, the nearest has the greatest x'.c' - |c'|^2 / 2. A product of
    D terms in float32 is off by at most about D * 2^-24 * |x'| * |c'|; every centroid within twice that of the greatest
    is compared again, frame by frame, with sum (x - c)^2 in float64.

    Args:
        centroids: (K, D) float32, finite.
        device: where products run.
    """

    def __init__(self, centroids: NDArray[np.float32], device: torch.device | None = None) -> None:
        self._centroids = torch.tensor(centroids, dtype=torch.float32, device=device)  # (K, D)
        self._mean = self._centroids.double().mean(dim=0).float()
        exact = self._centroids.double() - self._mean.double()
        self._moved = exact.float().T.contiguous()  # (D, K)
        self._half_norms = (exact.square().sum(dim=1) / 2).float()
        self._reach = float(exact.square().sum(dim=1).max().sqrt())
        self._rows = max(_SCORE_BYTES // (4 * max(centroids.shape)), 1)

    @torch.inference_mode()
    def __call__(self, frames: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Label frames.

        Args:
            frames: (T, D) float32, finite.

        Returns:
            (T,) numbers of the nearest centroids, and (T,) squared distances to them.
        """
        labels = np.empty(len(frames), dtype=np.int32)
        distances = np.empty(len(frames), dtype=np.float64)
        for first in range(0, len(frames), self._rows):
            part = slice(first, first + self._rows)
            x = torch.from_numpy(np.ascontiguousarray(frames[part])).to(self._centroids.device)
            found = self._label(x)
            labels[part] = found.cpu().numpy()
            distances[part] = self._distances(x, found).cpu().numpy()
        return labels, distances

    def _label(self, x: Tensor) -> Tensor:
        moved = x - self._mean
        scores = torch.addmm(self._half_norms, moved, self._moved, beta=-1)  # (T, D) @ (D, K) -> (T, K)
        best, labels = scores.max(dim=1)
        lengths = torch.linalg.vector_norm(moved, dim=1).clamp_(min=self._reach / 2)  # |c|^2 / 2 is rounded as well
        doubt = (x.shape[1] + 16) * 2.0**-23 * lengths * self._reach
        is_near = scores >= (best - doubt)[:, None]
        rows = (is_near.sum(dim=1) > 1).nonzero()[:, 0]
        if len(rows):
            frame, centroid = is_near[rows].nonzero(as_tuple=True)
            labels[rows] = self._decide(x[rows], frame, centroid)
        return labels

    def _decide(self, x: Tensor, frame: Tensor, centroid: Tensor) -> Tensor:
        """The nearest in float64 among the candidates, pairs of (row of ``x``, centroid) in ascending order."""
        exact = torch.full((len(x), len(self._centroids)), torch.inf, dtype=torch.float64, device=x.device)
        step = max(_SCORE_BYTES // (8 * x.shape[1]), 1)
        for first in range(0, len(frame), step):
            rows, columns = frame[first : first + step], centroid[first : first + step]
            difference = x[rows].double() - self._centroids[columns].double()
            exact[rows, columns] = difference.square().sum(dim=1)
        return exact.argmin(dim=1)  # the first of equal ones

    def _distances(self, x: Tensor, labels: Tensor) -> Tensor:
        return (x - self._centroids[labels]).square().sum(dim=1, dtype=torch.float64)
