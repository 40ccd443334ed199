"""A probe's steps: each is computed once, kept whole, and found again only where nothing changed that it depends on."""

import dataclasses
from collections.abc import Callable

import pytest

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe import run as running
from audio_ssl.probe.record import Store
from audio_ssl.probe.run import How, run_probe
from audio_ssl.probe.scores import Draws, Result, share_score
from tests.unit.probe.outcomes import CANDIDATES, TASK, VOICES, FakeFrames, asked, candidate, is_same

LOG_MEL, MODEL = CANDIDATES[0], candidate("first", num_layers=3)
TWICE = How((1, 2))


class Runner:
    """Counts its calls; hits are the seed, less the layers that it was given, at most ten."""

    def __init__(self, *, fails_on: str = "", control: float = 5.0) -> None:
        self.calls: list[tuple[str, int, tuple[int, ...], tuple[str, ...]]] = []
        self.fails_on, self.control = fails_on, control

    def __call__(self, frames, items, folds, *, task, seeds, heads):
        if frames.name == self.fails_on:
            raise KeyboardInterrupt
        self.calls.append((frames.name, frames.num_layers, tuple(seeds), tuple(heads)))
        hits = self.control if len(items) > 6 else 6.0 + sum(frames.layers) / 2
        counts = {voice: (hits + i / 2, 10.0) for i, voice in enumerate(VOICES)}
        score = share_score(
            "accuracy", dict.fromkeys(seeds, counts), draws=Draws.of(VOICES, len(seeds)), higher_is_better=True
        )
        return [
            Result(head, score, {"again": score}, (0.5, 0.25, 0.25), 1, ("3 too short",))
            for head in heads or ("cosine",)
        ]


@pytest.fixture
def probing(tmp_path, monkeypatch) -> Callable:
    """Runs a probe with a runner; the frames that were opened are in ``opened``."""
    opened: list[str] = []

    def frames_of(one, task):
        opened.append(one.name)
        return FakeFrames(one.name, one.num_layers)

    def call(runner, *, candidates=(LOG_MEL, MODEL), tasks=None, how=TWICE, said=None):
        monkeypatch.setattr(running, "runner_of", lambda kind: runner)
        opened.clear()
        return run_probe(
            tasks or [asked(tmp_path)], candidates, how=how, store=Store(tmp_path / "results"), frames_of=frames_of,
            tell=[].append if said is None else said.append,
        )  # fmt: skip

    call.opened = opened
    return call


def test_heads_learn_with_all_seeds_and_the_control_with_one(probing):
    runner, said = Runner(), []
    outcome = probing(runner, said=said)
    assert runner.calls == [
        ("log-mel", 1, (1, 2), ("linear",)), ("log-mel", 1, (1,), ("linear",)),
        ("first", 3, (1, 2), ("linear",)), ("first", 3, (1,), ("linear",)),
    ]  # fmt: skip
    (found,) = outcome.tasks
    assert [one.candidate.name for one in found.measured] == ["log-mel", "first"]
    assert found.measured[1].results[0].score.value == pytest.approx((7.5 + 8 + 8.5) / 30)
    assert found.measured[1].control.score.value == pytest.approx((5 + 5.5 + 6) / 30)
    assert (found.chance, found.amounts.num_items, found.amounts.num_speakers) == (0.5, 6, 3)
    assert found.amounts.hours == pytest.approx(21 / 3600)
    assert found.folds["split"]["test"].hours == pytest.approx((5 + 6) / 3600)
    assert found.notes == ("log-mel: 3 too short", "first: 3 too short")
    assert len(said) == 2
    assert "letters, first: linear accuracy 0.8 (" in said[1]


def test_a_second_run_computes_nothing_and_finds_the_same_to_the_last_bit(probing):
    first = probing(Runner(), how=How((1, 2), per_layer=True))
    again = Runner()
    second = probing(again, how=How((1, 2), per_layer=True))
    assert again.calls == []
    assert probing.opened == []
    for a, b in zip(first.tasks[0].measured, second.tasks[0].measured, strict=True):
        for left, right in zip((*a.results, *a.layers, a.control), (*b.results, *b.layers, b.control), strict=True):
            assert (left.head, left.layer_weights, left.layer) == (right.head, right.layer_weights, right.layer)
            assert left.notes == right.notes == ("3 too short",)
            assert is_same(left.score, right.score)
            assert is_same(left.others["again"], right.others["again"])
    assert second.tasks[0].measured[1].seconds == first.tasks[0].measured[1].seconds


def test_a_run_that_was_killed_goes_on(probing):
    with pytest.raises(KeyboardInterrupt):
        probing(Runner(fails_on="first"))
    runner = Runner()
    probing(runner)
    assert {name for name, *_ in runner.calls} == {"first"}
    assert probing.opened == ["first"]


