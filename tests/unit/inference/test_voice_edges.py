"""Edges of words move out to the next pause, and no farther than the voice goes."""

from __future__ import annotations

import numpy as np
import pytest

from audio_ssl.inference import voice_edges
from audio_ssl.inference.align import Alignment, TimedToken
from audio_ssl.inference.voice_edges import Loudness, at_the_voice, loudness_of

LOUD, SOFT = -20.0, -60.0


def heard(*stretches: tuple[float, float]) -> Loudness:
    """Decibels of stretches of (seconds, decibels)."""
    return Loudness(np.concatenate([np.zeros(0), *(np.full(round(100 * s), db) for s, db in stretches)]))


def aligned(*words: tuple[str, float, float], duration_s: float = 9.0) -> Alignment:
    """Words whose first and last characters are at their edges, 10 ms each."""
    tokens = tuple(TimedToken(*word, 0.7) for word in words)
    edges = [(text[0], a, a + 0.01) for text, a, _ in words], [(text[-1], b - 0.01, b) for text, _, b in words]
    characters = tuple(TimedToken(*edge, 0.5) for both in zip(*edges, strict=True) for edge in both)
    return Alignment("utt", " ".join(word for word, *_ in words), duration_s, tokens, characters, 0.6)


def times(alignment: Alignment) -> list[tuple[float, float]]:
    return [(word.start_s, word.end_s) for word in alignment.words]


def test_words_reach_to_the_pauses_around_them() -> None:
    loudness = heard((1.0, SOFT), (0.5, LOUD), (0.3, SOFT), (0.4, LOUD), (0.8, SOFT))
    found = at_the_voice(aligned(("one", 1.2, 1.3), ("two", 1.95, 2.1)), loudness)
    assert times(found) == [(1.0, 1.5), (1.8, 2.2)]
    shown = [(c.text, pytest.approx((c.start_s, c.end_s))) for c in found.characters]
    assert shown == [("o", (1.0, 1.21)), ("e", (1.29, 1.5)), ("t", (1.8, 1.96)), ("o", (2.09, 2.2))]
    assert [w.confidence for w in found.words] == [0.7, 0.7]
    assert (found.confidence, found.text, found.id) == (0.6, "one two", "utt")


def test_a_stop_inside_of_a_word_is_no_pause() -> None:
    # 60 ms of closure before the t of eight, then 200 ms of pause
    loudness = heard((0.5, SOFT), (0.3, LOUD), (0.06, SOFT), (0.04, LOUD), (0.2, SOFT), (0.3, LOUD), (0.5, SOFT))
    assert times(at_the_voice(aligned(("eight", 0.6, 0.7), ("one", 1.2, 1.3)), loudness)) == [(0.5, 0.9), (1.1, 1.4)]


def test_words_without_a_pause_meet_where_it_is_quietest() -> None:
    dip = heard((0.5, SOFT), (0.4, LOUD), (0.02, LOUD - 9), (0.4, LOUD), (0.5, SOFT))
    assert times(at_the_voice(aligned(("one", 0.6, 0.7), ("two", 1.1, 1.2)), dip)) == [(0.5, 0.9), (0.9, 1.32)]


def test_several_sounds_between_two_words_belong_to_neither() -> None:
    """A cough between two pauses."""
    loudness = heard((0.4, SOFT), (0.4, LOUD), (0.2, SOFT), (0.2, LOUD), (0.2, SOFT), (0.4, LOUD), (0.4, SOFT))
    assert times(at_the_voice(aligned(("one", 0.5, 0.7), ("two", 1.5, 1.6)), loudness)) == [(0.4, 0.8), (1.4, 1.8)]


def test_no_edge_moves_farther_than_it_may() -> None:
    sound = heard((3.0, LOUD), (1.0, SOFT))
    ((start, end),) = times(at_the_voice(aligned(("one", 1.5, 1.6)), sound))
    assert (start, end) == pytest.approx((1.5 - voice_edges.MAX_REACH_S, 1.6 + voice_edges.MAX_REACH_S))
    ((start, end),) = times(at_the_voice(aligned(("one", 1.5, 1.6), duration_s=1.7), sound))
    assert end == 1.7


