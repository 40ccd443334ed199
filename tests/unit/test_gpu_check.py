"""The GPU checks where there is no GPU: each runs with a minute model, and what they say of faults is true."""

import io
import json
import math
import signal
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import gpu_check

from audio_ssl.config import ModelConfig
from benchmarks.flops import step_flops
from gpu import equality, parity, ranks, runs, speed
from gpu.outcome import CheckFailed, CheckSkipped, Result, table_of
from gpu.place import Place, Trainer, padded, pretrain_module
from gpu.runner import Check, run_apart, run_here
from gpu.waits import count

CPU, GPU = Place(torch.device("cpu")), Place(torch.device("cuda", 0))
# `resume`, `loader` and `nccl` start programs that load torch: they are run by hand with --device cpu.
QUICK = [name for name in gpu_check.CHECKS if name not in ("resume", "loader", "nccl")]
ONLY_ON_A_GPU = {"fp16", "compile", "compiled_embeddings"}


@pytest.mark.parametrize("name", QUICK)
def test_a_check_runs_with_a_minute_model(name):
    result = run_here(name, gpu_check.CHECKS[name], CPU)
    assert result.verdict == ("skipped" if name in ONLY_ON_A_GPU else "passed"), result
    assert result.reason if name in ONLY_ON_A_GPU else result.figures


def failing(_: Place) -> dict:
    raise CheckFailed("a must be 1, got 2", {"a": 2.0})


def broken(_: Place) -> dict:
    raise ValueError("[weight] is gone\nsecond line")


def skipping(_: Place) -> dict:
    raise CheckSkipped("one GPU is here")


@pytest.fixture
def four_checks(monkeypatch):
    """A matrix of four, run in this process."""
    made = {"failing": failing, "broken": broken, "skipping": skipping, "passing": lambda _: {"b": math.inf}}
    checks = {name: Check(run, 1) for name, run in made.items()}
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    monkeypatch.setattr(gpu_check, "run_apart", lambda name, **_: run_here(name, checks[name], CPU))


@pytest.mark.usefixtures("four_checks")
def test_checks_that_fail_are_told_and_do_not_stop_the_others(capsys):
    assert gpu_check.main(["--device", "cpu", "--json"]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["check"], row["verdict"]) for row in rows] == [
        ("failing", "failed"), ("broken", "failed"), ("skipping", "skipped"), ("passing", "passed"),
    ]  # fmt: skip
    assert rows[0]["reason"] == "a must be 1, got 2"
    assert rows[0]["figures"] == {"a": 2.0}
    assert rows[1]["reason"].startswith("ValueError: [weight] is gone (test_gpu_check.py:")
    assert rows[2]["reason"] == "one GPU is here"
    assert rows[3]["figures"] == {"b": "inf"}  # JSON knows no infinity
    assert "nothing was measured on a GPU" in err


@pytest.mark.usefixtures("four_checks")
def test_only_what_is_asked_for_runs_and_the_status_is_its_own(capsys):
    assert gpu_check.main(["--device", "cpu", "--only", "passing", "--only", "skipping"]) == 0
    assert "1 passed, 0 failed, 1 skipped" in capsys.readouterr().out


