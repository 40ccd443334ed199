"""Our beam search against every path of small lattices, added up text by text, with scores from plain Python."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.config.text import TextRules
from audio_ssl.data.text import Vocabulary, collapse
from audio_ssl.inference.decoding import DecodeSettings, HotWord, Hypothesis, build_decoder, decode_all, language_model
from audio_ssl.inference.decoding.beam import BeamDecoder
from audio_ssl.inference.decoding.kernel import find_least
from audio_ssl.inference.decoding.kneser_ney import estimate
from audio_ssl.inference.decoding.letters import MOST_SYMBOLS, learn_letters

VOCABULARY = Vocabulary(("<pad>", "<unk>", "|", "a", "b", "c"))
EVERYTHING = {"beam_size": 4000, "beam_threshold": 1e9, "token_threshold": -1e9}
SEEDS = range(8)
BIGRAMS = """\\data\\
ngram 1=6
ngram 2=5

\\1-grams:
-1.2\t<unk>
-99\t<s>\t-0.3
-0.8\t</s>
-0.5\ta\t-0.2
-0.9\tab\t-0.4
-0.7\tca

\\2-grams:
-0.2\t<s> ab
-0.9\t<s> a
-0.3\ta a
-0.6\tab ca
-0.1\tca </s>

\\end\\
"""
UNIGRAM = {"<unk>": -1.2, "</s>": -0.8, "a": -0.5, "ab": -0.9, "ca": -0.7}
BIGRAM = {("<s>", "ab"): -0.2, ("<s>", "a"): -0.9, ("a", "a"): -0.3, ("ab", "ca"): -0.6, ("ca", "</s>"): -0.1}
BACKOFF = {"<s>": -0.3, "a": -0.2, "ab": -0.4}
Score = Callable[[Sequence[str]], float]


def lattice(seed: int, *, frames: int = 4, symbols: int = len(VOCABULARY)) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.full(symbols, 0.5), size=frames)).astype(np.float32)


def every_text(log_probs: np.ndarray, score: Score, vocabulary: Vocabulary = VOCABULARY) -> dict[str, float]:
    """ln of the summed probability of all paths of a text, plus the score of its words; -inf forbids a text."""
    found: dict[str, list[float]] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        text = vocabulary.decode_ids(collapse(path))
        found.setdefault(text, []).append(sum(float(row[i]) for row, i in zip(log_probs, path, strict=True)))
    summed = {text: math.log(math.fsum(map(math.exp, scores))) + score(text.split()) for text, scores in found.items()}
    return {text: value for text, value in summed.items() if value > -math.inf}


def assert_equal(hypotheses: Sequence[Hypothesis], expected: dict[str, float]) -> None:
    assert {h.text for h in hypotheses} == set(expected)
    assert [h.score for h in hypotheses] == pytest.approx([expected[h.text] for h in hypotheses], abs=1e-4)
    assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


def ln_lm(words: Sequence[str]) -> float:
    """Katz back-off by hand: a bigram where there is one, else the weight of its context and the unigram."""
    total, before = 0.0, "<s>"
    for word in [*words, "</s>"]:
        known = word if word in UNIGRAM else "<unk>"
        total += BIGRAM.get((before, known), BACKOFF.get(before, 0.0) + UNIGRAM[known])
        before = known
    return total * math.log(10)


@pytest.fixture
def lm(tmp_path: Path) -> Path:
    (tmp_path / "lm.arpa").write_text(BIGRAMS)
    return tmp_path / "lm.arpa"


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("a\nab\nca\nbb\n")
    return tmp_path / "words.txt"


@pytest.mark.parametrize("seed", SEEDS)
def test_open_search_adds_up_all_paths_of_each_text(seed: int) -> None:
    decoder = build_decoder(VOCABULARY, DecodeSettings("beam", word_score=0.7, **EVERYTHING))
    assert_equal(decoder.nbest(lattice(seed), 5000), every_text(lattice(seed), lambda words: 0.7 * len(words)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_language_model_scores_words_known_and_unknown(seed: int, lm: Path) -> None:
    settings = DecodeSettings(
        "beam", lm=lm, lm_weight=1.3, word_score=0.4, unknown_score=-2.0, spelling_weight=0.0, **EVERYTHING
    )

    def score(words: Sequence[str]) -> float:
        return 1.3 * ln_lm(words) + sum(0.4 - 2.0 * (word not in ("a", "ab", "ca")) for word in words)

    assert_equal(build_decoder(VOCABULARY, settings).nbest(lattice(seed), 5000), every_text(lattice(seed), score))


def letter_by_letter(words: Sequence[str]) -> Callable[[str, int], float]:
    """ln P of letter i of a word after the two before it, by Katz back-off over the estimate's own n-grams."""
    found = estimate((" ".join(word) for word in words), order=3)
    grams = {
        tuple(found.words[i] for i in row): (float(log_prob), float(back_off))
        for section in found.sections
        for row, log_prob, back_off in zip(section.words, section.log_prob, section.backoff, strict=True)
    }

    def log_prob(context: tuple[str, ...], letter: str) -> float:
        if (*context, letter) in grams:
            return grams[*context, letter][0]
        return grams.get(context, (0.0, 0.0))[1] + log_prob(context[1:], letter) if context else grams["<unk>",][0]

    return lambda word, i: log_prob(("<s>", *word)[max(i - 1, 0) : i + 1], word[i])


