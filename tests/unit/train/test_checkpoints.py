"""Checkpoints: what comes back equals what was saved; damage is named and passed over; the best and others are kept."""

import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from audio_ssl.config import OptimConfig, RunConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.train import checkpoints
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.sharded_state import new_stager
from audio_ssl.train.state import Progress

DOCUMENT = {"kind": "pretraining", "model": {"dim": 3, "conv_dims": [1, 2]}}
WORLD = World(0, 1, torch.device("cpu"))


class Counter:
    """Something that must survive."""

    def __init__(self, value: float) -> None:
        self.value = torch.tensor([value])

    def tensors(self):
        return {"value": self.value}

    def load_tensors(self, tensors) -> None:
        self.value = tensors["value"]


def trained(seed: int, *, optimizer: str = "adamw", **extras):
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    config = OptimConfig(lr=0.1, optimizer=optimizer)
    optimizer = build_optimizer([(list(module.parameters()), 1.0)], config, matrices=[module.weight])
    module(torch.randn(7, 3)).square().sum().backward()
    optimizer.step()
    return SimpleNamespace(module=module, optimizer=optimizer, document=DOCUMENT, extras=extras)


def opened(run_dir: Path, **run) -> CheckpointFolder:
    return CheckpointFolder(RunConfig(dir=run_dir, **{"keep_last": 3, "save_every": 1, **run}), WORLD)


def save(folder: CheckpointFolder, update: int, *, is_best: bool = False, best: float | None = None, **extras):
    task = trained(update, **extras)
    progress = Progress(update=update, epoch=1, update_in_epoch=3, audio_s=12.5, best=best)
    folder.save(progress, task, is_best=is_best)
    folder.finish()
    return task


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_restore_gives_back_weights_moments_extras_and_place(tmp_path, optimizer):
    folder = opened(tmp_path)
    saved = save(folder, 5, best=1.5, optimizer=optimizer, counter=Counter(4.0))
    other = trained(99, optimizer=optimizer, counter=Counter(0.0))
    progress = folder.restore(other)
    assert progress == Progress(update=5, epoch=1, update_in_epoch=3, audio_s=12.5, best=1.5)
    assert other.extras["counter"].value.item() == 4.0
    for (name, p), q in zip(saved.module.named_parameters(), other.module.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert saved.optimizer.state[p].keys() == other.optimizer.state[q].keys()
        for key, value in saved.optimizer.state[p].items():
            assert torch.equal(other.optimizer.state[q][key], value), (name, key)


@pytest.mark.parametrize(("before", "now"), [("adamw", "muon"), ("muon", "adamw")])
def test_moments_of_another_optimizer_are_refused(tmp_path, before, now):
    folder = opened(tmp_path)
    save(folder, 5, optimizer=before)
    with pytest.raises(CheckpointError, match=f"optim.optimizer must be the one .* made with, '{before}'; give it"):
        folder.restore(trained(99, optimizer=now))


def test_training_goes_on_while_a_checkpoint_of_the_weights_before_is_written(tmp_path, monkeypatch):
    folder, task, may_write = opened(tmp_path), trained(1), threading.Event()
    writing = checkpoints.save_model

    def slowly(*args, **kwargs):
        assert may_write.wait(20)
        writing(*args, **kwargs)

    monkeypatch.setattr(checkpoints, "save_model", slowly)
    before = task.module.weight.detach().clone()
    moment = task.optimizer.state[task.module.weight]["exp_avg"].clone()
    folder.save(Progress(update=1), task, is_best=False)
    assert folder.names() == []
    with torch.no_grad():
        task.module.weight.zero_()
        task.optimizer.state[task.module.weight]["exp_avg"].zero_()
    may_write.set()
    folder.finish()
    folder.restore(task)
    assert torch.equal(task.module.weight, before)
    assert torch.equal(task.optimizer.state[task.module.weight]["exp_avg"], moment)


def test_the_last_k_the_best_and_every_nth_are_kept(tmp_path):
    folder = opened(tmp_path, keep_last=2, keep_every=3)
    for update in range(1, 9):
        save(folder, update, is_best=update == 2, best=0.5)
    assert [int(name[-1]) for name in folder.names()] == [2, 3, 6, 7, 8]
    assert folder.best().name == "step_00000002"


def test_checksums_are_those_of_sha256sum(tmp_path):
    save(opened(tmp_path), 1)
    place = tmp_path / "checkpoints" / "step_00000001"
    told = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=place, capture_output=True, text=True, check=True)
    assert told.stdout.count(": OK") == 4
    assert sorted(p.name for p in place.rglob("*") if p.is_file()) == [
        "SHA256SUMS", "config.toml", "model.safetensors", "progress.json", "whole.safetensors",
    ]  # fmt: skip


VICTIMS = ["model.safetensors", "state/tensors/whole.safetensors", "state/progress.json", "config.toml", "SHA256SUMS"]


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "empty"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, victim, damage):
    folder = opened(tmp_path)
    save(folder, 1)
    save(folder, 2)
    path = tmp_path / "checkpoints" / "step_00000002" / victim
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "remove":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"cut": content[:middle], "flip": flipped, "empty": b""}[damage])
    assert folder.restore(trained(9)).update == 1
    assert "step_00000002 is damaged" in caplog.text


def test_no_whole_checkpoint_is_an_error_that_names_each(tmp_path):
    folder = opened(tmp_path)
    save(folder, 1)
    (tmp_path / "checkpoints" / "step_00000001" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step_00000001: model\.safetensors is missing"):
        folder.restore(trained(9))


def test_another_model_is_refused_by_dotted_name(tmp_path):
    folder = opened(tmp_path)
    save(folder, 1)
    other = trained(9)
    other.document = {"kind": "pretraining", "model": {"dim": 4, "conv_dims": [1, 2]}}
    with pytest.raises(CheckpointError, match=r"model\.dim \(checkpoint: 3, now: 4\)"):
        folder.restore(other)


@pytest.mark.parametrize(("saved", "wanted"), [({}, {"counter": Counter(1.0)})])
def test_an_extra_that_the_checkpoint_lacks_is_named(tmp_path, saved, wanted):
    folder = opened(tmp_path)
    save(folder, 1, **saved)
    with pytest.raises(CheckpointError, match="must hold `counter`"):
        folder.restore(trained(9, **wanted))


def test_a_checkpoint_that_cannot_be_written_is_told_by_the_next_look_and_leaves_the_others(tmp_path, monkeypatch):
    folder = opened(tmp_path)
    save(folder, 1)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_state", full)
    folder.save(Progress(update=2), trained(2), is_best=False)
    while not folder._writing.done():
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match="No space left"):
        folder.raise_fault()
    assert folder.names() == ["step_00000001"]
    assert [p.name for p in folder.folder.iterdir() if p.name.startswith(".")] == []
    assert folder.restore(trained(9)).update == 1


def test_too_little_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("audio_ssl.train.guard.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    folder = opened(tmp_path)
    with pytest.raises(CheckpointError, match="must have room"):
        save(folder, 1)
    assert list(folder.folder.iterdir()) == []


def test_staging_copies_what_the_tensors_hold_now_every_time():
    stage = new_stager(torch.device("cpu"))
    weight = torch.tensor([1.0, 2.0])
    first = {name: tensor.clone() for name, tensor in stage({"w": weight}).items()}
    weight.mul_(3)
    second = stage({"w": weight})
    weight.zero_()
    assert first["w"].tolist() == [1.0, 2.0]
    assert second["w"].tolist() == [3.0, 6.0]
