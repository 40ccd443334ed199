"""Memory is stated before a run: never less than tensors take, not much more, and what there is of it is read right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audio_ssl.config import ModelConfig
from audio_ssl.inference import machine
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.memory import GIB, MemoryNeeds, memory_needs
from audio_ssl.inference.models import Precision, Runtime, prepare_for_inference
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.windows import WindowSettings
from audio_ssl.model.encoder import Encoder, build_encoder

RATE = 16_000
KINDS: dict[str, dict[str, Any]] = {
    "layer": {},
    "group": {"feature_norm": "group", "conv_bias": False, "norm_order": "post"},
    "mel": {"front_end": "mel"},
    "squeezed": {"context_stride": 2},
    "local": {"front_end": "mel", "block_conv_kernel": 9, "ffn_dim": 32},
}


def prepared(**changes: Any) -> Encoder:
    encoder = build_encoder(ModelConfig(preset="tiny_cpu", num_layers=2, **changes)).eval()
    prepare_for_inference(encoder)
    return encoder


def stated(encoder: Encoder, lengths_s: list[float], layer: str = "last", **changes: Any) -> MemoryNeeds:
    precision: Precision = changes.pop("precision", "fp32")
    windows = WindowSettings(changes.pop("max_s", 60.0), changes.pop("overlap_s", 4.0), changes.pop("exact", False))
    return memory_needs(
        encoder, choose_layer(layer, num_layers=encoder.num_layers), (np.array(lengths_s) * RATE).astype(np.int64),
        source_hz=changes.pop("source_hz", RATE), settings=StreamSettings(windows=windows, **changes),
        runtime=Runtime(torch.device("cpu"), precision), resident=(GIB, GIB),
    )  # fmt: skip


def allocated(encoder: Encoder, layer: str, rows: int, seconds: int, precision: str) -> int:
    """Most bytes of tensors at a time in one pass, as torch's profiler counts them."""
    forward = LayerForward(encoder, choose_layer(layer, num_layers=encoder.num_layers))
    waveforms, lengths = torch.randn(rows, seconds * RATE), torch.full((rows,), seconds * RATE)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), cast:
        forward(waveforms[:1, :RATE], torch.tensor([RATE]), is_full=True)  # lays out weights
        return most_bytes(lambda: forward(waveforms, lengths, is_full=True))


def most_bytes(call: Callable[[], object]) -> int:
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize(
    ("kind", "layer", "rows", "seconds", "precision"),
    [("layer", "last", 1, 12, "fp32"), ("layer", "all", 3, 4, "fp32"), ("layer", "last", 1, 12, "bf16"),
     ("group", "last", 1, 12, "fp32"), ("group", "last", 12, 1, "fp32"), ("mel", "last", 1, 12, "fp32"),
     ("squeezed", "all", 2, 6, "fp32"), ("local", "last", 1, 12, "fp32"), ("local", "last", 1, 12, "bf16")],
)  # fmt: skip
def test_a_batch_is_what_its_tensors_take(kind: str, layer: str, rows: int, seconds: int, precision: Precision) -> None:
    encoder = prepared(**KINDS[kind])
    needs = stated(encoder, [float(seconds)] * rows, layer, batch_s=12.0, precision=precision)
    taken = allocated(encoder, layer, rows, seconds, precision) + rows * seconds * RATE * 4
    assert needs.batch_s == 12
    assert taken < needs.batch < 2.6 * taken


@torch.inference_mode()
def test_spectra_of_the_mel_front_end_are_what_they_take() -> None:
    front_end = prepared(front_end="mel").feature_encoder
    stated_bytes = front_end.activation_bytes(2, 5 * RATE, item_bytes=4, device_type="cpu")
    # 500 windows a row at most; a window of 400 samples has 257 bins
    assert stated_bytes == 2 * (80_000 + 500 * 5 * 257) * 8
    taken = most_bytes(lambda: front_end(torch.randn(2, 5 * RATE), torch.full((2,), 5 * RATE), is_full=True))
    assert taken - 2 * 5 * RATE * 4 < stated_bytes < 1.05 * taken


