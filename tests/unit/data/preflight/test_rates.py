"""Speech that would be far too fast or too slow, by limits that odd rows cannot move."""

import pytest

from audio_ssl.data.preflight.rates import MIN_ROWS, speech_rates

from .splits import row, split


def test_rows_far_from_what_is_usual_are_named_the_farthest_first():
    rows = [(1 + i % 5, "abcde fghij " * (1 + i % 5)) for i in range(30)]  # 10 letters a second
    rows += [(1, "a" * 200), (100, "ab"), (2, ""), (1, "a" * 30), (1, "a" * 34)]
    rates = speech_rates(split(*rows), deviations=6.0)
    assert rates.median == {"": pytest.approx(10.0)}
    assert rates.num_unjudged == 0
    # All are equally fast, so the least deviation counts: a factor of e**1.2 = 3.32 is still normal.
    assert list(rates.odd) == [31, 30, 34]
    assert rates.odd[31].startswith("0.02 characters a second (10 are usual): 'ab'")


def test_a_third_of_nonsense_does_not_move_the_limits():
    good = [(1, "x" * (9 + i % 3)) for i in range(40)]
    bad = [(1, "x" * 300)] * 20
    assert list(speech_rates(split(*good, *bad), deviations=6.0).odd) == list(range(40, 60))


def test_each_language_has_its_own_rate_and_few_rows_are_not_judged():
    chinese = [row(i, 1, "字" * 4, language="zh") for i in range(MIN_ROWS)]
    english = [row(100 + i, 1, "letters are many", language="en") for i in range(MIN_ROWS)]
    few = [row(200 + i, 1, "z" * 100, language="xx") for i in range(MIN_ROWS - 1)]
    odd = [row(300, 1, "字" * 14, language="zh"), row(301, 1, "l" * 14, language="en")]
    rates = speech_rates(split(*chinese, *english, *few, *odd), deviations=6.0)
    assert rates.median == {"zh": pytest.approx(4.0), "en": pytest.approx(14.0)}
    assert list(rates.odd) == [2 * MIN_ROWS + MIN_ROWS - 1]
    assert rates.num_unjudged == MIN_ROWS - 1


def test_a_usual_spread_is_not_odd():
    rows = [(1, "x" * n) for n in range(6, 26)]  # 6 to 25 letters a second: slow and fast speakers
    assert speech_rates(split(*rows), deviations=6.0).odd == {}
    assert len(speech_rates(split(*rows), deviations=1.0).odd) > 2
