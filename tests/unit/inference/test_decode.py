"""Greedy collapse, and the beam search with a lexicon and a language model on cases small enough to check by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ConfigError, MissingExtraError
from audio_ssl.inference.decoding import Decoder, DecodeSettings, GreedyDecoder, HotWord, build_decoder
from audio_ssl.inference.decoding.spelling import Entry, read_lexicon
from tests.unit.inference.conftest import SYMBOLS

VOCABULARY = Vocabulary(SYMBOLS)
BLANK, UNK, SPACE, A, B, C, T = range(7)


def emission(*frames: dict[int, float]) -> np.ndarray:
    """(T, A) log-probabilities: what each frame gives its likely symbols, the rest shared by the others."""
    rows = np.empty((len(frames), len(SYMBOLS)), dtype=np.float32)
    for row, given in zip(rows, frames, strict=True):
        rest = (1 - sum(given.values())) / (len(SYMBOLS) - len(given))
        row[:] = rest
        for symbol, share in given.items():
            row[symbol] = share
    return np.log(rows)


def sure(*symbols: int) -> np.ndarray:
    return emission(*({symbol: 0.94} for symbol in symbols))


def test_greedy_joins_runs_and_drops_blanks() -> None:
    log_probs = sure(SPACE, C, C, BLANK, A, T, BLANK, T, SPACE, SPACE, B, UNK, SPACE)
    assert GreedyDecoder(VOCABULARY)(log_probs) == "catt b⁇"
    assert GreedyDecoder(VOCABULARY)(sure(BLANK, BLANK)) == ""


MISSPELT = emission({C: 0.9}, {B: 0.6, A: 0.3}, {T: 0.9}, {SPACE: 0.9}, {A: 0.9})
ENGINES = pytest.mark.parametrize("engine", ["own", "flashlight"])


def beam(engine: str, **settings: Any) -> Decoder:
    return build_decoder(VOCABULARY, DecodeSettings("beam", engine=engine, **settings))


@ENGINES
def test_a_lexicon_mends_a_misspelt_word(tmp_path: Path, engine: str) -> None:
    # greedily c-b-t; the only word of the lexicon that begins with c is cat, whose a has 0.3
    (tmp_path / "words.txt").write_text("bat\nCat\na\n")
    assert GreedyDecoder(VOCABULARY)(MISSPELT) == "cbt a"
    assert beam(engine, lexicon=tmp_path / "words.txt")(MISSPELT) == "cat a"


@ENGINES
def test_without_a_lexicon_the_beam_spells_freely(engine: str) -> None:
    assert beam(engine)(MISSPELT) == "cbt a"


@ENGINES
def test_a_language_model_turns_the_scale(tmp_path: Path, engine: str) -> None:
    # The sound prefers "bat" (0.5 to 0.4); the model prefers "cat" by a factor of 1000.
    (tmp_path / "words.txt").write_text("bat\ncat\n")
    (tmp_path / "lm.arpa").write_text(
        "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-9\t<unk>\n-9\t<s>\t0\n-1\t</s>\n-4\tbat\t0\n-1\tcat\t0\n\n"
        "\\2-grams:\n-1\tcat </s>\n\n\\end\\\n"
    )
    log_probs = emission({B: 0.5, C: 0.4}, {A: 0.9}, {T: 0.9})
    alone = beam(engine, lexicon=tmp_path / "words.txt")
    guided = beam(engine, lexicon=tmp_path / "words.txt", lm=tmp_path / "lm.arpa", lm_weight=0.5)
    assert (alone(log_probs), guided(log_probs)) == ("bat", "cat")


@ENGINES
def test_a_lexicon_may_spell_by_symbols(tmp_path: Path, engine: str) -> None:
    (tmp_path / "words.txt").write_text("cat\tc a t\ncat\tc b t |\n\nbat\n")
    assert read_lexicon(tmp_path / "words.txt", VOCABULARY) == [
        Entry("cat", ("c", "a", "t")),
        Entry("cat", ("c", "b", "t")),
        Entry("bat", ("b", "a", "t")),
    ]
    assert beam(engine, lexicon=tmp_path / "words.txt")(MISSPELT).split()[0] == "cat"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cat\ndog\n", r"2: 'dog' cannot be spelled \(d o g\)"),
        ("", "no word"),
        ("a cat\n", "1: 'a cat'"),
        ("a\tb q", "q"),
    ],
)
def test_words_that_cannot_be_spelled_are_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_lexicon(tmp_path / "words.txt", VOCABULARY)


@ENGINES
def test_files_that_are_missing_are_named(tmp_path: Path, engine: str) -> None:
    with pytest.raises(ConfigError, match="--lexicon must be"):
        beam(engine, lexicon=tmp_path / "none.txt")
    (tmp_path / "words.txt").write_text("cat\n")
    with pytest.raises(ConfigError, match="there is no"):
        beam(engine, lexicon=tmp_path / "words.txt", lm=tmp_path / "lm.arpa")


@ENGINES
def test_a_language_model_that_is_none_is_refused(tmp_path: Path, engine: str) -> None:
    (tmp_path / "words.txt").write_text("cat\n")
    (tmp_path / "lm.arpa").write_text("no model\n")
    with pytest.raises(ConfigError, match=r"these files|must be an ARPA file"):
        beam(engine, lexicon=tmp_path / "words.txt", lm=tmp_path / "lm.arpa")


def test_flashlight_says_what_it_cannot(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").touch()
    with pytest.raises(ConfigError, match="knows no hot words and scores words of a lexicon alone"):
        beam("flashlight", lm=tmp_path / "lm.arpa", hot_words=(HotWord("cat"),))


def test_without_flashlight_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchaudio.models.decoder as home

    monkeypatch.delitem(vars(home), "ctc_decoder", raising=False)
    monkeypatch.delitem(sys.modules, "torchaudio.models.decoder._ctc_decoder", raising=False)
    monkeypatch.delattr(home, "_ctc_decoder", raising=False)
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'audio_ssl\[lm\]'"):
        beam("flashlight")