@pytest.mark.parametrize("seed", range(4))
def test_unknown_words_cost_what_their_spelling_is_worth(seed: int, lm: Path) -> None:
    settings = DecodeSettings("beam", lm=lm, unknown_score=-2.0, spelling_weight=0.6, **EVERYTHING)
    words = ("a", "ab", "ca")
    of_letter = letter_by_letter(words)

    def strange(word: str) -> float:
        shared = max(n for n in range(len(word) + 1) if any(w.startswith(word[:n]) for w in words))
        return sum(of_letter(word, i) for i in range(shared, len(word)))

    def score(text: Sequence[str]) -> float:
        return ln_lm(text) + sum(0.6 * strange(w) - 2.0 * (w not in words) for w in text)

    log_probs = lattice(seed, frames=5)
    log_probs[:, 1] = -30  # nothing is written as <unk>, which has no letters
    expected = every_text(log_probs, score)
    got = build_decoder(VOCABULARY, settings).nbest(log_probs, 5000)
    assert_equal(got[:300], {h.text: expected[h.text] for h in got[:300]})
    assert got[0].text == max(expected, key=expected.__getitem__)


def test_letters_that_know_nothing_are_all_alike() -> None:
    np.testing.assert_allclose(learn_letters([], 5, starts=(0,)), np.full((1, 5), -math.log(5)), rtol=1e-6)
    assert len(learn_letters([[3, 4]], MOST_SYMBOLS + 1, starts=(0, 2))) == 1