def test_what_it_grows_with() -> None:
    encoder = prepared()
    plain = stated(encoder, [30.0] * 20)
    plain_frames = 2 * 1499 * 256 * 4  # of one layer; all are three
    assert stated(encoder, [30.0] * 20, batch_s=120.0).batch > 1.35 * plain.batch
    assert stated(encoder, [30.0] * 20, "all").batch == plain.batch + 2 * plain_frames
    assert stated(encoder, [30.0] * 20, num_threads=16).audio > plain.audio
    assert stated(encoder, [30.0] * 20, source_hz=96_000).audio > plain.audio
    linear = sum(m.weight.numel() for m in encoder.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv1d))
    in_bf16 = stated(encoder, [30.0] * 20, precision="bf16")
    assert in_bf16.weights == plain.weights > 4 * linear  # its error is measured in float32 before
    # a recording of two hours takes what one of ten minutes does; it is cut, so a stretch of two windows is checked
    assert stated(encoder, [600.0]) == stated(encoder, [7200.0])
    assert (plain.seam, stated(encoder, [600.0]).seam_s) == (0, 116)
    exact = stated(encoder, [600.0], exact=True)
    assert (exact.batch, exact.seam) == (0, 0)  # it is refused
    assert stated(encoder, [600.0], exact=True, max_s=600.0).batch > 4 * plain.batch


def test_convs_go_by_stretches_and_scores_in_bf16_do_not() -> None:
    encoder = prepared()

    def convs(seconds: int, device_type: str) -> int:
        return encoder.feature_encoder.activation_bytes(1, seconds * RATE, item_bytes=4, device_type=device_type)

    assert convs(600, "cpu") == convs(100, "cpu")
    assert convs(600, "cuda") == 6 * convs(100, "cuda") > convs(600, "cpu")
    # one head of 14999 x 14999 weights, two bytes each; float32 attention never holds them
    long = {"exact": True, "max_s": 300.0, "batch_s": 300.0}
    assert stated(encoder, [300.0], precision="bf16", **long).batch > 2 * 14999**2
    assert stated(encoder, [300.0], **long).batch < 2 * 14999**2


def test_it_is_said_in_gib_with_its_parts() -> None:
    needs = MemoryNeeds(
        program=GIB, so_far=3 * GIB, weights=GIB // 4, batch_s=60.0, batch=GIB // 2, seam_s=0.0, seam=0,
        audio=GIB // 10, output=0,
    )  # fmt: skip
    # loading a model may have taken more than the run will
    assert str(needs) == (
        "needs about 3.00 GiB (program and model 1.00, weights laid out for products 0.25, a batch of 60 s 0.50, "
        "audio read ahead 0.10, output 0.00)"
    )
    assert needs.warning(None) is None
    assert needs.warning(GIB) is None
    assert "0.85 GiB more will be needed" in str(needs.warning(GIB // 2))
    assert "lower --batch-s" in str(needs.warning(GIB // 2))


def test_on_a_gpu_activations_are_there() -> None:
    needs = MemoryNeeds(GIB, GIB, 0, 60.0, GIB, 116.0, 2 * GIB, 0, 0, on_gpu=GIB)
    assert str(needs).startswith("needs about 1.00 GiB (")
    assert str(needs).endswith("; on the GPU 3.00 GiB for the check of windows over 116 s")


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def group(name: str, limit: str, used: int, inactive: int) -> None:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "memory.max").write_text(f"{limit}\n")
        (tmp_path / name / "memory.current").write_text(f"{used}\n")
        (tmp_path / name / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")

    group("", "max", 9_000, 0)
    group("pod", "1000", 900, 300)
    group("pod/job", "2000", 800, 0)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_own_cgroups", lambda: [tmp_path / "pod/job", tmp_path / "pod", tmp_path])
    assert machine.available_bytes() == 400  # the group above is the narrower one: 1000 - (900 - 300)
    monkeypatch.setattr(machine, "_own_cgroups", list)
    assert (machine.available_bytes() or GIB) > 10**6


def test_resident_memory_is_read() -> None:
    before, _ = machine.resident_bytes()
    held = np.ones(20_000_000)
    now, most = machine.resident_bytes()
    assert now >= before + 100_000_000 or most > now  # freed pages may have been there
    assert most >= now > 10**7
    assert held.nbytes == 160_000_000
