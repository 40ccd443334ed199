"""What texts go through before they are compared."""

import json

import pytest

from audio_ssl.config.text import TextRules
from audio_ssl.evaluate.text_rules import ScoringText


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t STOP—well, ‘please’!", "don't stop well please"),
        ("e\u0301te\u0301\u00a0ＡＢＣ", "\u00e9t\u00e9 abc"),
        ("हिन्दी, में।", "हिन्दी में"),
        ("  ", ""),
        ("3.5 l", "3 5 l"),
    ],
)
def test_plain_is_what_it_says(text, expected):
    rules = ScoringText.named("plain")
    assert rules.reference(text) == rules.hypothesis(text) == expected


def test_exact_keeps_case_and_marks():
    rules = ScoringText.named("exact")
    assert rules.reference(" Don’t  e\u0301 ") == rules.hypothesis(" Don’t  e\u0301 ") == "Don’t \u00e9"


def test_the_models_rules_are_for_references_alone():
    rules = ScoringText.named("model", TextRules(case="upper"))
    assert rules.reference("Don’t stop") == "DON’T STOP"
    assert rules.hypothesis("Don’t  stop") == "Don’t  stop"


@pytest.mark.parametrize("name", ["model", "plain", "exact"])
def test_the_report_states_the_rules(name):
    document = json.loads(json.dumps(ScoringText.named(name).to_document()))
    assert document["rule"] == name
    assert document["meaning"]
    assert (document["hypotheses"] is None) == (name == "model")
    assert document["references"]["case"] == ("lower" if name == "plain" else "keep")
