"""What a model makes of a few utterances; whatever is gone becomes a note."""

import numpy as np
import pytest

from audio_ssl.evaluate.report import examples as module
from audio_ssl.evaluate.report.examples import look
from audio_ssl.evaluate.report.run_folder import read_run
from tests.unit.evaluate.runs import write_audio, write_checkpoint, write_run


@pytest.fixture
def audio(tmp_path):
    return write_audio(tmp_path)


def make_run(tmp_path, audio, *, is_ctc: bool = False, **data):
    sections = {"init_from": "x"} if is_ctc else {}
    run = write_run(tmp_path / "run", data={"train": ["gone.arrow"], "valid": [str(audio)], **data}, **sections)
    write_checkpoint(run, is_ctc=is_ctc)
    return run


def test_codes_and_a_masked_utterance_of_pretraining(tmp_path, audio):
    found = look(read_run(make_run(tmp_path, audio)))
    assert not found.notes
    assert found.weights == "step_00000050"
    assert found.source == "validation manifest speech.arrow"
    assert found.num_utterances == 2  # 0.4 s is shorter than data.min_s
    assert found.seconds == pytest.approx(1.6)
    num_frames = [44, 34]  # (14400 - 400) // 320 + 1 and (11200 - 400) // 320 + 1
    assert found.code_counts.shape == (2, 7)
    assert found.code_counts.sum(1).tolist() == [sum(num_frames)] * 2
    assert found.masked.name == "<b>two</b>"  # the one nearest to five seconds
    assert found.masked.similarity.shape == (44, 44)
    assert found.masked.is_masked.shape == (44,)
    assert 0.3 < found.masked.is_masked.mean() < 0.7


def test_the_same_page_comes_twice(tmp_path, audio):
    run = read_run(make_run(tmp_path, audio))
    first, second = look(run), look(run)
    assert np.array_equal(first.masked.is_masked, second.masked.is_masked)
    assert np.array_equal(first.masked.similarity, second.masked.similarity)


def test_transcripts_of_a_recogniser(tmp_path):
    found = look(read_run(make_run(tmp_path, write_audio(tmp_path, texts=True), is_ctc=True)))
    assert not found.notes
    assert [t.name for t in found.transcripts] == ["<b>two</b>", "three"]
    for transcript in found.transcripts:
        assert transcript.reference == "ab a<i>b"
        assert set(transcript.hypothesis) <= set("ab ⁇")
        assert transcript.characters.reference_length == 8
        assert transcript.characters.hits + transcript.characters.errors >= 8
    assert found.code_counts is None


def test_training_audio_where_there_is_no_validation(tmp_path, audio):
    found = look(read_run(make_run(tmp_path, audio, train=[str(audio)], valid=[])))
    assert found.source == "training manifest speech.arrow"


@pytest.mark.parametrize("is_relative", [True, False])
def test_a_manifest_that_is_gone(tmp_path, audio, is_relative):
    place = "gone.arrow" if is_relative else str(tmp_path / "gone.arrow")
    found = look(read_run(make_run(tmp_path, audio, valid=[place])))
    (note,) = found.notes
    assert "is not there" in note
    assert ("run the report where the run was started" in note) == is_relative
    assert found.masked is None


def test_audio_that_is_gone_is_counted_and_the_rest_is_shown(tmp_path, audio):
    run = read_run(make_run(tmp_path, audio))
    (tmp_path / "audio" / "1.wav").unlink()
    found = look(run)
    assert found.masked.name == "three"
    (note,) = found.notes
    assert note.startswith("1 of the utterances to be shown cannot be read, such as: ")
    (tmp_path / "audio" / "2.wav").write_text("x")
    assert look(run).masked is None


def test_rows_that_are_all_too_short(tmp_path, audio):
    found = look(read_run(make_run(tmp_path, audio, min_s=3.0)))
    assert "is as long as 3.00 s" in found.notes[0]


def test_no_checkpoint_yet_and_a_damaged_one(tmp_path, audio):
    run = make_run(tmp_path, audio)
    good = write_checkpoint(run, name="step_00000060")
    best = run / "checkpoints" / "step_00000050"
    (run / "checkpoints" / "best.json").write_text('{"name": "step_00000050"}')
    (best / "model.safetensors").write_bytes(b"half")
    found = look(read_run(run))
    assert found.weights == good.name  # the newest stands in for the best
    assert found.notes[0].startswith("a checkpoint cannot be read: ")
    (good / "config.toml").unlink()
    assert look(read_run(run)).notes[-1].startswith("there is no checkpoint that can be read")


def test_a_long_corpus_is_sampled_evenly(monkeypatch):
    assert module._spread(np.arange(100, 201), 5) == [100, 125, 150, 175, 200]
    assert module._spread(np.array([4, 9]), 5) == [4, 9]
