"""Speech by its probability: spans and cuts by hand, blocks without seams, and the network itself on real speech."""

import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from audio_ssl.cli.main import app
from audio_ssl.data import segment as segment_module
from audio_ssl.data import vad as vad_module
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.segment import segment_manifest
from audio_ssl.data.silence import SegmentSettings, split_at_pauses, split_at_silence
from audio_ssl.data.vad import FRAME_SAMPLES, RATE_HZ, SileroVAD, resampled_blocks, speech_spans
from audio_ssl.data.waveform import resample
from audio_ssl.errors import MissingExtraError

CORPORA = os.environ.get("AUDIO_SSL_CORPORA")
HAS_SILERO = all(importlib.util.find_spec(name) for name in ("onnxruntime", "silero_vad"))
needs_silero = pytest.mark.skipif(not HAS_SILERO, reason="silero-vad and onnxruntime are not installed: audio_ssl[vad]")
DEMO = Path(__file__).parents[3] / "manifests" / "demo"
FRAME_S = FRAME_SAMPLES / RATE_HZ  # 0.032


def probs(*parts: tuple[int, float]) -> np.ndarray:
    """(frames, probability) after one another."""
    return np.concatenate([np.full(n, p, dtype=np.float32) for n, p in parts])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(10, 0.0), (20, 0.9), (10, 0.1)], [(10, 30)]),
        ([(20, 0.9)], [(0, 20)]),
        ([(10, 0.0), (7, 0.9), (10, 0.0)], []),  # 0.22 s is no speech
        ([(10, 0.0), (8, 0.9), (10, 0.0)], [(10, 18)]),
        ([(9, 0.9), (3, 0.1), (9, 0.9)], [(0, 21)]),  # 0.1 s is no pause
        ([(9, 0.9), (4, 0.1), (9, 0.9)], [(0, 9), (13, 22)]),
        ([(9, 0.9), (30, 0.4), (9, 0.9)], [(0, 48)]),  # neither below 0.35
        ([(5, 0.4), (9, 0.9), (5, 0.4)], [(5, 19)]),  # nor above 0.5: speech does not begin with it, but goes on
        ([(9, 0.9), (1, 0.1), (30, 0.4)], [(0, 9)]),  # and does not end a pause
        ([(9, 0.9), (1, 0.1), (2, 0.4), (1, 0.1), (9, 0.6)], [(0, 9), (13, 22)]),
        ([(9, 0.9), (2, 0.0)], [(0, 9)]),
        ([(50, 0.49)], []),
        ([], []),
    ],
)
def test_speech_is_where_it_is_likely_and_pauses_are_long_enough(parts, expected):
    assert speech_spans(probs(*parts) if parts else np.zeros(0, dtype=np.float32)) == expected


def cuts(parts: list[tuple[int, float]], rate: int = RATE_HZ, **limits: float) -> list[tuple[int, int]]:
    found = probs(*parts)
    num_samples = len(found) * FRAME_SAMPLES * rate // RATE_HZ
    return split_at_pauses(found, num_samples=num_samples, sample_rate_hz=rate, settings=SegmentSettings(**limits))


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_pieces_lie_around_speech_with_a_margin_at_any_rate(rate: int):
    # 50 frames are 1.6 s; margins 0.1 s
    pieces = cuts([(50, 0.0), (100, 0.9), (50, 0.0), (75, 0.9), (50, 0.1)], rate, min_s=2, max_s=30)
    assert [edge / rate for span in pieces for edge in span] == pytest.approx([1.5, 4.9, 6.3, 8.9], abs=1e-3)


def test_short_pauses_part_nothing_that_fits():
    spoken = [(100, 0.9), (25, 0.0), (100, 0.9), (25, 0.0), (100, 0.9)]  # 3.2 s and 0.8 s
    assert cuts(spoken, min_s=2, max_s=30) == [(0, 350 * 512)]
    assert cuts(spoken, min_s=2, max_s=8) == [(0, 225 * 512 + 1600), (250 * 512 - 1600, 350 * 512)]


