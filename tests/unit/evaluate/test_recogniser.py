"""The report: sums by speaker, the worst utterances first, and JSON that holds every figure."""

from __future__ import annotations

import json

from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.evaluate.recogniser import build_report, score_utterance

UTTERANCES = [
    score_utterance("u0", "the cat sat", "the cat sat", speaker="anna"),
    score_utterance("u1", "a dog", "the dog ran", speaker="ben"),
    score_utterance("u2", "one two three", "", speaker="anna"),
    score_utterance("u3", "", "noise", speaker=None),
]


def test_sums_and_speakers() -> None:
    report = build_report(UTTERANCES)
    assert report.overall.words == EditCounts(substitutions=1, deletions=3, insertions=2, hits=4)
    assert report.overall.num_utterances == 4
    # ben: 2 errors on 2 words; anna: 3 on 6
    assert [(s.name, s.num_utterances, s.words.rate) for s in report.speakers] == [("ben", 1, 1.0), ("anna", 2, 0.5)]
    assert report.num_empty_references == 1
    interval = report.overall.word_interval
    assert interval is not None
    assert interval.low <= 6 / 8 <= interval.high


def test_the_worst_come_first_and_the_faultless_do_not() -> None:
    report = build_report(UTTERANCES)
    assert [u.id for u in report.worst(9)] == ["u2", "u1", "u3"]
    assert [u.id for u in report.worst(1)] == ["u2"]


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(build_report(UTTERANCES).to_document(), allow_nan=False))
    words = document["overall"]["words"]
    assert (words["rate"], words["errors"], words["reference_length"]) == (0.75, 6, 8)
    assert (words["substitutions"], words["deletions"], words["insertions"], words["hits"]) == (1, 3, 2, 4)
    assert len(words["interval_95"]) == 2
    assert document["utterances"][3]["words"]["rate"] is None  # no reference: infinite, which JSON cannot say
    assert document["utterances"][1]["hypothesis"] == "the dog ran"
    assert [s["name"] for s in document["speakers"]] == ["ben", "anna"]


def test_nothing_to_score_is_an_empty_report() -> None:
    report = build_report([])
    assert (report.overall.num_utterances, report.overall.words.rate, report.overall.word_interval) == (0, 0.0, None)
