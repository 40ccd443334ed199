"""What a number format costs, as it is said before a run: against the same computed from the folders' own files."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference import extract, models
from audio_ssl.inference.embedder import Embedder
from audio_ssl.inference.extract import Extractor, ExtractSettings
from audio_ssl.inference.layers import choose_layer
from audio_ssl.inference.models import AudioNeeds, Runtime, open_encoder, open_runtime
from audio_ssl.inference.precision_error import PrecisionError, compare, measure_precision_error
from audio_ssl.inference.source import open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.int8 import missing_for_int8
from audio_ssl.model.kernels import Packing
from tests.unit.inference.conftest import CPU, RATE, array_source, noise, write_wav

LENGTHS = (16_000, 7_333, 24_001)
REDUCED = ["bf16", *([] if missing_for_int8() else ["int8"])]


@pytest.fixture(scope="module")
def frozen(model_dir: Path) -> Encoder:
    return open_encoder(model_dir)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    for i, length in enumerate(LENGTHS):
        write_wav(tmp_path / "speech" / f"u{i}.wav", noise(length, seed=i))
    return tmp_path / "speech"


def run(encoder: Encoder, speech: Path, out: Path, precision: Any, layer: Any = None) -> list[PrecisionError]:
    said: list[PrecisionError] = []
    settings = ExtractSettings(choose_layer(layer, num_layers=encoder.num_layers))
    extractor = Extractor(encoder, "h1", settings, Runtime(CPU.device, precision))
    extractor.to_folder(open_input(speech), out, on_precision_error=said.append)
    return said


def error_in(out: Path) -> Any:
    return json.loads((out / "embeddings.json").read_text())["precision_error"]


@pytest.mark.parametrize("precision", REDUCED)
def test_the_error_is_that_of_the_files(frozen: Encoder, speech: Path, tmp_path: Path, precision: str) -> None:
    assert run(frozen, speech, tmp_path / "fp32", "fp32") == []
    assert error_in(tmp_path / "fp32") is None
    (error,) = run(frozen, speech, tmp_path / precision, precision)
    exact, found = (
        torch.from_numpy(np.concatenate([np.load(tmp_path / name / f"u{i}.npy") for i in range(len(LENGTHS))])).double()
        for name in ("fp32", precision)
    )
    assert error.relative == pytest.approx(float((found - exact).norm() / exact.norm()), rel=1e-3)
    assert error.least_cosine == pytest.approx(float(F.cosine_similarity(found, exact, dim=-1).min()), abs=1e-7)
    assert 1e-4 < error.relative < 0.1
    assert error.audio_s == pytest.approx(sum(LENGTHS) / RATE, rel=1e-3)
    assert error_in(tmp_path / precision) == vars(error)


@pytest.mark.parametrize("precision", REDUCED)
def test_of_layers_the_worst_is_told(frozen: Encoder, speech: Path, tmp_path: Path, precision: str) -> None:
    each = [run(frozen, speech, tmp_path / f"{n}", precision, n)[0] for n in (0, 3)]
    (both,) = run(frozen, speech, tmp_path / "both", precision, [0, 3])
    assert each[0].relative < each[1].relative
    assert both.relative == pytest.approx(max(error.relative for error in each), rel=1e-3)
    assert both.least_cosine == pytest.approx(min(error.least_cosine or 0 for error in each), abs=1e-7)


def test_differences_by_hand() -> None:
    exact = np.array([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]]])  # two layers of two frames
    found = np.array([[[3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 2.0]]])
    assert compare([(exact, found)]) == pytest.approx(((1 / 5) ** 0.5, 0.5**0.5))
    assert compare([(exact[0], exact[0] + [[0, 0], [1, 0]])])[1] == 0  # a frame of zeros that is none any more
    assert compare([(exact[0], exact[0]), (exact[1], -exact[1])])[1] == -1


def test_a_run_that_goes_on_says_what_was_measured_first(
    frozen: Encoder, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(frozen, speech, tmp_path / "out", "bf16")
    before = (tmp_path / "out/embeddings.json").read_text()
    monkeypatch.setattr(extract, "measure_precision_error", None)
    write_wav(speech / "u9.wav", noise(5_000, seed=9))
    assert run(frozen, speech, tmp_path / "out", "bf16") == first
    assert (tmp_path / "out/embeddings.json").read_text() == before


def test_a_folder_that_will_be_refused_says_nothing(frozen: Encoder, speech: Path, tmp_path: Path) -> None:
    run(frozen, speech, tmp_path / "out", "bf16")
    for precision, content in (("fp32", None), ("bf16", "{"), ("bf16", '{"precision_error": 1}')):
        if content is not None:
            (tmp_path / "out/embeddings.json").write_text(content)
        said: list[PrecisionError] = []
        with pytest.raises(ManifestError, match=r"Choose another output folder"):
            said = run(frozen, speech, tmp_path / "out", precision)
        assert said == []


def test_weights_laid_out_for_the_measure_alone_are_given_back(frozen: Encoder, speech: Path, tmp_path: Path) -> None:
    def laid_out() -> set[torch.dtype]:
        packings = [v for part in frozen.modules() for v in vars(part).values() if isinstance(v, Packing)]
        assert len(packings) > 10
        return {dtype for packing in packings for dtype in packing}

    run(frozen, speech, tmp_path / "fp32", "fp32")
    assert torch.float32 in laid_out()
    run(frozen, speech, tmp_path / "bf16", "bf16")
    assert torch.float32 not in laid_out()
    assert torch.bfloat16 in laid_out()


def test_batches_are_full_on_a_gpu_and_cut_by_cost_on_a_cpu() -> None:
    assert Runtime(torch.device("cuda")).batch_cost_samples(RATE) is None
    assert CPU.batch_cost_samples(RATE) == RATE * torch.get_num_threads()


def measured(forward: Any, arrays: list[Any], encoder: Encoder, **changes: Any) -> PrecisionError | None:
    source = array_source(arrays, sample_rate_hz=RATE)
    settings = changes.pop("settings", StreamSettings())
    return measure_precision_error(
        source, forward, needs=AudioNeeds.of(encoder), settings=settings, runtime=Runtime(CPU.device, "bf16"), **changes
    )


def coded(waveforms: torch.Tensor, num_samples: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Two codes a frame; in bf16 the first frame has another second one."""
    num_frames = (num_samples - 400) // 320 + 1
    codes = torch.zeros(len(waveforms), int(num_frames.max()), 2)
    codes[:, 0, 1] = float(torch.is_autocast_enabled("cpu"))
    return codes, num_frames


