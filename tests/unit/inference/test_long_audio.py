"""Long recordings: latents of windows are those of the whole, and what attention within windows costs is measured."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
import typer
from typer.testing import CliRunner

from audio_ssl.cli.extract import extract
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.text import Vocabulary
from audio_ssl.data.waveform import normalize, resample
from audio_ssl.errors import ManifestError
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import AudioNeeds, Recogniser
from audio_ssl.inference.source import ArraySource, ManifestSource, Refusal, Source
from audio_ssl.inference.stream import Piece, Stream, StreamSettings, joined
from audio_ssl.inference.transcribe import log_probs_of
from audio_ssl.inference.window_error import compare, rows_to_measure
from audio_ssl.inference.windows import WindowSettings, plan_windows
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.transformer import Block
from tests.unit.inference.conftest import CPU, SYMBOLS, noise, write_wav
from tests.unit.model.small_models import small_encoder

KINDS: dict[str, dict[str, Any]] = {
    "group": {"variant": "base"},
    "group, normalised": {"variant": "base", "normalize_waveform": True},
    "layer": {"variant": "large", "normalize_waveform": True},
    "mel": {"front_end": "mel", "mel_bands": 13},
    "mel, normalised": {"front_end": "mel", "mel_bands": 13, "normalize_waveform": True},
    "squeezed": {"variant": "base", "context_stride": 3},
}


class Latents:
    """A forward that stops after the feature encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.widths = encoder.feature_encoder, list[int]()

    def __call__(self, waveforms: torch.Tensor, num_samples: torch.Tensor, **given: Any) -> Any:
        self.widths.append(waveforms.shape[1])
        return self.encoder(waveforms, num_samples, **given)


def changing(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Noise whose loudness, colour and mean change all the time, so that statistics of a part are not the whole's."""
    samples = noise(round(seconds * rate), seed=seed)
    samples = samples + np.roll(samples, 1) * np.linspace(-1, 1, len(samples), dtype=np.float32)
    return (samples * np.geomspace(0.05, 1, len(samples)) + np.linspace(0, 0.2, len(samples))).astype(np.float32)


def stream(source: Source, forward: Any, encoder: Encoder, **changes: Any) -> Stream:
    windows = WindowSettings(changes.pop("max_s", 2.0), changes.pop("overlap_s", 0.5), changes.pop("exact", False))
    settings = StreamSettings(changes.pop("batch_s", 5.0), windows, changes.pop("num_threads", 2))
    return Stream(source, forward, needs=AudioNeeds.of(encoder), settings=settings, runtime=CPU, **changes)


def frames_of(source: Source, forward: Any, encoder: Encoder, **changes: Any) -> dict[int, np.ndarray]:
    found = {}
    for result in joined(stream(source, forward, encoder, **changes).run(range(len(source)))):
        assert not isinstance(result, Refusal), result.reason
        found[result[0]] = result[1]
    return found


def assert_same(found: np.ndarray, expected: np.ndarray, *, bound: float = 1e-5) -> None:
    """Relative to the frames: norm of each frame's difference over the mean norm of all."""
    assert found.shape == expected.shape
    size = np.linalg.norm(expected, axis=-1).mean()
    assert np.linalg.norm(found - expected, axis=-1).max() < bound * size


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_latents_of_windows_are_those_of_the_whole(kind: dict[str, Any]) -> None:
    encoder = small_encoder(**kind)
    # two recordings, so that the statistics of one are asked for while the other is read ahead
    source = ArraySource([changing(7.3), changing(5.9, seed=5)[::-1].copy()], sample_rate_hz=16_000)
    forward = Latents(encoder)
    found = frames_of(source, forward, encoder, max_s=2.0, overlap_s=0.0)
    assert max(forward.widths) < 2.2 * 16_000
    for row, waveform in enumerate([changing(7.3), changing(5.9, seed=5)[::-1].copy()]):
        given = normalize(waveform) if encoder.normalize_waveform else waveform
        with torch.inference_mode():
            whole, _ = encoder.feature_encoder(torch.from_numpy(given)[None], torch.tensor([len(given)]))
        assert_same(found[row], whole[0].numpy())


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 16_001])
@pytest.mark.parametrize("kind", ["group, normalised", "mel"])
def test_so_they_are_at_other_rates(kind: str, rate: int) -> None:
    encoder = small_encoder(**KINDS[kind])
    waveform = changing(6.7, rate)
    source = ArraySource([waveform], sample_rate_hz=rate)
    found = frames_of(source, Latents(encoder), encoder, max_s=2.0, overlap_s=0.0)[0]
    resampled = resample(waveform, from_hz=rate, to_hz=16_000)
    given = normalize(resampled) if encoder.normalize_waveform else resampled
    with torch.inference_mode():
        whole, _ = encoder.feature_encoder(torch.from_numpy(given)[None], torch.tensor([len(given)]))
    # 16 001 Hz go through soxr, which agrees with itself to about 1e-6 of full scale; bands above half of 8 kHz hold
    # nothing but the rounding of the samples
    is_odd = rate == 16_001 or (rate == 8_000 and kind == "mel")
    assert_same(found, whole[0].numpy(), bound=1e-4 if is_odd else 1e-5)


