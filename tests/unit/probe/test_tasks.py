"""A task file and a folder become items and folds; faults are told as sentences."""

from pathlib import Path

import pytest

from audio_ssl.data.scan import scan
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.tasks import find_task, open_task
from tests.unit.probe.corpora import write_noise

TASK = """
kind = "classify"
title = "words"
[data]
root = "words"
speaker_from = "_(?P<speaker>[a-z]+)"
[labels]
pattern = "(?P<label>[a-z]+)_"
[split]
kind = "leave_one_speaker_out"
"""


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    for who in ("ann", "bob", "cy"):
        for word in ("no", "yes"):
            write_noise(tmp_path / "words" / f"{word}_{who}.wav", 0.1 + 0.01 * len(who))
    return tmp_path


def opened(corpora: Path, *overrides: str, text: str = TASK):
    path = corpora / "mine.toml"
    path.write_text(text)
    return open_task(path, corpora=corpora, overrides=overrides)


def test_a_folder_becomes_items_and_folds(corpora):
    task = opened(corpora)
    assert (task.name, task.source, task.notes) == ("mine", str(corpora / "mine.toml"), ())
    assert task.items.labels == ("no", "no", "no", "yes", "yes", "yes")
    assert task.items.speakers == ("ann", "bob", "cy") * 2
    assert task.items.are_speakers
    assert [fold.test.tolist() for fold in task.folds] == [[0, 3], [1, 4], [2, 5]]
    assert task.speakers_of("test") == ("ann", "bob", "cy")
    assert task.size_of("train").num_items == 6


def test_what_is_left_out_is_told_and_no_frames_are_asked_for_it(corpora):
    for name in ("bad_dan.wav", "bad.wav"):  # the second is not meant
        (corpora / "words" / name).write_text("no audio at all")
    write_noise(corpora / "words" / "yes_long.wav", 3)
    write_noise(corpora / "words" / "9.wav")
    task = opened(
        corpora, "data.max_s=2", "data.only=_", "split.kind=paths", 'split.paths={train = "ann", test = "bob"}'
    )
    assert task.items.manifest.column("id") == ["no_ann", "no_bob", "yes_ann", "yes_bob"]
    assert [part.tolist() for part in (task.folds[0].train, task.folds[0].test)] == [[0, 2], [1, 3]]
    assert [note.partition(":")[0] for note in task.notes] == [
        "1 files are left out", "1 rows longer than 2 s (data.max_s) are left out",
        "2 rows are in no part (split.paths) and are left out",
    ]  # fmt: skip


def test_manifests_may_say_the_parts(corpora):
    manifest = scan(corpora / "words", speaker_from="_(?P<speaker>[a-z]+)").manifest
    for name, chosen in (("a", [0, 3]), ("b", [1, 4]), ("c", [2, 5]), ("d", [5])):
        manifest.select(chosen).write(corpora / f"{name}.arrow")
    text = TASK.replace('root = "words"', 'manifest = "a.arrow"\nvalid_manifest = "b.arrow"\ntest_manifest = "c.arrow"')
    text = text.replace('speaker_from = "_(?P<speaker>[a-z]+)"', "").replace("leave_one_speaker_out", "given")
    task = opened(corpora, text=text)
    fold = task.folds[0]
    assert [[task.items.speakers[i] for i in part] for part in (fold.train, fold.valid, fold.test)] == [
        ["ann"] * 2, ["bob"] * 2, ["cy"] * 2,
    ]  # fmt: skip
    with pytest.raises(ManifestError, match=r"speaker cy is in test .* and in train"):
        opened(corpora, "data.manifest=d.arrow", text=text)


