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


def learns_from(
    tmp_path: Path, rows: list[Utterance], *, root: Path | None = None, run: str = "run", settings: str = ""
) -> Path:
    manifest = tmp_path / f"{run}_heard.arrow"
    Manifest.from_rows(rows, root=root or tmp_path).write(manifest)
    (tmp_path / run).mkdir(exist_ok=True)
    (tmp_path / run / "config.toml").write_text(f'{settings}\n[data]\ntrain = ["{manifest}"]\n')
    return manifest


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


ELSEWHERE = [row("elsewhere/1.wav", "zoe")]


def test_fine_tuning_hears_with_texts(tmp_path, model):
    learns_from(tmp_path, [row("x/4.wav", "cy")], settings="[ctc]")
    one = asked(tmp_path)
    told = heard(model, one.items, one.folds)
    assert "heard 1 of 2 test recordings, and 1 of their 1 speakers in fine-tuning, with their texts (" in told
    assert "pre-training" not in told


@pytest.mark.parametrize("is_setting", [True, False])
def test_what_the_models_heard_that_it_began_from_is_told(tmp_path, model, is_setting):
    """By ``init_from`` of fine-tuning, or by the first start of pre-training; also two steps back."""
    base, first = tmp_path / "base", tmp_path / "first"
    learns_from(tmp_path, ELSEWHERE, settings=f'init_from = "{base}"\n[ctc]' if is_setting else "")
    if not is_setting:
        starts = f'{{"event": "start", "init_from": "{base}"}}\n{{"event": "start"}}\n{{"event": "sta'
        (tmp_path / "run" / "events.jsonl").write_text(starts)
    one = asked(tmp_path)
    told = heard(model, one.items, one.folds)
    assert f"what {base}, which {model} began from, heard in training is not known" in told
    learns_from(tmp_path, ELSEWHERE, run="base", settings=f'init_from = "{first}"')
    learns_from(tmp_path, [row("x/4.wav", "cy")], run="first", settings=f'init_from = "{base}"')  # no end of it
    told = heard(model, one.items, one.folds)
    assert told.startswith(f"{first}, which {model} began from, heard 1 of 2 test recordings")
    assert "not known" not in told


def test_a_manifest_that_cannot_be_read_is_not_one_of_silence(tmp_path, model):
    learns_from(tmp_path, ELSEWHERE).write_bytes(b"damaged")
    one = asked(tmp_path)
    assert "run_heard.arrow is not known: it cannot be read" in heard(model, one.items, one.folds)


def test_recordings_of_the_corpus_without_a_speaker_may_be_of_anybody(tmp_path, model):
    learns_from(tmp_path, [row("x/8.wav")])
    one = asked(tmp_path)
    told = heard(model, one.items, one.folds)
    assert "more of the test speakers is not known: 1 recordings of this corpus" in told
    learns_from(tmp_path, [row("x/8.wav"), row("x/9.wav", "cy")])  # everybody whom it could have heard
    assert "not known" not in heard(model, one.items, one.folds)
