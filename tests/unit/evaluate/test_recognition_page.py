"""The page of an evaluation: whole HTML, nothing of the data's that is markup, and the figures of the report."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.evaluate.comparison import Comparer
from audio_ssl.evaluate.intervals import Interval
from audio_ssl.evaluate.report.recognition import build_recognition_page
from audio_ssl.evaluate.report.recognition_sections import about_intervals, bar, compared
from audio_ssl.evaluate.report.utterances import Clips, alignment, clips_of
from audio_ssl.evaluate.scores import Evaluation, Facts, score_utterance
from audio_ssl.evaluate.session import Outcome, Session
from audio_ssl.evaluate.text_rules import ScoringText
from audio_ssl.evaluate.utterance_file import report_lines
from tests.unit.evaluate.test_report_page import EVIL, parsed

ABOUT = {
    "model": "runs/ctc", "model_hash": "0" * 8, "hypotheses": None, "manifest": "test.arrow",
    "decoder": {"name": "greedy"}, "text": ScoringText.named("model").to_document(),
}  # fmt: skip


def outcome_of(utterances, comparison=None) -> Outcome:
    evaluation = Evaluation()
    for utterance in utterances:
        evaluation.add(utterance)
    return Outcome(evaluation.report(), comparison, (), 0)


def noise(seconds: float) -> np.ndarray:
    return (np.random.default_rng(1).normal(size=int(seconds * 16_000)) / 10).astype(np.float32)


def manifest_of(folder: Path, seconds: list[float]) -> Manifest:
    rows = []
    for i, length in enumerate(seconds):
        sf.write(folder / f"{i}.wav", noise(length), 16_000)
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, len(noise(length)), 16_000, text="a b"))
    return Manifest.from_rows(rows, root=folder)


def test_the_page_is_whole_and_what_data_says_is_text(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, [0.3])
    evil = score_utterance(EVIL, EVIL, f"{EVIL} x", facts=Facts(EVIL, EVIL, 0.3, 0))
    session = Session(ScoringText.named("exact"), comparer=None, lines=None, num_worst=3)
    session.refuse(EVIL, EVIL, EVIL)
    (tmp_path / "a.jsonl").write_text('{"id": "u", "reference": "a", "hypothesis": "' + EVIL.replace('"', "'") + '"}\n')
    with report_lines(tmp_path / "a.jsonl") as lines:
        comparer = Comparer(lines, EVIL)
        comparer.add(score_utterance("u", "a", EVIL))
        comparison = comparer.result()
    other = score_utterance("u", "a b", "a", facts=Facts("ben", "en", 3.0))
    outcome = replace(outcome_of([evil, other], comparison), refused=session.outcome(seed=1).refused, num_refused=1)
    about = {**ABOUT, "model": f"runs/{EVIL}", "manifest": EVIL, "decoder": {"lm": EVIL}}
    html = build_recognition_page(about, outcome, clips_of(manifest, outcome.report.worst))
    page = parsed(html)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert all(a.startswith(("#", "data:image/png;base64,", "data:audio/flac;base64,")) for a in page.addresses)
    assert page.tags.count("audio") == 1
    assert {"summary", "comparison", "speakers", "languages", "durations", "confusions", "utterances", "measured",
            "refused"} <= set(page.ids)  # fmt: skip
    assert len(page.ids) == len(set(page.ids))


def test_figures_of_the_page_by_hand() -> None:
    utterances = [
        score_utterance("u0", "the cat sat on", "the cut sat", facts=Facts("anna", None, 1.5)),
        score_utterance("u1", "good", "good day", facts=Facts("ben", None, 2.5)),
    ]
    html = build_recognition_page(ABOUT, outcome_of(utterances), Clips())
    assert "<dt>Word errors</dt><dd>60.0 %" in html  # 3 of 5
    assert "<dt>Replaced</dt><dd>20.0 %<small>1 of 5 words</small>" in html
    assert "<dt>Left out</dt><dd>20.0 %" in html
    assert "<dt>Added</dt><dd>20.0 %" in html
    assert "<dt>Utterances with errors</dt><dd>100.0 %<small>2 of 2</small>" in html
    assert "bootstrap over 2 speakers; so few speakers say little about others" in html
    assert html.index(">ben</th>") < html.index(">anna</th>")  # 100 % before 50 %
    assert '<td dir="auto">cat</td><td dir="auto">cut</td><td class="number">1</td>' in html
    assert "left out</b>: 1 in all" in html
    assert "By language" not in html


@pytest.mark.parametrize(
    ("speakers", "said"),
    [
        (["a", "a"], "of one speaker; they say nothing about other speakers"),
        ([None, None], "speakers are not known"),
        (["a", "b", None], "over 2 speakers and 1 utterances without one"),
        (["a"], "no interval: less than two utterances"),
    ],
)
def test_the_page_says_what_intervals_are_over(speakers, said) -> None:
    texts = ("a", "a b", "x y")
    utterances = [score_utterance(str(i), "a b", texts[i], facts=Facts(name)) for i, name in enumerate(speakers)]
    assert said in about_intervals(outcome_of(utterances).report)


def test_edits_are_marked_in_letters_too() -> None:
    html = alignment("the cat sat", "the cut sat down")
    parsed(html)
    edits = re.findall(
        r'<span class="edit (\w+)"><span>(.*?)</span><span>(.*?)</span>(?:<span class="tag \w+">(.)</span>)?', html
    )
    assert edits == [
        ("hit", "the", "the", ""), ("sub", "cat", "cut", "S"), ("hit", "sat", "sat", ""), ("ins", "–", "down", "I"),
    ]  # fmt: skip
    assert '<dd dir="auto">the cut sat down</dd>' in html  # whole, for those who hear the page
    assert "<i>nothing</i>" in alignment("a", "")


def test_scripts_without_spaces_are_aligned_by_characters_and_others_run_their_way() -> None:
    chinese = alignment("我们今天去公园散步然后回家", "我们明天去公园散步然后回家")
    assert chinese.count('class="edit sub"') == 1
    assert chinese.count('class="edit hit"') == 12
    assert 'class="aligned characters" dir="ltr"' in chinese
    assert 'dir="rtl"' in alignment("שלום עולם", "שלום")
    assert 'dir="rtl"' in alignment("123 مرحبا", "")
    assert 'class="aligned words" dir="ltr"' in alignment("", "noise")
    assert "◌" in alignment("कखगघङचछजझञटठडा", "कखगघङचछजझञटठड")  # a vowel sign alone has something to sit on


def test_bars_lie_where_the_rates_are() -> None:
    html = bar(0.25, Interval(0.2, 0.6), most=0.5, overall=0.1)
    assert 'x1="40.00" x2="100.00" y1="9"' in html  # the end beyond the axis is cut
    assert 'class="at" x1="50.00" x2="50.00"' in html
    assert 'class="all" x1="20.00"' in html
    assert html.count("<line") == 3
    assert bar(float("inf"), None, most=0.5, overall=0.1).count('x1="100.00"') == 1


def test_sounds_are_those_of_the_rows_as_far_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audio_ssl.evaluate.report import utterances as module

    monkeypatch.setattr(module, "MAX_PLAYED_S", 0.5)
    monkeypatch.setattr(module, "MAX_PLAYED_TOTAL_S", 0.7)
    monkeypatch.setattr(module, "MAX_DRAWN_S", 0.9)
    seconds = [0.4, 0.6, 0.4, 0.3, 1.0, 0.2]
    manifest = manifest_of(tmp_path, seconds)
    (tmp_path / "5.wav").write_bytes(b"gone")
    scored = [score_utterance(f"u{i}", "a", "b", facts=Facts(None, None, s, i)) for i, s in enumerate(seconds)]
    clips = clips_of(manifest, scored)
    assert {name: clip.is_played for name, clip in clips.found.items()} == {
        "u0": True, "u1": False, "u2": False, "u3": True,
    }  # fmt: skip
    assert [note.split(" ")[0] for note in clips.notes] == ["the", "1", "2"]
    assert "u5" in clips.notes[0]
    html = module.worst(scored, clips)
    (flac, _) = re.findall(r'src="data:audio/flac;base64,([^"]*)"', html)
    wave, rate = sf.read(io.BytesIO(base64.b64decode(flac)))
    assert rate == 16_000
    np.testing.assert_allclose(wave, noise(0.4), atol=1e-4)
    assert html.count("Mel-spectrogram of") == 2 * 4
    assert clips_of(None, scored).notes == ["no manifest was given, so there is no sound of the utterances"]


def test_the_verdict_of_a_comparison(tmp_path: Path) -> None:
    import json

    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": f"u{i}", "reference": "a b c", "hypothesis": "a"}) + "\n" for i in range(9))
    )
    pages = []
    for text in ("a b", "x y z", "a"):
        with report_lines(tmp_path / "a.jsonl") as lines:
            comparer = Comparer(lines, "old")
            for i in range(9):
                comparer.add(score_utterance(f"u{i}", "a b c", text))
            pages.append(compared(comparer.result(), "new"))
    assert "This system is better, by 33.33 points of word errors." in pages[0]
    assert "The baseline is better, by 33.33 points of word errors." in pages[1]
    assert "No winner: the difference of 0.00 points" in pages[2]
    assert "9 segments with an error" in pages[0]
    assert "with fewer than 30 segments this is rough" in pages[0]
    assert "Most improved here" in pages[0]
    assert "Most improved here" not in pages[1]