def test_edges_never_move_inwards() -> None:
    """What CTC heard as a word stays a word, where it is soft too."""
    loudness = heard((1.0, SOFT), (0.4, LOUD), (1.0, SOFT))
    assert times(at_the_voice(aligned(("one", 0.8, 1.6)), loudness)) == [(0.8, 1.6)]
    assert times(at_the_voice(aligned(("one", 0.8, 1.2), ("two", 1.2, 1.6)), loudness)) == [(0.8, 1.2), (1.2, 1.6)]


def test_a_word_in_a_long_silence_is_known_by_its_own_loudness() -> None:
    """It is less than a twentieth of the recording."""
    loudness = heard((5.0, SOFT), (0.4, LOUD), (5.0, SOFT))
    assert times(at_the_voice(aligned(("one", 5.1, 5.2), duration_s=10.4), loudness)) == [(5.0, 5.4)]


def test_words_do_not_overlap_where_their_edges_lie_between_two_values() -> None:
    loudness = Loudness(np.random.default_rng(1).uniform(SOFT, LOUD, 60))
    edges = np.arange(0.0025, 0.6, 0.04).round(4).tolist()  # frames of 20 ms, words of one frame each
    found = times(at_the_voice(aligned(*(("a", t, t + 0.02) for t in edges), duration_s=0.6), loudness))
    flat = [edge for word in found for edge in word]
    assert flat == sorted(flat)
    assert flat[0] >= 0
    assert flat[-1] <= 0.6


def test_nothing_to_move() -> None:
    empty = aligned()
    assert at_the_voice(empty, heard((1.0, LOUD))) == empty
    some = aligned(("one", 0.1, 0.2))
    assert at_the_voice(some, heard()) == some


class Recording:
    """A source of one utterance that counts what is asked of it."""

    def __init__(self, samples: np.ndarray, rate: int) -> None:
        self.samples, self.rate, self.longest = samples, rate, 0

    def __len__(self) -> int:
        return 1

    def num_samples(self, row: int) -> int:
        return len(self.samples)

    def rate_hz(self, row: int) -> int:
        return self.rate

    def name(self, row: int) -> tuple[str, str]:
        return "utt", "utt.wav"

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> np.ndarray:
        assert to_hz == self.rate
        assert start + num_samples <= len(self.samples)
        self.longest = max(self.longest, num_samples)
        return self.samples[start : start + num_samples]


@pytest.mark.parametrize("rate", [8000, 22_050])
def test_loudness_is_that_of_each_hundredth_of_a_second(rate: int) -> None:
    samples = np.concatenate([np.full(rate // 2, 0.1), np.full(rate // 2, 0.001), np.full(37, 1.0)]).astype(np.float32)
    found = loudness_of(Recording(samples, rate), 0)
    assert len(found.decibels) == 100  # what is no whole hundredth is left out
    assert found.decibels[:49] == pytest.approx(np.full(49, -20.0), abs=1e-4)
    assert found.decibels[51:] == pytest.approx(np.full(49, -60.0), abs=1e-4)
    assert not len(loudness_of(Recording(samples[:5], rate), 0).decibels)


def test_a_long_recording_is_read_in_pieces() -> None:
    samples = np.random.default_rng(1).normal(size=70 * 800).astype(np.float32)
    source = Recording(samples, 800)
    whole = loudness_of(source, 0).decibels
    assert source.longest == 30 * 800
    power = np.square(samples.astype(np.float64)).reshape(-1, 8).mean(1)
    padded = np.pad(power, 1, mode="edge")
    assert whole == pytest.approx(10 * np.log10((padded[:-2] + 2 * power + padded[2:]) / 4 + 1e-12))