def test_long_speech_is_cut_in_the_middle_of_its_deepest_dip():
    # in the second half of 10 s (frames 157 to 312), dips of three frames are no pauses; the deeper one is taken
    dips = [(170, 0.9), (3, 0.3), (97, 0.9), (3, 0.1), (127, 0.9)]
    middle = (270 + 1.5) * 512
    assert cuts(dips, min_s=2, max_s=10) == [(0, middle), (middle, 400 * 512)]
    # ties: the middle of the first
    flat = [(200, 0.9), (31, 0.6), (200, 0.9)]
    middle = (200 + 15.5) * 512
    assert cuts(flat, min_s=2, max_s=10) == [(0, middle), (middle, 431 * 512)]


def test_no_speech_is_lost_at_the_end_of_a_long_stretch():
    # 10.24 s without a dip but one at 9.6 s: a cut there would leave 0.6 s, too short for a piece
    found = cuts([(300, 0.9), (3, 0.1), (17, 0.9)], min_s=2, max_s=10)
    assert (found[0][0], found[0][1], found[-1][1]) == (0, found[-1][0], 320 * 512)
    assert found[-1][1] - found[-1][0] >= 2 * RATE_HZ


def test_what_is_too_short_joins_its_near_neighbour_and_not_a_far_one():
    # 3.2 s | 1.92 s pause | 0.96 s, 0.32 s pause, 3.2 s | 1.92 s pause | 0.96 s alone
    parts = [(100, 0.9), (60, 0.0), (30, 0.9), (10, 0.0), (100, 0.9), (60, 0.0), (30, 0.9)]
    joined = [(0, 100 * 512 + 1600), (160 * 512 - 1600, 390 * 512)]  # the last may join over its pause alone
    assert cuts(parts, min_s=2, max_s=30) == joined
    assert cuts(parts, min_s=2, max_s=6) == [(0, 100 * 512 + 1600), (160 * 512 - 1600, 300 * 512 + 1600)]
    assert cuts([(30, 0.9), (100, 0.0)], min_s=2, max_s=30) == []


@pytest.mark.parametrize("seed", range(20))
def test_pieces_keep_their_limits_whatever_is_heard(seed: int):
    generator = np.random.default_rng(seed)
    parts = [(int(generator.integers(1, 120)), float(generator.uniform(0, 1))) for _ in range(60)]
    for rate in (8000, 44100):
        found = cuts(parts, rate, min_s=2, max_s=5)
        edges = [edge for span in found for edge in span]
        assert edges == sorted(edges)
        assert all(2 * rate <= b - a <= 5 * rate for a, b in found)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000, 12345])
