"""Weights that are found: those that a noisy recogniser needs, on utterances small enough to know them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.decoding import DecodeSettings
from audio_ssl.inference.decoding.arpa import write_arpa
from audio_ssl.inference.decoding.kneser_ney import estimate
from audio_ssl.inference.decoding.tune import Errors, Tuner, Utterance, table

VOCABULARY = Vocabulary(("<pad>", "<unk>", "|", *"abcdeknorst"))
SENTENCES = ["a cat sat", "a rat sat", "no cat ate a rat", "a note sent a cat", "a rat ate", "no rat sat on a cat"]


def spoken(text: str, seed: int) -> np.ndarray:
    """Log-probabilities of a recogniser that gives half the mass to what was said, and much to something else."""
    draw, rows = np.random.default_rng(seed), []
    for label in VOCABULARY.encode(text):
        row = draw.dirichlet(np.full(len(VOCABULARY), 0.05)) * 0.5
        row[label] += 0.5
        blank = np.full(len(VOCABULARY), 0.01)
        blank[0] = 1
        rows += [row, blank / blank.sum()]
    return np.log(np.maximum(rows, 1e-6)).astype(np.float32)


def count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    """Word by word of the same place: enough to tell better from worse."""
    wrong = sum(
        sum(a != b for a, b in zip(r.split(), h.split(), strict=False)) + abs(len(r.split()) - len(h.split()))
        for r, h in zip(references, hypotheses, strict=True)
    )
    return Errors(wrong, wrong, sum(len(r.split()) for r in references), 1)


@pytest.fixture
def tuner(tmp_path: Path) -> Tuner:
    found = estimate(SENTENCES * 3, order=2)
    write_arpa(tmp_path / "lm.arpa", found.words, found.sections)
    utterances = [Utterance((spoken(text, seed),), text) for seed, text in enumerate(SENTENCES)]
    bad = DecodeSettings("beam", lm=tmp_path / "lm.arpa", lm_weight=0.0, word_score=-6.0, unknown_score=0.0)
    return Tuner(utterances, VOCABULARY, bad, count_errors=count_errors, workers=2)


def test_better_weights_are_found_and_the_same_seed_finds_them_again(tuner: Tuner) -> None:
    told = []
    trials = tuner.run(12, seed=3, on_trial=told.append)
    assert [trial.number for trial in told] == list(range(12))
    first = told[0]
    assert (first.settings.word_score, first.errors.words) == (-6.0, tuner.measure(first.settings).words)
    assert trials[0].errors.words < first.errors.words / 2
    assert [t.errors.words for t in trials] == sorted(t.errors.words for t in trials)
    assert trials == tuner.run(12, seed=3)
    assert trials != tuner.run(12, seed=4)
    assert tuner.measure(trials[0].settings) == trials[0].errors
    assert all(trial.settings.lm == first.settings.lm for trial in trials)
    rows = table(trials[:2], tuner.names)
    assert rows[0] == ["lm_weight", "word_score", "unknown_score", "spelling_weight", "WER", "CER"]
    assert len(rows) == 3


def test_what_there_is_nothing_to_weigh_for_is_left_alone() -> None:
    utterances = [Utterance((spoken("a cat", 1),), "a cat")]
    tuner = Tuner(utterances, VOCABULARY, DecodeSettings("beam"), count_errors=count_errors)
    assert tuner.names == ["word_score"]
    assert {trial.settings.lm_weight for trial in tuner.run(4, seed=1)} == {DecodeSettings().lm_weight}


def test_passages_of_an_utterance_are_one_text() -> None:
    log_probs = np.concatenate([spoken("cat", 1), np.log(np.full((40, len(VOCABULARY)), 1e-6))])
    log_probs[len(spoken("cat", 1)) :, 2] = 0.0
    log_probs = np.concatenate([log_probs, spoken("rat", 3)]).astype(np.float32)
    counted = []
    for passages in ((log_probs,), (log_probs[:26], log_probs[26:])):
        utterances = [Utterance(passages, "cat rat"), Utterance((spoken("a cat", 1),), "a cat")]
        tuner = Tuner(utterances, VOCABULARY, DecodeSettings("beam"), count_errors=count_errors)
        counted.append(tuner.measure(DecodeSettings("beam")))
    assert counted[0] == counted[1]
