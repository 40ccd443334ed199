"""Mini-batch k-means over frames that are read as they are needed; scikit-learn does the steps.

A start is k-means++ and exact iterations on a sample; of several starts the best on held-out frames goes on. Each epoch
then takes new mini-batches, with the counts of clusters begun anew: a centroid ends as the mean of what it was given in
the last epoch, not of all since the first guess. Everything is bit for bit the same for any number of threads.

References: Sculley, Web-scale k-means clustering (2010), algorithm 1; Arthur & Vassilvitskii, k-means++ (2007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError
from audio_ssl.inference.units.draws import Frames, Pieces, cut, mixed_batches, read_all, read_each, stretches
from audio_ssl.inference.units.nearest import WORK_BYTES, Nearest
from audio_ssl.rng import derive_seed, numpy_generator

Centroids = NDArray[np.float32]  # (K, D)

HELD_OUT_SHARE, HELD_OUT_FRAMES = 20, 20_000  # one piece in so many, and at most so many frames
SAMPLE_PER_CLUSTER, SAMPLE_BYTES = 256, 512 * 2**20
START_PER_CLUSTER = 32  # of the sample, for k-means++, whose cost grows with K * frames
SAMPLE_STEPS, SAMPLE_TOLERANCE = 30, 1e-5  # squared shift of the centroids beside their squared spread
BATCH_FRAMES, BATCH_PER_CLUSTER, BATCHES_MIXED = 10_000, 20, 5
REVIVALS = 3  # rounds in which clusters without frames are moved


@dataclass(frozen=True)
class KMeansSettings:
    """How centroids are fitted.

    Attributes:
        num_clusters: K.
        frames_per_epoch: at most; None for all that are not held out.
        epochs: times that ``frames_per_epoch`` frames are drawn anew and gone through.
        restarts: starts on the sample.
        seed: of every draw.
    """

    num_clusters: int
    frames_per_epoch: int | None = None
    epochs: int = 3
    restarts: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("--clusters", self.num_clusters, 2), ("--epochs", self.epochs, 1), ("--restarts", self.restarts, 1),
            ("--seed", self.seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{name} must be >= {least}, got {value}")


@dataclass(frozen=True)
class FitPlan:
    """What a fit will read and hold, in frames.

    Attributes:
        held_out: pieces that judge, and are never learned from.
        training: the other pieces.
        per_epoch: drawn of ``training`` in an epoch.
        sample: drawn of ``training`` for the starts.
        batch: of a step.
        buffer: in which batches are mixed.
        memory_bytes: what all this needs at most, beside the program and an utterance that is being read.
    """

    held_out: Pieces
    training: Pieces
    per_epoch: int
    sample: int
    batch: int
    buffer: int
    memory_bytes: int


@dataclass(frozen=True)
class Fitted:
    """What a fit gives.

    Attributes:
        centroids: (K, D) float32.
        figures: of these centroids on the frames of one more epoch; JSON-able.
    """

    centroids: Centroids
    figures: dict[str, Any]


def plan_fit(num_frames: NDArray[np.int64], dim: int, settings: KMeansSettings) -> FitPlan:
    """Lay out a fit.

    Args:
        num_frames: (N,) of each utterance.
        dim: D.
        settings: of the fit.

    Raises:
        ConfigError: fewer frames than clusters.
    """
    pieces = cut(num_frames)
    order = numpy_generator(settings.seed, "units held out").permutation(len(pieces))
    num_held = max(len(pieces) // HELD_OUT_SHARE, 1)
    generator = numpy_generator(settings.seed, "units held-out stretches")
    held_out = stretches(pieces.take(order[:num_held]), HELD_OUT_FRAMES, generator)
    training = pieces.take(np.sort(order[num_held:]))
    clusters, wanted = settings.num_clusters, settings.frames_per_epoch
    per_epoch = training.total if wanted is None else min(wanted, training.total)
    if per_epoch < clusters:
        raise ConfigError(
            f"--clusters must be at most the number of frames to learn from, got {clusters} for {per_epoch} frames "
            f"(of {int(num_frames.sum())}, {held_out.total} are held out"
            + (f", and --frames takes {wanted})" if per_epoch < training.total else ")")
        )
    sample = min(max(min(SAMPLE_PER_CLUSTER * clusters, SAMPLE_BYTES // (4 * dim)), clusters), per_epoch)
    batch = min(max(BATCH_FRAMES, BATCH_PER_CLUSTER * clusters), per_epoch)
    buffer = min(batch * BATCHES_MIXED, per_epoch)
    # k-means++ takes a fifth beside the sample; two batches that are no part of the buffer meet at its end; centroids
    # stand in sums, copies and products
    frames_held = held_out.total + max(sample * 1.2, buffer + 2 * batch)
    memory = int(4 * dim * (frames_held + 10 * clusters)) + 24 * buffer + 120 * len(pieces) + WORK_BYTES
    return FitPlan(held_out, training, per_epoch, sample, batch, buffer, memory)


@dataclass(frozen=True)
class KMeans:
    """A fit at work.

    Attributes:
        frames: what is clustered.
        settings: how.
        plan: from :func:`plan_fit`.
        on_read: called with the number of frames that were read.
        on_stage: called after a start or an epoch with its name and its squared distance a held-out frame.
    """

    frames: Frames
    settings: KMeansSettings
    plan: FitPlan
    on_read: Callable[[int], None] = lambda _: None
    on_stage: Callable[[str, float], None] = lambda _, __: None

    def fit(self) -> Fitted:
        """Fit.

        Raises:
            ManifestError: frames that cannot be read, or are not finite.
        """
        held_out = read_all(self.frames, self.plan.held_out)
        centroids, history = self._best_start(held_out)
        for epoch in range(self.settings.epochs):
            centroids = self._epoch(centroids, epoch)
            history.append(mean_distance(centroids, held_out))
            self.on_stage(f"epoch {epoch + 1} of {self.settings.epochs}", history[-1])
        sizes, inertia = self._measure(centroids)
        moved = 0
        for revival in range(REVIVALS):
            dead = np.flatnonzero(sizes == 0)
            if not len(dead) or not inertia:
                break
            moved += len(dead)
            centroids = self._revive(centroids, dead, revival)
            centroids = self._epoch(centroids, self.settings.epochs + revival)
            history.append(mean_distance(centroids, held_out))
            self.on_stage(f"{len(dead)} clusters without frames moved", history[-1])
            sizes, inertia = self._measure(centroids)
        return Fitted(centroids, self._figures(sizes, inertia, history) | {"clusters_moved": moved})

    def _best_start(self, held_out: NDArray[np.float32]) -> tuple[Centroids, list[float]]:
        sample = read_all(self.frames, stretches(self.plan.training, self.plan.sample, self._generator("sample")))
        best: tuple[float, Centroids] | None = None
        for restart in range(self.settings.restarts):
            centroids = self._start(sample, restart)
            distance = mean_distance(centroids, held_out)
            self.on_stage(f"start {restart + 1} of {self.settings.restarts}", distance)
            if best is None or distance < best[0]:
                best = distance, centroids
        assert best is not None
        return best[1], [best[0]]

    def _start(self, sample: NDArray[np.float32], restart: int) -> Centroids:
        """k-means++, then exact iterations on the sample until centroids rest."""
        from sklearn.cluster import kmeans_plusplus
        from threadpoolctl import threadpool_limits

        clusters = self.settings.num_clusters
        first = sample[: max(START_PER_CLUSTER * clusters, BATCH_FRAMES)]
        seed = derive_seed(self.settings.seed, "units start", restart) % 2**32
        with threadpool_limits(limits=1, user_api="blas"):  # products that are split otherwise are rounded otherwise
            centroids, _ = kmeans_plusplus(first, clusters, random_state=seed)
        spread = float(np.square(centroids - centroids.mean(axis=0)).sum(dtype=np.float64))
        for _ in range(SAMPLE_STEPS):
            earlier, centroids = centroids, run_steps(centroids, [sample])
            if float(np.square(centroids - earlier).sum(dtype=np.float64)) <= SAMPLE_TOLERANCE * spread:
                break
        return np.asarray(centroids, dtype=np.float32)

    def _epoch(self, centroids: Centroids, epoch: int) -> Centroids:
        batches = mixed_batches(
            self.frames, self._drawn(epoch), self._generator("mixing", epoch),
            batch=self.plan.batch, buffer=self.plan.buffer, on_read=self.on_read,
        )  # fmt: skip
        return run_steps(centroids, batches)

    def _measure(self, centroids: Centroids) -> tuple[NDArray[np.int64], float]:
        """(K,) frames of each cluster, and the squared distance a frame, over the frames of one more epoch."""
        nearest, sizes, total = Nearest(centroids), np.zeros(len(centroids), dtype=np.int64), 0.0
        for part in read_each(self.frames, self._drawn(self.settings.epochs + REVIVALS)):
            labels, distances = nearest(part)
            sizes += np.bincount(labels, minlength=len(centroids))
            total += float(distances.sum())
            self.on_read(len(part))
        return sizes, total / self.plan.per_epoch

    def _revive(self, centroids: Centroids, dead: NDArray[np.int64], revival: int) -> Centroids:
        """Put centroids on frames drawn by their squared distance, as k-means++ does."""
        generator = self._generator("revival", revival)
        sample = read_all(self.frames, stretches(self.plan.training, self.plan.batch, generator))
        return revived(centroids, dead, sample, generator)

    def _drawn(self, epoch: int) -> Pieces:
        order = self._generator("epoch", epoch).permutation(len(self.plan.training))
        return self.plan.training.take(order).within(self.plan.per_epoch)

    def _generator(self, purpose: str, *indices: int) -> np.random.Generator:
        return numpy_generator(self.settings.seed, f"units {purpose}", *indices)

    def _figures(self, sizes: NDArray[np.int64], inertia: float, history: list[float]) -> dict[str, Any]:
        shares = sizes[sizes > 0] / sizes.sum()
        entropy = float(-(shares * np.log(shares)).sum())
        return {
            "distance_per_frame": inertia,
            "held_out_distance_per_frame": history[-1],
            "held_out_history": history,
            "cluster_perplexity": float(np.exp(entropy)),
            "cluster_entropy_bits": entropy / float(np.log(2)),
            "dead_clusters": int((sizes == 0).sum()),
            "smallest_cluster_frames": int(sizes.min()),
            "largest_cluster_frames": int(sizes.max()),
            "frames_per_epoch": self.plan.per_epoch,
            "frames_held_out": self.plan.held_out.total,
            "frames_of_starts": self.plan.sample,
        }


def run_steps(centroids: Centroids, batches: Iterable[NDArray[np.float32]]) -> Centroids:
    """Mini-batch steps with counts from zero; a single batch makes it an exact iteration of Lloyd's.

    scikit-learn's own way to move small clusters is off: it takes away all below a hundredth of the largest, and
    silence is so large a cluster of speech that these are many.
    """
    from sklearn.cluster import MiniBatchKMeans

    estimator = MiniBatchKMeans(
        len(centroids), init=centroids, n_init=1, reassignment_ratio=0.0, compute_labels=False, random_state=0
    )
    for batch in batches:
        estimator.partial_fit(batch)
    return np.asarray(estimator.cluster_centers_, dtype=np.float32)


def mean_distance(centroids: Centroids, frames: NDArray[np.float32]) -> float:
    """Squared distance a frame to its nearest centroid."""
    return float(Nearest(centroids)(frames)[1].mean())


def revived(
    centroids: Centroids, dead: NDArray[np.int64], frames: NDArray[np.float32], generator: np.random.Generator
) -> Centroids:
    """Put dead centroids on frames that are drawn one by one with probability proportional to the squared distance.

    A cluster stays where no frame is away from every centroid.
    """
    moved = centroids.copy()
    _, distances = Nearest(centroids)(frames)
    for cluster in dead:
        if not distances.sum() > 0:
            break
        moved[cluster] = frames[generator.choice(len(frames), p=distances / distances.sum())]
        distances = np.minimum(distances, np.square(frames - moved[cluster]).sum(axis=1, dtype=np.float64))
    return moved
