"""Frames in Python: every kind of input gives the same numbers, results are typed, threads do not meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import audio_ssl
from audio_ssl import Embedder, Embedding, LayerWeights, Refusal
from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.data.waveform import normalize, resample
from audio_ssl.errors import AudioError, CheckpointError, ConfigError, ManifestError
from audio_ssl.inference.source import open_input
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.files import encoder_document, pretraining_document, save_model_dir
from audio_ssl.objective.registry import build_objective
from tests.unit.inference.conftest import CONFIG, noise, write_wav

WAVEFORM = noise(12_345)
NUM_FRAMES = 38  # (12345 - 400) // 320 + 1


@pytest.fixture(scope="module")
def e(model_dir: Path) -> Embedder:
    return audio_ssl.load(model_dir)


def test_one_input_gives_one_result_a_list_a_list(model_dir: Path, tmp_path: Path, monkeypatch) -> None:
    """The lines of the interface's first user, as they stand, but for the numbers of this model's layers."""
    from audio_ssl import load

    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav", WAVEFORM)
    array = noise(5_003, seed=1)
    e = load(str(model_dir))
    found = e.extract(["a.wav", array], layers=[1, 3])
    assert [type(f) for f in found] == [Embedding, Embedding]
    assert [(f.id, f.path, f.row, f.num_frames, f.dim, f.layers) for f in found] == [
        ("a.wav", "a.wav", 0, NUM_FRAMES, 16, (1, 3)), ("array 1", None, 1, 15, 16, (1, 3)),
    ]  # fmt: skip
    assert [f.frames.shape for f in found] == [(2, NUM_FRAMES, 16), (2, 15, 16)]
    assert [f.duration_s for f in found] == [12_345 / 16_000, 5_003 / 16_000]
    (in_list,) = e.extract([array])
    one = e.extract(array)
    assert isinstance(one, Embedding)
    assert one.frames.dtype == np.float32
    assert one.frames.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(one.frames, in_list.frames)
    assert e.extract([]) == []


def test_times_are_the_centres_of_frames(e: Embedder) -> None:
    times_s = e.extract(WAVEFORM).times_s
    assert times_s.dtype == np.float64
    assert times_s[:3].tolist() == [0.0125, 0.0325, 0.0525]  # of 400 samples, 320 further each, at 16 kHz
    geometry = e.encoder.geometry
    assert times_s.tolist() == [geometry.frame_centre_s(t, sample_rate_hz=16_000) for t in range(NUM_FRAMES)]


def test_paths_arrays_tensors_and_pairs_give_the_same(e: Embedder, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", WAVEFORM)
    with torch.inference_mode():
        given = torch.from_numpy(normalize(WAVEFORM))[None], torch.tensor([12_345])
        expected = e.encoder(*given).frames[0].numpy()
    kinds = [
        path, str(path), WAVEFORM, WAVEFORM.astype(np.float64), torch.from_numpy(WAVEFORM),
        torch.from_numpy(WAVEFORM)[None], (WAVEFORM, 16_000), (torch.from_numpy(WAVEFORM), np.int64(16_000)),
    ]  # fmt: skip
    found = [*e.extract(kinds), *(e.extract(kind) for kind in kinds)]
    assert len(found) == 2 * len(kinds)
    for result in found:
        np.testing.assert_allclose(result.frames, expected, atol=2e-5)


def test_a_tuple_is_a_pair_only_with_a_rate(e: Embedder, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", WAVEFORM)
    assert isinstance(e.extract((WAVEFORM, 8_000)), Embedding)
    assert [f.num_frames for f in e.extract((WAVEFORM, WAVEFORM[:5_003]))] == [NUM_FRAMES, 15]
    assert [f.id for f in e.extract((str(path), path))] == [str(path)] * 2


def test_other_rates_are_resampled_each_by_its_own(e: Embedder, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", WAVEFORM, rate=8_000)
    expected = e.extract([resample(WAVEFORM, from_hz=hz, to_hz=16_000) for hz in (48_000, 8_000, 44_100, 8_000)])
    found = e.extract([WAVEFORM, (WAVEFORM, 8_000), (WAVEFORM, 44_100), path], sample_rate_hz=48_000)
    assert [f.num_frames for f in found] == [e.encoder.geometry.num_frames(n) for n in (4_115, 24_690, 4_479, 24_690)]
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own.frames, other.frames, atol=2e-5)
    assert [f.duration_s for f in found] == [12_345 / hz for hz in (48_000, 8_000, 44_100, 8_000)]


def test_integers_are_scaled(e: Embedder) -> None:
    integers = np.round(WAVEFORM * 32768).astype(np.int16)
    expected = e.extract(integers / 32768).frames
    np.testing.assert_array_equal(e.extract(integers).frames, expected)
    np.testing.assert_array_equal(e.extract(torch.from_numpy(integers)).frames, expected)


def test_each_choice_of_layers_has_its_shape_and_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    objective = Wav2Vec2Config(num_groups=3, num_entries=5, code_dim=6, target_dim=7)
    modules = {"encoder": build_encoder(CONFIG), "objective": build_objective(objective, latent_dim=8, dim=16)}
    save_model_dir(tmp_path / "model", pretraining_document(CONFIG, objective), modules)
    e = audio_ssl.load(tmp_path / "model")
    weighted = e.extract(WAVEFORM, layers=LayerWeights((0.5, 0.0, 0.0, 0.5)))
    everything = e.extract(WAVEFORM, layers="all")
    assert everything.layers == (0, 1, 2, 3)
    np.testing.assert_allclose(weighted.frames, everything.frames[[0, 3]].mean(0), atol=1e-6)
    assert weighted.layers[0].startswith("weighted-")
    for layers, shape, names in (
        (None, (38, 16), ("last",)), (2, (38, 16), (2,)), ([2], (1, 38, 16), (2,)), ("3,1", (2, 38, 16), (3, 1)),
        ("conv", (38, 8), ("conv",)), ("codes", (38, 3), ("codes",)),
    ):  # fmt: skip
        found = e.extract(WAVEFORM, layers=layers)
        assert (found.frames.shape, found.layers, len(found.times_s)) == (shape, names, 38)
    codes = e.extract(WAVEFORM, layers="codes").frames
    assert codes.dtype == np.int32
    assert 0 <= codes.min() < codes.max() < 5


def test_codes_of_a_model_without_a_quantizer_are_refused(e: Embedder) -> None:
    with pytest.raises(ConfigError, match="needs a model with its quantizer"):
        e.extract(WAVEFORM, layers="codes")


def test_the_encoder_of_a_recogniser_and_a_module_in_memory_serve_as_well(ctc_dir: Path, encoder: Encoder) -> None:
    assert audio_ssl.load(ctc_dir).extract(WAVEFORM).frames.shape == (38, 16)
    plain = audio_ssl.load_encoder(ctc_dir)
    assert "context_network.positional.conv.parametrizations.weight.original0" in plain.state_dict()
    np.testing.assert_allclose(
        Embedder(plain).extract(WAVEFORM).frames, audio_ssl.load(ctc_dir).extract(WAVEFORM).frames, atol=1e-5
    )


def test_to_moves_and_gives_itself_back(model_dir: Path) -> None:
    e = audio_ssl.load(model_dir)
    assert e.to("cpu") is e
    assert e.device == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device"):
        e.to("nowhere")
    with pytest.raises(ConfigError, match="--precision"):
        audio_ssl.load(model_dir, precision="fp8")
    with pytest.raises(CheckpointError, match="no such file"):
        audio_ssl.load(model_dir / "nowhere")


def test_bf16_is_near_and_not_the_same(e: Embedder, model_dir: Path) -> None:
    full, half = e.extract(WAVEFORM).frames, audio_ssl.load(model_dir, precision="bf16").extract(WAVEFORM).frames
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.2


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (np.zeros((2, 9_000), np.float32), r"must be one mono waveform of shape \(S,\), got shape \(2, 9000\)"),
        (np.full(9_000, np.nan, np.float32), "finite"),
        (np.zeros(399, np.float32), r"array 0 \(in memory\): it must last 25 ms or more"),
        (np.zeros(9_000, bool), "floating point or signed integer"),
        ((np.zeros(9_000), 0), "rate of input 0 must be a whole number of Hz >= 1, got 0"),
        ((np.zeros(9_000), 16_000.5), "got 16000.5"),
        ((np.zeros(9_000), float("nan")), "got nan"),
        ([np.zeros(9_000, np.float32), 7], r"input 1 must be a path, an array .* got int"),
        ([WAVEFORM, "nowhere.wav"], "^nowhere.wav must be readable audio: there is no such file"),
    ],
)
def test_bad_inputs_are_refused(e: Embedder, given: Any, named: str) -> None:
    with pytest.raises(AudioError, match=named):
        e.extract(given)


def test_folders_and_manifests_are_the_streams(e: Embedder, tmp_path: Path) -> None:
    write_wav(tmp_path / "speech/a.wav", WAVEFORM)
    open_input(tmp_path / "speech").manifest.write(tmp_path / "m.tsv")
    for path in (tmp_path / "speech", tmp_path / "m.tsv"):
        with pytest.raises(AudioError, match="hand folders and manifests to stream"):
            e.extract(path)


# Streams


def test_a_stream_is_in_input_order_whatever_the_lengths(e: Embedder, tmp_path: Path) -> None:
    lengths = [5_003, 40_000, 400, 9_001, 123_456, 16_000, 401]
    waveforms = [noise(n, seed=n) for n in lengths]
    alone = [e.extract(w).frames for w in waveforms]
    found = list(e.stream(iter(waveforms), batch_s=1.0))
    assert [f.row for f in found] == list(range(7))
    for own, frames in zip(found, alone, strict=True):
        np.testing.assert_allclose(own.frames, frames, atol=2e-5)
    assert [f.id for f in found] == [f"array {i}" for i in range(7)]


def test_a_stream_takes_a_folder_a_manifest_and_a_file(e: Embedder, tmp_path: Path) -> None:
    for i, length in enumerate((9_001, 5_003, 16_000)):
        write_wav(tmp_path / f"speech/u{i}.wav", noise(length, seed=i))
    opened = open_input(tmp_path / "speech")
    opened.manifest.write(tmp_path / "m.tsv")
    for inputs in (tmp_path / "speech", str(tmp_path / "m.tsv"), opened.manifest):
        found = list(e.stream(inputs, batch_s=0.1))  # every row a group of its own
        assert [(f.id, f.row, f.num_frames) for f in found] == [("u0", 0, 27), ("u1", 1, 15), ("u2", 2, 49)]
        assert found[1].path == str(tmp_path / "speech/u1.wav")
    (found,) = e.stream(tmp_path / "speech/u1.wav")
    assert (found.id, found.num_frames) == ("u1", 15)
    with pytest.raises(ManifestError, match="there is no"):
        e.stream(tmp_path / "nowhere")


@pytest.mark.parametrize(("layers", "most"), [(None, 8), ("1,2,3", 2), ("all", 2)])
def test_a_stream_asks_for_no_more_than_it_works_on(e: Embedder, layers: Any, most: int) -> None:
    asked = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal asked
        while True:
            asked += 1
            yield noise(16_000, seed=asked)

    stream = e.stream(endless(), batch_s=1.0, layers=layers)
    assert asked == 0
    for number in range(1, 20):
        assert next(stream).num_frames == 49
        assert asked <= number + most
    stream.close()


def test_a_stream_lets_go_of_what_it_has_given(e: Embedder) -> None:
    import weakref

    stream = e.stream((noise(16_000, seed=i) for i in range(8)), batch_s=1.0)
    refs = [weakref.ref(next(stream)) for _ in range(8)]
    assert sum(ref() is not None for ref in refs) <= 1


def test_a_streams_refusals_stand_in_their_places(e: Embedder, tmp_path: Path) -> None:
    write_wav(tmp_path / "speech/good.wav", WAVEFORM)
    (tmp_path / "speech/bad.wav").write_text("no audio")
    good, bad = str(tmp_path / "speech/good.wav"), str(tmp_path / "speech/bad.wav")
    inputs = [good, bad, WAVEFORM[:100], WAVEFORM, (np.full(9_000, np.inf, np.float32), 8_000), 3, good]
    for batch_s in (60.0, 0.1):
        found = list(e.stream(inputs, on_error="yield", batch_s=batch_s))
        assert [f.row for f in found] == list(range(7))
        assert [isinstance(f, Refusal) for f in found] == [False, True, True, False, True, True, False]
        assert [f.id for f in found] == [good, bad, "array 2", "array 3", "array 4", "input 5", good]
        assert "Format not recognised" in found[1].reason
        stream, given = e.stream(inputs, batch_s=batch_s), []
        with pytest.raises(AudioError, match=r"bad\.wav"):
            given.extend(stream)
        assert [f.row for f in given] == [0]  # what comes before is given, whenever it was done
    of_folder = list(e.stream(tmp_path / "speech", on_error="yield"))
    assert [type(f) for f in of_folder] == [Refusal, Embedding]
    with pytest.raises(AudioError, match=r"bad\.wav"):
        list(e.stream(tmp_path / "speech"))


def test_wrong_options_are_refused_before_anything_is_read(e: Embedder) -> None:
    def never() -> Iterator[Any]:
        raise AssertionError("it was asked for an input")
        yield

    for options, named in (
        ({"layers": 4}, "--layer must be 0 to 3"), ({"batch_s": 0}, "--batch-s"), ({"max_s": 1}, "--max-s"),
        ({"on_error": "skip"}, "on_error must be raise or yield, got 'skip'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            e.stream(never(), **options)
    with pytest.raises(TypeError, match="layer"):
        e.stream(never(), layer=3)


# Threads


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """More give other last bits, whatever else runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_get_what_a_single_caller_gets(one_torch_thread: None, tmp_path: Path, precision: Any) -> None:
    """A model whose layers drop out and are dropped in training, left in training mode by its user."""
    settings = {**CONFIG.model_dump(), "dropout": 0.3, "layer_drop": 0.3, "attention_dropout": 0.3}
    torch.manual_seed(2)
    config = ModelConfig.model_validate(settings)
    save_model_dir(tmp_path / "model", encoder_document(config), {"encoder": build_encoder(config)})
    path = write_wav(tmp_path / "a.wav", noise(20_001, seed=9), rate=8_000)
    choices = [None, 2, [1, 3], "conv", "all", LayerWeights((0.1, 0.2, 0.3, 0.4), layer_norm=True), 0, 3]
    inputs = [[noise(5_003 + 777 * i, seed=i), path, (noise(9_000, seed=i), 8_000)] for i in range(8)]

    def call(e: Embedder, i: int) -> list[np.ndarray]:
        return [f.frames for _ in range(3) for f in e.extract(inputs[i], layers=choices[i], batch_s=2.0)]

    serial = audio_ssl.load(tmp_path / "model", precision=precision)
    expected = [call(serial, i) for i in range(8)]
    fresh = audio_ssl.load(tmp_path / "model", precision=precision)  # nothing of it is laid out yet
    fresh.encoder.train()
    found = at_once([lambda i=i: call(fresh, i) for i in range(8)])  # type: ignore[misc]
    assert not fresh.encoder.training
    for own, others in zip(found, expected, strict=True):
        for frames, other in zip(own, others, strict=True):
            np.testing.assert_array_equal(frames, other)
