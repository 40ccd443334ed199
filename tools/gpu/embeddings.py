"""Inference on a GPU: embeddings that are the CPU's, the same in any batch, and what compiled blocks bring."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.inference.embedder import Embedder
from audio_ssl.inference.models import compile_encoder, prepare_for_inference
from audio_ssl.model.encoder import build_encoder
from gpu.outcome import CheckSkipped, Figures, require
from gpu.place import SEED, Place, exact_products

PRESETS = ("wav2vec2_base", "wav2vec2_large")  # group norm, layer norm
LENGTHS_S = (0.05, 1.0, 3.3, 7.0, 7.0)
SAME = 1e-5  # in any batch, TF32 off
OF_CPU = 1e-4
COMPILED = 1e-4
NUM_TIMED = 5
Frames = NDArray[np.float32]


def invariance(place: Place) -> Figures:
    """Embeddings of both norms, alone and together, are those of the CPU, without TF32."""
    figures: Figures = {}
    waveforms = _waveforms(place)
    with exact_products():
        for preset in PRESETS:
            on_cpu = _frames(_embedder(place, preset), waveforms)
            embedder = _embedder(place, preset).to(str(place.device))
            together = _frames(embedder, waveforms)
            alone = [embedder.extract(waveform).frames for waveform in waveforms]
            for what, expected, at_most in (("alone", alone, SAME), ("on a CPU", on_cpu, OF_CPU)):
                name = f"{preset}: difference from {what}"
                figures[name] = _difference(together, expected)
                require(name, float(figures[name]), at_most=at_most, figures=figures)
    return figures


def compiled(place: Place) -> Figures:
    """Compiled blocks give the embeddings of plain ones; how fast base is either way, in bf16."""
    if not place.is_gpu:
        raise CheckSkipped("extract refuses --compile on a CPU")
    plain, other = (_embedder(place, "wav2vec2_base").to(str(place.device)) for _ in range(2))
    compile_encoder(other.encoder)
    other.is_compiled = True
    with exact_products():
        figures: Figures = {"difference": _difference(*(_frames(e, _waveforms(place)) for e in (other, plain)))}
    require("difference of compiled blocks", float(figures["difference"]), at_most=COMPILED, figures=figures)
    for name, embedder in (("plain", plain), ("compiled", other)):
        embedder.precision = "bf16"
        figures[f"{name}_audio_s_per_s"] = _speed(embedder)
    return figures


def _embedder(place: Place, preset: str) -> Embedder:
    torch.manual_seed(SEED)
    encoder = build_encoder(place.model(preset)).eval()
    prepare_for_inference(encoder)
    return Embedder(encoder)


def _waveforms(place: Place) -> list[Frames]:
    generator = np.random.default_rng(SEED)
    scale = 1.0 if place.is_gpu else 0.2
    return [(0.1 * generator.standard_normal(round(16_000 * scale * s) + 400)).astype(np.float32) for s in LENGTHS_S]


def _frames(embedder: Embedder, waveforms: Sequence[Frames]) -> list[Any]:
    return [result.frames for result in embedder.extract(list(waveforms))]


def _difference(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """Largest difference over largest value, of all utterances the worst."""
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _speed(embedder: Embedder) -> float:
    """Audio-seconds a second of 32 rows of 15 s that are in memory."""
    waveforms = [np.random.default_rng(i).standard_normal(15 * 16_000).astype(np.float32) for i in range(32)]
    embedder.extract(waveforms, batch_s=480.0)
    start = time.perf_counter()
    for _ in range(NUM_TIMED):
        embedder.extract(waveforms, batch_s=480.0)
    return NUM_TIMED * 480.0 / (time.perf_counter() - start)
