"""Cutting at silences: pieces lie where the sound is, none is too long, and nothing is lost unsaid."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.segment import segment_manifest
from audio_ssl.data.silence import SegmentSettings, split_at_silence, trim_silence
from audio_ssl.errors import ConfigError

RATE = 4000


def sound(*parts: tuple[float, float]) -> np.ndarray:
    """(seconds, loudness) after one another."""
    generator = np.random.default_rng(0)
    return np.concatenate([a * generator.uniform(-1, 1, round(s * RATE)) for s, a in parts]).astype(np.float32)


def in_s(spans: list[tuple[int, int]]) -> list[tuple[float, float]]:
    return [(round(a / RATE, 1), round(b / RATE, 1)) for a, b in spans]


def test_trimming_finds_the_sound():
    start, stop = trim_silence(sound((1, 1e-4), (2, 0.5), (3, 1e-4)), sample_rate_hz=RATE)
    assert start / RATE == pytest.approx(1, abs=0.07)
    assert stop / RATE == pytest.approx(3, abs=0.07)
    assert trim_silence(np.zeros(8000, dtype=np.float32), sample_rate_hz=RATE) == (0, 0)


def test_short_rows_are_trimmed_when_asked_and_keep_their_text(tmp_path: Path):
    sf.write(tmp_path / "a.wav", sound((1, 1e-4), (2, 0.5), (3, 1e-4)), RATE)
    sf.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    rows = [
        Utterance("a", "a.wav", 400, round(5.6 * RATE), RATE, text="hi"),
        Utterance("s", "silent.wav", 0, RATE, RATE),
    ]
    manifest = Manifest.from_rows(rows, root=tmp_path)
    assert list(segment_manifest(manifest, settings=SegmentSettings()).manifest) == rows
    result = segment_manifest(manifest, settings=SegmentSettings(trims=True))
    trimmed, silent = result.manifest
    assert silent == rows[1]
    assert trimmed.text == "hi"
    assert trimmed.start / RATE == pytest.approx(0.9, abs=0.07)  # a tenth of a second stays at each end
    assert (trimmed.start + trimmed.num_samples) / RATE == pytest.approx(3.1, abs=0.07)
    assert result.dropped_s == pytest.approx(5.6 - 2.2, abs=0.15)


def test_pieces_lie_around_the_sounds():
    waveform = sound((2, 0), (3, 0.5), (2, 0), (4, 0.5), (3, 0))
    spans = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=1, max_s=5))
    assert len(spans) == 2
    for (start, stop), (low, high) in zip(in_s(spans), [(2, 5), (7, 11)], strict=True):
        assert low - 0.2 <= start <= low
        assert high <= stop <= high + 0.2


def test_short_pauses_do_not_part_what_fits():
    waveform = sound((1, 0.5), (0.5, 0), (1, 0.5), (0.5, 0), (1, 0.5))
    whole = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=0.5, max_s=10))
    assert in_s(whole) == [(0.0, 4.0)]
    parted = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=0.5, max_s=2))
    assert len(parted) == 3


def test_a_long_pause_always_parts():
    waveform = sound((2, 0.5), (1.5, 0), (2, 0.5))
    spans = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=1, max_s=20))
    assert len(spans) == 2
    joined = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=3, max_s=20))
    assert in_s(joined) == [(0.0, 5.5)]  # neither side may stand alone


def test_sound_without_pause_is_cut_at_its_quietest():
    waveform = sound((3.2, 0.5), (0.2, 0.05), (3.6, 0.5))
    spans = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=0.5, max_s=4))
    assert spans[0][0] == 0
    assert spans[-1][1] == len(waveform)
    assert spans[0][1] == spans[1][0]
    assert 3.2 <= spans[0][1] / RATE <= 3.4


@pytest.mark.parametrize("seed", range(5))
def test_pieces_are_in_order_apart_and_of_the_lengths_asked_for(seed: int):
    generator = np.random.default_rng(seed)
    parts = [(float(generator.uniform(0.05, 3)), float(generator.choice([0.0, 1e-3, 0.5]))) for _ in range(23)]
    waveform = sound(*parts)
    spans = split_at_silence(waveform, sample_rate_hz=RATE, settings=SegmentSettings(min_s=0.6, max_s=2.5))
    assert spans
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert edges[-1] <= len(waveform)
    assert all(0.6 * RATE <= b - a <= 2.5 * RATE for a, b in spans)


def test_a_manifest_is_cut_where_rows_are_long(tmp_path: Path):
    sf.write(tmp_path / "long.wav", sound((1, 0), (3, 0.5), (2, 0), (4, 0.5), (1, 0)), RATE, subtype="FLOAT")
    sf.write(tmp_path / "short.wav", sound((2, 0.5)), RATE)
    rows = [
        Utterance("long", "long.wav", RATE // 2, round(10.5 * RATE), RATE, "words", "anna", "en"),
        Utterance("short", "short.wav", 0, 2 * RATE, RATE, "few", "ben"),
        Utterance("gone", "gone.wav", 0, 9 * RATE, RATE),
    ]
    manifest = Manifest.from_rows(rows, root=tmp_path)
    result = segment_manifest(manifest, settings=SegmentSettings(min_s=1, max_s=5))
    first, second, short = result.manifest
    assert short == rows[1]
    for piece, (low, high) in zip((first, second), [(1, 4), (6, 10)], strict=True):
        assert (piece.path, piece.text, piece.speaker, piece.language) == ("long.wav", None, "anna", "en")
        assert low - 0.2 <= piece.start / RATE <= low  # counted from the file's start, not the row's
        assert high <= (piece.start + piece.num_samples) / RATE <= high + 0.2
    assert first.id == f"long-{round(first.start * 1000 / RATE):09d}"
    assert (result.num_cut, result.num_texts_dropped, [r.path for r in result.refusals]) == (1, 1, ["gone.wav"])
    assert result.dropped_s == pytest.approx(10.5 - (first.num_samples + second.num_samples) / RATE)


def test_an_hour_goes_through_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("audio_ssl.data.segment._BLOCK_S", 3)
    sf.write(tmp_path / "a.wav", sound((10, 0.5)), RATE)
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 0, 10 * RATE, RATE)], root=tmp_path)
    pieces = list(segment_manifest(manifest, settings=SegmentSettings(min_s=0.5, max_s=4)).manifest)
    assert [(p.start, p.num_samples) for p in pieces] == [(0, 12000), (12000, 12000), (24000, 12000), (36000, 4000)]


@pytest.mark.parametrize("settings", [{"min_s": 5.0, "max_s": 5.0}, {"min_s": 0.0}, {"top_db": -1.0}])
def test_impossible_settings_are_refused(settings: dict[str, float]):
    with pytest.raises(ConfigError, match="min_s must be in"):
        SegmentSettings(**settings)
