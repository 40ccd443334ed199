"""Settings of text and vocabulary: what they refuse, and configurations from before there were any."""

import pytest

from audio_ssl.config import FinetuneConfig, TextRules, VocabularyConfig, dump_config, load_config, validate_config
from audio_ssl.config.text import with_text_rules
from audio_ssl.errors import ConfigError

FILE = 'init_from = "m"\n[data]\ntrain = ["a.arrow"]\n[run]\ndir = "r"\n'


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"case": "title"}, "`case` must be 'lower', 'upper' or 'keep', got 'title'"),
        ({"keep": "a-"}, "`keep` must hold punctuation and symbols alone, got 'a' (LATIN SMALL LETTER A)"),
        ({"inside_words": "'\u0301"}, "got '\u0301' (COMBINING ACUTE ACCENT)"),
        ({"replace": {"ab": "c"}}, "one character (and no space) on the left, got 'ab'"),
        ({"replace": {" ": "_"}}, "one character (and no space) on the left, got ' '"),
        ({"replace": {"a": "b", "b": "c"}}, "'a' becomes 'b', of which 'b' would be replaced in turn"),
        ({"replace": {"x": "aB", "b": "c"}}, "'x' becomes 'ab', of which 'b' would be replaced in turn"),
    ],
)
def test_rules_that_cannot_be(values, message):
    with pytest.raises(ConfigError) as told:
        validate_config(TextRules, values, source="x.toml")
    assert message in str(told.value)


def test_a_replacement_that_the_case_undoes_is_none():
    assert validate_config(TextRules, {"replace": {"a": "A"}, "case": "lower"}, source="x").replace == {"a": "A"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_pieces": 30}, 'num_pieces must come with units = "pieces"'),
        ({"units": "pieces"}, "one of num_pieces (to train) and pieces_from (a file) must be given, neither is"),
        ({"units": "pieces", "num_pieces": 3, "pieces_from": "a.model"}, "both are"),
        ({"min_count": 0}, "`min_count` must be greater than or equal to 1, got 0"),
    ],
)
def test_vocabularies_that_cannot_be(values, message):
    with pytest.raises(ConfigError) as told:
        validate_config(VocabularyConfig, values, source="x.toml")
    assert message in str(told.value)


@pytest.mark.parametrize(("old", "case"), [("true", "lower"), ("false", "keep")])
def test_configurations_that_say_only_lowercase(tmp_path, old, case):
    path = tmp_path / "old.toml"
    path.write_text(f"{FILE}[ctc]\nlowercase = {old}\nmask_prob = 0.5\n")
    config = load_config(FinetuneConfig, path)
    assert config.text == TextRules(case=case)
    assert config.ctc.mask_prob == 0.5
    path.write_text(dump_config(config))
    assert load_config(FinetuneConfig, path) == config
    path.write_text(f"{FILE}[ctc]\nlowercase = {old}\n[text]\ncase = 'upper'\n")
    with pytest.raises(ConfigError, match=r"`ctc.lowercase` is not a setting"):
        load_config(FinetuneConfig, path)


def test_rules_of_every_kind_survive_a_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(FILE + '[text]\npunctuation = "remove"\nkeep = "?"\nreplace = { "’" = "\'", "&" = " and " }\n')
    config = load_config(FinetuneConfig, path, ["vocabulary.min_count=3", "text.case=keep"])
    assert config.text.replace == {"’": "'", "&": " and "}
    assert (config.text.case, config.vocabulary.min_count) == ("keep", 3)
    path.write_text(dump_config(config))
    assert load_config(FinetuneConfig, path) == config


def test_sections_of_any_age():
    assert with_text_rules({"lowercase": False, "symbols": ["a"]})["text"]["case"] == "keep"
    assert with_text_rules({"text": {"case": "upper"}}) == {"text": {"case": "upper"}}
    assert with_text_rules({"lowercase": "no"}) == {"lowercase": "no"}  # left to whoever reads it to refuse
