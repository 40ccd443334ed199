"""Classification: noise is guessed at chance, a leaked label at 100 %, a known feature at its Bayes rate."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe import classify
from audio_ssl.probe.regression import fit, fit_mlps, standardised
from audio_ssl.probe.scores import Draws

from .held import fold, items_of, one_out, vectors


def task_of(**training):
    return ProbeTask.model_validate(
        {
            "kind": "classify", "title": "t", "data": {"root": "x"}, "labels": {"column": "speaker"},
            "training": training,
        }
    )  # fmt: skip


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape)


def spread(num, num_labels=5, speakers="abcd"):
    """Labels in turn, and speakers who each say all of them."""
    labels = [f"l{i % num_labels}" for i in range(num)]
    return labels, [speakers[i // num_labels % len(speakers)] for i in range(num)]


def run(frames, items, folds, heads=("linear", "mlp"), seeds=(1, 2), **training):
    return classify.run(frames, items, folds, task=task_of(**training), seeds=seeds, heads=heads)


def test_noise_is_guessed_at_chance():
    labels, speakers = spread(400)
    linear, mlp = run(vectors(normal(400, 2, 5)), items_of(labels, speakers), one_out(speakers), epochs=5)
    for result in (linear, mlp):
        interval = result.score.interval()
        assert interval.low < 0.2 < interval.high
        assert interval.high - interval.low < 0.2
    assert (linear.head, mlp.head) == ("linear", "mlp")
    assert list(linear.score.of_seed) == [1]
    assert list(mlp.score.of_seed) == [1, 2]
    assert mlp.score.of_seed[1] != mlp.score.of_seed[2]
    assert sum(linear.layer_weights) == pytest.approx(1)


def test_a_feature_that_holds_the_label_is_found_in_its_layer():
    labels, speakers = spread(200)
    values = normal(200, 3, 8)
    values[:, 1, :5] = 5 * np.eye(5)[np.arange(200) % 5]
    linear, mlp = run(vectors(values), items_of(labels, speakers), one_out(speakers), seeds=(1,), epochs=10)
    assert linear.score.value == 1
    assert linear.score.of_block == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert linear.score.interval() is None  # every draw gives the same
    assert linear.others["macro F1"].value == 1
    assert mlp.score.value >= 0.99
    assert linear.layer_weights[1] > 0.5
    assert mlp.layer_weights[1] > 0.5


def test_a_feature_of_known_worth_gives_its_bayes_accuracy():
    # two classes at +d and -d under noise of unit variance: nobody does better than Phi(d), and a line reaches it
    rng, num = np.random.default_rng(5), 4000
    sides = np.tile([1, -1], num // 2)
    values = rng.normal(size=(num, 3))
    values[:, 1] += 1.0 * sides
    items = items_of([f"{side:+}" for side in sides], [f"s{i % 40}" for i in range(num)])
    (result,) = run(vectors(values), items, [fold(range(1000), range(1000, num))], heads=("linear",))
    deviation = (norm.cdf(1) * norm.cdf(-1) / 3000) ** 0.5  # 0.67 %
    assert abs(result.score.value - norm.cdf(1)) < 3 * deviation
    interval = result.score.interval()
    assert 2 * deviation < interval.high - interval.low < 8 * deviation


def test_an_mlp_finds_what_no_line_can():
    signs = np.random.default_rng(7).choice([-1, 1], size=(400, 2))
    labels = ["same" if a == b else "other" for a, b in signs]
    frames = vectors(2.0 * signs + 0.3 * normal(400, 2))
    linear, mlp = run(frames, items_of(labels, [f"s{i % 9}" for i in range(400)]), [fold(range(300), range(300, 400))])
    assert linear.score.value < 0.7
    assert mlp.score.value > 0.97


def test_a_feature_that_stands_still_in_training_is_not_stretched():
    train, test = torch.tensor([[[1.0, 7.0]], [[3.0, 7.0]]]), torch.tensor([[[4.0, 7.5]]])
    own, others = standardised(train, test)
    assert own.tolist() == [[[-1.0, 0.0]], [[1.0, 0.0]]]
    assert others.tolist() == [[[2.0, 0.5]]]  # half a unit stays half a unit, and is not half a million deviations


def test_the_linear_head_is_scikit_learns():
    x, y = normal(90, 1, 7), np.arange(90) % 3
    x[:, 0, 0] += y
    (standard,) = standardised(torch.tensor(x, dtype=torch.float32))
    for penalty in (1.0, 10.0):
        model = fit(standard, torch.tensor(y), num_classes=3, penalty=penalty)
        theirs = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=1000).fit(standard[:, 0].double().numpy(), y)
        np.testing.assert_allclose(model.weight.detach().numpy(), theirs.coef_, atol=1e-3)
        bias = model.bias.detach().numpy()
        np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)


def test_test_items_change_nothing_but_their_own_guess():
    labels, _ = spread(60)
    values = normal(60, 2, 4)
    told = fold(range(40), range(40, 60))
    items = items_of(labels, [f"u{i}" for i in range(60)])
    changed = values.copy()
    changed[41] = 100 * normal(2, 4, seed=9)
    first, second = (run(vectors(v), items, [told], seeds=(1,), epochs=2) for v in (values, changed))
    for a, b in zip(first, second, strict=True):
        assert a.layer_weights == b.layer_weights
        assert {k: v for k, v in a.score.of_block.items() if k != "u41"} == {
            k: v for k, v in b.score.of_block.items() if k != "u41"
        }


def test_every_speaker_of_the_test_is_a_block_and_each_item_counts_once():
    values = np.array([[-1.0], [-1], [1], [1], [-1], [1], [1], [1]])
    items = items_of(["n", "n", "p", "p", "n", "n", "p", "p"], ["a", "b", "a", "b", "x", "x", "x", "y"])
    (result,) = run(vectors(values), items, [fold([0, 1, 2, 3], [4, 5, 6, 7])], heads=("linear",))
    assert result.score.of_block == {"x": pytest.approx(2 / 3), "y": 1.0}
    assert result.score.value == 0.75
    assert result.score.num_blocks == 2
    assert result.layer_weights is None  # one layer


def test_a_label_that_was_not_learned_is_wrong():
    values = np.array([[-1.0], [1], [-1], [1], [1]])
    items = items_of(["n", "p", "n", "p", "q"], list("abcde"))
    for result in run(vectors(values), items, [fold([0, 1], [2, 3, 4])]):
        assert result.score.value == pytest.approx(2 / 3)
        assert result.others["macro F1"].value == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_macro_f1_is_scikit_learns_in_every_draw():
    rng = np.random.default_rng(11)
    truth, guess = rng.integers(0, 4, 60), rng.integers(0, 5, 60)
    names = [f"s{i % 7}" for i in range(60)]
    tested = classify.Tested(truth, tuple(names), 6)
    draws = Draws.of(sorted(set(names)), 1, num_resamples=20)
    score = classify.macro_f1({3: guess}, tested, draws)
    assert score.value == score.of_seed[3] == pytest.approx(f1_score(truth, guess, average="macro"))
    for drawn, found in zip(draws.blocks, score.resamples, strict=True):
        rows = [
            i
            for name, n in zip(draws.names, drawn, strict=True)
            for _ in range(n)
            for i in range(60)
            if names[i] == name
        ]
        assert found == pytest.approx(f1_score(truth[rows], guess[rows], average="macro"))


def test_seeds_learn_side_by_side_as_each_would_alone():
    x, y = torch.tensor(normal(30, 2, 4), dtype=torch.float32), torch.arange(30) % 3
    training = task_of(epochs=2, hidden=5, batch=7).training

    def logits(seeds, fold=0):
        return fit_mlps(x, y, num_classes=3, training=training, seeds=seeds, fold=fold)(x[None]).detach()

    together = logits((1, 2))
    torch.manual_seed(99)
    torch.testing.assert_close(logits((1,))[0], together[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits((2,))[0], together[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=0.01)
    assert not torch.allclose(logits((1,), fold=1)[0], together[0], atol=0.01)


def test_what_cannot_be_learned_is_refused():
    frames = vectors(normal(4, 2))
    with pytest.raises(ConfigError, match=r"one name each, got \('a', 'b'\) for manifest row 2 \(u1"):
        run(frames, items_of(["a", ("a", "b"), "a", "b"], list("wxyz")), [fold([0], [1])])
    items = items_of(["a", "a", "b", "b"], list("wxyz"))
    with pytest.raises(ManifestError, match="fold 'odd' must have two labels to learn"):
        run(frames, items, [fold([0, 1], [2], name="odd")])
    with pytest.raises(ManifestError, match="must have items to learn from and to test on, got 2 and 0"):
        run(frames, items, [fold([0, 2], [])])
