"""Windows tile an utterance's frames, start where both rates have a sample, and have context at the seams."""

from __future__ import annotations

from math import gcd, lcm

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audio_ssl.config import ModelConfig
from audio_ssl.errors import ConfigError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.windows import Window, WindowSettings, plan_windows, resampled_length

GEOMETRY = ModelConfig().geometry


def test_windows_by_hand() -> None:
    # 10 Hz, hop 2: 5 frames a second. Windows of 10 frames (20 samples), overlap 4, 18 frames (37 samples).
    # Steps of 6: starts 0, 6, and the last at 18 - 10 = 8. Seams (0+10+6)/2 = 8 and (6+10+8)/2 = 12.
    windows = plan_windows(
        37, WindowSettings(max_s=2.0, overlap_s=0.8), geometry=ConvGeometry((2,), (2,)), from_hz=10, to_hz=10
    )
    assert windows == [Window(0, 20, 0, 0, 8), Window(12, 20, 6, 8, 12), Window(16, 21, 8, 12, 18)]
    assert [w.kept for w in windows] == [slice(0, 8), slice(2, 6), slice(4, 10)]


def test_an_utterance_of_exactly_the_longest_length_is_not_cut() -> None:
    settings = WindowSettings(max_s=2.0, overlap_s=0.5)
    whole = plan_windows(32_000, settings, geometry=GEOMETRY, from_hz=16_000, to_hz=16_000)
    assert whole == [Window(0, 32_000, 0, 0, 99)]
    assert len(plan_windows(32_400, settings, geometry=GEOMETRY, from_hz=16_000, to_hz=16_000)) == 2


@given(
    num_samples=st.integers(1, 3_000_000),
    from_hz=st.sampled_from([8_000, 11_025, 16_000, 16_001, 22_050, 44_100, 48_000]),
    max_s=st.floats(2.0, 70.0),
    overlap_share=st.floats(0.0, 0.5),
)
@example(num_samples=47_762, from_hz=16_001, max_s=2.0, overlap_share=0.5)
def test_every_frame_is_kept_once_with_context(
    num_samples: int, from_hz: int, max_s: float, overlap_share: float
) -> None:
    settings = WindowSettings(max_s, max_s * overlap_share)
    windows = plan_windows(num_samples, settings, geometry=GEOMETRY, from_hz=from_hz, to_hz=16_000)
    total = GEOMETRY.num_frames(resampled_length(num_samples, from_hz=from_hz, to_hz=16_000))
    assert [windows[0].keep_from, *(w.keep_to for w in windows)] == [0, *(w.keep_from for w in windows[1:]), total]
    # windows start where both rates have a sample: at 16001 Hz once a second, so two of 2 s overlap by 49 frames
    most = GEOMETRY.num_frames(round(max_s * 16_000)) - lcm(320, 16_000 // gcd(from_hz, 16_000)) // 320
    half_overlap = min(round(settings.overlap_s * 16_000 / 320), most) // 2
    for i, window in enumerate(windows):
        # the start is the same instant at both rates
        assert window.start * 16_000 == window.first_frame * 320 * from_hz
        assert window.start + window.num_samples <= num_samples
        frames = GEOMETRY.num_frames(resampled_length(window.num_samples, from_hz=from_hz, to_hz=16_000))
        assert 0 <= window.kept.start <= window.kept.stop <= frames
        assert window.num_samples <= (max_s + 1.1) * from_hz
        if i:
            assert window.kept.start >= half_overlap
        if i + 1 < len(windows):
            assert frames - window.kept.stop >= half_overlap - 1


@pytest.mark.parametrize(("max_s", "overlap_s"), [(1.9, 0.1), (10.0, 5.1), (10.0, -1.0)])
def test_odd_settings_are_refused(max_s: float, overlap_s: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        WindowSettings(max_s, overlap_s)


def test_windows_start_on_a_group_of_frames() -> None:
    # As by hand above, in groups of 4 frames: steps of 4, the last start 8 anyway. Groups of 6 are too coarse for
    # windows of 10 frames.
    settings = WindowSettings(max_s=2.0, overlap_s=0.8)
    geometry = ConvGeometry((2,), (2,))

    def starts(group_frames: int) -> list[int]:
        windows = plan_windows(37, settings, geometry=geometry, from_hz=10, to_hz=10, group_frames=group_frames)
        return [window.first_frame for window in windows]

    assert starts(4) == [0, 4, 8]
    assert starts(6) == starts(1) == [0, 6, 8]
