"""N-gram models: Kneser-Ney by hand and by a slow, plain computation; ARPA files both ways; KenLM as a witness."""

from __future__ import annotations

import gzip
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.arpa import read_arpa, write_arpa
from audio_ssl.inference.decoding.kernel import score_words
from audio_ssl.inference.decoding.kneser_ney import Estimate, estimate
from audio_ssl.inference.decoding.ngrams import NgramModel
from tests.unit.inference.test_beam import BIGRAMS, ln_lm

LN_10 = math.log(10)


def probabilities(found: Estimate, order: int) -> dict[str, float]:
    section = found.sections[order - 1]
    names = [" ".join(found.words[i] for i in words) for words in section.words]
    return {name: math.exp(log_prob) for name, log_prob in zip(names, section.log_prob, strict=True)}


def babble(seed: int, num_sentences: int = 200) -> list[str]:
    """Sentences of words by Zipf's law, so that counts of counts are all there."""
    draw = random.Random(seed)
    words, weights = [f"w{i}" for i in range(120)], [1 / (i + 1) for i in range(120)]
    return [" ".join(draw.choices(words, weights, k=draw.randint(1, 7))) for _ in range(num_sentences)]


def test_two_sentences_by_hand() -> None:
    # Left neighbours: a 1 (<s>), b 1, c 1, </s> 2; of 5. Too few counts of counts: discounts 0.5, 1, 1.5.
    # Unigrams: 0.5/5, and for </s> (2-1)/5; held back (3*0.5 + 1)/5 = 0.5, a fifth of it each (with <unk>).
    found = estimate(["a b", "a  c", ""], order=2)
    assert (found.num_sentences, found.num_words, found.guessed) == (2, 4, (1, 2))
    unigrams = probabilities(found, 1)
    unigrams.pop("<s>")
    assert unigrams == pytest.approx({"<unk>": 0.1, "</s>": 0.3, "a": 0.2, "b": 0.2, "c": 0.2})
    # <s> a: (2-1)/2 + 1/2 * 0.2; a b: (1-0.5)/2 + (2*0.5)/2 * 0.2; b </s>: (1-0.5)/1 + 0.5 * 0.3
    assert probabilities(found, 2) == pytest.approx(
        {"<s> a": 0.6, "a b": 0.35, "a c": 0.35, "b </s>": 0.65, "c </s>": 0.65}
    )
    backoff = dict(zip(found.words, found.sections[0].backoff, strict=True))
    assert {w: math.exp(b) for w, b in backoff.items()} == pytest.approx(
        {"<unk>": 1, "<s>": 0.5, "</s>": 1, "a": 0.5, "b": 0.5, "c": 0.5}
    )


class PlainKneserNey:
    """The paper's recursion, gram by gram, without any shortcut."""

    def __init__(self, texts: Sequence[str], order: int) -> None:
        self.order = order
        raw: list[Counter] = [Counter() for _ in range(order + 1)]
        for text in texts:
            words = ["<s>", *text.split(), "</s>"]
            for n in range(1, order + 1):
                raw[n].update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        self.words = {w for (w,) in raw[1] if w != "<s>"} | {"<unk>"}
        self.counts: list[dict] = [{} for _ in range(order + 1)]
        self.counts[order] = dict(raw[order])
        for n in range(1, order):
            left = defaultdict(set)
            for gram in raw[n + 1]:
                left[gram[1:]].add(gram[0])
            self.counts[n] = {g: raw[n][g] if g[0] == "<s>" else len(left[g]) for g in raw[n]}
        self.counts[1].pop(("<s>",), None)
        self.discount = []
        for n in range(1, order + 1):
            t = Counter(self.counts[n].values())
            y = t[1] / (t[1] + 2 * t[2])
            self.discount.append([0, 1 - 2 * y * t[2] / t[1], 2 - 3 * y * t[3] / t[2], 3 - 4 * y * t[4] / t[3]])

    def prob(self, word: str, context: tuple[str, ...]) -> float:
        n = len(context) + 1
        lower = self.prob(word, context[1:]) if context else 1 / len(self.words)
        here = {g: c for g, c in self.counts[n].items() if g[:-1] == context}
        if not here:
            return lower
        taken = {g: self.discount[n - 1][min(c, 3)] for g, c in here.items()}
        gram = (*context, word)
        return (here.get(gram, 0) - taken.get(gram, 0) + sum(taken.values()) * lower) / sum(here.values())


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_papers_recursion_gives_the_same(order: int) -> None:
    texts = babble(order)
    found, plain = estimate(texts, order=order), PlainKneserNey(texts, order)
    assert found.guessed == ()
    assert found.discounts[-1] == pytest.approx(plain.discount[-1][1:])
    for n in range(1, order + 1):
        got = probabilities(found, n)
        got.pop("<s>", None)
        assert got == pytest.approx({gram: plain.prob(gram.split()[-1], tuple(gram.split()[:-1])) for gram in got})


