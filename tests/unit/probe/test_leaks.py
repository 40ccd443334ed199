"""What must not be on both sides of a split is found, under whatever name it comes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ManifestError
from audio_ssl.probe.items import Fold, Items, as_rows
from audio_ssl.probe.leaks import refuse_leaks, told_lacks, told_repeats
from tests.unit.probe.corpora import RATE, items_of, write_noise


def fold(train, valid, test, name="split"):
    return Fold(name, as_rows(train), as_rows(valid), as_rows(test))


def audio(root: Path, *rows: tuple[str, str, int, int]) -> Items:
    """Items of (path, speaker, start, num_samples)."""
    told = [Utterance(f"u{i}", path, a, n, RATE, speaker=who) for i, (path, who, a, n) in enumerate(rows)]
    base = items_of((f"{i}.wav", who, "x") for i, (_, who, _, _) in enumerate(rows))
    return replace(base, manifest=Manifest.from_rows(told, root=root))


def files(root: Path, *names: str, **kind) -> list[tuple[str, str, int, int]]:
    for name in names:
        write_noise(root / name, **kind)
    return [(name, f"s{name}", 0, 800) for name in names]


def test_nobody_is_learned_from_or_chosen_by_and_tested():
    items = items_of([("0.wav", "a", "x"), ("1.wav", "b", "x"), ("2.wav", "a", "x"), ("3.wav", "c", "y")])
    refuse_leaks(items, [fold([0, 2], [1], [3])], may_share_speakers=False)
    with pytest.raises(ManifestError, match=r"two: speaker a is in test \(.*2\.wav.*\) and in train \(.*0\.wav"):
        refuse_leaks(items, [fold([0, 2], [], [3]), fold([0], [1], [2, 3], "two")], may_share_speakers=False)
    with pytest.raises(ManifestError, match=r"speaker a is in test \(.*2\.wav.*\) and in valid \(.*0\.wav"):
        refuse_leaks(items, [fold([1], [0], [2])], may_share_speakers=False)
    refuse_leaks(items, [fold([0], [1], [2, 3])], may_share_speakers=True)


def test_a_recording_of_somebody_unknown_is_in_one_part(tmp_path):
    write_noise(tmp_path / "f.wav", 0.3)
    items = audio(tmp_path, ("f.wav", "f", 0, 800), ("f.wav", "f", 800, 800))
    unknown = replace(items, speakers=("f.wav", "f.wav"), are_speakers=False)
    with pytest.raises(ManifestError, match="split: one recording is in test"):
        refuse_leaks(unknown, [fold([0], [], [1])], may_share_speakers=True)
    refuse_leaks(items, [fold([0], [], [1])], may_share_speakers=True)  # two turns of a talk


def test_a_stretch_of_a_file_is_in_one_row(tmp_path):
    write_noise(tmp_path / "f.wav", 0.3)
    items = audio(tmp_path, ("f.wav", "a", 0, 801), ("f.wav", "b", 800, 800))
    with pytest.raises(ManifestError, match=r"u0.* and .*u1.* overlap: train and test of split"):
        refuse_leaks(items, [fold([0], [], [1])], may_share_speakers=False)
    refuse_leaks(items, [fold([0, 1], [], [])], may_share_speakers=False)
    twice = audio(tmp_path, ("f.wav", "a", 0, 800), ("f.wav", "a", 0, 800))
    with pytest.raises(ManifestError, match=r"u0.* and .*u1.* are the same row"):
        refuse_leaks(twice, [fold([0, 1], [], [])], may_share_speakers=False)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_copy_under_another_name_is_found(tmp_path, suffix):
    rows = files(tmp_path, "a.wav", "b.wav", "c.wav")
    samples, _ = sf.read(tmp_path / "a.wav", dtype="int16")
    sf.write(tmp_path / f"copy{suffix}", samples, RATE, subtype="PCM_16")
    items = audio(tmp_path, *rows, (f"copy{suffix}", "z", 0, 800))
    with pytest.raises(ManifestError) as told:
        refuse_leaks(items, [fold([1], [0], [2], "one"), fold([0, 1], [2], [3], "two")], may_share_speakers=False)
    assert str(told.value).count("are the same audio") == 1
    assert f"(u0, a.wav) and manifest row 4 (u3, copy{suffix}) are the same audio: train and test of two" in str(
        told.value
    )
    refuse_leaks(items, [fold([0, 3], [1], [2])], may_share_speakers=False)


def test_what_begins_alike_is_not_the_same(tmp_path):
    noise = np.random.default_rng(0).integers(-9000, 9000, 4000).astype(np.int16)
    for name in ("a", "b"):
        noise[-1] += 1  # the first quarter of a second is equal
        sf.write(tmp_path / f"{name}.wav", noise, RATE, subtype="PCM_16")
    items = audio(tmp_path, ("a.wav", "a", 0, 4000), ("b.wav", "b", 0, 4000))
    refuse_leaks(items, [fold([0], [], [1])], may_share_speakers=False)


def test_what_cannot_leak_is_not_decoded(tmp_path, monkeypatch):
    from audio_ssl.probe import leaks

    rows = files(tmp_path, "a.wav", "b.wav") + [(name, "c", 0, n) for name, n in (("c.wav", 700), ("d.wav", 600))]
    read = []
    monkeypatch.setattr(leaks, "_digest", lambda items, row, first_s: read.append((row, first_s)) or bytes([row]))
    refuse_leaks(audio(tmp_path, *rows), [fold([0, 1, 2], [], [3])], may_share_speakers=True)
    assert read == []
    refuse_leaks(audio(tmp_path, *rows), [fold([0, 2], [3], [1])], may_share_speakers=True)
    assert sorted(read) == [(0, 0.25), (1, 0.25)]


def test_labels_that_are_tested_but_not_learned_are_told():
    folds = [fold([0, 1], [], [2, 3]), fold([2], [], [0])]
    assert told_lacks([("a",), ("b",), ("c", "a"), ("b",)], folds) == [
        "1 utterances of test have labels that train lacks, which nothing can learn: c"
    ]
    assert told_lacks([("a",), ("a",), ("a",), ("a",)], folds) == []


def test_sentences_of_test_that_were_learned_are_told():
    labels = [("a", "b"), ("c",), ("a", "b"), ("d",)]
    assert told_repeats(labels, [fold([0, 1], [], [2, 3])]) == [
        "1 of 2 utterances of test say what some utterance of train says, word for word"
    ]
    assert told_repeats(labels, [fold([0], [], [1])]) == []
