"""Measure audio_ssl on this machine: training steps by precision, and the encoder beside transformers, in one run.

usage:
    python tools/bench.py step    [--preset tiny_cpu] [--rows 4] [--seconds 6]
    python tools/bench.py widths  [--preset tiny_cpu] [--rows 4] [--seconds 6]    what the number of batch widths costs
    python tools/bench.py forward [--preset wav2vec2_base] [--rows 2] [--seconds 15]

Each figure is the best of ``--repeats`` after a warm-up: other load on a machine only ever slows a run down.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.interop.huggingface import config_to_huggingface
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train.precision import autocast

CPU = torch.device("cpu")


def main() -> None:
    """Measure what is asked for and print a table with ratios to its first row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "widths", "forward"))
    parser.add_argument("--preset", default=None, help="default: tiny_cpu for step, wav2vec2_base for forward")
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    is_step = arguments.what != "forward"
    model = ModelConfig(preset=arguments.preset or ("tiny_cpu" if is_step else "wav2vec2_base"))
    rows, seconds = arguments.rows or (4 if is_step else 2), arguments.seconds or (6 if is_step else 15)
    batch = make_batch(rows, round(seconds * model.sample_rate_hz))
    make_candidates = {"step": step_candidates, "widths": width_candidates, "forward": forward_candidates}
    candidates = make_candidates[arguments.what](model, batch)
    speeds = {name: rows * seconds / best_of(work, arguments.repeats) for name, work in candidates.items()}
    first = next(iter(speeds.values()))
    table = Table("", "audio-s/s", "ratio", title=f"{arguments.what}, {model.preset}, {rows} x {seconds:g} s")
    for name, speed in speeds.items():
        table.add_row(name, f"{speed:.1f}", f"{speed / first:.2f}")
    console = Console()
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, best of {arguments.repeats}")


def make_batch(rows: int, num_samples: int) -> Batch:
    """Noise without padding."""
    waveforms = torch.randn(rows, num_samples, generator=torch_generator(1, "bench"))
    return Batch(waveforms, torch.full((rows,), num_samples), tuple(range(rows)))


def best_of(work: Callable[[], None], repeats: int) -> float:
    """Seconds of the fastest of ``repeats`` runs, after two that are not counted."""
    times = []
    for i in range(repeats + 2):
        started = time.perf_counter()
        work()
        if i >= 2:
            times.append(time.perf_counter() - started)
    return min(times)


def step_candidates(model: ModelConfig, batch: Batch) -> dict[str, Callable[[], None]]:
    """A whole update in each precision."""
    step = make_step(model)
    return {f"audio_ssl {p}": lambda p=p: step(batch, p) for p in ("fp32", "bf16")}  # type: ignore[misc]


def width_candidates(model: ModelConfig, batch: Batch) -> dict[str, Callable[[], None]]:
    """bf16 updates on batches of 20 widths around the given one: all different, or rounded to quarters of a second."""
    step = make_step(model)
    num_rows, longest = batch.waveforms.shape
    widths = torch.randint(longest * 3 // 4, longest * 5 // 4, (20,), generator=torch_generator(1, "widths")).tolist()
    quarter = model.sample_rate_hz // 4

    def run(multiple: int) -> None:
        for width in widths:
            rounded = -(-width // multiple) * multiple
            step(make_batch(num_rows, rounded), "bf16")

    # the figure counts one batch's seconds for twenty: only the ratio means something
    return {"every width another": lambda: run(1), "quarters of a second": lambda: run(quarter)}


def make_step(model: ModelConfig) -> Callable[[Batch, str], None]:
    """A whole update (masks, forward, backward, AdamW) of a batch in a precision."""
    encoder = build_encoder(model).train()
    config = Wav2Vec2Config(feature_penalty_weight=0.0)
    objective = build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim).train()
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step(batch: Batch, precision: str) -> None:
        with autocast(precision, CPU):
            terms = objective(encoder, batch, update=0, generator=torch_generator(1, "bench"))
        terms.loss_sum.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward_candidates(model: ModelConfig, batch: Batch) -> dict[str, Callable[[], None]]:
    """The encoder without gradients, beside the same architecture in transformers."""
    from transformers import Wav2Vec2Config as PeerConfig
    from transformers import Wav2Vec2Model

    encoder = build_encoder(model).eval()
    peer = Wav2Vec2Model(PeerConfig(**config_to_huggingface(encoder_document(model)))).eval()

    @torch.inference_mode()
    def run_peer(precision: str) -> None:
        with autocast(precision, CPU):
            peer(batch.waveforms)

    @torch.inference_mode()
    def run_ours(precision: str) -> None:
        with autocast(precision, CPU):
            encoder(batch.waveforms, batch.num_samples)

    candidates: dict[str, Callable[[], None]] = {}
    for precision in ("fp32", "bf16"):
        candidates[f"transformers {precision}"] = lambda p=precision: run_peer(p)  # type: ignore[misc]
        candidates[f"audio_ssl {precision}"] = lambda p=precision: run_ours(p)  # type: ignore[misc]
    return candidates


if __name__ == "__main__":
    main()