def test_blocks_at_another_rate_have_no_seams(rate: int):
    signal = np.random.default_rng(rate).uniform(-0.5, 0.5, round(3.7 * rate) + 11).astype(np.float32)
    asked = []

    def read(first: int, num_samples: int) -> np.ndarray:
        asked.append(num_samples)
        return signal[first : first + num_samples]

    blocks = list(resampled_blocks(read, len(signal), from_hz=rate, block_s=0.5))
    whole = resample(signal, from_hz=rate, to_hz=RATE_HZ)
    assert sum(map(len, blocks)) == len(whole) == -(-len(signal) * RATE_HZ // rate)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)
    step = rate // np.gcd(rate, RATE_HZ)
    assert max(asked) <= 0.7 * rate + 3 * step


class Counting:
    """Stands for the network: tells what it was shown, and counts frames in its state."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def run(self, names: list[str], given: dict[str, np.ndarray]):
        assert names == ["speech_probs", "hn", "cn"]
        frames = given["input"]
        self.shown.append(frames)
        before = given["h"][0, 0, 0]
        values = before + np.arange(1, len(frames) + 1, dtype=np.float32)
        return values, given["h"] + np.float32(len(frames)), given["c"]


@pytest.mark.parametrize("sizes", [[3000], [1, 511, 512, 1024, 952], [100] * 30, [0, 2999, 1]])
def test_frames_state_and_context_go_on_over_blocks(sizes: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vad_module, "_FRAMES_A_CALL", 2)
    vad = SileroVAD.__new__(SileroVAD)
    vad._session = Counting()
    signal = np.arange(1, 3001, dtype=np.float32)
    parts = np.split(signal, np.cumsum(sizes)[:-1])
    assert vad.probabilities(iter(parts)).tolist() == [1, 2, 3, 4, 5, 6]  # ceil(3000 / 512)
    padded = np.concatenate([np.zeros(64), signal, np.zeros(6 * 512 - 3000)])
    shown = np.concatenate(vad._session.shown)
    assert max(map(len, vad._session.shown)) <= 2
    for i in range(6):
        np.testing.assert_array_equal(shown[i], padded[512 * i : 512 * i + 576])
    assert vad.probabilities([]).shape == (0,)


@pytest.mark.parametrize("absent", ["onnxruntime", "silero_vad", "model"])
def test_a_missing_package_says_what_to_install(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sf.write(tmp_path / "a.wav", np.zeros(RATE_HZ), RATE_HZ)
    manifest = Manifest.from_rows([Utterance("a", "a.wav", 0, RATE_HZ, RATE_HZ)], root=tmp_path)
    manifest.write(tmp_path / "a.tsv")
    (tmp_path / "silero_vad").mkdir()
    (tmp_path / "silero_vad" / "__init__.py").touch()  # of a release without the model
    monkeypatch.delitem(sys.modules, "silero_vad", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None if absent == "onnxruntime" else ModuleType("onnxruntime"))
    if absent == "silero_vad":
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'audio_ssl\[vad\]', or use --vad energy") as caught:
        segment_manifest(manifest, settings=SegmentSettings(vad="silero"))
    said = {"onnxruntime": "cannot be imported", "silero_vad": "no package silero_vad", "model": "silero-vad 6.2.3"}
    assert said[absent] in str(caught.value)
    done = CliRunner().invoke(
        app, ["manifest", "segment", f"{tmp_path}/a.tsv", "-o", f"{tmp_path}/b.tsv", "--vad", "silero"]
    )
    assert isinstance(done.exception, MissingExtraError)
    assert not (tmp_path / "b.tsv").exists()


class Loud:
    """Stands for the network: speech is what is loud."""

    def probabilities(self, blocks) -> np.ndarray:
        signal = np.concatenate(list(blocks))
        frames = np.pad(signal, (0, -len(signal) % 512)).reshape(-1, 512)
        return (np.abs(frames).max(axis=1) > 0.1).astype(np.float32)


def recording(path: Path, rate: int, parts: list[tuple[float, float]]) -> int:
    """(seconds, loudness) after one another; returns the number of samples."""
    generator = np.random.default_rng(0)
    signal = np.concatenate([a * generator.uniform(-1, 1, round(s * rate)) for s, a in parts])
    sf.write(path, signal, rate)
    return len(signal)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_rows_are_cut_from_their_own_start_whatever_the_threads(tmp_path: Path, monkeypatch, num_workers: int):
    monkeypatch.setattr(segment_module, "SileroVAD", Loud)
    monkeypatch.setattr(segment_module, "_VAD_BLOCK_S", 1)
    read: list[float] = []

    def counted(file, *, num_samples: int, expected_rate_hz: int, **rest):
        read.append(num_samples / expected_rate_hz)
        return load_segment(file, num_samples=num_samples, expected_rate_hz=expected_rate_hz, **rest)

    load_segment = segment_module.load_segment
    monkeypatch.setattr(segment_module, "load_segment", counted)
    rows = []
    for i, rate in enumerate((8000, 44100, 16000, 16000)):
        length = recording(tmp_path / f"{i}.wav", rate, [(2, 1e-3), (4, 0.5), (2, 1e-3), (3, 0.5), (2, 1e-3)])
        rows.append(Utterance(f"r{i}", f"{i}.wav", rate, length - rate, rate, "words", "anna"))
    rows.insert(2, Utterance("short", "2.wav", 0, 32000, 16000, "few"))
    silent = recording(tmp_path / "s.wav", 16000, [(20, 1e-3)])
    rows.append(Utterance("s", "s.wav", 0, silent, 16000))
    manifest = Manifest.from_rows(rows, root=tmp_path)
    settings = SegmentSettings(min_s=2, max_s=5, vad="silero")
    result = segment_manifest(manifest, settings=settings, num_workers=num_workers)
    pieces = list(result.manifest)
    names = [piece.id.partition("-")[0] for piece in pieces]
    assert names == ["r0", "r0", "r1", "r1", "short", "r2", "r2", "r3", "r3"]
    assert pieces[4] == rows[2]
    for piece in pieces[:4] + pieces[5:]:
        low, high = (2, 6) if piece.start < 7 * piece.sample_rate else (8, 11)  # in the file, not in the row
        assert low - 0.14 <= piece.start / piece.sample_rate <= low - 0.06  # margin 0.1 s, frames of 0.032 s
        assert high + 0.06 <= (piece.start + piece.num_samples) / piece.sample_rate <= high + 0.14
        assert (piece.text, piece.speaker) == (None, "anna")
    (refusal,) = result.refusals
    assert refusal.detail == "s: there is no speech of 2 s or more in its 20.0 s"
    assert (result.num_cut, result.num_texts_dropped) == (5, 4)
    assert max(read) <= 1 + 2 * 0.1 + 0.1

    trimmed = segment_manifest(manifest.select([2]), settings=SegmentSettings(trims=True, vad="silero")).manifest
    assert list(trimmed) == [rows[2]]  # no speech at all: it stays
    whole = manifest.select([3])
    (row,) = segment_manifest(whole, settings=SegmentSettings(max_s=20, trims=True, vad="silero")).manifest
    assert row.text == "words"
    assert row.start / 16000 == pytest.approx(1.9, abs=0.04)
    assert (row.start + row.num_samples) / 16000 == pytest.approx(11.1, abs=0.04)


def test_files_that_went_bad_are_named_here_too(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(segment_module, "SileroVAD", Loud)
    for name in ("cut.flac", "rate.wav", "good.wav"):
        length = recording(tmp_path / name, 16000, [(2, 1e-3), (6, 0.5), (2, 1e-3)])
    rows = [Utterance(name, name, 0, length, 16000) for name in ("cut.flac", "gone.wav", "rate.wav", "good.wav")]
    os.truncate(tmp_path / "cut.flac", (tmp_path / "cut.flac").stat().st_size // 2)
    recording(tmp_path / "rate.wav", 8000, [(30, 0.5)])
    settings = SegmentSettings(min_s=2, max_s=8, vad="silero")
    result = segment_manifest(Manifest.from_rows(rows, root=tmp_path), settings=settings, num_workers=2)
    assert [piece.path for piece in result.manifest] == ["good.wav"]
    reasons = [r.detail for r in result.refusals]
    assert [reason.partition(": ")[0] for reason in reasons] == ["cut.flac", "gone.wav", "rate.wav"]
    assert "must have the manifest's rate of 16000 Hz, got 8000 Hz" in reasons[2]


def speech(seconds: float) -> np.ndarray:
    """(S,) float32 at 16 kHz, of the demo corpus."""
    parts, total = [], 0
    for path in sorted(DEMO.rglob("*.opus")):
        signal, rate = sf.read(path, dtype="float32")
        parts.append(resample(signal, from_hz=rate, to_hz=RATE_HZ))
        total += len(parts[-1])
        if total >= seconds * RATE_HZ:
            break
    return np.concatenate(parts)[: round(seconds * RATE_HZ)]


@needs_silero
def test_probabilities_are_those_of_the_packages_own_frame_by_frame_model():
    """Another file of weights, another loop: silero_vad's wrapper shows its model a frame at a time."""
    import torch

    num_threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(num_threads)  # its import sets them
    signal = speech(5)
    model = load_silero_vad(onnx=True)
    frames = torch.from_numpy(np.pad(signal, (0, -len(signal) % 512))).split(512)
    theirs = np.array([float(model(frame, RATE_HZ)) for frame in frames])
    ours = SileroVAD().probabilities([signal])
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert ours.max() > 0.9
    assert "silero_vad" not in vad_module.__dict__


@needs_silero
def test_blocks_and_threads_change_no_probability():
    vad, signal = SileroVAD(), speech(20)
    whole = vad.probabilities([signal])
    for size in (1000, 16000, 100_001):
        np.testing.assert_array_equal(vad.probabilities(np.split(signal, range(size, len(signal), size))), whole)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: vad.probabilities([signal]), range(8)):
            np.testing.assert_array_equal(found, whole)


