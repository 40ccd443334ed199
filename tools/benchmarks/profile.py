"""Where the time of a step (or of inference) goes: torch's profiler, its operations summed by kind.

The time of an operation is its own, without those that it calls, on the thread that called it. A backward operation
belongs where its forward one stood, which the profiler's sequence numbers tell. What passes between operations
(Python, numpy) is told as ``python``; the profiler's own cost, a few microseconds an operation, is in it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from audio_ssl.train.precision import resolve_precision
from benchmarks.cases import CPU, Case
from benchmarks.report import BenchError, Row, note
from benchmarks.system import System

ENCODER, OBJECTIVE, DROPOUT, UPDATE = "bench::encoder", "bench::objective", "bench::dropout", "bench::update"
CONVS = "bench::convs"  # of ours, where a product may be a convolution
BACKWARD = "autograd::engine::evaluate_function: "
NUM_NAMED = 5  # of the operations that the table does not know

# An operation inside one of these is of that kind, whatever it is; the first that fits counts.
REGIONS = {
    "optimizer": (UPDATE, "Optimizer.step", "Optimizer.zero_grad"),
    "dropout": (DROPOUT, "aten::dropout", "aten::native_dropout"),
    "objective": (OBJECTIVE,),
}
# Else its name decides, without "aten::" or "mkldnn::", "_backward" and a last "_".
KINDS = {
    "linear_products": ("mm", "addmm", "linear", "mkldnn_linear", "_linear_pointwise", "matmul"),
    "convolutions": ("convolution", "mkldnn_convolution", "_convolution", "baddbmm"),
    "attention_products": (
        "bmm", "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
    ),
    "softmax": (
        "_softmax", "_safe_softmax", "isneginf", "all", "_softmax_backward_data", "_log_softmax",
        "_log_softmax_backward_data",
    ),
    "norms": (
        "native_layer_norm", "native_group_norm", "var_mean", "rsqrt", "_weight_norm_interface", "linalg_vector_norm",
    ),
    "gelu": ("gelu",),
    # Our attention draws its random bits in its own time.
    "dropout": (
        "bernoulli", "uniform", "random", "ge", "native_dropout", "_Attention", "bitwise_right_shift", "bitwise_and",
        "bitwise_or", "bitwise_not", "copysign",
    ),
    "copies": ("copy", "_to_copy", "clone", "contiguous", "cat", "stack", "fill", "zero", "ToCopyBackward0"),
    "elementwise": (
        "add", "sub", "mul", "div", "where", "masked_fill", "neg", "sum", "mean", "pow",
        "clamp_min", "relu", "abs", "addcmul",
    ),
}  # fmt: skip
ALL_KINDS = (*dict.fromkeys([*KINDS, *REGIONS]), "other", "python")


@dataclass(frozen=True)
class Op:
    """One operation as it ran.

    Attributes:
        name: as the profiler tells it.
        self_s: its own time.
        inside: names of what called it, outermost first; for a backward operation those of its forward one, too.
    """

    name: str
    self_s: float
    inside: tuple[str, ...] = ()


def run(system_type: type[System], case: Case, *, of: str, repeats: int) -> list[Row]:
    """Rows of ``profile``: ``step_s`` (or ``forward_s``), and ``KIND_s`` and ``KIND_share`` for every kind.

    Args:
        system_type: whose.
        case: the model and its batch.
        of: ``step`` or ``forward``.
        repeats: how many of them are taken together, after one that is not counted.

    Raises:
        BenchError: a step of what cannot train.
    """
    if of == "step" and not system_type.can_train:
        raise BenchError(f"{system_type.name} cannot pre-train wav2vec 2.0; profile it with --of forward")
    system_type.load()
    system = system_type(case, trains=of == "step")
    precision = resolve_precision("auto", CPU)
    work = label(system, of, precision)
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        wall_s = time.perf_counter() - started
    ops = read_ops(profiler.events() or ())
    unknown: dict[str, float] = defaultdict(float)
    for op in ops:
        if kind_of(op) == "other":
            unknown[op.name] += op.self_s / repeats
    largest = sorted(unknown.items(), key=lambda item: -item[1])[:NUM_NAMED]
    named = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in largest)
    note(f"the largest of `other`: {named or 'nothing'}")
    return rows_of(f"{case.label}/{system.name} {precision}", of, totals(ops, wall_s), repeats)


def label(system: System, of: str, precision: str) -> Any:
    """The work, with marks in the profile for the encoder, dropouts, the objective around it, and the update."""
    for module in system.module.modules():
        if type(module).__name__ == "Dropout":
            _mark(module, DROPOUT)
        if type(module).__name__ == "FeatureEncoder":
            _mark(module, CONVS)
    for part in system.encoder_parts():
        _mark(part, ENCODER)
    loss, apply = system.loss, system.apply_gradients

    def marked_loss(*given: Any) -> Any:
        with record_function(OBJECTIVE):
            return loss(*given)

    def marked_apply() -> None:
        with record_function(UPDATE):
            apply()

    system.loss, system.apply_gradients = marked_loss, marked_apply  # type: ignore[assignment, method-assign]
    return (lambda: system.step(precision)) if of == "step" else (lambda: system.forward(precision))


def _mark(module: nn.Module, name: str) -> None:
    forward = module.forward

    def marked(*given: Any, **settings: Any) -> Any:
        with record_function(name):
            return forward(*given, **settings)

    module.forward = marked


def read_ops(events: Iterable[Any]) -> list[Op]:
    """The profiler's events as operations, backward ones with the place of their forward one."""
    events = list(events)
    paths = [_path(event) for event in events]
    forward = {
        event.sequence_nr: path  # the last one with a number is the one that autograd recorded
        for event, path in zip(events, paths, strict=True)
        if event.sequence_nr >= 0 and not any(name.startswith(BACKWARD) for name in (*path, event.name))
    }
    ops = []
    for event, path in zip(events, paths, strict=True):
        place = tuple(path)
        node = _node(event)
        if node is not None:
            place = (*forward.get(node.sequence_nr, ()), *place)
        ops.append(Op(event.name, event.self_cpu_time_total / 1e6, place))
    return ops


