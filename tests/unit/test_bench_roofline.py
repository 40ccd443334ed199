"""The step on paper: operations, bytes and times of a minute model by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from benchmarks.cases import CASES, Case
from benchmarks.flops import masked_frames, step_flops
from benchmarks.roofline import GPU, GPUS, expect, find_gpu, time_of
from benchmarks.traffic import Kernel, Part, products, step_parts

MODEL = ModelConfig(
    conv_dims=(3, 5), conv_kernels=(4, 2), conv_strides=(2, 2), dim=8, num_layers=2, num_heads=2, ffn_dim=7,
    pos_conv_kernel=2, pos_conv_groups=4, feature_norm="layer", norm_order="pre",
)  # fmt: skip
CASE = Case("by hand", MODEL, Wav2Vec2Config(feature_penalty_weight=0.0), rows=3, seconds=46 / 16_000)  # 22, 11 frames
PLAIN = GPU("plain", bf16=1000.0, fp32=10.0, bandwidth=100.0)
FRAMES = 3 * 11


def parts(**settings) -> dict[str, Part]:
    return {part.name: part for part in step_parts(CASE, is_compiled=settings.get("is_compiled", False))}


def bytes_of(part: Part) -> float:
    return sum(kernel.num_bytes for kernel in part.kernels)


def test_products_move_their_three_matrices_thrice():
    assert products(2, 3, 5) == (Kernel(60, 2 * (6 + 15 + 10)),) * 3
    assert products(2, 3, 5, precision="fp32")[0] == Kernel(60, 4 * 31, "fp32")


def test_convs_by_hand():
    first, second = 2 * 22 * 3 * 4, 2 * 11 * 5 * 3 * 2
    kernels = parts()["convs"].kernels
    assert [k.flops for k in kernels] == [3 * first] * 2 + [3 * second] * 3  # the waveform needs no gradient
    assert kernels[0].num_bytes == 2 * (3 * (46 + 22 * 3) + 3 * 1 * 4)
    assert kernels[2].num_bytes == 2 * (3 * (22 * 3 + 11 * 5) + 5 * 3 * 2)
    # GELU 4 + 6 bytes; a norm casts twice (12 each), reads and writes 8 forward, 12 backward
    assert bytes_of(parts()["GELU and norms of convs"]) == 3 * (22 * 3 + 11 * 5) * (10 + 44)


def test_blocks_by_hand():
    found = parts()
    attention = found["attention"].kernels
    assert len(attention) == 2 * (4 * 3 + 2)
    assert attention[12] == Kernel(3 * 2 * (2 * 11 * 11 * 8), 2 * 4 * FRAMES * 8)  # forward: q k^T and weights v
    assert attention[13].flops == 2.5 * attention[12].flops
    assert bytes_of(found["feed-forward"]) == 2 * (2 * 3 * 2 * (FRAMES * (8 + 7) + 8 * 7) + 10 * FRAMES * 7)
    written, compiled = (bytes_of(parts(is_compiled=c)["residuals, norms, dropout of blocks"]) for c in (False, True))
    assert written == 2 * FRAMES * 8 * (2 * (10 + 10 + 6 + 20) + 4 * (12 + 12))
    assert compiled == 2 * FRAMES * 8 * 2 * (12 + 14)


def test_the_operations_are_those_of_the_mathematics_and_attentions_recomputation():
    total = sum(kernel.flops for part in step_parts(CASE, is_compiled=True) for kernel in part.kernels)
    again = 2 * 3 * (2 * 11 * 11 * 8)  # one more product of T x T in each of 2 blocks, 3 rows
    assert total == pytest.approx(3 * step_flops(MODEL, CASE.objective, 46) + again)


def test_the_objectives_similarities_and_logits_are_in_fp32():
    masked = masked_frames(CASE.objective, 11)
    slow = [kernel for kernel in parts()["objective"].kernels if kernel.precision == "fp32" and kernel.flops]
    assert slow[0].flops == pytest.approx(2 * 3 * masked * 5 * 640)
    assert slow[3].flops == pytest.approx(3 * 2 * masked**2 * 256)
    assert len(slow) == 7


def test_a_part_is_bound_kernel_by_kernel():
    part = Part("x", (Kernel(7000.0, 8.0), Kernel(0.0, 160.0), Kernel(70.0, 8.0, "fp32")))
    seconds, by_memory = time_of(part, PLAIN)  # at 700 operations, 7 in fp32, and 80 bytes a second
    assert (seconds, by_memory) == (pytest.approx(10.0 + 2.0 + 10.0), pytest.approx(2.0))


def test_an_update_is_the_sum_of_its_parts():
    found = expect(CASE, PLAIN, is_compiled=False)
    assert found.seconds == pytest.approx(sum(time_of(part, PLAIN)[0] for part in step_parts(CASE, is_compiled=False)))
    assert found.audio_s_per_s == pytest.approx(3 * 46 / 16_000 / found.seconds)
    assert found.share_of_peak == pytest.approx(3 * step_flops(MODEL, CASE.objective, 46) / found.seconds / 1000)
    assert 0.3 < expect(CASES["base"].of_size(rows=8, seconds=15), GPUS[0], is_compiled=True).share_of_peak < 0.7


def test_the_gpu_is_found_by_its_name():
    assert find_gpu("NVIDIA H100 80GB HBM3") == GPUS[1]
    assert find_gpu("NVIDIA L4") is None


def test_the_command_prints_a_table_or_rows(monkeypatch, capsys):
    monkeypatch.setattr(bench, "pin", lambda threads, *, keep_kernels: None)
    assert bench.main(["roofline", "--case", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| smoke/8 x 15 s | GFLOP | GB | A100 as written, ms |")
    assert {line.count("|") for line in lines} == {8}
    assert bench.main(["roofline", "--case", "smoke", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    times = {row["metric"]: row["value"] for row in rows if row["case"] == "smoke/8 x 15 s/H100 compiled"}
    whole = times.pop("update_ms")
    assert whole == pytest.approx(sum(value for metric, value in times.items() if metric.endswith("_ms")))
