"""Labels of frames: which frame is whose, scores that are known beforehand, and nothing left out without a word."""

import numpy as np
import pytest

from audio_ssl.config.probe import ProbeData, ProbeLabels, ProbeTask, ProbeTraining
from audio_ssl.errors import ConfigError
from audio_ssl.probe.frame_labels import run
from audio_ssl.probe.items import Segment
from audio_ssl.probe.segments import FrameLabels, segment_of_frame
from audio_ssl.rng import numpy_generator
from tests.unit.probe.in_memory import InMemory, fold_of, items_of

NUM_FRAMES = 50


def task_of(**training):
    return ProbeTask(
        kind="frames", title="frames", data=ProbeData(root="x"), labels=ProbeLabels(ctm="words.ctm"),
        training=ProbeTraining(**{"epochs": 10, "hidden": 16, "batch": 2, "lr": 0.05, **training}),
    )  # fmt: skip


def each_frame(labels):
    """A segment a frame."""
    return tuple(Segment(0.02 * t, 0.02 * (t + 1), label) for t, label in enumerate(labels))


def labelled(labels, features, speakers):
    """Items of one layer, a label a frame."""
    items = items_of(["x"] * len(labels), speakers, segments=tuple(map(each_frame, labels)))
    return InMemory([np.asarray(own, dtype=np.float32)[None] for own in features]), items


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ([(0.0, 0.1)], [0, 0, 0, 0, 0, -1, -1]),
        ([(0.01, 0.03)], [0, -1, -1, -1, -1, -1, -1]),  # the start is within, the end is not
        ([(0.011, 0.031)], [-1, 0, -1, -1, -1, -1, -1]),
        ([(0.02, 0.06), (0.06, 0.1)], [-1, 0, 0, 1, 1, -1, -1]),
        ([(0.0, 0.14), (0.04, 0.06)], [0, 0, 1, -1, -1, -1, -1]),  # a later one has what both hold, and what follows
        ([(0.032, 0.048)], [-1] * 7),  # shorter than a frame, between two centres
        ([(0.5, 0.9)], [-1] * 7),
        ([], [-1] * 7),
    ],
)
def test_a_frame_belongs_to_the_segment_that_holds_its_centre(bounds, expected):
    """Centres of 20 ms frames: 10, 30, 50, 70, 90, 110, 130 ms."""
    segments = [Segment(start, end, "x") for start, end in bounds]
    assert segment_of_frame(segments, 7, 0.02).tolist() == expected


def test_frames_outside_and_segments_without_a_frame_are_counted():
    segments = (Segment(0.0, 0.04, "a"), Segment(0.052, 0.058, "b"), Segment(0.1, 0.12, "c"))
    items = items_of(["x", "y"], ["ann", "bob"], segments=(segments, ()))
    found = FrameLabels(InMemory([np.zeros((1, 7, 2)), np.zeros((1, 3, 2))]), items, np.array([0, 1]))
    assert [own.tolist() for own in found.places] == [[0, 1, 5], []]
    assert found.labels == [["a", "a", "c"], []]
    assert found.note("split, test") == (
        "split, test: 7 of 10 frames are in no segment and are left out; 1 of 3 segments hold no centre of a frame"
    )


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_feature_that_is_right_four_times_in_five_reaches_four_in_five(head):
    rng = numpy_generator(2, "test bayes")
    truth = rng.integers(0, 2, (40, NUM_FRAMES))
    seen = np.where(rng.random(truth.shape) < 0.8, truth, 1 - truth)
    frames, items = labelled(
        [[f"L{label}" for label in own] for own in truth],
        np.stack([seen, 1 - seen], -1),
        [f"s{i % 8}" for i in range(40)],
    )
    (result,) = run(frames, items, [fold_of(range(16), range(16, 40))], task=task_of(), seeds=(1, 2), heads=(head,))
    # What the best guess reaches on these very frames; 0.8 but for chance.
    assert result.score.value == pytest.approx((seen == truth)[16:].mean(), abs=1e-9)
    interval = result.score.interval()
    assert interval.low < 0.8 < interval.high
    assert result.score.metric == "frame_accuracy"
    assert result.score.higher_is_better