@needs_silero
def test_the_verb_cuts_speech_out_of_noise_and_names_what_has_none(tmp_path: Path):
    generator = np.random.default_rng(0)
    voice = speech(4)
    voice[-RATE_HZ // 2 :] = 0  # the end of a word
    noise = (np.sqrt(np.mean(voice**2)) * generator.standard_normal(3 * RATE_HZ)).astype(np.float32)
    sf.write(tmp_path / "a.wav", np.concatenate([noise, voice, noise]), RATE_HZ)
    sf.write(tmp_path / "noise.wav", np.tile(noise, 4), RATE_HZ)
    rows = [Utterance("a", "a.wav", 0, 10 * RATE_HZ, RATE_HZ), Utterance("n", "noise.wav", 0, 12 * RATE_HZ, RATE_HZ)]
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "in.tsv")
    limits = ["--min-s", "2", "--max-s", "8", "--vad", "silero", "--workers", "3"]
    done = CliRunner().invoke(app, ["manifest", "segment", f"{tmp_path}/in.tsv", "-o", f"{tmp_path}/out.tsv", *limits])
    assert done.exit_code == 0, done.output
    (piece,) = Manifest.read(tmp_path / "out.tsv")
    assert 2.8 <= piece.start / RATE_HZ <= 3.4
    assert 6 <= (piece.start + piece.num_samples) / RATE_HZ <= 7.2
    assert "left out: 1 no piece; all with reasons: " in done.output
    assert "n: there is no speech of 2 s or more in its 12.0 s" in (tmp_path / "out.tsv.refused.tsv").read_text()


