"""Real pre-training runs, as small as can be: each guard fires on the run made to fail, none on a healthy one."""

import itertools
import json
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
from guard_check import (
    ONE_CODE,
    Result,
    Run,
    changed_forward,
    do,
    large_loss,
    leak,
    make_audio,
    nan_loss,
    nan_weights,
    slow_disk,
)

from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioSSLError

TINY = (
    "model.front_end='mel'", "objective.feature_penalty_weight=0", "model.dim=32", "model.num_layers=1",
    "model.num_heads=2", "model.ffn_dim=32", "model.pos_conv_kernel=8", "model.pos_conv_groups=2",
    "objective.code_dim=16", "objective.target_dim=16", "objective.num_entries=16", "data.batch_s=3",
    "data.micro_batch_s=2", "data.max_s=1", "data.num_workers=1", "run.precision=fp32",
)  # fmt: skip
NUM_FILES = 23
Do = Callable[..., Result]


@pytest.fixture(scope="module")
def audio(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("guarded")
    return {kind: make_audio(folder / kind, kind, num_files=NUM_FILES, seconds=1.5) for kind in ("speech", "noise")}


@pytest.fixture
def run(audio, tmp_path) -> Do:
    torch.set_num_threads(1)

    def call(name="run", *settings: str, **about) -> Result:
        wanted = Run(name, "", None, **about)
        return do(wanted, tmp_path, audio[wanted.audio], [*TINY, *settings])

    return call


def said(result: Result) -> list[tuple[str, str]]:
    """(guard, action) of each finding, repeated ones once."""
    return [key for key, _ in itertools.groupby((row["guard"], row["action"]) for row in result.findings)]


def test_a_healthy_run_says_nothing(run):
    result = run("run", "run.num_updates=80")
    assert (said(result), result.ended) == ([], "done")


def test_a_quantizer_of_one_code_is_a_collapse(run):
    result = run("run", *ONE_CODE)
    assert said(result) == [("collapse", "warning"), ("collapse", "stop")]
    assert [row["update"] for row in result.findings] == [5, 40]
    assert "code_perplexity" in result.ended
    assert "objective.diversity_weight" in result.ended


def test_noise_stays_at_chance(run):
    limits = ("guard.chance_warn_updates=30", "guard.chance_stop_updates=60", "objective.diversity_weight=0.1")
    result = run("run", *limits, audio="noise")
    assert said(result) == [("chance", "warning"), ("chance", "stop")]
    assert "ln(100 + 1) = 4.615" in result.ended


def test_targets_that_leak_make_the_task_trivial(run):
    result = run("run", "guard.max_accuracy=0.3", "run.num_updates=60", sabotage=leak)
    assert said(result)[0] == ("trivial", "warning")
    assert "objective.mask_prob" in result.findings[0]["message"]


def test_weights_that_turn_nan_stop_the_run_with_whole_checkpoints(run, tmp_path):
    result = run("run", "run.save_every=10", sabotage=nan_weights(12))
    assert said(result) == [("nonfinite", "stop")]
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))[-1]
    assert newest.name == "step_00000010"
    assert all(tensor.isfinite().all() for tensor in load_file(newest / "model.safetensors").values())


def test_broken_updates_now_and_then_are_skipped_until_the_budget_is_spent(run, tmp_path):
    result = run("run", "guard.max_dumps=3", sabotage=nan_loss(7))
    assert said(result) == [("nonfinite", "stop")]
    assert result.findings[0]["update"] == 50  # the seventh is update 49; six are allowed
    dumps = sorted(path.name for path in (tmp_path / "run" / "dumps").iterdir())
    assert dumps == ["update_00000007.json", "update_00000014.json", "update_00000021.json"]


def test_a_slow_disk_is_told_and_stops_nothing(run):
    result = run("run", "run.log_every=2", "run.num_updates=12", sabotage=slow_disk(0.1))
    assert (said(result), result.ended) == ([("data_wait", "warning")], "done")
    assert "data.num_workers" in result.findings[0]["message"]


def test_one_gradient_far_too_large_is_skipped(run, tmp_path):
    result = run(sabotage=large_loss(110))
    assert (said(result), result.ended) == ([("spike", "warning")], "done")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["update"]: row["spiked_updates"] for row in rows if row.get("spiked_updates")} == {115: 1}
    assert not any(row.get("skipped_updates") for row in rows)
    assert not (tmp_path / "run" / "dumps").exists()


class KilledError(AudioSSLError):
    """Stands for a kill."""


SPIKY = ("run.num_updates=80", "run.save_every=5", "data.micro_batch_s=3")
ODD = range(52, 62)  # updates


@pytest.fixture(scope="module")
def odd_rows(audio, tmp_path_factory) -> dict[int, tuple[int, ...]]:
    """What a run hears in some updates as long as nothing takes it back."""
    torch.set_num_threads(1)
    heard = {}

    def note(_, batch, update: int) -> float:
        heard[update] = batch.rows
        return 1.0

    healthy = Run("healthy", "", None, sabotage=lambda: changed_forward(note))
    assert said(do(healthy, tmp_path_factory.mktemp("heard"), audio["speech"], [*TINY, *SPIKY])) == []
    return {update: heard[update] for update in ODD}


