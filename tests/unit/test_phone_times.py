"""Phones are found where they were put, the best path is the best of all, and the file says what a probe can read."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import phone_times

from audio_ssl.probe.items import Segment
from audio_ssl.probe.label_files import read_ctm
from experiment.monophones import SILENCE, STATES, Phone, align, best_path
from experiment.monophones import Path as StatePath

PHONES = ("AA", "B", "S", "T", "IY")


def made(rng, num_words):
    """Features, words, and (phone, start, end) of what was put there; every phone has a place of its own."""
    places = {name: 4.0 * np.eye(6)[n] for n, name in enumerate((SILENCE, *PHONES))}
    frames, words, told = list[np.ndarray](), list[list[str]](), list[tuple[str, int, int]]()

    def put(name, length):
        start = sum(map(len, frames))
        frames.append(places[name] + rng.normal(size=(length, 6)))
        if name != SILENCE:
            told.append((name, start, start + length))

    put(SILENCE, 12)
    for number in range(num_words):
        word = [str(name) for name in rng.choice(PHONES, rng.integers(1, 4))]
        word = [name for name, _ in itertools.groupby(word)]
        if words and words[-1][-1] == word[0]:
            put(SILENCE, 9)  # else nobody could say where one ends
        elif number and rng.random() < 0.5:
            put(SILENCE, int(rng.integers(6, 15)))
        for name in word:
            put(name, int(rng.integers(4, 20)))
        words.append(word)
    put(SILENCE, 15)
    return np.concatenate(frames).astype(np.float32), words, told


def test_phones_are_found_where_they_were_put():
    rng = np.random.default_rng(3)
    frames, words, told = zip(*(made(rng, int(n)) for n in rng.integers(2, 6, 30)), strict=True)
    found = align(frames, words, gaussians=(1, 1, 1, 1, 2))
    assert [[p.name for p in phones] for phones in found] == [[name for name, _, _ in one] for one in told]
    errors = [
        abs(edge - right)
        for phones, one in zip(found, told, strict=True)
        for phone, (_, start, end) in zip(phones, one, strict=True)
        for edge, right in ((phone.start, start), (phone.end, end))
    ]
    assert np.median(errors) == 0
    assert np.mean(errors) < 1.0


def test_the_best_path_is_the_best_of_all():
    path = StatePath.of([["A"], ["B"]], {SILENCE: 0, "A": 1, "B": 2})  # SIL A SIL B SIL: 15 states
    rng, num_states = np.random.default_rng(1), len(path.states)
    assert num_states == 5 * STATES
    assert np.flatnonzero(path.may_skip).tolist() == [STATES, 3 * STATES]
    scores = rng.normal(size=(9, num_states)).astype(np.float32)

    def all_paths(t, j):
        if t == len(scores) - 1:
            return [(scores[t, j], [j])] if j in (num_states - 1, num_states - 1 - STATES) else []
        ways = [j, j + 1] + [k for k in (j + STATES + 1,) if k < num_states and path.may_skip[k]]
        return [
            (scores[t, j] + value, [j, *rest]) for k in ways if k < num_states for value, rest in all_paths(t + 1, k)
        ]

    best, places = max(itertools.chain(all_paths(0, 0), all_paths(0, STATES)))
    found, total = best_path(scores, path.may_skip)
    assert found.tolist() == places
    assert total == pytest.approx(best)


def test_a_recording_that_is_too_short_is_named():
    with pytest.raises(ValueError, match=r"recording 1 must have 12 frames or more for its phones, got 11"):
        align([np.zeros((12, 2)), np.zeros((11, 2))], [[["A"], ["B"]][:2], [["A", "B"]]])


def test_words_keep_their_phones_together(tmp_path):
    (tmp_path / "text-phone").write_text("u1.0\tW_B IY0_E\nu1.1\tK_B AO0_I L_E\nu2.0\tAH1_S\n")
    assert phone_times.words_of(tmp_path / "text-phone") == {"u1": [["W", "IY"], ["K", "AO", "L"]], "u2": [["AH"]]}


def test_a_probe_reads_the_times(tmp_path):
    told = phone_times.ctm({"u1": [Phone("W", 12, 20), Phone("IY", 20, 31)], "u2": [Phone("AH", 0, 3)]})
    (tmp_path / "phones.ctm").write_text(told)
    found = {entry.key: entry.value for entry in read_ctm(tmp_path / "phones.ctm")}
    assert found["u1"] == (Segment(0.12, 0.2, "W"), Segment(0.2, 0.31, "IY"))
    assert found["u2"] == (Segment(0, 0.03, "AH"),)


def test_a_corpus_that_is_not_there_is_told(tmp_path, capsys):
    assert phone_times.main(["--corpora", str(tmp_path), "--out", str(tmp_path / "phones.ctm")]) == 2
    assert "speechocean762" in capsys.readouterr().err
    assert not (tmp_path / "phones.ctm").exists()
