"""Splits: the same each time, by speaker, with the shares that were asked for."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.config.probe import ProbeSplit
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.split_lists import find_list, read_list
from audio_ssl.probe.splits import size_of, speakers_of, split_items, spread
from tests.unit.probe.corpora import items_of

PARTS = ("train", "valid", "test")


def rows(fold):
    return {part: getattr(fold, part).tolist() for part in PARTS}


def people(*counts: int):
    """Items of speakers a, b, c ... with so many utterances each, labelled by turns."""
    return items_of(
        (f"{who}{i}.wav", who, str(i % 2)) for who, n in zip("abcdefghij", counts, strict=False) for i in range(n)
    )


def test_each_speaker_is_left_out_once():
    folds = split_items(people(2, 1, 3), ProbeSplit(kind="leave_one_speaker_out")).folds
    assert [fold.name for fold in folds] == ["a", "b", "c"]
    assert rows(folds[1]) == {"train": [0, 1, 3, 4, 5], "valid": [], "test": [2]}
    with pytest.raises(ManifestError, match="2 speakers at least to leave one out, got a"):
        split_items(people(2), ProbeSplit(kind="leave_one_speaker_out"))


def test_speakers_are_dealt_out_by_hours_and_the_seed_decides():
    items = people(10, 7, 2, 1)
    fold = split_items(items, ProbeSplit(shares={"train": 0.5, "valid": 0.15, "test": 0.35})).folds[0]
    # a has 10 of 20 s: train; b 7: test; c 2: valid, which lacks 3; d 1: valid, which still lacks 1
    assert {part: set(speakers_of(items, [fold], part)) for part in PARTS} == {
        "train": {"a"}, "valid": {"c", "d"}, "test": {"b"},
    }  # fmt: skip
    equal = people(*[2] * 10)
    drawn = [rows(split_items(equal, ProbeSplit(seed=seed)).folds[0]) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(drawn[0][part]) for part in PARTS] == [14, 2, 4]
    no_valid = split_items(equal, ProbeSplit(shares={"train": 0.5, "test": 0.5})).folds[0]
    assert [len(rows(no_valid)[part]) for part in PARTS] == [10, 0, 10]


def test_utterances_are_split_alike_within_each_label():
    items = items_of((f"{who}{i}.wav", who, who) for who in "abcde" for i in range(20))
    fold = split_items(items, ProbeSplit(kind="utterances")).folds[0]
    for part, share in zip(PARTS, (14, 2, 4), strict=True):
        assert Counter(items.labels[row] for row in getattr(fold, part)) == dict.fromkeys("abcde", share)
    assert rows(fold) == rows(split_items(items, ProbeSplit(kind="utterances")).folds[0])
    assert rows(fold) != rows(split_items(items, ProbeSplit(kind="utterances", seed=1)).folds[0])


def test_a_label_that_comes_once_is_learned_from():
    items = items_of((f"{i}.wav", "s", f"l{i}") for i in range(5))
    with pytest.raises(ManifestError, match="split has none of test"):
        split_items(items, ProbeSplit(kind="utterances"))


def test_with_folds_each_utterance_is_tested_once():
    items = items_of([(f"{i}.wav", "-", "xyz"[i % 3]) for i in range(23)], known=False)
    split = ProbeSplit(kind="utterances", folds=5, shares={"train": 0.7, "valid": 0.1, "test": 0.2})
    folds = split_items(items, split).folds
    assert sorted(row for fold in folds for row in fold.test.tolist()) == list(range(23))
    for fold in folds:
        assert len(fold.test) in (4, 5)
        assert sorted([*fold.train, *fold.valid, *fold.test]) == list(range(23))
        assert len(fold.valid) in (2, 3)
        assert max(Counter(items.labels[row] for row in fold.test).values()) <= 2


def test_rows_of_one_file_stay_together_where_nobody_is_known():
    from dataclasses import replace

    from audio_ssl.data.manifest import Manifest, Utterance

    cut = [Utterance(f"u{i}", f"f{i // 2}.wav", 800 * (i % 2), 800, 8000) for i in range(20)]
    items = items_of(((f"{i}", "-", "ab"[i % 2]) for i in range(20)), known=False)
    items = replace(items, manifest=Manifest.from_rows(cut, root=Path("/nowhere")))
    fold = split_items(items, ProbeSplit(kind="utterances")).folds[0]
    for part in PARTS:
        own = getattr(fold, part).tolist()
        assert own == [row for i in own[::2] for row in (i - i % 2, i - i % 2 + 1)]


def test_paths_say_the_part_and_what_is_in_none_is_told():
    items = items_of(
        (f"{part}/{i}.wav", f"s{part}{i}", "x") for part in ("big", "dev", "eval", "odd") for i in range(2)
    )
    split = ProbeSplit(kind="paths", paths={"train": "^big/", "valid": "^dev/", "test": "^eval/"})
    found = split_items(items, split)
    assert rows(found.folds[0]) == {"train": [0, 1], "valid": [2, 3], "test": [4, 5]}
    assert found.notes == ("2 rows are in no part (split.paths) and are left out: odd/0.wav, odd/1.wav",)
    with pytest.raises(ManifestError, match=r"big/0\.wav\) has that of train and of test"):
        split_items(items, ProbeSplit(kind="paths", paths={"train": "i", "test": "/0"}))
    with pytest.raises(ManifestError, match="has none of test"):
        split_items(items, ProbeSplit(kind="paths", paths={"train": "big", "test": "small"}))


def test_lists_of_files_say_the_part_and_the_rest_is_train(tmp_path):
    items = items_of((f"{word}/{i}.wav", f"s{i}", word) for word in ("no", "yes") for i in range(3))
    (tmp_path / "v.txt").write_text("no/1.wav\nyes/1.wav\n")
    (tmp_path / "t.txt").write_text("no/2.wav\r\nyes/2.wav\nmaybe/2.wav\n")
    split = ProbeSplit(kind="files", files={"valid": "v.txt", "test": "t.txt"})
    found = split_items(items, split, folder=tmp_path)
    assert rows(found.folds[0]) == {"train": [0, 3], "valid": [1, 4], "test": [2, 5]}
    assert found.notes == ("t.txt: 1 of 3 names have no recording: maybe/2.wav",)
    (tmp_path / "t.txt").write_text("no/1.wav\n2.wav\n")
    with pytest.raises(ManifestError, match=r"no/1\.wav is on the list of valid(.|\n)*2\.wav must mean one recording"):
        split_items(items, split, folder=tmp_path)


def test_a_list_decides_and_must_know_everybody(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("# mine\nspeaker\tpart\tage\na\ttrain\t3\n\nb\ttest\t4\nz\ttest\t4\n")
    found = split_items(people(2, 1), ProbeSplit(kind="list", file=str(path)))
    assert rows(found.folds[0]) == {"train": [0, 1], "valid": [], "test": [2]}
    assert found.notes == (f"1 of 3 speakers on the list {path} have no recording: z",)
    with pytest.raises(ManifestError, match=r"1 are not: c; the list is of another corpus"):
        split_items(people(1, 1, 1), ProbeSplit(kind="list", file=str(path)))
    with pytest.raises(ConfigError, match="come with the package: speechocean762"):
        find_list("nothing")


def test_a_list_with_a_fault_is_refused(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("speaker\tage\n")
    with pytest.raises(ManifestError, match="columns speaker, part first, got speaker, age"):
        read_list(path)
    path.write_text("speaker\tpart\tage\na\tdev\t6\nb\ttest\nc\ttest\t1\nc\ttest\t1\n")
    with pytest.raises(ManifestError) as told:
        read_list(path)
    assert [f"x.tsv:{line}: must name a speaker once" in str(told.value) for line in (2, 3, 4, 5)] == [
        True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("hours", [None, 10])
def test_nothing_to_learn_from_is_told_with_and_without_hours(hours):
    items = items_of((f"test/{i}.wav", f"s{i}", "x") for i in range(4))
    with pytest.raises(ManifestError, match="split has none of train"):
        split_items(items, ProbeSplit(kind="paths", paths={"train": "^train/", "test": "^test/"}, hours=hours))


def test_hours_take_rows_at_equal_distances_so_that_all_speakers_take_part():
    seconds = np.full(11, 1.0)
    assert spread(seconds, 4 / 3600).tolist() == [0, 2, 5, 8]
    assert spread(seconds, 1.0).tolist() == list(range(11))
    assert spread(seconds, 0.1 / 3600).tolist() == [0]
    uneven = np.array([1.0, 5.0] * 6)  # 5 places would be 13 s, 4 would be 12 s
    assert spread(uneven, 10 / 3600).tolist() == [0, 4, 8]
    items = people(6, 6, 4)
    found = split_items(items, ProbeSplit(kind="paths", paths={"train": "^[ab]", "test": "^c"}, hours=6 / 3600))
    assert rows(found.folds[0]) == {"train": [0, 2, 4, 6, 8, 10], "valid": [], "test": [12, 13, 14, 15]}
    assert found.notes == ("split: 0.00 of 0.00 h are learned from (split.hours)",)


def test_parts_have_a_size_and_speakers():
    items = people(2, 1, 3)
    folds = split_items(items, ProbeSplit(kind="leave_one_speaker_out")).folds
    size = size_of(items, folds, "train")
    assert (size.num_items, size.num_speakers) == (6, 3)
    assert size.hours == pytest.approx(6 / 3600)
    assert speakers_of(items, folds[:1], "train") == ("b", "c")
    assert size_of(items, folds, "valid").num_items == 0


@pytest.mark.parametrize("kind", ["speakers", "leave_one_speaker_out", "list"])
def test_a_split_by_speaker_needs_speakers(kind):
    items = items_of([("a.wav", "-", "x"), ("b.wav", "-", "y")], known=False)
    with pytest.raises(ManifestError, match=r"no row has a speaker.*data\.speaker_from"):
        split_items(items, ProbeSplit(kind=kind, file="speechocean762" if kind == "list" else None))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"kind": "list"}, "must have file with kind = .list."),
        ({"file": "x"}, "must have file with kind = .list., and only then"),
        ({"kind": "paths", "paths": {"train": "a"}}, "must have paths of train and test, got train"),
        ({"kind": "paths", "paths": {"train": "(", "test": "b"}}, "must be a regular expression"),
        ({"kind": "files", "files": {"valid": "v"}}, "must have a list of test"),
        ({"shares": {"train": 0.9, "valid": 0.1}}, "above 0 for train and test"),
        ({"shares": {"train": 0.9, "test": 0.2}}, "add up to 1, got train 0.9, test 0.2"),
        ({"folds": 5}, "folds above 1 must go with"),
        ({"kind": "utterances", "folds": 4}, r"shares\.test = 1 / folds"),
    ],
)
def test_settings_of_splits_that_cannot_be_are_refused(values, fault):
    with pytest.raises(ValueError, match=fault):
        ProbeSplit(**values)
