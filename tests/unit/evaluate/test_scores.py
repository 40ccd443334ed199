"""Scores of utterances added one by one: sums, groups, confusions and the worst, and what is not kept."""

from __future__ import annotations

import json
import weakref
from collections import Counter

import pytest

from audio_ssl.evaluate.confusions import EditTally
from audio_ssl.evaluate.document import report_document
from audio_ssl.evaluate.error_rate import EditCounts
from audio_ssl.evaluate.intervals import rate_interval
from audio_ssl.evaluate.scores import Evaluation, Facts, Report, score_utterance

UTTERANCES = [
    score_utterance("u0", "the cat sat", "the cat sat", facts=Facts("anna", "en", 0.9)),
    score_utterance("u1", "a dog", "the dog ran", facts=Facts("ben", "en", 1.0)),
    score_utterance("u2", "one two three", "", facts=Facts("anna", "en", 61.0)),
    score_utterance("u3", "", "noise"),
]


def report_of(utterances, **settings) -> Report:
    evaluation = Evaluation(**settings)
    for utterance in utterances:
        evaluation.add(utterance)
    return evaluation.report()


def test_sums_and_speakers() -> None:
    report = report_of(UTTERANCES)
    assert report.overall.words == EditCounts(substitutions=1, deletions=3, insertions=2, hits=4)
    assert (report.overall.num_utterances, report.overall.num_faulty) == (4, 3)
    # ben: 2 errors on 2 words; anna: 3 on 6
    speakers = report.groups["speakers"]
    assert [(s.name, s.num_utterances, s.words.rate) for s in speakers] == [("ben", 1, 1.0), ("anna", 2, 0.5)]
    assert (report.num_empty_references, report.num_speakers, report.num_without_speaker) == (1, 2, 1)
    assert report.audio_s == pytest.approx(62.9)


def test_groups_by_length_go_from_short_to_long_with_ends_by_hand() -> None:
    report = report_of(UTTERANCES)
    assert [(s.name, s.num_utterances) for s in report.groups["durations"]] == [
        ("0–1 s", 1), ("1–2 s", 1), ("60 s and more", 1),
    ]  # fmt: skip
    assert [(s.name, s.num_utterances) for s in report.groups["lengths"]] == [("0", 1), ("2–3", 3)]
    assert [(s.name, s.num_utterances) for s in report.groups["languages"]] == [("en", 3)]
    long = report_of([score_utterance("u", " ".join(["a"] * n), "") for n in (1, 4, 7, 8, 63, 64)])
    assert [(s.name, s.num_utterances) for s in long.groups["lengths"]] == [
        ("1", 1), ("4–7", 2), ("8–15", 1), ("32–63", 1), ("64 and more", 1),
    ]  # fmt: skip
    assert "durations" not in long.groups


def test_the_interval_to_go_by_is_over_speakers_and_those_unknown_one_by_one() -> None:
    overall = report_of(UTTERANCES).overall
    assert overall.over == "speakers"
    assert overall.word_interval == overall.word_intervals["speakers"]
    # anna 3 errors on 6 words, ben 2 on 2, and the one without a speaker 1 on none
    assert overall.word_interval == rate_interval(Counter({(3, 6): 1, (2, 2): 1, (1, 0): 1}))
    assert overall.word_intervals["utterances"] == rate_interval(Counter([(0, 3), (2, 2), (3, 3), (1, 0)]))
    one = report_of(UTTERANCES[::2]).overall
    assert one.over == "utterances"


def test_speakers_of_like_outcome_are_blocks_of_their_own() -> None:
    utterances = [score_utterance(f"u{i}", "a b", "a x", facts=Facts(f"s{i % 3}")) for i in range(6)]
    utterances.append(score_utterance("v", "a b", "a b", facts=Facts("other")))
    assert report_of(utterances).overall.word_interval == rate_interval(Counter({(2, 4): 3, (0, 2): 1}))


