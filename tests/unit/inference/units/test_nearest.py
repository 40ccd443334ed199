"""Labels are the argmin of exact distances: whatever products are rounded to, and however frames are batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audio_ssl.inference.units import nearest as nearest_module
from audio_ssl.inference.units.nearest import Nearest


def brute_force(frames: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    exact = np.stack([((frames.astype(np.float64) - c.astype(np.float64)) ** 2).sum(axis=1) for c in centroids], axis=1)
    return exact.argmin(axis=1), exact.min(axis=1)


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_labels_are_the_exact_argmin(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "_SCORE_BYTES", 4 * 53 * 97)  # several pieces
    generator = np.random.default_rng(0)
    frames = (generator.standard_normal((1009, 13)) + offset).astype(np.float32)
    centroids = (generator.standard_normal((53, 13)) + offset).astype(np.float32)
    labels, distances = Nearest(centroids)(frames)
    expected, exact = brute_force(frames, centroids)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(distances, exact, rtol=1e-5)


def test_gaps_that_float32_cannot_see_are_decided() -> None:
    # pairs of centroids that differ in the last bit of one coordinate; frames half way, a hair to either side
    generator = np.random.default_rng(1)
    first = (generator.standard_normal((29, 11)) * 10).astype(np.float32)
    second = first.copy()
    second[:, 3] = np.nextafter(second[:, 3], np.float32(np.inf))
    centroids = np.concatenate([second, first])
    frames = np.concatenate([first, second, first + 1, second - 1]).astype(np.float32)
    labels, _ = Nearest(centroids)(frames)
    np.testing.assert_array_equal(labels, brute_force(frames, centroids)[0])
    assert len(set(labels.tolist())) > 29  # both of a pair are somebody's nearest


def test_equal_centroids_go_to_the_lowest_number() -> None:
    generator = np.random.default_rng(2)
    one = generator.standard_normal((5, 17)).astype(np.float32)
    labels, _ = Nearest(np.concatenate([one] * 13))(generator.standard_normal((211, 17)).astype(np.float32))
    assert labels.max() <= 4
    assert Nearest(np.zeros((3, 2), np.float32))(np.ones((4, 2), np.float32))[0].tolist() == [0, 0, 0, 0]


def test_a_label_does_not_depend_on_its_neighbours_or_threads() -> None:
    generator = np.random.default_rng(3)
    frames = generator.standard_normal((401, 19)).astype(np.float32)
    nearest = Nearest(generator.standard_normal((37, 19)).astype(np.float32))
    together, distances = nearest(frames)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        np.testing.assert_array_equal(nearest(frames)[0], together)
    finally:
        torch.set_num_threads(threads)
    alone = [nearest(frames[i : i + 1]) for i in range(0, 401, 40)]
    assert [int(labels[0]) for labels, _ in alone] == together[::40].tolist()
    np.testing.assert_allclose([own[0] for _, own in alone], distances[::40], rtol=1e-6)


def test_no_frames_have_no_labels() -> None:
    labels, distances = Nearest(np.eye(3, dtype=np.float32))(np.empty((0, 3), np.float32))
    assert (labels.shape, distances.shape) == ((0,), (0,))