def test_noise_is_guessed_at_chance():
    rng = numpy_generator(2, "test noise")
    truth = rng.integers(0, 4, (60, NUM_FRAMES))
    frames, items = labelled(
        [[f"L{label}" for label in own] for own in truth], rng.normal(size=(60, NUM_FRAMES, 3)),
        [f"s{i % 6}" for i in range(60)],
    )  # fmt: skip
    (result,) = run(frames, items, [fold_of(range(30), range(30, 60))], task=task_of(), seeds=(1, 2), heads=("linear",))
    interval = result.score.interval()
    assert interval.low < 0.25 < interval.high


def test_one_or_the_other_but_not_both_is_learned_by_the_mlp_alone():
    rng = numpy_generator(2, "test xor")
    bits = rng.integers(0, 2, (40, NUM_FRAMES, 2))
    frames, items = labelled(
        [[f"L{a ^ b}" for a, b in own] for own in bits], bits, [f"s{i % 5}" for i in range(40)]
    )  # fmt: skip
    linear, mlp = run(
        frames, items, [fold_of(range(20), range(20, 40))], task=task_of(epochs=40), seeds=(1,), heads=("linear", "mlp")
    )
    assert linear.score.value < 0.8
    assert mlp.score.value == 1


def test_the_layer_that_tells_gets_the_weight_and_blocks_are_speakers():
    rng = numpy_generator(2, "test layers")
    truth = rng.integers(0, 2, (30, NUM_FRAMES))
    clips = rng.normal(0, 1, (30, 3, NUM_FRAMES, 2))
    clips[:, 2, :, 0] += 6 * truth
    labels = [[f"L{label}" for label in own] for own in truth]
    labels[-1] = ["L1" if label == "L0" else "L0" for label in labels[-1]]  # bob's last is wrong throughout
    _, items = labelled(labels, np.zeros((30, NUM_FRAMES, 2)), ["zoe"] * 20 + ["ann"] * 5 + ["bob"] * 5)
    (result,) = run(
        InMemory(clips),
        items,
        [fold_of(range(20), range(20, 30))],
        task=task_of(epochs=20),
        seeds=(1,),
        heads=("linear",),
    )
    assert result.layer_weights[2] > max(result.layer_weights[:2]) + 0.2
    assert result.score.of_block["ann"] > 0.98
    assert 0.78 < result.score.of_block["bob"] < 0.82  # four of five


def test_labels_that_training_lacks_are_errors_and_told():
    truth = [["a", "b"] * 25] * 8
    features = [[[1, 0], [0, 1]] * 25] * 8
    truth = [*truth[:7], ["a"] * 25 + ["c"] * 25]
    features = [*features[:7], [[1, 0]] * 50]
    frames, items = labelled(truth, features, ["s0", "s1"] * 4)
    (result,) = run(frames, items, [fold_of(range(4), [6, 7])], task=task_of(), seeds=(1,), heads=("linear",))
    assert result.score.value == 75 / 100
    assert result.notes[-1] == "split: frames of labels that training lacks are errors: c"


def test_other_test_frames_have_no_say_in_what_is_named():
    rng = numpy_generator(2, "test blind")
    truth = rng.integers(0, 2, (12, NUM_FRAMES))
    features = truth[..., None] + rng.normal(0, 0.5, (12, NUM_FRAMES, 2))
    labels = [[f"L{label}" for label in own] for own in truth]
    speakers, fold = ["zoe"] * 8 + ["ann", "bob", "bob", "bob"], fold_of(range(8), range(8, 12))
    (before,) = run(*labelled(labels, features, speakers), [fold], task=task_of(), seeds=(1,), heads=("mlp",))
    features[9:] += 100
    labels[9:] = [["Z"] * NUM_FRAMES] * 3
    (after,) = run(*labelled(labels, features, speakers), [fold], task=task_of(), seeds=(1,), heads=("mlp",))
    assert 0.7 < before.score.of_block["ann"] < 1
    assert after.score.of_block == {"ann": before.score.of_block["ann"], "bob": 0}


def test_a_part_without_labelled_frames_is_refused():
    frames, items = labelled([["a"] * 5, []], np.zeros((2, 5, 2)), ["ann", "bob"])
    with pytest.raises(ConfigError, match=r"split must have frames inside segments .*, it has 5 and 0"):
        run(frames, items, [fold_of([0], [1])], task=task_of(), seeds=(1,), heads=("linear",))
