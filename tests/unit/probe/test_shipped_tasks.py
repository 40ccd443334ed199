"""The tasks that come with the package, over the corpora that they are about."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audio_ssl.config import ProbeTask, load_config, shipped_configs
from audio_ssl.probe.items import Fold, Items, Segment
from audio_ssl.probe.kinds import runner_of
from audio_ssl.probe.subset import spread_rows, subset
from audio_ssl.probe.tasks import OpenedTask, open_task
from tests.unit.probe.corpora import write_noise
from tests.unit.probe.held import Held

SHIPPED = sorted(name for name in shipped_configs() if name.startswith("probe/"))
CORPORA = os.environ.get("AUDIO_SSL_CORPORA")
needs_corpora = pytest.mark.skipif(not CORPORA, reason="AUDIO_SSL_CORPORA is not set")
PARTS = ("train", "valid", "test")


def opened(name: str) -> OpenedTask:
    return open_task(name, corpora=Path(CORPORA or ""))


def sizes(task: OpenedTask) -> list[tuple[int, int]]:
    return [(size.num_items, size.num_speakers) for size in map(task.size_of, PARTS)]


def layer_chosen(task: ProbeTask, items: Items, folds: Sequence[Fold]) -> int | None:
    """Of two layers of noise, by 160 of the items."""
    items, folds = subset(items, folds, spread_rows(items, folds, 160))
    drawn = torch.randn(len(items), 2, 5, 3, generator=torch.Generator().manual_seed(7))
    (result,) = runner_of(task.kind)(Held(tuple(drawn)), items, folds, task=task, seeds=(1,), heads=())
    return result.layer


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_task_begins_with_what_it_is_and_says_no_more_than_it_must(name):
    path = shipped_configs()[name]
    assert path.read_text().startswith("# ")
    task = load_config(ProbeTask, path)
    assert task.title
    assert task.data.root is not None


def test_the_documentation_names_every_shipped_task():
    text = (Path(__file__).parents[3] / "docs" / "probing.md").read_text()
    assert [name for name in SHIPPED if f"`{name.removeprefix('probe/')}`" not in text] == []


def test_keywords_are_split_by_the_lists_of_their_folder(tmp_path):
    root = tmp_path / "speech_commands"
    for word in ("yes", "no"):
        for who in ("0a7c2a8d", "1b4c9b89", "2d3c4a5f"):
            write_noise(root / word / f"{who}_nohash_0.wav")
    write_noise(root / "_background_noise_" / "doing_the_dishes.wav")
    (root / "validation_list.txt").write_text("yes/1b4c9b89_nohash_0.wav\nno/1b4c9b89_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/2d3c4a5f_nohash_0.wav\nno/2d3c4a5f_nohash_0.wav\n")
    task = open_task("keywords", corpora=tmp_path)
    assert [task.speakers_of(part) for part in PARTS] == [("0a7c2a8d",), ("1b4c9b89",), ("2d3c4a5f",)]
    assert task.items.labels == ("no",) * 3 + ("yes",) * 3
    assert task.notes == ()


def test_fluent_intents_have_three_slots(tmp_path):
    root, header = tmp_path / "fluent_speech_commands_dataset", ",path,speakerId,transcription,action,object,location\n"
    (root / "data").mkdir(parents=True)
    for part, people in (("train", "abcdefg"), ("valid", "h"), ("test", "ij")):
        lines = [f"0,wavs/speakers/{who}/{who}1.wav,{who},Lights on,activate,lights,none\n" for who in people]
        (root / "data" / f"{part}_data.csv").write_text(header + "".join(lines))
        for who in people:
            write_noise(root / "wavs" / "speakers" / who / f"{who}1.wav")
    task = open_task("fluent_intent", corpora=tmp_path)
    assert set(task.items.labels) == {"activate/lights/none"}
    assert [len(task.speakers_of(part)) for part in PARTS] == [7, 1, 2]


@pytest.mark.parametrize("kind", ["characters", "verification", "frames", "units"])
def test_librispeech_is_read_as_it_is_handed_out(tmp_path, kind):
    names = [
        f"{part}/{who}/7/{who}-7-0000" for part, who in (("train-clean-100", 19), ("dev-clean", 84), ("test-clean", 61))
    ]
    for name in names:
        write_noise(tmp_path / "LibriSpeech" / f"{name}.flac")
        chapter = tmp_path / "LibriSpeech" / Path(name).parent
        (chapter / f"{chapter.parent.name}-7.trans.txt").write_text(f"{Path(name).name} SO IT'S\n")
    (tmp_path / "LibriSpeech" / "phones.ctm").write_text("".join(f"{Path(name).name} 1 0 0.05 S\n" for name in names))
    task = open_task(f"librispeech_{kind}", corpora=tmp_path)
    expected = {"characters": ["19", "84", "61"], "verification": ["84", "", "61"]}.get(kind, ["19", "", "61"])
    assert ["".join(task.speakers_of(part)) for part in PARTS] == expected
    if kind == "characters":
        assert task.items.labels[0] == tuple("so|it's")
    if kind == "frames":
        assert [segment.label for segment in task.items.segments[0]] == ["S"]


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
    assert layer_chosen(task.task, task.items, task.folds) in (0, 1)


@pytest.mark.corpora
@needs_corpora
def test_speakers_have_twenty_sentences_each():
    task = opened("speaker")
    assert sizes(task) == [(1750, 125), (250, 125), (500, 125)]
    assert set(Counter(task.items.labels).values()) == {20}


@pytest.mark.corpora
@needs_corpora
def test_verification_tests_six_people_and_chooses_and_centres_by_others():
    task = opened("speaker_verification")
    assert sizes(task) == [(126, 126), (40, 4), (60, 6)]
    assert task.notes == ()
    assert layer_chosen(task.task, task.items, task.folds) in (0, 1)


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
        timed = replace(task.items, segments=((Segment(0, 0.05, "W"), Segment(0.05, 0.1, "IY")),) * len(task.items))
        units = load_config(ProbeTask, shipped_configs()["probe/phone_units"])  # the same split, times by an aligner
        assert units.split == task.task.split
        assert layer_chosen(units.model_copy(update={"clusters": 5}), timed, task.folds) in (0, 1)


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
