"""An update is the same however it is shared out: over ranks, micro-batches, by DDP or FSDP2; none waits for the dead.

The runs are those of ``split_updates.py``: the real loop on a real model, gradients taken as the optimizer meets them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    command = [sys.executable, "-m", "tests.unit.train.split_updates", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def relative(found: Tensors, wanted: Tensors) -> float:
    """Norm of the difference of all tensors together, by the norm of what is wanted."""
    assert found.keys() == wanted.keys()
    difference = sum((found[name] - wanted[name]).double().square().sum() for name in wanted)
    return float((difference / sum(value.double().square().sum() for value in wanted.values())).sqrt())


def result(folder: Path, name: str) -> dict:
    return torch.load(folder / f"{name}.pt")


@pytest.mark.parametrize("name", ["two", "four", "two_fsdp", "four_fsdp"])
def test_gradients_do_not_depend_on_how_micro_batches_lie_over_ranks(folder, name):
    alone, shared = result(folder, "one"), result(folder, name)
    assert relative(shared["gradients"][0], alone["gradients"][0]) < 1e-6
    for tensor in alone["gradients"][0]:
        if not tensor.endswith("attention.key.bias"):  # which softmax does not see: its gradient is rounding
            difference = {tensor: shared["gradients"][0][tensor]}, {tensor: alone["gradients"][0][tensor]}
            assert relative(*difference) < 1e-6, tensor
    row, wanted = shared["rows"][0], alone["rows"][0]
    assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
    assert row["diversity_loss"] == pytest.approx(wanted["diversity_loss"], rel=1e-6)
    assert row["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=2e-6)
    assert (row["audio_h"], row["lr"]) == (pytest.approx(wanted["audio_h"]), wanted["lr"])
    for figure in ("padding_share", "code_perplexity_1", "prob_perplexity_2", "masked_share"):
        assert row[figure] == pytest.approx(wanted[figure], rel=1e-6), figure


def test_gradients_do_not_depend_on_how_rows_lie_in_micro_batches(folder):
    """In double precision, with draws that belong to rows, and without diversity, which is that of a micro-batch."""
    whole, split = result(folder, "whole_rows"), result(folder, "split_rows")
    assert next(iter(whole["gradients"][0].values())).dtype is torch.float64
    assert relative(split["gradients"][0], whole["gradients"][0]) < 1e-12
    assert split["rows"][0]["loss"] == pytest.approx(whole["rows"][0]["loss"], rel=1e-12)


@pytest.mark.parametrize("name", ["two", "two_fsdp"])
def test_validation_that_is_shared_out_gives_the_figures_of_one_process(folder, name):
    """The second one: what a CPU lays out of the weights for the first must not serve it."""
    wanted, found = result(folder, "one")["rows"][-1], result(folder, name)["rows"][-1]
    assert [(row["split"], row["update"]) for row in (wanted, found)] == [("valid", 4), ("valid", 4)]
    assert found["accuracy"] == wanted["accuracy"]
    assert found["code_perplexity"] == pytest.approx(wanted["code_perplexity"], rel=1e-6)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-4)  # after four updates of Adam


@pytest.mark.parametrize("kind", ["wet", "ctc", "adapted"])
def test_fully_sharded_equals_data_parallel(folder, kind):
    """With dropout and layer drop; in fine-tuning with parts that begin to learn later, or alone."""
    ddp, fsdp = result(folder, f"{kind}_ddp"), result(folder, f"{kind}_fsdp")
    assert relative(fsdp["gradients"][0], ddp["gradients"][0]) < 1e-6
    for ours, theirs in zip(fsdp["gradients"], ddp["gradients"], strict=True):
        assert ours.keys() == theirs.keys()
        assert relative(ours, theirs) < 1e-4  # Adam makes much of small differences
    assert relative(fsdp["weights"], ddp["weights"]) < 1e-4
    for ours, theirs in zip(fsdp["rows"], ddp["rows"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours.get("grad_norm", 0) == pytest.approx(theirs.get("grad_norm", 0), rel=1e-4)


def test_a_share_is_all_that_a_rank_writes_of_the_optimizer(folder):
    sharded = folder / "two_fsdp" / "checkpoints" / "step_00000004" / "state" / "tensors"
    sizes = [path.stat().st_size for path in sorted(sharded.iterdir())]
    whole = (
        (folder / "one" / "checkpoints" / "step_00000004" / "state" / "tensors" / "whole.safetensors").stat().st_size
    )
    assert len(sizes) == 2
    assert max(sizes) < 0.55 * whole


@pytest.mark.parametrize(("name", "before"), [("fsdp_to_one", "two_fsdp"), ("one_to_four_fsdp", "one")])
def test_a_checkpoint_goes_on_in_another_world_and_layout(folder, name, before):
    straight, resumed = result(folder, before), result(folder, name)
    assert len(resumed["gradients"]) == 2
    assert relative(resumed["gradients"][0], straight["gradients"][2]) < 1e-6
    assert relative(resumed["weights"], straight["weights"]) < 1e-4


def test_a_sharded_run_goes_on_to_the_last_bit(folder):
    straight, resumed = result(folder, "wet_fsdp"), result(folder, "fsdp_again")
    assert len(resumed["gradients"]) == 2
    for name, value in straight["weights"].items():
        assert torch.equal(resumed["weights"][name], value), name
    assert resumed["rows"] == [row for row in straight["rows"] if row["update"] > 2]


@pytest.mark.parametrize(
    ("name", "survivor", "said"),
    [
        ("killed", 0, r"rank 1 \(\S+, pid {1}\) was killed or cut off: it has been silent for \d+ s"),
        ("failed", 0, r"rank 1 \(\S+, pid {1}\) ended in error: TrainingError: the disk of this rank is on fire"),
        ("main_failed", 1, r"rank 0 \(\S+, pid {0}\) ended in error: TrainingError: the disk of this rank is on fire"),
    ],
)
def test_a_rank_that_ends_is_named_by_the_others_which_end_too(folder, name, survivor, said):
    pids = (folder / f"{name}.pids").read_text().split()
    told = (folder / f"{name}_{survivor}.error").read_text()
    assert told.startswith("PeerError: ")
    assert re.search(said.format(*pids), told)