def test_blocks_see_groups_and_positions_of_the_whole() -> None:
    # layer 0 sees the positional conv's 8 frames: beyond latents, exact as far as an overlap of half a second reaches
    encoder = small_encoder(**KINDS["squeezed"])
    source = ArraySource([changing(7.3)], sample_rate_hz=16_000)
    forward = LayerForward(encoder, choose_layer(0, num_layers=3))
    cut, whole = (frames_of(source, forward, encoder, max_s=max_s)[0] for max_s in (2.1, 10.0))
    assert_same(cut, whole)


def test_transcripts_profit_too() -> None:
    """Without attention all that a recogniser does is local: its log-probabilities are those of the whole."""
    encoder = small_encoder("base", normalize_waveform=True)
    model = CTCModel(encoder, 7).eval()
    for block in encoder.context_network.blocks:
        assert isinstance(block, Block)
        torch.nn.init.zeros_(block.attention.output.weight)
    recogniser = Recogniser(model, Vocabulary(SYMBOLS))
    source = ArraySource([changing(7.3)], sample_rate_hz=16_000)
    cut, whole = (
        dict(log_probs_of(  # type: ignore[arg-type]
            source, [0], recogniser=recogniser, settings=StreamSettings(5.0, WindowSettings(max_s, 0.5)), runtime=CPU
        ))[0]
        for max_s in (2.0, 10.0)
    )  # fmt: skip
    np.testing.assert_allclose(cut, whole, atol=2e-5)


class Counting:
    """A source that counts what is read."""

    def __init__(self, source: Source) -> None:
        self._source, self.num_read, self.longest = source, 0, 0

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def load(self, row: int, start: int, num_samples: int, *, to_hz: int) -> np.ndarray:
        self.num_read += num_samples
        self.longest = max(self.longest, num_samples)
        return self._source.load(row, start, num_samples, to_hz=to_hz)


@pytest.mark.parametrize(("kind", "times"), [("group", 2), ("group, normalised", 2), ("layer", 2), ("mel", 2),
                                             ("mel, normalised", 3)])  # fmt: skip
def test_a_recording_is_read_twice_in_pieces(kind: str, times: int) -> None:
    encoder = small_encoder(**KINDS[kind])
    samples = 44_100 * 61
    source = Counting(ArraySource([changing(61, 44_100)], sample_rate_hz=44_100))
    frames_of(source, Latents(encoder), encoder, max_s=10.0, overlap_s=0.0, batch_s=10.0)
    assert times <= source.num_read / samples < times + 0.2  # overlaps, and margins of the resampler
    assert source.longest < 31 * 44_100