def _path(event: Any) -> tuple[str, ...]:
    names, parent = [], event.cpu_parent
    while parent is not None:
        names.append(parent.name)
        parent = parent.cpu_parent
    return tuple(reversed(names))


def _node(event: Any) -> Any:
    """The autograd node that an event belongs to, itself or what called it; None in forward."""
    while event is not None and not event.name.startswith(BACKWARD):
        event = event.cpu_parent
    return event


def kind_of(op: Op) -> str:
    """The kind of an operation; ``other`` where neither its place nor its name is known."""
    if op.name in (ENCODER, OBJECTIVE, CONVS):
        return "python"
    place = (*op.inside, op.name)
    in_encoder = ENCODER in place
    for kind, names in REGIONS.items():
        if kind == "objective" and in_encoder:
            continue
        if any(found.startswith(name) for name in names for found in place):
            return kind
    bare = op.name.removeprefix("aten::").removeprefix("mkldnn::").removesuffix("_").removesuffix("_backward")
    if bare == "bmm" and any("conv" in name.lower() for name in op.inside):
        return "convolutions"  # the weight's gradient as a product, or a convolution of one channel
    return next((kind for kind, names in KINDS.items() if bare in names), "other")


def totals(ops: Sequence[Op], wall_s: float) -> dict[str, float]:
    """Seconds of each kind; ``python`` is what the operations leave of ``wall_s``."""
    seconds = dict.fromkeys(ALL_KINDS, 0.0)
    for op in ops:
        seconds[kind_of(op)] += op.self_s
    seconds["python"] = max(0.0, wall_s - sum(s for kind, s in seconds.items() if kind != "python"))
    return seconds


def rows_of(case: str, of: str, seconds: Mapping[str, float], repeats: int) -> list[Row]:
    """The whole first, then the kinds by their time."""
    whole = sum(seconds.values())
    rows = [Row("profile", case, f"{of}_s", whole / repeats, "s")]
    for kind, value in sorted(seconds.items(), key=lambda item: -item[1]):
        rows.append(Row("profile", case, f"{kind}_s", value / repeats, "s"))
        rows.append(Row("profile", case, f"{kind}_share", value / whole, "share"))
    return rows
