"""Decoding, seeking, resampling, normalising: against what was written, and against independent arithmetic."""

from pathlib import Path

import audioread
import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.audio import load_waveform, probe, read_audio
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.waveform import normalize, resample
from audio_ssl.errors import AudioError

LOSSLESS = [("a.wav", {}), ("a.wav", {"subtype": "FLOAT"}), ("a.wav", {"subtype": "PCM_24"}), ("a.flac", {})]
LOSSY = [("a.ogg", {}), ("a.opus", {"format": "OGG", "subtype": "OPUS"}), ("a.mp3", {})]


@pytest.mark.parametrize(("name", "kind"), LOSSLESS)
def test_lossless_audio_comes_back_exactly(tmp_path: Path, write_audio, name: str, kind: dict):
    written = write_audio(tmp_path / name, 16001, **kind)
    waveform, rate = read_audio(tmp_path / name)
    assert waveform.dtype == np.float32
    assert rate == 16000
    np.testing.assert_array_equal(waveform, written)
    np.testing.assert_array_equal(read_audio(tmp_path / name, start=7000, num_samples=123)[0], written[7000:7123])


@pytest.mark.parametrize(("name", "kind"), LOSSY)
def test_a_part_of_lossy_audio_is_that_part_of_the_whole(tmp_path: Path, write_audio, name: str, kind: dict):
    write_audio(tmp_path / name, 48000, **kind)
    assert probe(tmp_path / name).num_samples == 48000
    whole, _ = read_audio(tmp_path / name)
    part, _ = read_audio(tmp_path / name, start=20011, num_samples=5003)
    assert np.abs(whole).max() > 0.1
    np.testing.assert_allclose(part, whole[20011:25014], atol=1e-6)


def test_mono_is_the_mean_of_the_channels(tmp_path: Path, write_audio):
    written = write_audio(tmp_path / "a.wav", 1000, channels=3)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], written.sum(axis=1) / 3, atol=1e-7)


def test_probe_reads_the_header(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.flac", 777, rate=44100, channels=2)
    info = probe(tmp_path / "a.flac")
    assert (info.num_samples, info.sample_rate, info.num_channels, info.container, info.encoding) == (
        777,
        44100,
        2,
        "FLAC",
        "PCM_16",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float):
    samples = np.zeros(100, dtype=np.float32)
    samples[61] = value
    sf.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav must hold finite samples, but sample 61 is"):
        read_audio(tmp_path / "a.wav", start=10)


def test_audio_that_ends_too_early_is_refused(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 1000)
    with pytest.raises(AudioError, match="samples 900 to 1100, but decoding ends at 1000"):
        read_audio(tmp_path / "a.wav", start=900, num_samples=200)


def test_every_bad_file_is_an_audio_error_that_names_it(bad_folder: Path):
    for name in ("zero.flac", "text.wav", "cut.flac", "nan.wav", "no such.wav"):
        with pytest.raises(AudioError, match=name.replace(".", r"\.")):
            read_audio(bad_folder / name)
    with pytest.raises(AudioError, match="it is a folder"):
        read_audio(bad_folder)
    with pytest.raises(AudioError, match="empty"):
        probe(bad_folder / "zero.flac")


def test_a_file_that_no_decoder_opens_says_what_is_missing(tmp_path: Path):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(64))
    for call in (read_audio, probe):
        with pytest.raises(AudioError, match=r"a\.m4a must be readable audio.*install ffmpeg"):
            call(tmp_path / "a.m4a")
    with pytest.raises(AudioError, match="there is no such file"):
        read_audio(tmp_path / "b.m4a")


