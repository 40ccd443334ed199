"""Subtitles: rules by hand, and that no rule is broken that need not be, nor a word lost."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from audio_ssl.errors import ConfigError
from audio_ssl.inference.align import TimedToken
from audio_ssl.inference.subtitles import (
    GAP_S,
    MAX_PAUSE_S,
    Cue,
    SubtitleSettings,
    cues_of,
    to_srt,
    to_vtt,
    width_of,
)

RULES = SubtitleSettings()


def said(text: str, *, word_s: float = 0.3, gap_s: float = 0.1, start_s: float = 1.0) -> list[TimedToken]:
    """Words of equal length; ``(2.0)`` is a pause of so many seconds."""
    words, now = [], start_s
    for word in text.split():
        if word.startswith("("):
            now += float(word.strip("()")) - gap_s
        else:
            words.append(TimedToken(word, round(now, 3), round(now + word_s, 3), 0.9))
            now += word_s + gap_s
    return words


def test_a_short_sentence_is_one_line_from_its_first_word_on() -> None:
    # 19 characters at 17 a second take 1.118 s, the speech 1.5 s
    assert cues_of(said("good morning to you"), RULES) == [Cue(1.0, 2.5, ("good morning to you",))]


def test_a_cue_stands_long_enough_to_be_read_where_there_is_room() -> None:
    (one,) = cues_of(said("yes"), RULES)
    assert (one.start_s, one.end_s) == (1.0, 2.0)  # a second at least
    (fast,) = cues_of(said("extraordinarily complicated", word_s=0.2), RULES)
    assert fast.end_s == pytest.approx(1.0 + 27 / 17)  # 1.59 s, though it is said in 0.5
    narrow = SubtitleSettings(line_chars=15)
    first, second = cues_of(said("extraordinarily complicated. (0.7) indeed", word_s=0.2), narrow)
    assert second.start_s == pytest.approx(2.2)
    assert first.end_s == pytest.approx(2.2 - GAP_S)  # no longer than till the next


def test_lines_are_of_like_length_and_the_upper_one_is_not_the_longer() -> None:
    (cue,) = cues_of(said("we went to the harbour early and saw the boats come in", word_s=0.2), RULES)
    assert cue.lines == ("we went to the harbour early", "and saw the boats come in")
    (even,) = cues_of(said("aaaaa bbbbb ccccc", word_s=0.2), SubtitleSettings(line_chars=11))
    assert even.lines == ("aaaaa", "bbbbb ccccc")


def test_cues_end_behind_sentences_and_at_pauses() -> None:
    text = "he came home late. then he sat down in the kitchen (0.8) and read what was left of the paper until ten"
    cues = cues_of(said(text), RULES)
    assert [" ".join(cue.lines) for cue in cues] == [
        "he came home late. then he sat down in the kitchen", "and read what was left of the paper until ten",
    ]  # fmt: skip
    text = "he came home late as on every evening. then he sat down in the kitchen and read what was left of the paper"
    assert [" ".join(cue.lines) for cue in cues_of(said(text, word_s=0.2), RULES)] == [
        "he came home late as on every evening.", "then he sat down in the kitchen and read what was left of the paper",
    ]  # fmt: skip


def test_a_long_pause_always_ends_a_cue() -> None:
    cues = cues_of(said(f"one ({MAX_PAUSE_S + 0.01}) two"), RULES)
    assert [cue.lines for cue in cues] == [("one",), ("two",)]
    assert [cue.lines for cue in cues_of(said(f"one ({MAX_PAUSE_S - 0.7}) two"), RULES)] == [("one two",)]


@pytest.mark.parametrize("seed", range(20))
def test_no_rule_is_broken_and_no_word_is_lost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    words, now = [], 0.0
    for _ in range(60):
        now += float(rng.choice([0.0, 0.05, 0.3, 3.0], p=[0.4, 0.4, 0.15, 0.05]))
        end = now + float(rng.uniform(0.05, 0.8))
        words.append(TimedToken("x" * int(rng.integers(1, 14)) + rng.choice(["", "", ".", ","]), now, end, 1.0))
        now = end
    settings = SubtitleSettings(line_chars=int(rng.integers(15, 43)), max_s=float(rng.uniform(2, 7)))
    cues = cues_of(words, settings)
    assert " ".join(line for cue in cues for line in cue.lines).split() == [word.text for word in words]
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(width_of(line) <= settings.line_chars for line in cue.lines)
        assert 0 < cue.end_s - cue.start_s <= settings.max_s + 1e-9
    for left, right in itertools.pairwise(cues):
        assert left.end_s <= right.start_s
    starts = {word.start_s for word in words}
    assert all(cue.start_s in starts for cue in cues)


def test_a_script_without_spaces_is_cut_between_characters() -> None:
    text = "こんにちは" * 9  # each twice as wide: 90 columns
    cues = cues_of([TimedToken(text, 0.0, 4.5, 1.0)], RULES)
    assert "".join(line for cue in cues for line in cue.lines) == text
    assert all(width_of(line) <= 42 for cue in cues for line in cue.lines)
    assert cues[-1].start_s == pytest.approx(2.1)  # 21 of 45 characters are before it


def test_marks_stay_with_their_letters() -> None:
    text = "कि" * 50  # a letter and its vowel sign
    cues = cues_of([TimedToken(text, 0.0, 9.0, 1.0)], SubtitleSettings(line_chars=9))
    assert all(line.startswith("क") for cue in cues for line in cue.lines)


def test_a_word_of_ten_seconds_does_not_stand_for_ten() -> None:
    (cue,) = cues_of([TimedToken("well", 0.0, 10.0, 0.1)], RULES)
    assert (cue.start_s, cue.end_s) == (0.0, 7.0)


def test_srt_and_vtt() -> None:
    cues = [Cue(0.0, 1.5, ("a < b", "& c")), Cue(3661.25, 3662.0019, ("d",))]
    assert to_srt(cues) == ("1\n00:00:00,000 --> 00:00:01,500\na < b\n& c\n\n2\n01:01:01,250 --> 01:01:02,002\nd\n\n")
    assert to_vtt(cues) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b\n&amp; c\n\n01:01:01.250 --> 01:01:02.002\nd\n\n"
    )
    assert to_srt([]) == ""
    assert re.fullmatch(r"WEBVTT\n\n", to_vtt([]))
    assert cues_of([], RULES) == []


def test_rules_out_of_range_are_refused() -> None:
    for settings in ({"line_chars": 3}, {"max_s": 0.5}, {"chars_per_s": 0.0}):
        with pytest.raises(ConfigError):
            SubtitleSettings(**settings)  # type: ignore[arg-type]