def odd(rows: dict[int, tuple[int, ...]] | None, *, dies_at: tuple[int, int] | None = None, log: list | None = None):
    """Losses are twice what they are in some updates: always, or where they hear these rows.

    ``dies_at``: an error ends the run at an update when it comes there for the n-th time. ``log``: gets micro-batches.
    """
    visits: Counter[int] = Counter()

    def change(_, batch, update: int) -> float:
        visits[update] += 1
        if log is not None:
            log.append((update, batch.rows))
        if dies_at == (update, visits[update]):
            raise KilledError("killed")
        return 2.0 if update in ODD and (rows is None or rows[update] == batch.rows) else 1.0

    return lambda: changed_forward(change, is_told=True)


def metrics(run_dir: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = (
        "audio_s_per_s", "update_s", "processor_update_s", "data_wait_share", "time_left_s", "checkpoint_s",
        "device_memory_gib",
    )  # fmt: skip
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


@pytest.fixture(scope="module")
def heard() -> list[tuple[int, tuple[int, ...]]]:
    """(updates done before, rows) of each micro-batch of :func:`straight`."""
    return []


@pytest.fixture(scope="module")
def straight(audio, odd_rows, heard, tmp_path_factory) -> Path:
    """A run that was taken back, and went on from there."""
    folder = tmp_path_factory.mktemp("straight")
    result = do(Run("run", "", None, sabotage=odd(odd_rows, log=heard)), folder, audio["speech"], [*TINY, *SPIKY])
    assert result.ended == "done"
    return folder / "run"


def test_each_row_comes_once_in_a_pass_where_the_run_was_taken_back(straight, heard):
    """In the middle of a pass, whose rest is dealt out anew."""
    back = next(i for i in range(1, len(heard)) if heard[i][0] < heard[i - 1][0])
    assert heard[back][0] == 50
    before = [rows for update, rows in heard[:back] if update < 50]
    assert sum(map(len, before)) % NUM_FILES
    rows = [row for batch in [*before, *(batch for _, batch in heard[back:])] for row in batch]
    passes = [rows[i : i + NUM_FILES] for i in range(0, len(rows) - NUM_FILES + 1, NUM_FILES)]
    assert all(sorted(one) == list(range(NUM_FILES)) for one in passes)
    left = [batch for update, batch in heard[:back] if update >= 50]
    again = [batch for _, batch in heard[back : back + len(left)]]
    assert sum(a != b for a, b in zip(left, again, strict=True)) > len(left) / 2


def test_a_lasting_spike_takes_the_run_back_into_another_order(straight):
    (finding,) = (row for row in metrics(straight) if row["split"] == "guard")
    assert (finding["guard"], finding["action"], finding["update"]) == ("spike", "rollback", 50)
    assert "The run goes back to update 50 and on in another order" in finding["message"]
    progress = json.loads((straight / "checkpoints/step_00000080/state/progress.json").read_text())
    assert (progress["rollbacks"], progress["update"]) == (1, 80)
    updates = [row["update"] for row in metrics(straight)]
    assert updates == sorted(updates)  # rows of the way that was left are gone


@pytest.mark.parametrize("dies_at", [(55, 1), (51, 2), (79, 1)], ids=["before", "just after", "later"])
def test_a_run_that_went_back_resumes_to_the_last_bit(run, audio, odd_rows, straight, tmp_path, dies_at):
    assert run("killed", *SPIKY, sabotage=odd(odd_rows, dies_at=dies_at)).ended == "killed"
    newest = sorted((tmp_path / "killed" / "checkpoints").glob("step_*"))[-1].name
    assert newest == {55: "step_00000055", 51: "step_00000050", 79: "step_00000075"}[dies_at[0]]
    again = Run("killed", "", None, sabotage=odd(odd_rows))
    assert do(again, tmp_path, audio["speech"], [*TINY, *SPIKY], resume="auto").ended == "done"
    last = "checkpoints/step_00000080"
    for file in ("model.safetensors", "state/progress.json"):
        assert (tmp_path / "killed" / last / file).read_bytes() == (straight / last / file).read_bytes()
    assert metrics(tmp_path / "killed") == metrics(straight)


def test_a_spike_that_comes_back_stops_the_run_after_so_many_roll_backs(run, tmp_path):
    result = run("run", *SPIKY, "guard.max_rollbacks=2", sabotage=odd(None))
    assert said(result) == [("spike", "rollback"), ("spike", "warning"), ("spike", "stop")]
    assert [row["action"] for row in result.findings].count("rollback") == 2
    assert "went back 2 times already (guard.max_rollbacks = 2)" in result.ended
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert names == ["step_00000050", "step_00000055"]


def test_a_spike_without_a_checkpoint_before_it_stops(run):
    result = run("run", *SPIKY, "run.save_every=100", sabotage=odd(None))
    assert said(result) == [("spike", "warning"), ("spike", "stop")]
    assert "no checkpoint of update 50 or before" in result.ended


@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
def test_a_fault_in_a_reading_thread_ends_the_run_and_what_was_saved_stays(run, audio, tmp_path, engine):
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")
    calls = itertools.count()

    def broken(*args, **kwargs):
        return 1 / (100 - next(calls)) and normalize(*args, **kwargs)  # the hundredth row, some twentieth update

    settings = (f"data.engine='{engine}'", "run.num_updates=60", "run.save_every=4")
    threads = threading.active_count()
    result = run("run", *settings, sabotage=lambda: mock.patch("audio_ssl.data.rows.normalize", broken))
    assert re.search(r"speech\d+.*: unforeseen ZeroDivisionError: .*test_guarded_runs\.py:\d+\)", result.ended)
    assert threading.active_count() == threads
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert names
    again = Run("run", "", None)
    assert do(again, tmp_path, audio["speech"], [*TINY, *settings], resume="auto").ended == "done"
    assert (tmp_path / "run" / "model").is_dir()