@pytest.mark.filterwarnings("ignore")
def test_other_formats_go_through_librosa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stand-in for ffmpeg: audioread's interface over known stereo samples."""
    stereo = np.array([[1000, 3000], [-500, 700], [32000, 0], [4, 8]], dtype="<i2")

    class Reader:
        samplerate, channels = 22050, 2

        def __init__(self, path: str) -> None:
            self.path = path

        def __enter__(self) -> "Reader":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __iter__(self):
            yield stereo.tobytes()

    (tmp_path / "a.webm").write_bytes(b"\x1a\x45\xdf\xa3")
    monkeypatch.setattr(audioread, "audio_open", Reader)
    expected = stereo.mean(axis=1) / 32768
    waveform, rate = read_audio(tmp_path / "a.webm")
    assert rate == 22050
    np.testing.assert_allclose(waveform, expected, atol=1e-7)
    np.testing.assert_allclose(read_audio(tmp_path / "a.webm", start=1, num_samples=2)[0], expected[1:3], atol=1e-7)
    assert probe(tmp_path / "a.webm").num_samples == 4


@pytest.mark.parametrize(("from_hz", "to_hz"), [(48000, 16000), (44100, 16000), (8000, 16000), (22050, 16000)])
def test_resampling_keeps_a_sine(from_hz: int, to_hz: int):
    t = np.arange(from_hz) / from_hz
    resampled = resample(np.sin(2 * np.pi * 440 * t).astype(np.float32), from_hz=from_hz, to_hz=to_hz)
    assert resampled.dtype == np.float32
    assert len(resampled) == to_hz
    expected = np.sin(2 * np.pi * 440 * np.arange(to_hz) / to_hz)
    np.testing.assert_allclose(resampled[200:-200], expected[200:-200], atol=4e-3)


def test_resampling_removes_what_the_new_rate_cannot_hold():
    t = np.arange(48000) / 48000
    high = resample(np.sin(2 * np.pi * 12000 * t).astype(np.float32), from_hz=48000, to_hz=16000)
    assert np.abs(high[200:-200]).max() < 0.01


def test_a_rate_without_common_divisor_takes_no_giant_kernel():
    t = np.arange(44101) / 44101
    resampled = resample(np.sin(2 * np.pi * 440 * t).astype(np.float32), from_hz=44101, to_hz=16000)
    assert len(resampled) == 16000
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(resampled[200:-200], expected[200:-200], atol=4e-3)


@pytest.mark.parametrize(
    ("num_samples", "rate"), [(1, 44100), (441, 44100), (4001, 8000), (12345, 22050), (999, 16000)]
)
def test_loaded_rows_have_the_length_that_the_manifest_says(tmp_path: Path, write_audio, num_samples: int, rate: int):
    write_audio(tmp_path / "a.wav", 20000, rate=rate)
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 17, num_samples, rate)], root=tmp_path)
    waveform = load_waveform(manifest, 0, sample_rate_hz=16000)
    assert len(waveform) == manifest.num_samples_at(16000)[0]


def test_a_file_whose_rate_changed_is_refused(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 4000, rate=8000)
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 0, 4000, 16000)], root=tmp_path)
    with pytest.raises(AudioError, match="must have the manifest's rate of 16000 Hz, got 8000 Hz"):
        load_waveform(manifest, 0, sample_rate_hz=16000)


def test_normalize_is_what_hugging_face_does(write_audio, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    waveform = write_audio(tmp_path / "a.wav", 5003) * 0.01 + 0.2
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(waveform, sampling_rate=16000, return_tensors="np").input_values[0]
    np.testing.assert_allclose(normalize(waveform), expected, atol=1e-6)


@pytest.mark.parametrize("length", [1, 400, 4096, 8193, 70_001])
def test_normalize_is_exact_at_any_length_and_in_place(length: int):
    waveform = (np.random.default_rng(length).standard_normal(length) * 0.01 + 0.3).astype(np.float32)
    exact = waveform.astype(np.float64)
    expected = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)
    np.testing.assert_allclose(normalize(waveform), expected, atol=4e-5)  # 0.3 + x has 3e-8 of rounding, over 0.01
    bits = normalize(waveform).tobytes()
    assert normalize(waveform, out=waveform) is waveform
    assert waveform.tobytes() == bits


def test_normalize_of_silence_is_silence():
    assert normalize(np.zeros(7, dtype=np.float32)).tolist() == [0.0] * 7
