"""The first thing to run on a GPU: does a training step give the CPU's numbers, without waiting, and how fast?

usage: python tools/gpu_check.py [--preset wav2vec2_base] [--rows 8] [--seconds 15]

1. one forward and backward in fp32 on the CPU and on the GPU from the same draws: largest difference of
   the loss and of the gradients;
2. an update in bf16 with CUDA's sync debugging on: an operation that makes the host wait is an error;
3. audio-seconds a second, share of the GPU's peak and peak memory of updates, alone and with torch.compile,
   beside what tools/benchmarks/roofline.py expects of an A100 or H100.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from rich.console import Console
from torch import Tensor

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.config.objective import OF_PRESETS
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch, LossTerms
from audio_ssl.train.compiling import compile_blocks
from audio_ssl.train.optim import scale_and_clip, step_if_finite
from audio_ssl.train.precision import autocast
from audio_ssl.train.pretrain import PretrainModule
from benchmarks.cases import Case
from benchmarks.flops import step_flops
from benchmarks.roofline import expect, find_gpu

NUM_UPDATES = 10
console = Console()


def main() -> None:
    """Run the three checks; exit status 1 where one fails or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wav2vec2_base")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        console.print("no CUDA device: nothing was checked", style="red")
        sys.exit(1)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch.manual_seed(1)
    # no dropout or layer drop: the two devices draw them differently
    model = ModelConfig(
        preset=arguments.preset, dropout=0, attention_dropout=0, activation_dropout=0, feature_dropout=0, layer_drop=0
    )
    encoder = build_encoder(model)
    config = Wav2Vec2Config(**{**OF_PRESETS[arguments.preset], "target_dropout": 0.0})
    module = PretrainModule(encoder, build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim))
    case = Case("gpu_check", model, config, arguments.rows, arguments.seconds)
    batch = case.batch()
    is_equal = compare_devices(module, batch)
    measure(module, case, is_compiled=False)
    compile_blocks(encoder)
    measure(module, case, is_compiled=True)
    sys.exit(0 if is_equal else 1)


def loss_and_gradients(module: PretrainModule, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    """One forward and backward with draws from the CPU, so that every device sees the same ones; gradients there."""
    terms: LossTerms = module(batch, update=0, generator=torch_generator(1, "gpu_check"))
    terms.loss_sum.backward()  # type: ignore[no-untyped-call]
    gradients = {name: p.grad.cpu() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return terms.loss_sum.item(), gradients


def compare_devices(module: PretrainModule, batch: Batch) -> bool:
    """Loss and gradients in fp32 on both devices; True when they agree to 1e-4 and 1e-3 of a tensor's largest value."""
    torch.backends.cudnn.allow_tf32 = False  # torch's default lets convolutions keep ten bits only
    small = Batch(batch.waveforms[:2], batch.num_samples[:2], batch.rows[:2], is_full=True)
    module.eval()
    on_cpu, expected = loss_and_gradients(module.cpu(), small)
    on_gpu, found = loss_and_gradients(module.cuda(), small.to(torch.device("cuda")))
    torch.backends.cudnn.allow_tf32 = True
    of_loss = abs(on_gpu - on_cpu) / abs(on_cpu)
    console.print(f"loss: cpu {on_cpu:.6g}, gpu {on_gpu:.6g}, relative difference {of_loss:.1e}")
    worst, of_gradients = largest_difference(found, expected)
    console.print(f"gradients: largest relative difference {of_gradients:.1e}, of {worst}")
    return of_loss < 1e-4 and of_gradients < 1e-3


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[str, float]:
    """The tensor that differs most, by how much of its largest value; of keys' biases gradients are rounding only."""
    differences = {
        name: float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-30))
        for name, value in expected.items()
        if not name.endswith("attention.key.bias")
    }
    return max(differences.items(), key=lambda item: item[1])


def measure(module: PretrainModule, case: Case, *, is_compiled: bool) -> None:
    """Time updates in bf16; in the one before them any wait for the device raises."""
    device = torch.device("cuda")
    module.train().to(device)
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    pinned, generator = case.batch().pin_memory(), torch_generator(1, "gpu_check", device=device)

    def update() -> None:
        with autocast("bf16", device):
            terms: LossTerms = module(pinned.to(device), update=0, generator=generator)
        terms.loss_sum.backward()  # type: ignore[no-untyped-call]
        grad_norm = scale_and_clip(parameters, 1 / terms.num_targets.float(), 1.0)
        step_if_finite(optimizer, grad_norm)
        optimizer.zero_grad(set_to_none=True)

    for _ in range(NUM_UPDATES):  # kernels are chosen and compiled, memory is mapped
        update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(NUM_UPDATES):
        update()
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    peak_gib = torch.cuda.max_memory_allocated() / 2**30
    label = "bf16, compiled blocks" if is_compiled else "bf16"
    console.print(f"{label}: {tell_speed(case, elapsed / NUM_UPDATES, is_compiled=is_compiled)}")
    console.print(f"{peak_gib:.1f} GiB at most, no host wait")


def tell_speed(case: Case, update_s: float, *, is_compiled: bool) -> str:
    """What was measured, beside what the roofline expects where the GPU is one that it knows."""
    told = f"{case.audio_s / update_s:,.0f} audio-s/s"
    gpu = find_gpu(torch.cuda.get_device_name())
    if gpu is None:
        return f"{told} (nothing on paper for this GPU)"
    share = case.rows * step_flops(case.model, case.objective, case.num_samples) / update_s / gpu.bf16
    paper = expect(case, gpu, is_compiled=is_compiled)
    return (
        f"{told}, {share:.0%} of the {gpu.name}'s bf16 peak; on paper {paper.audio_s_per_s:,.0f} audio-s/s, "
        f"{paper.share_of_peak:.0%} (tools/bench.py roofline tells what bounds which part)"
    )


if __name__ == "__main__":
    main()
