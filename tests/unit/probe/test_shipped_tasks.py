"""The tasks that come with the package, over the corpora that they are about."""

import os
from collections import Counter
from pathlib import Path

import pytest

from audio_ssl.config import ProbeTask, load_config, shipped_configs
from audio_ssl.probe.tasks import OpenedTask, open_task

SHIPPED = sorted(name for name in shipped_configs() if name.startswith("probe/"))
CORPORA = os.environ.get("AUDIO_SSL_CORPORA")
needs_corpora = pytest.mark.skipif(not CORPORA, reason="AUDIO_SSL_CORPORA is not set")
PARTS = ("train", "valid", "test")


def opened(name: str) -> OpenedTask:
    return open_task(name, corpora=Path(CORPORA or ""))


def sizes(task: OpenedTask) -> list[tuple[int, int]]:
    return [(size.num_items, size.num_speakers) for size in map(task.size_of, PARTS)]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_task_begins_with_what_it_is_and_says_no_more_than_it_must(name):
    path = shipped_configs()[name]
    assert path.read_text().startswith("# ")
    task = load_config(ProbeTask, path)
    assert task.title
    assert task.data.root is not None


@pytest.mark.corpora
@needs_corpora
def test_digits_leave_each_of_six_speakers_out():
    task = opened("digits")
    assert [fold.name for fold in task.folds] == ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    assert Counter(task.items.labels) == {str(digit): 300 for digit in range(10)}
    assert all((len(fold.train), len(fold.test)) == (2500, 500) for fold in task.folds)
    assert all({task.items.speakers[row] for row in fold.test} == {fold.name} for fold in task.folds)


@pytest.mark.corpora
@needs_corpora
@pytest.mark.parametrize("name", ["digit_abx", "digit_retrieval"])
def test_digits_of_four_speakers_are_compared(name):
    task = opened(name)
    assert sizes(task) == [(1000, 2), (0, 0), (2000, 4)]
    assert not set(task.speakers_of("train")) & set(task.speakers_of("test"))


@pytest.mark.corpora
@needs_corpora
def test_speakers_have_twenty_sentences_each():
    task = opened("speaker")
    assert sizes(task) == [(1750, 125), (250, 125), (500, 125)]
    assert set(Counter(task.items.labels).values()) == {20}


@pytest.mark.corpora
@needs_corpora
def test_verification_tests_ten_people_and_centres_by_others():
    task = opened("speaker_verification")
    assert sizes(task) == [(126, 126), (0, 0), (100, 10)]


@pytest.mark.corpora
@needs_corpora
@pytest.mark.parametrize(("name", "num_symbols"), [("phones", 39), ("characters", 28)])
def test_symbols_are_learned_from_an_hour_of_the_listed_speakers(name, num_symbols):
    task = opened(name)
    assert sizes(task)[1:] == [(260, 13), (500, 25)]  # 20 sentences a speaker
    train = task.size_of("train")
    assert 0.98 < train.hours <= 1.0
    assert train.num_speakers == 87
    assert len({symbol for label in task.items.labels for symbol in label}) == num_symbols
    if name == "phones":
        first = task.items.manifest.column("id").index("000010011")  # WE CALL IT BEAR
        assert task.items.labels[first] == ("W", "IY", "K", "AO", "L", "IH", "T", "B", "EH", "R")


@pytest.mark.corpora
@needs_corpora
def test_ten_drinks_are_ordered_and_each_order_is_tested_once():
    task = opened("intent")
    assert sorted(row for fold in task.folds for row in fold.test.tolist()) == list(range(len(task.items)))
    assert len(task.folds) == 5
    counts = Counter(task.items.labels)
    assert len(counts) == 10
    assert (len(task.items), counts["mocha"], counts["coffee"]) == (619, 89, 57)  # label.json has 6 more, 1 and 3
    assert not task.items.are_speakers
    assert any("nobody says who speaks" in note for note in task.notes)
