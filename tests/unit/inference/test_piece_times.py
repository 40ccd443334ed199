"""Times and cuts of a recogniser of pieces, which has no separator between words."""

from __future__ import annotations

import numpy as np
import pytest

from audio_ssl.config import ModelConfig, TextRules, VocabularyConfig
from audio_ssl.data.text import Vocabulary
from audio_ssl.data.vocabulary import build_vocabulary
from audio_ssl.inference.align import FrameClock, align

TEXTS = ["hello world", "the cat sat on the mat", "the dog ate the cat", "worlds apart"] * 9


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    return build_vocabulary(TEXTS, TextRules(), VocabularyConfig(units="pieces", num_pieces=22))


def sure(vocabulary: Vocabulary, frames: list[int]) -> np.ndarray:
    """(T, A) log-probabilities that give each frame its symbol."""
    log_probs = np.full((len(frames), len(vocabulary)), -20.0, dtype=np.float32)
    log_probs[np.arange(len(frames)), frames] = 0.0
    return log_probs


def test_words_start_with_their_pieces_and_pauses_belong_to_none(vocabulary):
    the, cat = vocabulary.spell("the"), vocabulary.spell("cat")
    frames = [0, *the, 0, 0, 0, *cat, cat[-1], 0]
    clock = FrameClock(ModelConfig().geometry, 16_000)
    found = align("u", "The CAT", sure(vocabulary, frames), vocabulary=vocabulary, clock=clock, duration_s=1.0)
    first, second = 1, 1 + len(the) + 3  # frames where the words start; a frame is 20 ms, the first starts at 2.5 ms
    expected = [
        ("the", 0.0025 + 0.02 * first, 0.0025 + 0.02 * (first + len(the))),
        ("cat", 0.0025 + 0.02 * second, 0.0025 + 0.02 * (second + len(cat) + 1)),
    ]
    assert [(w.text, w.start_s, w.end_s) for w in found.words] == [
        (word, pytest.approx(start), pytest.approx(end)) for word, start, end in expected
    ]
    assert found.confidence == pytest.approx(1.0)
