"""Our search beside flashlight-text's: the same hypotheses with the same scores, wherever both do what is asked.

Both must agree where nothing is pruned (beams hold all that there is, no threshold), words come from a lexicon and
symbols have a separator. flashlight then adds probabilities (``log_add``) of all alignments that have come to the same
words and the same place in the lexicon, and its closing separator makes one of those that end with and without a
separator: this is our sum. Texts of scores closer than ``TOLERANCE`` may stand in either order: KenLM keeps float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.decoding import DecodeSettings, Hypothesis, build_decoder
from audio_ssl.inference.decoding.arpa import write_arpa
from audio_ssl.inference.decoding.kneser_ney import estimate
from tests.unit.inference.test_beam import every_text

pytest.importorskip("flashlight.lib.text.decoder", reason="flashlight-text is not installed")
pytest.importorskip("kenlm", reason="kenlm is not installed: flashlight reads language models through it")

TOLERANCE = 2e-4
UNPRUNED = {"beam_size": 20_000, "beam_threshold": 1e6, "token_threshold": -1e6}
LETTERS = "abcd"


class Case:
    """A lexicon, a language model that lacks one of its words, weights and a lattice, all drawn from a seed."""

    def __init__(self, place: Path, seed: int, *, frames: int) -> None:
        draw = np.random.default_rng(seed)
        letters = LETTERS[: int(draw.integers(2, len(LETTERS) + 1))]
        self.vocabulary = Vocabulary(("<pad>", "<unk>", "|", *letters))
        self.words = sorted({"".join(draw.choice(list(letters), size=draw.integers(1, 4))) for _ in range(7)})
        order = int(draw.integers(2, 4))  # KenLM reads none below 2
        texts = [" ".join(draw.choice(self.words[1:], size=draw.integers(1, 6))) for _ in range(40)]
        model = estimate(texts, order=order)
        write_arpa(place / "lm.arpa", model.words, model.sections)
        (place / "words.txt").write_text("".join(f"{word}\n" for word in self.words))
        shares = draw.dirichlet(np.full(len(self.vocabulary), 0.7), size=frames)
        self.log_probs = np.log(np.maximum(shares, 1e-6)).astype(np.float32)
        self.settings = {
            "lexicon": place / "words.txt",
            "lm": place / "lm.arpa",
            "lm_weight": float(draw.uniform(0.2, 2)),
            "word_score": float(draw.uniform(-2, 2)),
        }

    def nbest(self, engine: str, n: int, **others: float) -> list[Hypothesis]:
        settings = DecodeSettings("beam", engine=engine, **{**self.settings, **UNPRUNED, **others})  # type: ignore[arg-type]
        return build_decoder(self.vocabulary, settings).nbest(self.log_probs, n)

    def kenlm_score(self, words: Sequence[str]) -> float:
        """What is added to ln P(words | audio); -inf for words that the lexicon forbids."""
        import kenlm

        if not set(self.words).issuperset(words):
            return -math.inf
        log10 = kenlm.Model(str(self.settings["lm"])).score(" ".join(words), bos=True, eos=True)
        return self.settings["lm_weight"] * log10 * math.log(10) + self.settings["word_score"] * len(words)


def assert_alike(ours: Sequence[Hypothesis], theirs: Sequence[Hypothesis]) -> None:
    assert [h.score for h in ours] == pytest.approx([h.score for h in theirs], abs=TOLERANCE)
    by_text = {h.text: h.score for h in theirs}
    assert {h.text: h.score for h in ours} == pytest.approx(by_text, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(30))
def test_both_searches_find_the_same_texts_with_the_same_scores(seed: int, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, frames=7)
    ours, theirs = case.nbest("own", 5000), case.nbest("flashlight", 5000)
    assert len(ours) > 15  # so that there is something to compare
    assert_alike(ours, theirs)
    if ours[0].score - ours[1].score > TOLERANCE:
        assert case.nbest("own", 1)[0].text == case.nbest("flashlight", 1)[0].text


@pytest.mark.parametrize("seed", range(30, 38))
def test_both_searches_add_up_all_paths(seed: int, tmp_path: Path) -> None:
    case = Case(tmp_path, seed, frames=4)
    summed = every_text(case.log_probs, case.kenlm_score, case.vocabulary)
    expected = [Hypothesis(text, score) for text, score in sorted(summed.items(), key=lambda item: -item[1])]
    assert len(expected) > 4
    for engine in ("own", "flashlight"):
        assert_alike(case.nbest(engine, 5000), expected)
