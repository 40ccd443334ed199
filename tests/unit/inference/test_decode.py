"""Greedy collapse, and the beam search with a lexicon and a language model on cases small enough to check by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ConfigError, MissingExtraError
from audio_ssl.inference.decoding import DecodeSettings, GreedyDecoder, passages
from audio_ssl.inference.decoding.flashlight import FlashlightDecoder, read_lexicon
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


def test_a_lexicon_mends_a_misspelt_word(tmp_path: Path) -> None:
    # greedily c-b-t; the only word of the lexicon that begins with c is cat, whose a has 0.3
    (tmp_path / "words.txt").write_text("bat\nCat\na\n")
    assert GreedyDecoder(VOCABULARY)(MISSPELT) == "cbt a"
    assert FlashlightDecoder(VOCABULARY, DecodeSettings("beam", tmp_path / "words.txt"))(MISSPELT) == "cat a"


def test_without_a_lexicon_the_beam_spells_freely() -> None:
    assert FlashlightDecoder(VOCABULARY, DecodeSettings("beam"))(MISSPELT) == "cbt a"


def test_a_language_model_turns_the_scale(tmp_path: Path) -> None:
    # The sound prefers "bat" (0.5 to 0.4); the model prefers "cat" by a factor of 1000.
    (tmp_path / "words.txt").write_text("bat\ncat\n")
    (tmp_path / "lm.arpa").write_text(
        "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-9\t<unk>\n-9\t<s>\t0\n-1\t</s>\n-4\tbat\t0\n-1\tcat\t0\n\n"
        "\\2-grams:\n-1\tcat </s>\n\n\\end\\\n"
    )
    log_probs = emission({B: 0.5, C: 0.4}, {A: 0.9}, {T: 0.9})
    alone = FlashlightDecoder(VOCABULARY, DecodeSettings("beam", tmp_path / "words.txt"))
    guided = FlashlightDecoder(
        VOCABULARY, DecodeSettings("beam", tmp_path / "words.txt", tmp_path / "lm.arpa", lm_weight=1.0)
    )
    assert (alone(log_probs), guided(log_probs)) == ("bat", "cat")


def test_a_lexicon_may_spell_by_symbols(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\tc a t\ncat\tc b t |\n\nbat\n")
    assert read_lexicon(tmp_path / "words.txt", VOCABULARY) == [
        ("cat", ("c", "a", "t", "|")),
        ("cat", ("c", "b", "t", "|")),
        ("bat", ("b", "a", "t", "|")),
    ]
    assert FlashlightDecoder(VOCABULARY, DecodeSettings("beam", tmp_path / "words.txt"))(MISSPELT).split()[0] == "cat"


@pytest.mark.parametrize(("text", "named"), [("cat\ndog\n", "2: 'dog'"), ("", "no word"), ("a cat\n", "1: 'a cat'")])
def test_words_that_cannot_be_spelled_are_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_lexicon(tmp_path / "words.txt", VOCABULARY)


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--lexicon must be"):
        FlashlightDecoder(VOCABULARY, DecodeSettings("beam", tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match="--lm must come with --lexicon"):
        FlashlightDecoder(VOCABULARY, DecodeSettings("beam", lm=tmp_path / "lm.arpa"))
    (tmp_path / "words.txt").write_text("cat\n")
    with pytest.raises(ConfigError, match="there is no"):
        FlashlightDecoder(VOCABULARY, DecodeSettings("beam", tmp_path / "words.txt", tmp_path / "lm.arpa"))


def test_a_language_model_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\n")
    (tmp_path / "lm.arpa").write_text("no model\n")
    with pytest.raises(ConfigError, match="these files"):
        FlashlightDecoder(VOCABULARY, DecodeSettings("beam", tmp_path / "words.txt", tmp_path / "lm.arpa"))


def test_without_flashlight_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchaudio.models.decoder as home

    monkeypatch.delitem(vars(home), "ctc_decoder", raising=False)
    monkeypatch.delitem(sys.modules, "torchaudio.models.decoder._ctc_decoder", raising=False)
    monkeypatch.delattr(home, "_ctc_decoder", raising=False)
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'audio_ssl\[lm\]'"):
        FlashlightDecoder(VOCABULARY, DecodeSettings("beam"))


def test_long_utterances_are_cut_between_words() -> None:
    log_probs = sure(C, A, T, SPACE, A, B, B, SPACE, SPACE, T, A, B, C, A)
    ranges = passages(log_probs, VOCABULARY, max_frames=5)
    # from 0: frames 2 to 4, the separator is at 3; from 3: frames 5 to 7, at 7; from 7: 9 to 11, all alike: 9
    assert ranges == [slice(0, 3), slice(3, 7), slice(7, 9), slice(9, 14)]
    texts = [GreedyDecoder(VOCABULARY)(log_probs[part]) for part in ranges[:2]]
    assert texts == ["cat", "ab"]
    assert passages(log_probs, VOCABULARY) == [slice(0, 14)]
