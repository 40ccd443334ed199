"""The fit: known clusters are found, it gets better, any number of threads gives the same, memory is what was said."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import soundfile as sf
import torch
from sklearn.cluster import KMeans as FullKMeans
from threadpoolctl import threadpool_info, threadpool_limits
from torchaudio.compliance.kaldi import fbank

from audio_ssl.errors import ConfigError
from audio_ssl.inference.units import kmeans as kmeans_module
from audio_ssl.inference.units.kmeans import FitPlan, Fitted, KMeans, KMeansSettings, plan_fit, revived, run_steps
from tests.unit.inference.units.conftest import blobs

DEMO = Path(__file__).parents[4] / "manifests" / "demo"


class Held:
    """Frames in memory."""

    def __init__(self, frames: list[np.ndarray]) -> None:
        self.frames, self.dim = frames, frames[0].shape[1]
        self.num_frames = np.array([len(part) for part in frames])

    def read(self, row: int, start: int, stop: int) -> np.ndarray:
        return self.frames[row][start:stop]


def fitted(frames: Any, **settings: Any) -> Fitted:
    chosen = KMeansSettings(**settings)
    return KMeans(frames, chosen, plan_fit(frames.num_frames, frames.dim, chosen)).fit()


def speechlike(num_utterances: int = 40, dim: int = 12) -> Held:
    """Frames without clear clusters, slow in time, some utterances apart from others."""
    generator = np.random.default_rng(5)
    steps = [generator.standard_normal((200 + i, dim)) for i in range(num_utterances)]
    walks = [np.cumsum(step, axis=0) * 0.3 + 3 * generator.standard_normal(dim) for step in steps]
    return Held([walk.astype(np.float32) for walk in walks])


def test_clusters_that_are_far_apart_are_found_exactly() -> None:
    frames, labels = blobs(11)
    found = fitted(Held(frames), num_clusters=11)
    given = kmeans_module.Nearest(found.centroids)(np.concatenate(frames))[0]
    pairs = set(zip(np.concatenate(labels).tolist(), given.tolist(), strict=True))
    assert len(pairs) == 11  # one to one
    assert found.figures["dead_clusters"] == 0
    assert found.figures["distance_per_frame"] == pytest.approx(7.0, rel=0.05)  # D variances of 1


def test_the_held_out_distance_falls() -> None:
    stages: list[tuple[str, float]] = []
    frames, settings = speechlike(), KMeansSettings(17, epochs=3, restarts=3)
    plan = plan_fit(frames.num_frames, frames.dim, settings)
    figures = KMeans(frames, settings, plan, on_stage=lambda *stage: stages.append(stage)).fit().figures
    names = [name for name, _ in stages]
    assert names == [*(f"start {i} of 3" for i in (1, 2, 3)), *(f"epoch {i} of 3" for i in (1, 2, 3))]
    history = figures["held_out_history"]
    assert history[0] == min(distance for _, distance in stages[:3])  # the best start went on
    assert history[-1] < history[0]
    assert figures["held_out_distance_per_frame"] == history[-1]


def test_on_speech_it_is_about_as_good_as_k_means_on_everything_at_once() -> None:
    frames = Held([log_mel(path) for path in sorted(DEMO.rglob("*.opus"))[::55]])
    everything = np.concatenate(frames.frames)
    full = FullKMeans(50, n_init=4, random_state=0).fit(everything)
    ours = fitted(frames, num_clusters=50)
    distances = kmeans_module.Nearest(ours.centroids)(everything)[1]
    assert distances.mean() <= 1.03 * full.inertia_ / len(everything)  # 1.01 to 1.02 with other seeds


def log_mel(path: Path) -> np.ndarray:
    waveform, rate = sf.read(path, dtype="float32")
    scaled = torch.from_numpy(waveform)[None] * 2**15
    return fbank(scaled, num_mel_bins=40, sample_frequency=rate, dither=0.0).numpy()


def test_figures_are_those_of_the_centroids() -> None:
    frames = speechlike()
    settings = KMeansSettings(5)
    plan = plan_fit(frames.num_frames, frames.dim, settings)
    found = KMeans(frames, settings, plan).fit()
    training = np.concatenate([frames.read(r, s, s + n) for r, s, n in zip(*vars(plan.training).values(), strict=True)])
    held_out = np.concatenate([frames.read(r, s, s + n) for r, s, n in zip(*vars(plan.held_out).values(), strict=True)])
    assert len(training) + len(held_out) == frames.num_frames.sum()

    def distances(rows: np.ndarray) -> np.ndarray:
        return ((rows[:, None].astype(np.float64) - found.centroids) ** 2).sum(axis=2)

    sizes = np.bincount(distances(training).argmin(axis=1), minlength=5)
    shares = sizes / sizes.sum()
    figures = found.figures
    assert figures["distance_per_frame"] == pytest.approx(distances(training).min(axis=1).mean(), rel=1e-5)
    assert figures["held_out_distance_per_frame"] == pytest.approx(distances(held_out).min(axis=1).mean(), rel=1e-5)
    assert figures["cluster_perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert (figures["smallest_cluster_frames"], figures["largest_cluster_frames"]) == (sizes.min(), sizes.max())
    assert figures["frames_per_epoch"] == len(training)
    assert figures["frames_held_out"] == len(held_out)


def test_a_seed_gives_the_same_bits_for_any_number_of_threads() -> None:
    frames, settings = speechlike(11), {"num_clusters": 23, "epochs": 1, "restarts": 1}
    with threadpool_limits(limits=1):
        one = fitted(frames, **settings)
    with threadpool_limits(limits=2):
        two = fitted(frames, **settings)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    assert one.figures == two.figures
    assert not np.array_equal(fitted(frames, **settings, seed=1).centroids, one.centroids)


def test_a_start_does_not_split_products_over_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def watched(*args: Any, **options: Any) -> Any:
        threads.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return original(*args, **options)

    threads, original = list[int](), sklearn.cluster.kmeans_plusplus
    monkeypatch.setattr(sklearn.cluster, "kmeans_plusplus", watched)
    with threadpool_limits(limits=2):
        fitted(speechlike(3), num_clusters=2, epochs=1, restarts=1)
    assert set(threads) == {1}


def test_a_single_batch_is_an_exact_iteration() -> None:
    generator = np.random.default_rng(0)
    frames = generator.standard_normal((501, 3)).astype(np.float32)
    centroids = frames[:4].copy()
    labels = ((frames[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1)
    expected = np.stack([frames[labels == k].mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(run_steps(centroids, [frames]), expected, rtol=1e-5)
    np.testing.assert_array_equal(centroids, frames[:4])  # what came in is as it was


def test_small_clusters_beside_a_large_one_keep_their_place() -> None:
    # 99 % "silence": scikit-learn's default would move every other cluster to silence again and again
    generator = np.random.default_rng(0)
    rare = np.repeat(np.eye(5, dtype=np.float32) * 100, 4, axis=0)
    frames = np.concatenate([generator.standard_normal((10_000, 5)).astype(np.float32), rare])
    start = np.concatenate([np.zeros((1, 5), np.float32), np.eye(5, dtype=np.float32) * 90])
    np.testing.assert_allclose(run_steps(start, [frames[::2], frames[1::2]])[1:], np.eye(5) * 100, atol=1e-3)


def test_clusters_without_frames_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, _ = blobs(7)
    monkeypatch.setattr(KMeans, "_start", lambda self, sample, restart: far_start(sample))
    found = fitted(Held(frames), num_clusters=7, restarts=1)
    assert found.figures["clusters_moved"] >= 2
    assert found.figures["dead_clusters"] == 0
    assert found.figures["distance_per_frame"] < 1000


def far_start(sample: np.ndarray) -> np.ndarray:
    start = sample[:7].copy()
    start[:2] = 1e6
    return start


def test_revived_clusters_take_the_place_of_the_farthest() -> None:
    frames = np.array([[0.0, 0], [0, 0], [0, 0], [1000, 0], [0, 2000]], dtype=np.float32)
    centroids = np.array([[0.0, 0], [7, 7], [9, 9]], dtype=np.float32)
    moved = revived(centroids, np.array([1, 2]), frames, np.random.default_rng(0))
    assert moved[0].tolist() == [0, 0]
    assert sorted(moved[1:].tolist()) == [[0, 2000], [1000, 0]]
    assert centroids[1].tolist() == [7, 7]


def test_frames_that_are_all_the_same_give_one_cluster_and_say_so() -> None:
    found = fitted(Held([np.ones((50, 3), np.float32)] * 3), num_clusters=4)
    assert found.figures["dead_clusters"] == 3
    assert found.figures["distance_per_frame"] == 0
    assert found.figures["cluster_perplexity"] == 1


def test_held_out_frames_are_never_learned_from() -> None:
    class Watched(Held):
        def read(self, row: int, start: int, stop: int) -> np.ndarray:
            seen.update((row, t) for t in range(start, stop))
            return super().read(row, start, stop)

    seen: set[tuple[int, int]] = set()
    frames, settings = Watched(speechlike().frames), KMeansSettings(3, epochs=1)
    plan = plan_fit(frames.num_frames, frames.dim, settings)
    KMeans(frames, settings, plan)._epoch(np.zeros((3, 12), np.float32), 0)
    held = {(r, t) for r, s, n in zip(*vars(plan.held_out).values(), strict=True) for t in range(s, s + n)}
    assert held
    assert not held & seen
    assert len(seen) + len(held) == frames.num_frames.sum()


def test_an_epoch_draws_anew_and_no_more_than_asked() -> None:
    frames, settings = speechlike(), KMeansSettings(3, frames_per_epoch=700)
    job = KMeans(frames, settings, plan_fit(frames.num_frames, frames.dim, settings))
    first, second = job._drawn(0), job._drawn(1)
    assert first.total == second.total == 700
    assert set(zip(first.row.tolist(), first.start.tolist(), strict=True)) != set(
        zip(second.row.tolist(), second.start.tolist(), strict=True)
    )


def test_more_clusters_than_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 50 for 37 frames \(of 47, 10 are held out\)"):
        plan_fit(np.array([47]), 3, KMeansSettings(50))
    with pytest.raises(ConfigError, match="--frames takes 9"):
        plan_fit(np.array([47]), 3, KMeansSettings(10, frames_per_epoch=9))


@pytest.mark.parametrize(
    ("settings", "named"), [({"num_clusters": 1}, "--clusters"), ({"epochs": 0}, "--epochs"), ({"seed": -1}, "--seed")]
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        KMeansSettings(**{"num_clusters": 3, **settings})


class Synthetic:
    """Frames that are made when they are read: a corpus of any size."""

    def __init__(self, num_utterances: int, dim: int) -> None:
        self.num_frames, self.dim = np.full(num_utterances, 500), dim

    def read(self, row: int, start: int, stop: int) -> np.ndarray:
        generator = np.random.default_rng((row, start))
        return generator.standard_normal((stop - start, self.dim), dtype=np.float32)


def planned(num_utterances: int) -> FitPlan:
    return plan_fit(np.full(num_utterances, 500), 64, KMeansSettings(8, epochs=1, restarts=2))


def test_memory_is_what_was_said_however_large_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_module, "BATCH_FRAMES", 2000)
    frames = Synthetic(600, 64)  # 77 MB
    said = planned(600).memory_bytes - kmeans_module.WORK_BYTES  # torch's own memory is not traced
    tracemalloc.start()
    try:
        fitted(frames, num_clusters=8, epochs=1, restarts=2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < said < 12e6
    assert planned(60_000).memory_bytes < planned(600).memory_bytes + 20e6


def test_large_sizes_bound_the_sample() -> None:
    plan = plan_fit(np.full(10_000, 1000), 1024, KMeansSettings(5000))
    assert plan.sample * 1024 * 4 <= 2**29
    assert plan.batch == 100_000
    assert plan.memory_bytes < 3.5 * 2**30
