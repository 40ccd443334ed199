"""The tools that watch the memory of extraction see what a process takes, and make the recording that they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.waveform import resample

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from long_check import write_recording
from memory_check import Figures

from benchmarks.resident import Watched, watch

# Memory is held for a moment, then freed: the mark stays.
HOLDER = (
    "import sys, time; held = bytearray(150 << 20); del held; print('it needs about 0.25 GiB (all)', file=sys.stderr)"
)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="marks of resident memory are Linux's")
def test_a_process_is_watched() -> None:
    watched = watch([sys.executable, "-c", f"{HOLDER}; time.sleep(0.3)"])
    assert 150 < watched.peak_mib < 200
    assert watched.seconds > 0.3
    assert watched.stated_mib == 256
    assert Watched(1.0, 1.0, "nothing of it").stated_mib is None


def test_a_process_that_fails_ends_the_check_with_its_words() -> None:
    with pytest.raises(SystemExit, match=r"(?s)got 3:.*no such thing"):
        watch([sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"])


def test_a_statement_is_good_within_its_bounds() -> None:
    assert [Figures("", stated, 100.0).is_good for stated in (89.0, 91.0, 124.0, 126.0)] == [False, True, True, False]


def test_a_recording_is_speech_over_and_over(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    first, second = (0.1 * generator.standard_normal(n) for n in (3000, 5000))
    sf.write(tmp_path / "a.flac", first, 16_000)
    sf.write(tmp_path / "b.wav", np.stack([second, second], axis=1), 8_000)
    write_recording(tmp_path, tmp_path / "long.caf", 30_000)
    found, rate = sf.read(tmp_path / "long.caf", dtype="float32")
    assert (len(found), rate) == (30_000, 16_000)
    once = np.concatenate([first, resample(second.astype(np.float32), from_hz=8_000, to_hz=16_000)])  # 13 000
    np.testing.assert_allclose(found, np.concatenate([once] * 3)[:30_000], atol=2e-4)
    with pytest.raises(SystemExit, match=r"must hold \.flac or \.wav files"):
        write_recording(tmp_path / "empty", tmp_path / "none.flac", 10)