def test_letters_are_probabilities() -> None:
    table = np.exp(learn_letters([[3, 4, 5], [3, 4], [5, 5, 3]], 6, starts=(0, 2)).astype(np.float64))
    assert table.shape == (36, 6)
    np.testing.assert_array_equal(table[0 * 6 + 0], table[4 * 6 + 2])  # the start of a word, whatever was before it
    np.testing.assert_array_equal(table[0 * 6 + 3], table[2 * 6 + 3])
    assert (table[:, 3:].sum(1) < 1).all()  # the end of a word has its share
    assert table[0, 3] > table[0, 5] > table[0, 4]  # two words begin with 3, one with 5, none with 4


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lexicon_forbids_other_words(
    seed: int, lm: Path, lexicon: Path, is_binary: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with KenLM's library behind the search, which no file of its own can be made for here."""
    monkeypatch.setattr(language_model, "is_binary", lambda _: is_binary)
    settings = DecodeSettings("beam", lexicon=lexicon, lm=lm, lm_weight=0.8, word_score=-0.3, **EVERYTHING)

    def score(words: Sequence[str]) -> float:
        allowed = {"a", "ab", "ca", "bb"}.issuperset(words)
        return 0.8 * ln_lm(words) - 0.3 * len(words) if allowed else -math.inf

    decoder = build_decoder(VOCABULARY, settings)
    for _ in range(2):  # answers of the first time are kept
        assert_equal(decoder.nbest(lattice(seed), 5000), every_text(lattice(seed), score))


@pytest.mark.parametrize("seed", SEEDS)
def test_hot_phrases_are_boosted_whole_or_not_at_all(seed: int) -> None:
    hot = (HotWord("a b", 2.0), HotWord("b", 0.5), HotWord("b a b", 0.25), HotWord("C", 3.0), HotWord("ac", -4.0))
    decoder = build_decoder(VOCABULARY, DecodeSettings("beam", hot_words=hot, **EVERYTHING))

    def score(words: Sequence[str]) -> float:
        text = f" {' '.join(words)} "
        found = {phrase: sum(text.startswith(f" {phrase} ", i) for i in range(len(text))) for phrase in
                 ("a b", "b", "b a b", "c", "ac")}  # fmt: skip
        return 4.0 * found["a b"] + 0.5 * found["b"] + 0.75 * found["b a b"] + 3 * found["c"] - 4 * found["ac"]

    long = lattice(seed, frames=5)
    long[:, 1] = -30  # an <unk> less, a frame more
    expected = every_text(long, score, VOCABULARY)
    got = decoder.nbest(long, 5000)
    assert_equal(got[:200], {h.text: expected[h.text] for h in got[:200]})
    assert got[0].text == max(expected, key=expected.__getitem__)


def test_words_that_sound_alike_are_told_apart_by_the_language_model(tmp_path: Path, lm: Path) -> None:
    (tmp_path / "words.txt").write_text("ca\tb\nab\tb\nbb\tb b\n")
    settings = DecodeSettings("beam", lexicon=tmp_path / "words.txt", lm=lm, **EVERYTHING)
    sure = np.full((5, 6), -20.0, dtype=np.float32)
    for row, token in zip(sure, (4, 2, 4, 0, 0), strict=True):
        row[token] = 0.0
    best, *others = build_decoder(VOCABULARY, settings).nbest(sure, 4)
    assert best == Hypothesis("ab ca", pytest.approx(ln_lm(["ab", "ca"]), abs=1e-4))
    assert {h.text for h in others} == {"ab ab", "ca ca", "ca ab"}


def test_a_text_that_stops_inside_a_word_loses_that_word(lexicon: Path) -> None:
    sure = np.full((3, 6), -40.0, dtype=np.float32)
    for row, token in zip(sure, (3, 2, 5), strict=True):  # "a c", and no word is c
        row[token] = 0.0
    sure[:, [0, 1, 4]] = -np.inf
    narrow = DecodeSettings("beam", lexicon=lexicon, beam_threshold=10)
    assert build_decoder(VOCABULARY, narrow)(sure) == "a"


@pytest.mark.parametrize("workers", [1, 3])
def test_many_utterances_come_in_order_and_are_asked_for_as_they_are_needed(workers: int) -> None:
    asked = []

    def items():
        for seed in range(40):
            asked.append(seed)
            yield f"utterance {seed}", lattice(seed, frames=9)

    settings = DecodeSettings("beam")
    expected = [(f"utterance {s}", build_decoder(VOCABULARY, settings)(lattice(s, frames=9))) for s in range(40)]
    results = decode_all(items(), VOCABULARY, settings, workers=workers)
    first = next(results)
    assert len(asked) <= 4 * workers
    assert [first, *results] == expected


@pytest.mark.parametrize("has_lexicon", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_words_are_known_however_pieces_cut_them(seed: int, lm: Path, lexicon: Path, has_lexicon: bool) -> None:
    pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    from audio_ssl.data.pieces import PieceVocabulary, train_pieces

    rules = TextRules()
    model = train_pieces(["a ab ca", "abca ab a", "bb caab ab"] * 5, rules=rules, num_pieces=9, kind="unigram")
    vocabulary = PieceVocabulary.of_model(model, rules=rules, source="here")
    assert vocabulary.separator is None
    assert len({vocabulary.decode_ids([i]) for i in range(9)} & {"ab", "ca", "a", "b"}) > 2  # pieces, not letters alone
    settings = DecodeSettings(
        "beam", lm=lm, lexicon=lexicon if has_lexicon else None, hot_words=(HotWord("ab ca", 1.5),), lm_weight=0.7,
        word_score=0.4, unknown_score=-2.0, spelling_weight=0.0, **EVERYTHING,
    )  # fmt: skip

    def score(words: Sequence[str]) -> float:
        if has_lexicon and not {"a", "ab", "ca", "bb"}.issuperset(words):
            return -math.inf
        unknown = 0 if has_lexicon else sum(word not in ("a", "ab", "ca") for word in words)
        boost = 3.0 * sum(pair == ("ab", "ca") for pair in itertools.pairwise(words))
        return 0.7 * ln_lm(words) + 0.4 * len(words) - 2.0 * unknown + boost

    log_probs = lattice(seed, symbols=len(vocabulary))
    assert_equal(build_decoder(vocabulary, settings).nbest(log_probs, 9000), every_text(log_probs, score, vocabulary))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_left_early_would_not_have_been_kept(seed: int, lm: Path) -> None:
    """Labels are given up once the next could not reach the worst of the beam; without that, the beam is the same."""
    hot = (HotWord("ca ab", 1.5), HotWord("bac", 4.0))
    settings = DecodeSettings("beam", lm=lm, hot_words=hot, word_score=0.8, beam_size=3 + seed, beam_threshold=9.0)
    log_probs = lattice(seed, frames=40)
    decoder, patient = BeamDecoder(VOCABULARY, settings), BeamDecoder(VOCABULARY, settings)
    plan = patient._plan
    patient._plan = replace(plan, weights=plan.weights._replace(best_start=1e9, best_end=1e9))
    assert decoder.nbest(log_probs, 20) == patient.nbest(log_probs, 20)
    exact = BeamDecoder(VOCABULARY, replace(settings, beam_size=600, beam_threshold=60.0)).nbest(log_probs, 1)[0]
    assert exact.score >= decoder.nbest(log_probs, 1)[0].score - 1e-9


@pytest.mark.parametrize("size", [1, 2, 7, 60])
def test_the_least_of_the_best_is_that_of_a_sorted_list(size: int) -> None:
    draw = np.random.default_rng(size)
    for values in (draw.normal(size=size), draw.integers(0, 4, size).astype(float), np.full(size, -np.inf)):
        for room in range(1, size + 1):
            expected = sorted(values, reverse=True)[room - 1]
            assert find_least.py_func(values.copy(), size, room) == expected  # type: ignore[attr-defined]


def test_a_narrow_beam_keeps_the_best_and_no_more() -> None:
    # after one frame: a 0.5, b 0.3, blank 0.2; the second frame is worth most after b, which a beam of one has lost
    rows = [{3: 0.5, 4: 0.3, 0: 0.2}, {0: 0.9, 5: 0.1}]
    log_probs = np.full((2, 6), -60.0, dtype=np.float32)
    for row, given in zip(log_probs, rows, strict=True):
        for token, share in given.items():
            row[token] = math.log(share)
    found = build_decoder(VOCABULARY, DecodeSettings("beam", beam_size=2)).nbest(log_probs, 9)
    assert [h.text for h in found] == ["a", "b"]
    assert [math.exp(h.score) for h in found] == pytest.approx([0.45, 0.27])
    assert [h.text for h in build_decoder(VOCABULARY, DecodeSettings("beam", beam_size=1)).nbest(log_probs, 9)] == ["a"]