@pytest.mark.parametrize(
    "changed",
    [
        {"how": How((1, 2, 3))},
        {"candidates": (LOG_MEL, candidate("first", digest="other weights", num_layers=3))},
    ],
)
def test_what_is_kept_is_not_taken_for_something_else(probing, changed):
    probing(Runner())
    runner = Runner()
    probing(runner, **changed)
    assert ("first", 3, changed.get("how", TWICE).seeds, ("linear",)) in runner.calls


@pytest.mark.parametrize("what", ["labels", "settings", "fold"])
def test_another_task_of_the_name_is_measured_anew(probing, tmp_path, what):
    probing(Runner())
    other = asked(tmp_path, labels="xyxyyx" if what == "labels" else "xyxyxy")
    if what == "settings":
        other = dataclasses.replace(other, task=ProbeTask(**{**TASK.model_dump(), "training": {"epochs": 3}}))
    if what == "fold":
        fold = other.folds[0]
        other = dataclasses.replace(other, folds=[dataclasses.replace(fold, train=fold.valid, valid=fold.train)])
    runner = Runner()
    probing(runner, tasks=[other])
    assert len(runner.calls) == 4


def test_a_changed_title_computes_nothing(probing, tmp_path):
    probing(Runner())
    other = dataclasses.replace(asked(tmp_path), task=ProbeTask(**{**TASK.model_dump(), "title": "other words"}))
    runner = Runner()
    assert probing(runner, tasks=[other]).tasks[0].task.title == "other words"
    assert runner.calls == []


def test_half_a_file_is_computed_anew(probing, tmp_path):
    probing(Runner())
    for path in (tmp_path / "results").iterdir():
        path.write_text(path.read_text()[:100])
    runner = Runner()
    probing(runner)
    assert len(runner.calls) == 4


def test_layers_are_measured_one_by_one_where_there_are_several(probing):
    runner = Runner()
    outcome = probing(runner, how=How((1, 2), per_layer=True))
    assert runner.calls[-3:] == [("first", 1, (1,), ("linear",))] * 3
    by_name = {one.candidate.name: one for one in outcome.tasks[0].measured}
    assert by_name["log-mel"].layers == ()
    assert [result.score.value for result in by_name["first"].layers] == pytest.approx([0.65, 0.7, 0.75])
    assert [result.layer for result in by_name["first"].layers] == [0, 1, 2]


def test_a_kind_without_heads_has_no_control(probing, tmp_path):
    task = ProbeTask(**{**TASK.model_dump(), "kind": "retrieve", "heads": ()})
    runner = Runner()
    outcome = probing(runner, tasks=[dataclasses.replace(asked(tmp_path), task=task)])
    assert [heads for *_, heads in runner.calls] == [(), ()]
    assert outcome.tasks[0].measured[0].control is None
    assert outcome.tasks[0].chance is None


def test_a_control_above_chance_is_told(probing):
    assert not any("the task leaks" in text for text in probing(Runner(control=4.0)).tasks[0].warnings)


def test_a_control_far_above_chance_is_told(probing, tmp_path):
    one = asked(tmp_path)
    folds = [dataclasses.replace(one.folds[0], name=name) for name in "abcdef"]
    (found,) = probing(Runner(control=9.0), tasks=[dataclasses.replace(one, folds=folds)]).tasks
    told = [text for text in found.warnings if "the task leaks" in text]
    assert len(told) == 2
    assert told[0].startswith("log-mel: ")


def test_of_two_labels_in_one_fold_the_control_says_nothing(probing):
    (found,) = probing(Runner(control=10.0)).tasks
    assert sum("the control says nothing" in text for text in found.warnings) == 1
    assert not any("the task leaks" in text for text in found.warnings)


def test_two_of_one_name_are_refused(probing, tmp_path):
    with pytest.raises(ConfigError, match="tasks must have different names, got letters, letters"):
        probing(Runner(), tasks=[asked(tmp_path), asked(tmp_path)])
    with pytest.raises(ConfigError, match="candidates must have different names"):
        probing(Runner(), candidates=(LOG_MEL, LOG_MEL))


def test_changed_trials_are_measured_anew(probing, tmp_path):
    trials = tmp_path / "trials.txt"
    trials.write_text("1 x0 x2\n")
    task = ProbeTask(**{**TASK.model_dump(), "kind": "verify", "heads": (), "trials": str(trials)})
    one = dataclasses.replace(asked(tmp_path), task=task)
    probing(Runner(), tasks=[one])
    trials.write_text("0 x0 y1\n")
    runner = Runner()
    probing(runner, tasks=[one])
    assert len(runner.calls) == 2