def test_nan_in_the_third_window_is_named_before_any_is_computed(encoder: Encoder, tmp_path: Path) -> None:
    spoilt = changing(9.0)
    spoilt[80_123] = np.nan
    write_wav(tmp_path / "long.wav", spoilt)
    write_wav(tmp_path / "good.wav", changing(5.0))
    rows = [Utterance("long", "long.wav", 0, 144_000, 16_000), Utterance("good", "good.wav", 0, 80_000, 16_000)]
    source = Counting(ManifestSource(Manifest.from_rows(rows, root=tmp_path)))
    found = list(stream(source, last(encoder), encoder, batch_s=2.0, num_threads=1).run([0, 1]))
    assert isinstance(found[0], Refusal)
    assert (found[0].id, found[0].row) == ("long", 0)
    assert "80123 is nan" in found[0].reason
    assert {piece.row for piece in found[1:]} == {1}
    assert source.num_read <= 144_000 + 80_000 + 4 * 32_000  # a pass over each, and the windows of the good one


def test_what_breaks_late_without_a_first_pass_is_dropped_late() -> None:
    encoder = small_encoder("large")  # neither normalised nor normed over time: read once
    spoilt = changing(9.0)
    spoilt[80_123] = np.inf
    source = Counting(ArraySource([spoilt, changing(5.0)], sample_rate_hz=16_000))
    found = list(stream(source, last(encoder), encoder, batch_s=2.0, num_threads=1).run([0, 1]))
    kinds = [(type(piece), piece.row) for piece in found]
    assert kinds == [(Piece, 0)] * 3 + [(Refusal, 0)] + [(Piece, 1)] * 4 or kinds == (
        [(Piece, 0)] * 2 + [(Refusal, 0)] + [(Piece, 1)] * 4
    )


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_a_recording_that_has_shrunk_is_refused(kind: str, tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", changing(6.0))
    rows = [Utterance("long", "long.wav", 0, 144_000, 16_000)]
    encoder = small_encoder(**KINDS[kind])
    found = list(stream(ManifestSource(Manifest.from_rows(rows, root=tmp_path)), last(encoder), encoder).run([0]))
    (refusal,) = [piece for piece in found if isinstance(piece, Refusal)]
    assert "decoding ends at 96000: it is truncated, or has changed since" in refusal.reason
    assert found[-1] is refusal


def last(encoder: Encoder) -> LayerForward:
    return LayerForward(encoder, choose_layer("last", num_layers=encoder.num_layers))


def measured(source: Source, encoder: Encoder, layer: str = "last", **changes: Any) -> Iterator[Piece]:
    forward = LayerForward(encoder, choose_layer(layer, num_layers=encoder.num_layers))
    for piece in stream(source, forward, encoder, measures_windows=True, **changes).run(range(len(source))):
        assert isinstance(piece, Piece)
        yield piece


@pytest.mark.parametrize("layer", ["last", "all"])
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_the_window_error_is_that_of_a_full_pass(layer: str, rate: int) -> None:
    """A recording that two windows cover: the stretch is all of it, and a lone pass over it is full attention."""
    encoder = small_encoder("base", normalize_waveform=True)
    source = ArraySource([changing(3.3, rate)], sample_rate_hz=rate)
    pieces = list(measured(source, encoder, layer))
    assert [piece.window_error is None for piece in pieces] == [True, False]
    error = pieces[1].window_error
    assert error is not None
    given = normalize(resample(changing(3.3, rate), from_hz=rate, to_hz=16_000))
    with torch.inference_mode():
        output = encoder(torch.from_numpy(given)[None], torch.tensor([len(given)]), return_layers=True)
    layers = [output.frames[0]] if layer == "last" else [frames[0] for frames in output.layers]
    found = np.concatenate([piece.frames for piece in pieces], axis=-2).reshape(len(layers), *layers[0].shape)
    differences = [torch.from_numpy(own) - full for own, full in zip(found, layers, strict=True)]
    relative = [float(d.norm() / full.norm()) for d, full in zip(differences, layers, strict=True)]
    worst = [float((d.norm(dim=1) / full.norm(dim=1)).max()) for d, full in zip(differences, layers, strict=True)]
    cosines = [
        float(torch.cosine_similarity(torch.from_numpy(own), full, dim=1).min())
        for own, full in zip(found, layers, strict=True)
    ]
    assert max(relative) > 1e-3  # there is something to measure
    assert error.relative == pytest.approx(max(relative), rel=2e-3)
    assert error.worst_frame == pytest.approx(max(worst), rel=2e-3)
    assert error.least_cosine == pytest.approx(min(cosines), abs=1e-5)
    assert error.over_s == pytest.approx(3.3, abs=0.01)
    if layer == "last":
        assert error.by_layer is None
    else:
        assert error.by_layer == pytest.approx(relative, rel=2e-3, abs=1e-5)


def test_the_seam_in_the_middle_of_a_longer_recording_is_measured() -> None:
    encoder = small_encoder("base")
    waveform = changing(11.0)
    pieces = list(measured(ArraySource([waveform], sample_rate_hz=16_000), encoder, batch_s=4.0))
    windows = plan_windows(
        len(waveform), WindowSettings(2.0, 0.5), geometry=encoder.geometry, from_hz=16_000, to_hz=16_000
    )
    assert len(windows) == 8
    error = pieces[-1].window_error
    assert error is not None
    assert [piece.window_error for piece in pieces[:-1]] == [None] * 7
    # by hand: samples of windows 3 and 4 at once, with the statistics of the whole
    first, second = windows[3], windows[4]
    stretch = waveform[first.start : second.start + second.num_samples]
    sums = encoder.feature_encoder.time_sums()
    assert sums is not None
    sums.add(waveform)
    with torch.inference_mode():
        full = encoder(torch.from_numpy(stretch)[None], torch.tensor([len(stretch)]), time_stats=sums.stats()).frames[0]
    full = full[first.keep_from - first.first_frame : second.keep_to - first.first_frame]
    difference = torch.from_numpy(np.concatenate([pieces[3].frames, pieces[4].frames])) - full
    assert error.relative == pytest.approx(float(difference.norm() / full.norm()), rel=1e-3)
    assert error.over_s == len(stretch) / 16_000 == pytest.approx(3.5, abs=0.05)


def test_errors_by_hand() -> None:
    exact = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], dtype=np.float32)
    found = np.array([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    error = compare([found[:1], found[1:]], exact, over_s=1.5)
    assert error.relative == pytest.approx(np.sqrt(8 / 29))
    assert error.worst_frame == pytest.approx(np.sqrt(2))
    assert error.least_cosine == 0.0
    assert error.as_document() == {
        "relative": 0.525226, "worst_frame": 1.41421, "least_cosine": 0.0, "over_s": 1.5
    }  # fmt: skip
    both = compare([np.stack([exact, found])], np.stack([exact, exact]), over_s=1.5)
    assert (both.relative, both.worst_frame, both.least_cosine) == (error.relative, error.worst_frame, 0.0)
    assert both.as_document()["by_layer"] == [0.0, 0.525226]


def test_a_tenth_of_the_audio_is_computed_again() -> None:
    windows = WindowSettings(60.0, 4.0)  # stretches of 116 s
    # the first long one always; then 600 s are below 2320 = 10 * 2 * 116; the third makes 2600
    assert rows_to_measure([30.0, 200.0, 370.0, 2000.0, 61.0], windows) == {1, 3}
    assert rows_to_measure([30.0, 60.0], windows) == set()
    assert rows_to_measure([61.0, 549.0, 610.0], windows) == {0}  # 61 + 116 > 122
    assert rows_to_measure([61.0, 549.0, 1160.0], windows) == {0, 2}  # 61 + 116 <= 177


def test_an_error_stays_with_its_recording() -> None:
    encoder = small_encoder("large")
    spoilt = changing(9.0)
    spoilt[-5] = np.nan  # after the seam in the middle has been measured
    lengths = [spoilt, changing(5.0)]
    pieces = stream(
        ArraySource(lengths, sample_rate_hz=16_000), last(encoder), encoder, measures_windows=True, batch_s=2.0
    ).run([0, 1])
    assert [piece.window_error for piece in pieces if isinstance(piece, Piece) and piece.row == 1] == [None] * 4


def test_exact_refuses_what_would_be_cut() -> None:
    encoder = small_encoder("base")
    forward = Latents(encoder)
    source = ArraySource([changing(7.31), changing(1.5), changing(2.0)], sample_rate_hz=16_000)
    found = list(stream(source, forward, encoder, exact=True).run(range(3)))
    assert [(piece.row, isinstance(piece, Refusal)) for piece in found] == [(0, True), (2, False), (1, False)]
    assert "must last 2 s (--max-s) or less with --exact, it lasts 7.3 s" in found[0].reason
    assert "--max-s 8" in found[0].reason
    again = list(stream(source, forward, encoder, exact=True, max_s=8.0).run(range(3)))
    assert not any(isinstance(piece, Refusal) for piece in again)


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Pieces of a recording four times as long take the same memory; numpy's share of it is what tracemalloc sees."""
    encoder = small_encoder("base", normalize_waveform=True)
    peaks = []
    for seconds in (60, 240):
        path = tmp_path / f"{seconds}.wav"
        with sf.SoundFile(path, "w", 44_100, 1, "PCM_16") as file:
            for _ in range(seconds // 10):
                file.write(noise(441_000))
        rows = [Utterance("long", path.name, 0, seconds * 44_100, 44_100)]
        source = ManifestSource(Manifest.from_rows(rows, root=tmp_path))
        tracemalloc.start()
        pieces = stream(source, last(encoder), encoder, max_s=10.0, batch_s=10.0).run([0])
        total = sum(piece.frames.shape[-2] for piece in pieces if isinstance(piece, Piece))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == encoder.geometry.num_frames(seconds * 16_000)
    assert peaks[1] < 1.1 * peaks[0]


app = typer.Typer()
app.command()(extract)


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for name, seconds in (("a", 1.5), ("b", 5.0), ("c", 7.0)):
        write_wav(tmp_path / "speech" / f"{name}.wav", changing(seconds))
    return tmp_path / "speech"


def test_the_index_and_the_last_words_say_what_windows_cost(model_dir: Path, recordings: Path, tmp_path: Path) -> None:
    windows = ("--max-s", 2, "--overlap-s", 0.5)
    said = call(model_dir, recordings, tmp_path / "out", *windows)
    assert "needs about" in said
    short, first, second = lines_of(tmp_path / "out/index.jsonl")
    assert "window_error" not in short
    error = first["window_error"]
    assert set(error) == {"relative", "worst_frame", "least_cosine", "over_s"}
    assert 0 < error["relative"] <= error["worst_frame"]
    assert 0.5 < error["least_cosine"] <= 1
    assert second["window_error"] is None  # a tenth of 13.5 s is spent
    assert f"windows against attention over 3 s: relative error {error['relative']:.2g}" in said
    # latents are those of the whole: nothing to measure
    call(model_dir, recordings, tmp_path / "latents", *windows, "--layer", "conv")
    assert [line.get("window_error") for line in lines_of(tmp_path / "latents/index.jsonl")] == [None] * 3


def test_exact_names_what_it_refuses(model_dir: Path, recordings: Path, tmp_path: Path) -> None:
    windows = ("--max-s", 2, "--overlap-s", 0.5, "--exact")
    call(model_dir, recordings, tmp_path / "out", *windows)
    assert [line["id"] for line in lines_of(tmp_path / "out/index.jsonl")] == ["a"]
    refused = lines_of(tmp_path / "out/errors.jsonl")
    assert [line["id"] for line in refused] == ["b", "c"]
    assert "it lasts 5.0 s and would be cut into windows; give --max-s 5" in refused[0]["reason"]
    with pytest.raises(ManifestError, match="exact"):  # what was refused there must not be cut here
        call(model_dir, recordings, tmp_path / "out", *windows[:-1])
    call(model_dir, recordings, tmp_path / "latents", *windows, "--layer", "conv")
    assert len(lines_of(tmp_path / "latents/index.jsonl")) == 3
