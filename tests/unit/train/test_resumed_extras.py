"""Average and loss scale survive a crash: a resumed run ends with the bits of one that never stopped."""

import shutil
from dataclasses import replace

import pytest
import torch

from audio_ssl.errors import CheckpointError
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.finish import leave_model
from audio_ssl.train.loop import train
from audio_ssl.train.precision import LossScale
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import make_stepper
from tests.unit.train.test_loss_scale import Overflowing
from tests.unit.train.toy import Collect, Source, make_task, surroundings

CPU = torch.device("cpu")


def made(folder, *, ema_decay: float = 0.9):
    """A task that overflows above a scale of 1/4, with all that hangs on its steps."""
    module = Overflowing(LossScale(CPU), bears=0.25)
    stepper = make_stepper(module, precision="fp16", ema_decay=ema_decay, device=CPU)
    module.loss_scale = stepper.loss_scale
    task = replace(make_task(module, Source([(0, 1), (1, 6)])), extras=stepper.extras())
    task = replace(task, summarize=lambda sums: {"loss": 1.0})
    sink = Collect()
    around = replace(surroundings(folder, [sink], num_updates=9, save_every=4, keep_last=9), stepper=stepper)
    return task, around, sink


def bits(task) -> dict[str, torch.Tensor]:
    extras = {f"{kind}/{n}": t.clone() for kind, extra in task.extras.items() for n, t in extra.tensors().items()}
    return {**task.module.state_dict(), **extras}


@pytest.mark.parametrize("stop_at", [4, 8])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, stop_at):
    straight, around, straight_sink = made(tmp_path)
    train(straight, Progress(), around)
    for later in around.folder.names():
        if int(later.removeprefix("step_")) > stop_at:
            shutil.rmtree(tmp_path / "checkpoints" / later)
    again, around, sink = made(tmp_path)
    progress = CheckpointFolder(around.run, around.world).restore(again)
    assert progress.update == stop_at
    train(again, progress, around)
    expected = bits(straight)
    assert expected["loss_scale/scale"] == 0.25
    assert expected["average/num_updates"] == 7  # of 9: two were skipped
    assert all(torch.equal(value, expected[name]) for name, value in bits(again).items())
    assert sink.figure("loss_scale") == straight_sink.figure("loss_scale")[stop_at:]


def test_an_average_that_begins_half_way_is_refused(tmp_path):
    task, around, _ = made(tmp_path, ema_decay=0.0)
    train(task, Progress(), around)
    again, around, _ = made(tmp_path)
    with pytest.raises(CheckpointError, match="must hold `average`"):
        CheckpointFolder(around.run, around.world).restore(again)


@pytest.mark.parametrize("is_averaged", [True, False])
def test_the_model_that_is_left_holds_the_average_where_one_is_kept(tmp_path, is_averaged):
    from safetensors.torch import load_file

    task, around, _ = made(tmp_path)
    train(task, Progress(), around)
    leave_model(around.folder, tmp_path, is_averaged=is_averaged, console=around.console)
    left = load_file(tmp_path / "model" / "model.safetensors")
    with around.stepper.averaged():
        average = {name: value.clone() for name, value in task.module.state_dict().items()}
    expected = average if is_averaged else task.module.state_dict()
    assert left.keys() == expected.keys()
    assert all(torch.equal(left[name], value) for name, value in expected.items())
    assert not torch.equal(average["linear.weight"], task.module.linear.weight)