@needs_silero
@pytest.mark.corpora
@pytest.mark.skipif(not CORPORA, reason="AUDIO_SSL_CORPORA is not set")
def test_utterances_between_noise_of_their_loudness_are_found_where_energy_fails(tmp_path: Path):
    files = sorted(Path(CORPORA, "librispeech_mini").rglob("*.flac"))[:12]
    assert len(files) == 12
    generator = np.random.default_rng(0)
    parts, spans, at = [], [], 0.0
    for path in files:
        signal, rate = sf.read(path, dtype="float32", stop=12 * RATE_HZ)
        assert rate == RATE_HZ
        gap = generator.standard_normal(round(generator.uniform(1.6, 3) * rate)) * np.sqrt(np.mean(signal**2))
        parts += [gap.astype(np.float32), signal]
        spans.append((at + len(gap) / rate, at + (len(gap) + len(signal)) / rate))
        at = spans[-1][1]
    signal = np.concatenate(parts)
    sf.write(tmp_path / "long.flac", signal, RATE_HZ)
    manifest = Manifest.from_rows([Utterance("long", "long.flac", 0, len(signal), RATE_HZ)], root=tmp_path)
    settings = SegmentSettings(min_s=2, max_s=30, vad="silero")
    pieces = segment_manifest(manifest, settings=settings).manifest
    found = [(p.start / RATE_HZ, (p.start + p.num_samples) / RATE_HZ) for p in pieces]

    def inside(pieces: list[tuple[float, float]]) -> list[int]:
        """Utterances that have one piece for their own: with them in it but for a second, and nothing of others."""
        return [
            i
            for i, (low, high) in enumerate(spans)
            if sum(abs(a - low) < 1 and abs(b - high) < 1 for a, b in pieces) == 1
        ]

    assert inside(found) == list(range(12))
    assert len(found) == 12
    by_energy = split_at_silence(signal, sample_rate_hz=RATE_HZ, settings=SegmentSettings(min_s=2, max_s=30))
    assert len(inside([(a / RATE_HZ, b / RATE_HZ) for a, b in by_energy])) <= 2
