"""The benchmark harness: its arithmetic on times made by hand, and one run of everything on a minute model."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench

from audio_ssl.data.manifest import Manifest
from benchmarks import candidates, gpu, growth, measure, memory, planning, scale, scanning, step, worker
from benchmarks.cases import CASES, PRECISIONS
from benchmarks.errors import relative_distance
from benchmarks.flops import step_flops
from benchmarks.measure import Spread, fastest, gemm_peak, speed_ratio, time_in_turn
from benchmarks.memory import Ask
from benchmarks.peers import Transformers
from benchmarks.report import BenchError, Row, read_record, record, regressions
from benchmarks.summary import best_ratio, share_row, speed_rows
from benchmarks.worker import Worker, WorkerAsk

CASE = CASES["smoke"]  # 2 rows of 1 s


@pytest.fixture
def unpinned(monkeypatch):
    """The tests' own process keeps its threads and processors."""
    monkeypatch.setattr(bench, "pin", lambda threads, *, keep_kernels: None)


def run(capsys, *words) -> list[dict]:
    assert bench.main([*words, "--json", "--repeats", "1"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_candidates_take_turns_and_the_first_round_does_not_count():
    calls = []
    times = time_in_turn({name: lambda name=name: calls.append(name) for name in "ABC"}, 2)
    assert "".join(calls) == "ABCABCABC"
    assert {name: len(values) for name, values in times.items()} == {"A": 2, "B": 2, "C": 2}


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    ours, theirs = (1.0, 2.0, 10.0), (3.0, 4.0, 40.0)  # the machine was slow in the third round
    assert speed_ratio(ours, theirs) == Spread(3.0, 2.5, 3.5)
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 5.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)


def test_the_best_of_ours_meets_the_best_of_the_peers():
    times = {
        "audio_ssl fp32": (4.0, 4.0), "audio_ssl bf16": (2.0, 2.0),
        "transformers fp32": (9.0, 9.0), "transformers bf16": (8.0, 8.0), "fairseq2 fp32": (5.0, 7.0),
    }  # fmt: skip
    assert fastest(times, []) is None
    (row,) = best_ratio("step", CASE, times, metric="ratio_best_peer", peers=["transformers", "fairseq2"])
    assert (row.key, row.value, row.spread) == ("step/smoke/ratio_best_peer", 3.0, (2.75, 3.25))
    (row,) = best_ratio("step", CASE, times, metric="x", peers=["transformers"], precisions=("fp32",))
    assert row.value == 2.25
    assert best_ratio("step", CASE, times, metric="x", peers=[]) == []


def test_speed_and_share_of_the_peak():
    (row,) = speed_rows("step", CASE, {"a": (1.0, 2.0, 4.0)}, ["a"])
    assert (row.case, row.value, row.spread) == ("smoke/a", 1.0, (2 / 3, 4 / 3))
    row = share_row(("step", "c", "share"), flops=6e9, time_s=Spread(2.0, 1.0, 3.0), peak=10.0)
    assert (row.value, row.spread) == (pytest.approx(0.3), (pytest.approx(0.2), pytest.approx(0.6)))


def test_the_peak_is_the_shape_with_the_highest_median():
    shapes = ((10, 10, 10), (20, 10, 10))
    times = {"gemm bf16 10x10x10": (1e-6, 1e-6, 1e-9), "gemm bf16 20x10x10": (1e-6, 1e-6, 4e-6)}
    packed = times | {"gemm bf16 10x10x10 packed": (1e-7, 1e-7, 1e-7)}
    assert gemm_peak(packed, "bf16", shapes).median == pytest.approx(measure.NUM_PRODUCTS * 2000 / 1e-7 / 1e9)
    assert gemm_peak(times, "bf16", shapes).median == pytest.approx(measure.NUM_PRODUCTS * 4000 / 1e-6 / 1e9)


def test_a_ratio_may_fall_to_nine_tenths_of_its_record(tmp_path, capsys):
    def rows(speed, memory):
        return [Row("step", "c", "ratio_best_peer", speed, "ratio"), Row("step", "c", "memory_ratio", memory, "ratio"),
                Row("step", "c", "share_of_peak", 0.1, "share")]  # fmt: skip

    path = tmp_path / "bench.json"
    path.write_text('{"forward/c/other": 2.0}')
    record(rows(2.0, 0.5), path)
    known = read_record(path)
    assert known == {"forward/c/other": 2.0, "step/c/memory_ratio": 0.5, "step/c/ratio_best_peer": 2.0}
    assert regressions(rows(1.81, 0.55), known) == []
    assert [fault.partition(":")[0] for fault in regressions(rows(1.79, 0.56), known)] == [
        "step/c/memory_ratio", "step/c/ratio_best_peer",
    ]  # fmt: skip
    with pytest.raises(BenchError, match="nothing was checked"):
        regressions(rows(1.0, 1.0), {"forward/c/other": 2.0})
    assert bench.main(["step", "--case", "smoke", "--check", str(tmp_path / "no.json")]) == 2


def test_step_tells_every_metric_in_json(unpinned, monkeypatch, tmp_path, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(step, "of_child", lambda ask: {"audio_ssl": 100.0, "transformers": 200.0}[ask.system])
    path = tmp_path / "bench.json"
    lines = run(capsys, "step", "--case", "smoke", "--peer", "transformers", "--record", str(path))
    assert all(list(line) == ["bench", "case", "metric", "value", "unit"] and line["value"] > 0 for line in lines)
    values = {(line["case"], line["metric"]): line["value"] for line in lines}
    ours = [f"smoke/audio_ssl {p}" for p in PRECISIONS]
    of_candidates = [*ours, *(f"smoke/transformers {p}" for p in PRECISIONS)]
    expected = {(c, m) for c in of_candidates for m in ("audio_s_per_s", "peak_memory_mib")}
    expected |= {(c, "share_of_peak") for c in ours}
    expected |= {(f"smoke/{name}", f"error_bf16_{what}") for name in ("audio_ssl", "transformers")
                 for what in ("loss", "gradients")}  # fmt: skip
    assert 0 < values["smoke/audio_ssl", "error_bf16_gradients"] < 0.5
    assert 0 < values["smoke/audio_ssl", "error_bf16_loss"] < 0.02
    totals = ("ratio_best_peer", "ratio_transformers", "gemm_peak_fp32", "gemm_peak_bf16", "memory_ratio")
    expected |= {("smoke", m) for m in totals}
    assert {place for place in values if not place[1].endswith(("_q1", "_q3"))} == expected
    assert values["smoke", "memory_ratio"] == 0.5
    assert set(read_record(path)) == {f"step/smoke/{m}" for m in totals if not m.startswith("gemm")}


def test_forward_and_widths_tell_their_metrics(unpinned, capsys):
    lines = run(capsys, "forward", "--case", "smoke")
    metrics = {line["metric"] for line in lines}
    values = {line["metric"]: line["value"] for line in lines}
    assert 0 < values["error_bf16"] < 0.05
    assert 0 < values["error_int8"] < 0.2
    assert values["cosine_bf16"] != values["cosine_int8"] > 0.98
    assert ("smoke/audio_ssl int8", "audio_s_per_s") in {(line["case"], line["metric"]) for line in lines}
    assert {"audio_s_per_s", "share_of_peak_fp32", "share_of_peak_bf16"} <= metrics
    assert {"ratio_best_peer_fp32", "ratio_best_peer_bf16"} <= metrics  # torchaudio is always there
    assert {"sweep_s", "ratio_rounded"} <= {line["metric"] for line in run(capsys, "widths", "--case", "smoke")}


def test_gpu_tells_of_step_and_forward_by_the_audio_of_one_timing(unpinned, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(gpu, "find_gpu", lambda: torch.device("cpu"))
    monkeypatch.setattr(gpu, "time_in_turn", lambda works, rounds: dict.fromkeys(works, (10.0,)))
    lines = run(capsys, "gpu", "--case", "smoke", "--rows", "2", "--peer", "transformers")
    values = {(line["case"], line["metric"]): line["value"] for line in lines}
    for what in ("step", "forward"):
        label = f"smoke/2 x 15 s {what}"
        assert values[f"{label}/audio_ssl bf16", "audio_s_per_s"] == 5 * 30 / 10
        assert values[label, "ratio_best_peer"] == 1
        assert values[label, "gemm_peak"] == pytest.approx(5 * 2 * 8192**3 / 10 / 1e9)
        assert (f"{label}/transformers bf16", "memory") in values
    ours = "smoke/2 x 15 s step/audio_ssl bf16"
    flops_a_second = 2 * step_flops(CASE.model, CASE.objective, 240_000) / 2
    peak = values["smoke/2 x 15 s step", "gemm_peak"] * 1e9
    assert values[ours, "share_of_peak"] == pytest.approx(flops_a_second / peak)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_wants_a_gpu(unpinned, capsys):
    assert bench.main(["gpu"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_scale_draws_its_curves(unpinned, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(scale, "of_child", lambda ask: 10.0 * ask.rows)
    lines = run(capsys, "scale", "--case", "smoke", "--plot", str(tmp_path / "scale.png"))
    steps = [line["case"] for line in lines if line["metric"] == "step_s"]
    assert steps == [*(f"smoke/2 x {s} s" for s in ("0.25", "0.5", "1", "2")), "smoke/1 x 0.5 s"]
    memories = [line["value"] for line in lines if line["metric"] == "peak_memory_mib"]
    assert memories == [10.0, 20.0, 40.0, 80.0]
    found = {line["metric"]: line["value"] for line in lines}
    assert (found["fixed_mib"], found["per_row_mib"]) == (pytest.approx(0.0, abs=1e-6), pytest.approx(10.0))
    assert [line["metric"] for line in lines].count("arithmetic_exponent") == 2
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_laws_of_growth_by_hand():
    seconds = (2.0, 3.0, 5.0, 7.0)
    law = growth.with_audio(seconds, [0.5 * s + 0.25 * s**2 for s in seconds])
    found = {metric: value for metric, (value, _) in law.figures.items()}
    assert (found["linear_s"], found["quadratic_s"]) == (pytest.approx(0.5), pytest.approx(0.25))
    assert found["quadratic_share"] == pytest.approx(12.25 / 15.75)
    assert law.at(11.0) == pytest.approx(35.75)
    assert law.formula == "500.0 s + 250.00 s² (ms)"
    concave = growth.with_audio(seconds, [s**0.9 for s in seconds]).figures
    assert concave["quadratic_s"] == (0.0, "s")  # no negative attention
    assert concave["growth_exponent"][0] == pytest.approx(0.9)
    memory = growth.with_batch((1, 2, 5), (107.0, 117.0, 147.0))
    assert (memory.figures["fixed_mib"][0], memory.at(11)) == (pytest.approx(97.0), pytest.approx(207.0))
    model = growth.with_model((3.0, 12.0), (6.0, 12.0))  # four times the model, twice the time
    assert model.figures["growth_exponent"][0] == pytest.approx(0.5)
    assert model.at(48.0) == pytest.approx(24.0)
    assert growth.exponent([1.0], [5.0]) == 0.0


def test_a_child_measures_its_memory_without_its_parents():
    ballast = torch.ones(100_000_000)  # 381 MiB, which ru_maxrss of a child would contain
    mib = memory.of_child(Ask("smoke", 8, 1.0, "audio_ssl", "fp32", 1))
    assert 0 < mib < 300
    assert ballast[0] == 1


def test_a_relative_distance_by_hand():
    found, expected = (
        [torch.tensor([3.0, 1.0]), torch.tensor([[2.0]])],
        [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])],
    )
    assert relative_distance(found, expected) == pytest.approx((1 + 4) ** 0.5 / 5)


def test_a_worker_that_ends_stops_the_run(tmp_path):
    ask = WorkerAsk("smoke", "audio_ssl", str(tmp_path / "no.safetensors"), keeps_memory=True, threads=1)
    with pytest.raises(BenchError, match=r"process of audio_ssl ended with status 1"):
        Worker(ask)


def test_ratios_of_peers_that_keep_memory_have_names_of_their_own(unpinned, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(memory, "of_child", lambda ask: 10.0)
    monkeypatch.setattr(step, "of_child", lambda ask: 10.0)
    monkeypatch.setattr(step, "error_rows", lambda case, systems: [])
    asked = []

    def waiting(ask: WorkerAsk) -> SimpleNamespace:
        asked.append(ask)
        return SimpleNamespace(name=ask.system, step=lambda precision: time.sleep(0.001), close=lambda: None)

    monkeypatch.setattr(worker, "Worker", waiting)
    lines = run(capsys, "step", "--case", "smoke", "--peer", "transformers", "--peers-keep-memory")
    assert {line["metric"] for line in lines} >= {"ratio_best_peer_kept_memory", "ratio_transformers_kept_memory"}
    assert [(ask.system, ask.keeps_memory) for ask in asked] == [("audio_ssl", True), ("transformers", True)]


def test_another_model_stops_the_run(unpinned, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(Transformers, "take", lambda self, tensors: None)
    assert bench.main(["step", "--case", "smoke", "--peer", "transformers", "--json"]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert "transformers must give our frames" in captured.err


def test_a_peer_that_is_not_installed_is_left_out_and_said(monkeypatch, capsys):
    def fail():
        raise ImportError("no such module")

    monkeypatch.setattr(Transformers, "load", fail)
    systems = candidates.open_systems(CASE, ["transformers"], trains=True)
    assert [system.name for system in systems] == ["audio_ssl"]
    assert "left out: transformers: no such module" in capsys.readouterr().err


def test_plan_opens_what_it_has_written(unpinned, capsys, tmp_path):
    lines = run(capsys, "plan", "--utterances", "3000")
    values = {line["metric"]: line["value"] for line in lines}
    assert set(planning.UNITS) <= set(values)
    assert 5 < values["hours"] < 10
    assert 0 < values["padding_share"] < 0.1
    assert 50 < values["rss_mib"] < 2000
    planning.write_synthetic(tmp_path / "a.arrow", 300)
    manifest = Manifest.read(tmp_path / "a.arrow")
    manifest.check()
    assert manifest[299].path == "audio/299.flac"


def test_scan_finds_every_file_whoever_looks(unpinned, capsys, tmp_path):
    lines = run(capsys, "scan", "--files", "1010", "--repeats", "1")
    values = {(line["case"], line["metric"]): line["value"] for line in lines}
    for look in ("ends", "headers"):
        assert values[f"1,010 files, {look}", "files_per_s"] > 100
        assert values[f"1,010 files, {look}", "ratio_soundfile_loop"] == pytest.approx(
            values[f"1,010 files, {look}", "files_per_s"] / values["1,010 files, soundfile_loop", "peer_files_per_s"]
        )
    assert values["1,010 files, ends, a tenth of them", "rss_growth_mib"] > 0
    tenth, root = scanning.make_files(tmp_path / "audio", 30)
    assert [len([*folder.rglob("*.*")]) for folder in (tenth, root)] == [3, 30]
    assert sorted({path.suffix for path in root.rglob("*.*")}) == [".flac", ".wav"]