def test_without_a_gpu_the_status_is_three(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 3
    assert "no CUDA device: nothing was checked" in capsys.readouterr().err


def test_every_check_says_what_it_checks(capsys):
    assert gpu_check.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(gpu_check.CHECKS)
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_the_table_tells_reasons_with_their_brackets():
    results = [Result("a", "failed", "[weight] differs", {"x": 1e-5}, 2.4), Result("b", "passed", "", {"y": 123456.0})]
    console = Console(file=io.StringIO(), width=100)
    console.print(table_of(results, title="[H100]"))
    text = console.file.getvalue()
    for part in ("[weight] differs", "x 1e-05", "y 123,456", "1 passed, 1 failed, 0 skipped"):
        assert part in text


ANSWER = Result("c", "passed", "", {"z": 1.0}, 9.0).line()
WRITES = f"import sys; open(sys.argv[1], 'w').write('{ANSWER}')"
DIES = "import os, sys; print('illegal memory access', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open(r"%s", "w").write(str(child.pid))
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_check_apart_gives_its_answer():
    result = run_apart("c", limit_s=30, words=[sys.executable, "-c", WRITES])
    assert (result.verdict, result.figures) == ("passed", {"z": 1.0})
    assert result.seconds != 9.0  # with the start of the process


def test_a_process_that_dies_is_a_failed_check_with_its_last_words():
    result = run_apart("c", limit_s=30, words=[sys.executable, "-c", DIES])
    assert result.verdict == "failed"
    assert f"status {-signal.SIGKILL}" in result.reason
    assert "illegal memory access" in result.reason


def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    result = run_apart("c", limit_s=1.5, words=[sys.executable, "-c", HANGS % (tmp_path / "pid")])
    assert result.verdict == "failed"
    assert "at most 1.5 s" in result.reason
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(pid)


def test_parity_bites():
    gradients = {"a.weight": torch.tensor([1.0, -4.0]), "b.attention.key.bias": torch.tensor([1e-9]),
                 "b.attention.key.weight": torch.tensor([2.0])}  # fmt: skip
    assert parity.largest_difference(gradients, gradients)[1] == 0.0
    rounded = {**gradients, "b.attention.key.bias": torch.tensor([-3e-9])}  # zero in exact arithmetic
    assert parity.largest_difference(rounded, gradients)[1] == pytest.approx(2e-9)
    other = {**gradients, "a.weight": torch.tensor([1.0, -4.02])}
    assert parity.largest_difference(other, gradients) == ("a.weight", pytest.approx(0.005, rel=1e-4))
    with pytest.raises(CheckFailed, match=r"gradient of a\.weight must be at most 0\.001, got 0\.005"):
        parity.hold_together("", (1.0, other), (1.0, gradients))
    with pytest.raises(CheckFailed, match="difference of the loss"):
        parity.hold_together("", (1.001, gradients), (1.0, gradients))
    with pytest.raises(CheckFailed):
        parity.hold_together("", (math.nan, gradients), (1.0, gradients))
    with pytest.raises(CheckFailed, match="on one side only"):
        parity.hold_together("", (1.0, {"a.weight": gradients["a.weight"]}), (1.0, gradients))


def test_losses_that_part_are_told():
    with pytest.raises(CheckFailed, match=r"at most 0\.02, got 0\.05"):
        equality.compare_losses([4.0, 4.2], [4.0, 4.0], at_most=0.02)
    with pytest.raises(CheckFailed):
        equality.compare_losses([4.0, math.nan], [4.0, 4.0], at_most=0.02)


def test_waits_are_counted_by_their_line(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    def step() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = count(step, GPU)
    assert modes == ["warn", "default"]
    assert list(found.values()) == [2]
    assert next(iter(found)).startswith("test_gpu_check.py:")


def test_speed_is_told_beside_the_roofline(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    case = GPU.case("wav2vec2_base", rows=8, seconds=15)
    figures = speed._told(case, GPU, 0.05, 4.2, is_compiled=False)
    assert figures["audio_s_per_s"] == pytest.approx(2400)
    flops = 8 * step_flops(case.model, case.objective, 240_000)
    assert figures["share_of_peak"] == pytest.approx(flops / 0.05 / 989e12)
    assert 5000 < figures["paper_audio_s_per_s"] < 9000  # docs/results.md has 7,128 with dropouts
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Another")
    assert "share_of_peak" not in speed._told(case, GPU, 0.05, 4.2, is_compiled=False)


def test_models_on_a_gpu_are_the_presets_and_minute_ones_elsewhere():
    assert GPU.model("wav2vec2_large").dim == 1024
    assert GPU.case("wav2vec2_base", rows=8, seconds=15).rows == 8
    assert CPU.model("wav2vec2_large").dim == 32
    assert CPU.model("wav2vec2_large").norm_order == ModelConfig(preset="wav2vec2_large").norm_order
    assert CPU.case("wav2vec2_base", rows=8, seconds=15).audio_s == 3


def write_run(folder: Path, losses: list[float], *, hours: float = 0.1) -> Path:
    from safetensors.torch import save_file

    (folder / "model").mkdir(parents=True)
    rows = [{"split": "train", "update": i + 1, "loss": loss, "audio_h": hours * i} for i, loss in enumerate(losses)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    save_file({"w": torch.tensor(losses)}, folder / "model" / "model.safetensors")
    return folder


def test_a_resumed_run_is_held_to_the_uninterrupted_one(tmp_path):
    first, second = (write_run(tmp_path / name, [4.0, 3.0]) for name in ("first", "second"))
    near, far = write_run(tmp_path / "near", [4.0, 3.003]), write_run(tmp_path / "far", [4.0, 3.3])
    other = write_run(tmp_path / "other", [4.0, 3.0], hours=0.2)
    said = "resumed from update 1"
    figures = runs._compare_runs(first, second, near, said=said)
    assert figures["run_to_run_weights"] == "equal to the last bit"
    assert figures["resumed_weights"] == "differ"
    assert figures["resumed_largest_loss_difference"] == pytest.approx(0.001)
    with pytest.raises(CheckFailed, match=r"at most 0\.01, got 0\.1"):
        runs._compare_runs(first, second, far, said=said)
    with pytest.raises(CheckFailed, match="hear the same audio"):
        runs._compare_runs(first, second, other, said=said)
    with pytest.raises(CheckFailed, match="must go on from a checkpoint"):
        runs._compare_runs(first, second, near, said="a new run")


def test_one_process_leaves_the_gradients_of_its_update(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "SHARES", 2)
    ranks.work(tmp_path, "cpu", "ddp")
    from safetensors.torch import load_file

    moments = load_file(tmp_path / "1_ddp.safetensors")
    case = CPU.case("small", rows=3, seconds=4)
    batch = case.batch()
    shifted = padded(ranks._shifted(batch, 1))
    trainer = Trainer(pretrain_module(case), CPU)
    trainer.update([ranks._shifted(batch, 0), shifted])
    state = trainer.task.optimizer.state
    for name, parameter in trainer.module.named_parameters():
        torch.testing.assert_close(moments[name], state[parameter]["exp_avg"])
    assert not torch.equal(shifted.waveforms, batch.waveforms)


def test_a_single_gpu_cannot_check_nccl(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CheckSkipped, match="needs two"):
        ranks.nccl(GPU)
