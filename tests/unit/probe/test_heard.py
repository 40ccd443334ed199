"""A model whose own run names recordings or voices of the test items is told of."""

from pathlib import Path

import pytest

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.probe.heard import heard, heard_manifests
from tests.unit.probe.outcomes import asked


@pytest.fixture
def model(tmp_path) -> Path:
    """A run folder with a checkpoint in it."""
    place = tmp_path / "run" / "checkpoints" / "step"
    place.mkdir(parents=True)
    return place


def learns_from(tmp_path: Path, rows: list[Utterance], *, root: Path | None = None) -> None:
    manifest = tmp_path / "heard.arrow"
    Manifest.from_rows(rows, root=root or tmp_path).write(manifest)
    (tmp_path / "run" / "config.toml").write_text(f'[data]\ntrain = ["{manifest}"]\n')


def row(path: str, speaker: str | None = None) -> Utterance:
    return Utterance(path, path, 0, 16_000, 16_000, None, speaker)


def test_recordings_that_were_heard_are_counted_with_their_voices(tmp_path, model):
    learns_from(tmp_path, [row("x/4.wav", "cy"), row("x/0.wav", "ann")])
    one = asked(tmp_path)
    told = heard(model, one.items, one.folds)
    assert "heard 1 of 2 test recordings, and 1 of their 1 speakers" in told
    assert "heard.arrow" in told


def test_another_recording_of_a_test_speaker_counts_as_the_voice_alone(tmp_path, model):
    learns_from(tmp_path, [row("x/8.wav", "cy")])
    one = asked(tmp_path)
    assert "heard 0 of 2 test recordings, and 1 of their 1 speakers" in heard(model, one.items, one.folds)


def test_somebody_of_that_name_in_another_corpus_is_somebody_else(tmp_path, model):
    other = tmp_path / "other"
    other.mkdir()
    learns_from(tmp_path, [row("x/8.wav", "cy")], root=other)
    one = asked(tmp_path / "corpus")
    assert heard(model, one.items, one.folds) is None


def test_training_items_may_be_heard(tmp_path, model):
    learns_from(tmp_path, [row("x/0.wav", "ann"), row("x/2.wav", "bob")])
    one = asked(tmp_path)
    assert heard(model, one.items, one.folds) is None


def test_a_link_to_the_corpus_hides_nothing(tmp_path, model):
    corpus = tmp_path / "corpus"
    (corpus / "x").mkdir(parents=True)
    (tmp_path / "link").symlink_to(corpus)
    learns_from(tmp_path, [row("x/4.wav")], root=tmp_path / "link")
    one = asked(corpus)
    assert "heard 1 of 2 test recordings" in heard(model, one.items, one.folds)


def test_what_nobody_knows_is_told(tmp_path, model):
    one = asked(tmp_path)
    assert "is not known" in heard(model, one.items, one.folds)
    (tmp_path / "run" / "config.toml").write_text('[data]\ntrain = ["gone.arrow"]\n')
    assert heard_manifests(model) == []
    assert "is not known" in heard(model, one.items, one.folds)