def test_the_worst_come_first_and_the_faultless_do_not() -> None:
    assert [u.id for u in report_of(UTTERANCES).worst] == ["u2", "u1", "u3"]
    assert [u.id for u in report_of(UTTERANCES, num_worst=1).worst] == ["u2"]
    assert report_of(UTTERANCES, num_worst=0).worst == ()
    tied = [score_utterance(name, "a", "b") for name in ("z", "m", "a", "m")]
    assert [u.id for u in report_of(tied, num_worst=3).worst] == ["a", "m", "m"]


def test_utterances_are_not_held() -> None:
    evaluation, seen = Evaluation(num_worst=2), []
    for i in range(40):
        utterance = score_utterance(f"u{i}", "a b c", "a", facts=Facts("anna"))
        seen.append(weakref.ref(utterance))
        evaluation.add(utterance)
        del utterance
    assert sum(ref() is not None for ref in seen) == 2


def test_confusions_by_hand() -> None:
    report = report_of(
        [score_utterance("u", "the cat sat on", "the cut sat"), score_utterance("v", "cat mat", "cut mat zzz")]
    )
    words, characters = report.word_confusions, report.character_confusions
    assert words.substitutions.edits == (("cat", "cut", 2),)
    assert words.deletions.edits == (("on", "", 1),)
    assert words.insertions.edits == (("", "zzz", 1),)
    assert characters.substitutions.edits == (("a", "u", 2),)
    assert (characters.deletions.num, characters.insertions.num) == (3, 4)  # " on" and " zzz"


def test_an_edit_seen_often_survives_any_number_of_rare_ones() -> None:
    tally = EditTally(max_held=5)
    for i in range(300):
        tally.add(f"rare {i}", "x")
        if i % 2:
            tally.add("often", "y")
    found = tally.most(1)
    assert found.edits[0][:2] == ("often", "y")
    assert found.num == 450
    assert found.undercount > 0
    assert found.edits[0][2] <= 150 <= found.edits[0][2] + found.undercount
    assert len(tally._counts) <= 10


def test_forgetting_never_hides_more_than_it_says() -> None:
    names = [name for i in range(40) for name in ["a"] * (i % 3) + [f"r{i}", f"r{i + 1}", "b"]]
    tally = EditTally(max_held=3)
    for name in names:
        tally.add(name, "")
    kept = {said: number for said, _, number in tally.most(99).edits}
    for name, truth in Counter(names).items():
        assert truth - tally.undercount <= kept.get(name, 0) <= truth


def test_what_is_forgotten_again_and_again_is_added_up() -> None:
    tally = EditTally(max_held=1)
    for i in range(7):
        for name in ("often", "often", "now and then", f"once {i}"):  # the third drives the last two out
            tally.add(name, "")
    assert tally.undercount == 7
    assert tally.most(9).edits == (("often", "", 14),)


def test_the_document_is_json() -> None:
    document = json.loads(json.dumps(report_document(report_of(UTTERANCES)), allow_nan=False))
    words = document["overall"]["words"]
    assert (words["rate"], words["errors"], words["reference_length"]) == (0.75, 6, 8)
    assert (words["substitutions"], words["deletions"], words["insertions"], words["hits"]) == (1, 3, 2, 4)
    assert document["overall"]["interval_over"] == "speakers"
    assert words["interval_95"] == words["intervals_95"]["speakers"]
    assert len(words["intervals_95"]["utterances"]) == 2
    assert document["worst"][2]["words"]["rate"] is None  # no reference: infinite, which JSON cannot say
    assert document["worst"][1]["hypothesis"] == "the dog ran"
    assert [s["name"] for s in document["speakers"]] == ["ben", "anna"]
    assert document["confusions"]["words"]["substitutions"]["most"] == [
        {"reference": "a", "hypothesis": "the", "count": 1}
    ]


def test_nothing_to_score_is_an_empty_report() -> None:
    report = report_of([])
    assert (report.overall.num_utterances, report.overall.words.rate, report.overall.word_interval) == (0, 0.0, None)
    assert not report.groups