def test_what_follows_any_context_adds_up_to_one() -> None:
    found = estimate(babble(7), order=3)
    model = NgramModel(found.words, found.sections)
    predicted = [number for number, word in enumerate(found.words) if word != "<s>"]

    def prefix(words: Sequence[int]) -> float:
        return score_words(model.tables, model.start, np.array(words, dtype=np.int32))

    for context in ("", "w0", "w3 w17", "w0 w0 w1", "nowhere", "w2 nowhere", "w0 w1 w0 w2"):
        before = [model.number(word) for word in context.split()]
        total = math.fsum(math.exp(prefix([*before, word]) - prefix(before)) for word in predicted)
        assert total == pytest.approx(1.0, abs=1e-9), context


def test_backing_off_is_katzs(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(BIGRAMS)
    model = read_arpa(tmp_path / "lm.arpa")
    for words in itertools.product(["a", "ab", "ca", "x"], repeat=3):
        assert model.score(words) == pytest.approx(ln_lm(words))


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_kenlm_reads_what_is_written_and_gives_the_same(tmp_path: Path, name: str) -> None:
    kenlm = pytest.importorskip("kenlm")
    found = estimate(babble(3), order=4)
    write_arpa(tmp_path / name, found.words, found.sections)
    theirs, ours = kenlm.Model(str(tmp_path / name)), read_arpa(tmp_path / name)
    made = NgramModel(found.words, found.sections)
    for text in [*babble(4, 60), "", "nowhere w0 w0 w0", "w3 nowhere nowhere w0 w1 w2 w0 w1"]:
        assert ours.score(text.split()) == pytest.approx(theirs.score(text) * LN_10, abs=1e-4)
        assert ours.score(text.split()) == pytest.approx(made.score(text.split()), abs=1e-5)


def test_other_tools_files_are_read(tmp_path: Path) -> None:
    """Spaces for tabs, CRLF, a back-off on one line and none on the next, no <unk>, a suffix that is no n-gram."""
    text = (
        BIGRAMS.replace("\t", " ").replace("-1.2 <unk>\n", "").replace("ngram 1=6", "ngram 1=5").replace("\n", "\r\n")
    )
    text = text.replace("ngram 2=5\r\n", "ngram 2=5\r\nngram 3=1\r\n")
    text = text.replace("\\end\\", "\\3-grams:\r\n-0.05 a a ab\r\n\r\n\\end\\")
    (tmp_path / "lm.arpa.gz").write_bytes(gzip.compress(text.encode()))
    model = read_arpa(tmp_path / "lm.arpa.gz")
    assert model.score(["ab", "ca"]) == pytest.approx(ln_lm(["ab", "ca"]))
    # <s> a | a after a | ab after a a (a trigram whose "a ab" is none) | </s> after ab: two back-offs
    assert model.score(["a", "a", "ab"]) == pytest.approx((-0.9 - 0.3 - 0.05 - 0.4 - 0.8) * LN_10)
    assert model.score(["x"]) == pytest.approx((-0.3 - 100 - 0.8) * LN_10)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("\\data\\", "data"), "must begin with"),
        (("ngram 2=5", "ngram 2=6"), r"must hold the 6 lines .* got 5"),
        (("-0.3\ta a", "-0.3\ta"), r"2-grams: a line must be .* got '-0.3\\ta'"),
        (("-0.3\ta a", "-0.3\ta z"), r"every word must be a unigram, 'z' is none"),
        (("-0.3\ta a", "-o.3\ta a"), "must be numbers"),
        (("-0.3\ta a", "-0.3\tab ca"), r"'ab ca': it is there twice"),
        (("\\end\\", ""), r"must have a section"),
    ],
)
def test_broken_files_are_refused_with_their_place(tmp_path: Path, change: tuple[str, str], named: str) -> None:
    (tmp_path / "lm.arpa").write_text(BIGRAMS.replace(*change))
    with pytest.raises(ConfigError, match=named):
        read_arpa(tmp_path / "lm.arpa")


@pytest.mark.parametrize(
    ("texts", "order", "named"),
    [([""], 3, "no word"), (["a"], 9, "from 1 to 8"), (["a", "b <s> c"], 2, r"text 2 must not hold <s>")],
)
def test_what_cannot_be_estimated_is_refused(texts: list[str], order: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        estimate(texts, order=order)