def test_where_nobody_is_known_files_stand_in_and_that_is_told(corpora):
    text = TASK.replace('speaker_from = "_(?P<speaker>[a-z]+)"', "")
    halves = "split.shares={train = 0.5, test = 0.5}"
    task = opened(corpora, "split.kind=utterances", halves, text=text)
    assert not task.items.are_speakers
    assert task.items.speakers == tuple(task.items.manifest.column("path"))
    assert any("nobody says who speaks" in note for note in task.notes)
    with pytest.raises(ManifestError, match="no row has a speaker"):
        opened(corpora, text=text)
    with pytest.raises(ManifestError, match="kind 'abx' must know who speaks"):
        opened(corpora, "kind=abx", "split.kind=utterances", halves, text=text)


def test_utterances_are_split_only_where_voices_cannot_be_kept_apart(corpora):
    with pytest.raises(ManifestError, match="these rows have 3 speakers: a voice in train and in test is a leak"):
        opened(corpora, "split.kind=utterances")
    task = opened(corpora, "split.kind=utterances", "split.shares={train = 0.5, test = 0.5}", "labels.column=speaker")
    assert sorted(task.items.labels[row] for row in task.folds[0].test) == ["ann", "bob", "cy"]


def test_a_speaker_must_be_known_for_all_or_for_none(corpora):
    write_noise(corpora / "words" / "no_9.wav")
    with pytest.raises(ManifestError, match=r"but 1 of 7 have none(.|\n)*no_9\.wav"):
        opened(corpora)
    assert len(opened(corpora, "data.only=_[a-z]").items) == 6


def test_a_copy_of_a_recording_is_a_leak(corpora):
    (corpora / "words" / "no_dan.wav").write_bytes((corpora / "words" / "no_cy.wav").read_bytes())
    with pytest.raises(ManifestError, match=r"no_cy\.wav\) and .*no_dan\.wav\) are the same audio"):
        opened(corpora)


def test_across_languages_needs_two(corpora):
    asked = ("kind=retrieve", "across=language", "split.kind=speakers")
    with pytest.raises(ManifestError, match="6 of 6 have none"):
        opened(corpora, *asked)
    with pytest.raises(ManifestError, match=r"2 languages at least .*, got en alone"):
        opened(corpora, *asked, "data.language=en")


def test_a_file_of_trials_is_looked_for_beside_the_audio(corpora):
    asked = ("kind=verify", "labels.column=speaker", "split.kind=speakers", "trials=t.txt")
    with pytest.raises(ConfigError, match=r"trials must be a file .* no .*words/t\.txt"):
        opened(corpora, *asked)
    (corpora / "words" / "t.txt").write_text("1 a b\n")
    assert opened(corpora, *asked).task.trials == str(corpora / "words" / "t.txt")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["data.root=nothing"], r"must hold a folder nothing \(data\.root\)"),
        (["data.root=../x"], "must be a folder below --corpora"),
        (["data.only=zzz"], "data.only = 'zzz' must be in the path of a row"),
        (["data.max_s=0.01"], "must be no longer than data.max_s"),
        (["labels.pattern=(?P<label>zzz)"], "labels.pattern = .* labels none of 6"),
        (["data.manifest=x.arrow"], "x.arrow"),
        (["split.kind=given"], "data.test_manifest must be given"),
        (["data.test_manifest=a"], "data.test_manifest must be given with"),
        (["heads=['recurrent']"], "heads must be among linear, mlp"),
        (["heads=['linear', 'mlp', 'linear']"], "heads must be named once each, got linear, mlp, linear"),
    ],
)
def test_faults_are_told_as_sentences(corpora, overrides, fault):
    with pytest.raises((ConfigError, ManifestError), match=fault):
        opened(corpora, *overrides)


def test_a_task_is_found_by_name_or_file(tmp_path):
    for name in ("digits", "probe/digits", "configs/probe/digits.toml"):
        assert find_task(name)[1] in ("probe/digits", name)
        assert find_task(name)[0].name == "digits.toml"
    with pytest.raises(ConfigError, match="shipped tasks: characters, digit_abx"):
        find_task("nothing")
    with pytest.raises(ConfigError, match="give --corpora DIR, or set AUDIO_SSL_CORPORA"):
        open_task("digits", corpora=None)
