"""Settings of a decoder: as a file with places relative to it, as options, and refused with every fault."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path

import pytest

from audio_ssl.cli.decoding import decode_settings
from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding import DecodeSettings, HotWord, read_settings, write_settings


def test_a_file_names_its_files_from_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lms").mkdir()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "lms")
    settings = DecodeSettings("beam", lm=Path("small.arpa"), lm_weight=0.5, hot_words=(HotWord("Ann Arbor", 2.5),))
    write_settings(tmp_path / "run" / "decoder.toml", settings, comment="made by hand\n\nfor a test")
    text = (tmp_path / "run" / "decoder.toml").read_text()
    assert text.startswith("# made by hand\n#\n# for a test\n")
    assert tomllib.loads(text) == {
        "name": "beam", "lm": "../lms/small.arpa", "lm_weight": 0.5, "hot_words": [{"text": "Ann Arbor", "boost": 2.5}]
    }  # fmt: skip
    (tmp_path / "run").rename(tmp_path / "run2")
    monkeypatch.chdir(tmp_path)
    got = read_settings(Path("run2/decoder.toml"))
    assert got.lm is not None
    assert got.lm.resolve() == tmp_path / "lms" / "small.arpa"
    assert (got.name, got.lm_weight, got.hot_words) == ("beam", 0.5, settings.hot_words)
    assert pickle.loads(pickle.dumps(got)) == got


def test_options_beside_a_file_win(tmp_path: Path) -> None:
    write_settings(tmp_path / "d.toml", DecodeSettings("beam", lm_weight=0.5, word_score=-1.0, beam_size=7))
    got = decode_settings(str(tmp_path / "d.toml"), lm_weight=0.0, lexicon=tmp_path / "words.txt")
    assert got == DecodeSettings("beam", tmp_path / "words.txt", lm_weight=0.0, word_score=-1.0, beam_size=7)
    assert decode_settings() == DecodeSettings()
    assert decode_settings("beam") == DecodeSettings("beam")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lm_wait = 1", "lm_wait is no setting"),
        ("lm_weight = '1'\nbeam_size = 2.5", r"lm_weight: must be a number.*; beam_size: must be a whole number"),
        ("lm_weight = -1.0\nbeam_size = 0", r"lm_weight must be >= 0, got -1.0; beam_size must be >= 1"),
        ("engine = 'magic'", "must be own or flashlight"),
        ("lm = 3", "must be the name of a file"),
        ("lm_weight = ", "TOML file"),
        ("word_score = nan", "must be a finite number"),
        ("name = 'greedy'\nlm = 'x.arpa'", "must come with --decoder beam"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "d.toml").write_text(text)
    with pytest.raises(ConfigError, match=named) as caught:
        decode_settings(str(tmp_path / "d.toml"))
    assert "d.toml" in str(caught.value)


def test_options_that_greedy_does_not_use_are_named() -> None:
    with pytest.raises(ConfigError, match="--lm, --word-score must come with --decoder beam"):
        decode_settings("greedy", lm=Path("x.arpa"), word_score=1.0)
    with pytest.raises(ConfigError, match="must be greedy, beam, or a TOML file"):
        decode_settings("bean")


def test_hot_words_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "hot.txt").write_text("Ann Arbor\t2.5\n\nCTC\n")
    assert decode_settings("beam", hot_words=tmp_path / "hot.txt").hot_words == (
        HotWord("Ann Arbor", 2.5), HotWord("CTC")
    )  # fmt: skip
    (tmp_path / "hot.txt").write_text("a\tmuch\nb\t\n")
    with pytest.raises(ConfigError, match=r"hot.txt:1: .*'much'; .*hot.txt:2"):
        decode_settings("beam", hot_words=tmp_path / "hot.txt")
