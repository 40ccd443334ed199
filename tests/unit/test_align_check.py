"""Recordings with known word times hold the words where they say, and errors of boundaries are counted by hand."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import align_check
from align_check import errors, read_ctm

from audio_ssl.data.manifest import Manifest
from benchmarks.report import BenchError
from experiment import timed_digits
from experiment.timed_digits import RATE_HZ, WORDS, TimedWord, cut_quiet, join, prepare

TENTH = RATE_HZ // 10


def tone(seconds, amplitude=1.0):
    return (amplitude * np.sin(0.6 * np.arange(round(seconds * RATE_HZ)))).astype(np.float32)


def test_silence_around_a_clip_is_cut_and_what_is_soft_is_kept():
    soft, faint = tone(0.1, 0.02), tone(0.1, 0.005)  # 34 and 46 dB below the tone
    found = cut_quiet(np.concatenate([np.zeros(TENTH, np.float32), faint, soft, tone(0.1), faint]))
    assert len(found) == 2 * TENTH
    assert found[:TENTH] == pytest.approx(soft)


def test_words_are_where_the_voice_is():
    waves = [tone(0.2), tone(0.3, 0.1), tone(0.1)]
    audio, words = join(waves, ["a", "b", "c"], rng=np.random.default_rng(3))
    assert [word.text for word in words] == ["a", "b", "c"]
    assert [round(w.end_s - w.start_s, 6) for w in words] == [0.2, 0.3, 0.1]
    power = np.square(audio.reshape(-1)[: len(audio) // 40 * 40]).reshape(-1, 40).mean(1)  # a row 5 ms
    is_voice = power > 1e-3 * 0.25  # tones are at 0.05 ** 2, noise is 20 dB below at least
    told = np.zeros(len(power), bool)
    for word in words:
        told[round(word.start_s * 200) : round(word.end_s * 200)] = True
    assert np.flatnonzero(is_voice != told).size <= 2 * len(words)  # a row at each edge
    gaps = [0, *(t for w in words for t in (w.start_s, w.end_s)), len(audio) / RATE_HZ]
    pauses = [b - a for a, b in zip(gaps[::2], gaps[1::2], strict=True)]
    assert all(0.05 <= pause <= 0.6 for pause in pauses if pause)
    assert pauses[0] > 0 < pauses[-1]


def test_some_words_are_joined_and_most_are_not():
    rng = np.random.default_rng(3)
    _, words = join([tone(0.1)] * 400, ["a"] * 400, rng=rng)
    gaps = [b.start_s - a.end_s for a, b in pairwise(words)]
    assert sum(gap < 1e-9 for gap in gaps) / len(gaps) == pytest.approx(0.3, abs=0.06)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Four speakers, five takes of each digit, a digit longer than the one before it."""
    monkeypatch.setattr(
        timed_digits, "PARTS", {"train": (range(2, 5), 2), "heard": (range(2), 1), "unheard": (range(2), 1)}
    )
    folder = tmp_path / "fsdd"
    folder.mkdir()
    for speaker in ("anna", "bert", "lucas", "theo"):
        for digit in range(10):
            for take in range(5):
                sf.write(folder / f"{digit}_{speaker}_{take}.wav", tone(0.05 + 0.01 * digit), RATE_HZ)
    return folder


