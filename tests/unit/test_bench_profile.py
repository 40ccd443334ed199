"""The profile of a step: events made by hand, and one run of everything on a minute model."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench

from benchmarks.profile import (
    ALL_KINDS,
    BACKWARD,
    CONVS,
    ENCODER,
    OBJECTIVE,
    UPDATE,
    Op,
    kind_of,
    read_ops,
    rows_of,
    totals,
)


def event(name, self_us=0.0, parent=None, sequence_nr=-1):
    return SimpleNamespace(name=name, self_cpu_time_total=self_us, cpu_parent=parent, sequence_nr=sequence_nr)


def a_step():
    """Encoder: linear, GELU. Objective beside it: a product. Their backward, and the update."""
    loss = event(OBJECTIVE, 5.0)
    encoder = event(ENCODER, 7.0, loss)
    linear = event("aten::linear", 2.0, encoder, 0)
    addmm = event("aten::addmm", 100.0, linear, 0)
    gelu = event("aten::gelu", 30.0, encoder, 1)
    logits = event("aten::mm", 40.0, loss, 2)
    node = event(f"{BACKWARD}MmBackward0", 1.0, None, 2)
    logits_back = event("aten::mm", 80.0, event("MmBackward0", 0.0, node), -1)
    node_gelu = event(f"{BACKWARD}GeluBackward0", 0.0, None, 1)
    gelu_back = event("aten::gelu_backward", 60.0, node_gelu)
    node_linear = event(f"{BACKWARD}AddmmBackward0", 0.0, None, 0)
    linear_back = event("aten::mm", 200.0, node_linear)
    update = event(UPDATE, 0.0)
    clip = event("aten::_foreach_norm", 10.0, update)
    adamw = event("aten::_fused_adamw_", 20.0, event("Optimizer.step#AdamW.step", 0.0, update))
    return [loss, encoder, linear, addmm, gelu, logits, node, logits_back, node_gelu, gelu_back, node_linear,
            linear_back, update, clip, adamw, event("aten::strange", 3.0, encoder)]  # fmt: skip


def test_a_step_by_hand():
    seconds = totals(read_ops(a_step()), wall_s=1000e-6)
    expected = {
        "linear_products": 302e-6,  # 2 + 100 forward, 200 backward
        "gelu": 90e-6,
        "objective": 121e-6,  # the product outside of the encoder, and its backward with its node
        "optimizer": 30e-6,
        "other": 3e-6,
        "python": 454e-6,  # the rest of a millisecond: the marks' own time is Python's
    }
    assert {kind: value for kind, value in seconds.items() if value} == pytest.approx(expected)
    assert list(seconds) == list(ALL_KINDS)


@pytest.mark.parametrize(
    ("name", "inside", "kind"),
    [
        ("aten::bmm", (ENCODER,), "attention_products"),
        ("aten::bmm", (ENCODER, "_ConvOverTimeBackward"), "convolutions"),
        ("aten::bmm", (ENCODER, CONVS), "convolutions"),
        ("mkldnn::_linear_pointwise", (ENCODER,), "linear_products"),
        ("aten::copy_", (ENCODER, "aten::conv2d"), "copies"),
        ("aten::mul", (ENCODER, "aten::dropout"), "dropout"),
        ("aten::bernoulli_", (ENCODER,), "dropout"),
        ("aten::native_layer_norm_backward", (), "norms"),
        ("aten::_softmax_backward_data", (), "softmax"),
        ("aten::convolution_backward", (), "convolutions"),
        ("aten::softmax", (OBJECTIVE,), "objective"),
        ("aten::add_", (), "elementwise"),
        ("aten::view", (), "other"),
    ],
)
def test_the_place_decides_before_the_name(name, inside, kind):
    assert kind_of(Op(name, 1.0, inside)) == kind


def test_rows_are_of_one_step_and_sorted():
    rows = rows_of("c", "step", {"gelu": 2.0, "norms": 6.0, "other": 0.0}, repeats=2)
    assert [(row.metric, row.value) for row in rows] == [
        ("step_s", 4.0), ("norms_s", 3.0), ("norms_share", 0.75), ("gelu_s", 1.0), ("gelu_share", 0.25),
        ("other_s", 0.0), ("other_share", 0.0),
    ]  # fmt: skip


@pytest.mark.parametrize("of", ["step", "forward"])
@pytest.mark.parametrize("system", ["audio_ssl", "transformers"])
def test_a_run_knows_where_its_time_goes(monkeypatch, capsys, system, of):
    pytest.importorskip("transformers")
    monkeypatch.setattr(bench, "pin", lambda threads, *, keep_kernels: None)
    words = ["profile", "--case", "smoke", "--system", system, "--of", of, "--repeats", "2", "--json"]
    assert bench.main(words) == 0
    rows = {row["metric"]: row["value"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert sum(rows[f"{kind}_s"] for kind in ALL_KINDS) == pytest.approx(rows[f"{of}_s"])
    assert all(rows[f"{kind}_s"] > 0 for kind in ("linear_products", "convolutions", "attention_products", "gelu"))
    assert all((rows[f"{kind}_s"] > 0) == (of == "step") for kind in ("objective", "optimizer"))


def test_a_step_of_what_cannot_train_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(bench, "pin", lambda threads, *, keep_kernels: None)
    assert bench.main(["profile", "--case", "smoke", "--system", "torchaudio"]) == 2
    assert "--of forward" in capsys.readouterr().err