def test_codes_are_equal_or_not(encoder: Encoder) -> None:
    error = measured(coded, [noise(16_000), noise(720)], encoder, is_codes=True)
    assert error == PrecisionError("bf16", pytest.approx(2 / (2 * (49 + 2)), rel=1e-3), None, 1.045)
    assert str(error) == "bf16: 1.96% of the codes differ from fp32's, on 1.04 s of this input"


def test_the_first_seconds_are_enough_and_the_last_of_them_is_cut(encoder: Encoder) -> None:
    lengths: list[int] = []

    def forward(waveforms: torch.Tensor, num_samples: torch.Tensor, **_: Any) -> Any:
        lengths.extend(num_samples.tolist())
        return coded(waveforms, num_samples)

    for total_s, expected in ((20, 5), (400, 8), (2000, 20)):
        lengths.clear()
        error = measured(forward, [np.zeros(3 * RATE, np.float32), np.zeros((total_s - 3) * RATE, np.float32)], encoder)
        assert error is not None
        assert error.audio_s == expected
        assert sorted(lengths) == sorted(2 * [3 * RATE, (expected - 3) * RATE])


def test_what_cannot_be_read_is_passed_over(encoder: Encoder) -> None:
    bad = np.full(RATE, np.nan, np.float32)
    error = measured(coded, [bad, noise(100), noise(RATE)], encoder)
    assert error is not None
    assert error.audio_s == 1
    assert measured(coded, [bad, noise(100)], encoder) is None
    assert measured(coded, [], encoder) is None


def test_it_is_said_in_words_and_never_better_than_it_is() -> None:
    error = PrecisionError("bf16", 0.00912, 0.9999896, 20.0)
    assert str(error) == "bf16: frames differ from fp32 by 0.91%, least cosine 0.99998, on 20 s of this input"


def test_int8_is_refused_where_it_would_be_wrong_or_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "missing_for_int8", lambda: "no such instructions")
    with pytest.raises(ConfigError, match=r"must be fp32 or bf16 on cpu, got int8: no such instructions"):
        open_runtime("cpu", "int8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="written for CPUs alone"):
        open_runtime("cuda", "int8")
    with pytest.raises(ConfigError, match="must be fp32, bf16 or int8, got 'fp8'"):
        open_runtime("cpu", "fp8")  # type: ignore[arg-type]


@pytest.mark.skipif(missing_for_int8() is not None, reason=str(missing_for_int8()))
def test_int8_in_python_is_int8(encoder: Encoder, model_dir: Path) -> None:

    waveform = noise(RATE)
    plain = Embedder(copy.deepcopy(encoder)).extract(waveform).frames
    of_loaded = Embedder(open_encoder(model_dir), precision="int8").extract(waveform).frames
    of_plain = Embedder(copy.deepcopy(encoder), precision="int8").extract(waveform).frames
    in_bf16 = Embedder(open_encoder(model_dir), precision="bf16").extract(waveform).frames
    np.testing.assert_allclose(of_loaded, of_plain, atol=0.05)
    assert np.abs(of_plain - in_bf16).max() > 0
    assert 0 < np.abs(of_plain - plain).max() < 0.2
