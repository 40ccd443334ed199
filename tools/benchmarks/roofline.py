"""A training step on a GPU on paper: the time that each part needs by arithmetic and by memory traffic.

A step is a list of kernels, each bound by the larger of its operations over the GPU's rate and its bytes over the
GPU's bandwidth. Assumed:

- autocast in bf16 on a batch without padding; losses, code logits and similarities in fp32 without TF32; layer norm in
  fp32, as autocast has it, so the stream between blocks is fp32 and every linear layer casts what it reads;
- products read and write each matrix once; attention is the flash kernel (T x T weights never in memory, forward's
  products done again in backward: 5 products where the mathematics has 4);
- as written, every elementwise operation is a kernel of its own that goes to memory; ``compiled`` fuses residual,
  dropout, norm and casts of a block (``run.compile`` compiles blocks, and nothing else) into one kernel each way;
- products reach 70 % of the published rate and kernels 80 % of the published bandwidth, which is what well-shaped ones
  do; waits, launches (some microseconds an operation, hidden only behind kernels that take longer) and data are left
  out: a small batch will fall below this.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cases import Case
from benchmarks.flops import step_flops
from benchmarks.report import Row
from benchmarks.traffic import Kernel, Part, step_parts

ROWS, SECONDS = 8, 15.0  # of the batch that tools/gpu_check.py runs
PRODUCTS_REACH, MEMORY_REACH = 0.7, 0.8


@dataclass(frozen=True)
class GPU:
    """Published peaks.

    Attributes:
        name: of the product.
        bf16: operations a second, dense.
        fp32: the same without TF32.
        bandwidth: bytes a second.
    """

    name: str
    bf16: float
    fp32: float
    bandwidth: float


GPUS = (
    GPU("A100", bf16=312e12, fp32=19.5e12, bandwidth=2.039e12),  # SXM, 80 GB
    GPU("H100", bf16=989e12, fp32=67e12, bandwidth=3.35e12),  # SXM
)


def bounds(kernel: Kernel, gpu: GPU) -> tuple[float, float]:
    """Seconds of a kernel by its arithmetic, and by its traffic, at what kernels reach of the peaks."""
    rate = gpu.bf16 if kernel.precision == "bf16" else gpu.fp32
    return kernel.flops / rate / PRODUCTS_REACH, kernel.num_bytes / gpu.bandwidth / MEMORY_REACH


def time_of(part: Part, gpu: GPU) -> tuple[float, float]:
    """Seconds of a part, and those of them that memory bounds."""
    both = [bounds(kernel, gpu) for kernel in part.kernels]
    return sum(map(max, both)), sum(traffic for arithmetic, traffic in both if traffic > arithmetic)


@dataclass(frozen=True)
class Expected:
    """What an update should come to.

    Attributes:
        seconds: of an update.
        audio_s_per_s: seconds of audio a second.
        share_of_peak: the mathematics' operations (:mod:`benchmarks.flops`) over time and the GPU's bf16 rate.
    """

    seconds: float
    audio_s_per_s: float
    share_of_peak: float


def expect(case: Case, gpu: GPU, *, is_compiled: bool) -> Expected:
    """The sum of the parts."""
    seconds = sum(time_of(part, gpu)[0] for part in step_parts(case, is_compiled=is_compiled))
    flops = case.rows * step_flops(case.model, case.objective, case.num_samples)
    return Expected(seconds, case.audio_s / seconds, flops / seconds / gpu.bf16)


def find_gpu(name: str) -> GPU | None:
    """The GPU whose name stands in a device's name; None of another."""
    return next((gpu for gpu in GPUS if gpu.name in name), None)


def run(case: Case) -> list[Row]:
    """Rows of ``roofline``, for both GPUs, as written and compiled.

    - ``PART_ms`` of an update, and ``PART_memory_share``, how much of it memory bounds;
    - ``update_ms``, ``audio_s_per_s`` and ``share_of_peak`` of the whole.
    """
    rows = []
    for gpu, is_compiled in _columns():
        place = f"{case.label}/{_title(gpu, is_compiled=is_compiled)}"
        for part in step_parts(case, is_compiled=is_compiled):
            seconds, by_memory = time_of(part, gpu)
            rows.append(Row("roofline", place, f"{part.name}_ms", 1e3 * seconds, "ms"))
            rows.append(Row("roofline", place, f"{part.name}_memory_share", by_memory / seconds, "share"))
        whole = expect(case, gpu, is_compiled=is_compiled)
        rows.append(Row("roofline", place, "update_ms", 1e3 * whole.seconds, "ms"))
        rows.append(Row("roofline", place, "audio_s_per_s", whole.audio_s_per_s, "audio-s/s"))
        rows.append(Row("roofline", place, "share_of_peak", whole.share_of_peak, "share"))
    return rows


def table(case: Case) -> str:
    """The rows as Markdown, for docs/results.md; each time with what bounds more of it."""
    columns = _columns()
    titles = [f"{_title(gpu, is_compiled=c)}, ms" for gpu, c in columns]
    lines = [f"| {case.label} | GFLOP | GB | {' | '.join(titles)} |", "|---" * (3 + len(columns)) + "|"]
    plans = {c: step_parts(case, is_compiled=c) for c in (False, True)}
    for i, part in enumerate(plans[False]):
        gflop, gb = (sum(getattr(k, name) for k in part.kernels) / 1e9 for name in ("flops", "num_bytes"))
        cells = [_cell(plans[c][i], gpu) for gpu, c in columns]
        lines.append(f"| {part.name} | {gflop:,.0f} | {gb:.1f} | {' | '.join(cells)} |")
    wholes = [expect(case, gpu, is_compiled=c) for gpu, c in columns]
    for name, cells in (
        ("update", [f"{1e3 * whole.seconds:.1f}" for whole in wholes]),
        ("audio-s/s", [f"{whole.audio_s_per_s:,.0f}" for whole in wholes]),
        ("share of the bf16 peak", [f"{whole.share_of_peak:.0%}" for whole in wholes]),
    ):
        lines.append(f"| **{name}** | | | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(part: Part, gpu: GPU) -> str:
    seconds, by_memory = time_of(part, gpu)
    return f"{1e3 * seconds:.1f} {'memory' if 2 * by_memory > seconds else 'arithmetic'}"


def _columns() -> list[tuple[GPU, bool]]:
    return [(gpu, is_compiled) for gpu in GPUS for is_compiled in (False, True)]


def _title(gpu: GPU, *, is_compiled: bool) -> str:
    return f"{gpu.name} {'compiled' if is_compiled else 'as written'}"