def test_parts_share_neither_takes_nor_unheard_speakers(corpus, tmp_path):
    made = prepare(corpus, tmp_path / "out")
    for part, speakers, times in (
        ("train", {"anna", "bert"}, 6),
        ("heard", {"anna", "bert"}, 2),
        ("unheard", {"lucas", "theo"}, 2),
    ):
        manifest, words = Manifest.read(made.manifest(part)), made.words(part)
        assert set(manifest.column("speaker")) == speakers
        said = [word.text for own in words.values() for word in own]
        assert {word: said.count(word) for word in WORDS} == dict.fromkeys(WORDS, times * len(speakers))
        for row in range(len(manifest)):
            assert manifest[row].text == " ".join(word.text for word in words[manifest[row].id])
            assert len(sf.read(manifest.audio_path(row))[0]) == manifest[row].num_samples
            for word in words[manifest[row].id]:
                assert word.end_s - word.start_s == pytest.approx(0.05 + 0.01 * WORDS.index(word.text), abs=0.011)
    again = prepare(corpus, tmp_path / "again")
    assert again.words("train") == made.words("train")
    kept = made.manifest("heard").stat().st_mtime_ns
    made.manifest("unheard").unlink()  # stopped there
    assert prepare(corpus, tmp_path / "out").words("unheard") == again.words("unheard")
    assert made.manifest("heard").stat().st_mtime_ns == kept


def test_another_corpus_is_refused(corpus, tmp_path):
    sf.write(corpus / "0_anna_0.wav", tone(0.1), 16_000)
    with pytest.raises(BenchError, match=r"0_anna_0\.wav must have one channel at 8000 Hz, it has 16000"):
        prepare(corpus, tmp_path / "out")
    for path in corpus.glob("*theo*"):
        path.unlink()
    with pytest.raises(BenchError, match="with lucas and theo, it does not"):
        prepare(corpus, tmp_path / "other")


def test_errors_by_hand():
    truth = {"x": [TimedWord("one", 0.1, 0.4), TimedWord("two", 0.5, 0.9)], "y": [TimedWord("one", 1.0, 1.5)]}
    found = read_ctm(";; remark\nx 1 0.120 0.250 one 0.9\nx 1 0.510 0.290 two 0.8\ny 1 1.060 0.400 one 0.7\n")
    told = errors(("heard", "align"), truth, found)
    # starts: +20, +10, +60; ends: -30, -100, -40
    assert (told.part, told.times, told.num_words) == ("heard", "align", 3)
    assert told.median == pytest.approx(35)
    assert told.p90 == pytest.approx(80)
    assert (told.start_bias, told.end_bias) == pytest.approx((20, -40))
    assert math.isnan(told.joined_median)
    joined = {"x": [TimedWord("one", 0.1, 0.4), TimedWord("two", 0.41, 0.9)], "y": truth["y"]}
    assert errors(("heard", "align"), joined, found).joined_median == pytest.approx((30 + 100) / 2)
    with pytest.raises(BenchError, match="y must be aligned with the words that it holds, got none"):
        errors(("heard", ""), truth, {"x": found["x"]})
    with pytest.raises(BenchError, match="x must be aligned"):
        errors(("heard", ""), truth, found | {"x": found["x"][:1]})


@pytest.mark.parametrize(("shift_s", "status"), [(0.03, 0), (0.06, 1)])
def test_the_exit_status_is_the_verdict(corpus, tmp_path, monkeypatch, capsys, shift_s, status):
    def align(verb, run, manifest, _, out, *__, threads):
        assert (verb, run) == ("align", "RUN")
        words = json.loads(Path(manifest).with_suffix(".json").read_text())
        lines = [
            f"{name} 1 {start + shift_s:.3f} {end - start:.3f} {word} 1\n"
            for name, own in words.items()
            for word, start, end in own
        ]
        Path(out).write_text("".join(lines))

    monkeypatch.setattr(align_check, "call_audio_ssl", align)
    monkeypatch.setattr(align_check, "_ctc_alone", lambda run, data, part: data.words(part))
    words = ["--corpora", str(corpus.parent), "--out", str(tmp_path / "out"), "--recogniser", "RUN", "--json"]
    assert align_check.main(words) == status
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(part["part"], part["times"]) for part in told] == [
        (part, times) for part in ("heard", "unheard") for times in ("CTC alone", "align")
    ]
    assert told[0]["median"] == 0
    assert told[1]["median"] == pytest.approx(1000 * shift_s, abs=1)
    assert align_check.main(words[:-1]) == status
    assert "word boundaries" in capsys.readouterr().out
