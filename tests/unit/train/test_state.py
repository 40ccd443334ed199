"""Checkpoints: what comes back equals what was saved; damage is named and passed over; the best is kept."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from audio_ssl.config import OptimConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.session import _starting_point
from audio_ssl.train.state import CheckpointFolder, Progress

DOCUMENT = {"kind": "pretraining", "model": {"dim": 3, "conv_dims": [1, 2]}}


def trained(seed: int):
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    optimizer = build_optimizer([(list(module.parameters()), 1.0)], OptimConfig(lr=0.1))
    module(torch.randn(7, 3)).square().sum().backward()
    optimizer.step()
    return module, optimizer


def save(folder: CheckpointFolder, update: int, *, is_best: bool = False, best: float | None = None):
    module, optimizer = trained(update)
    progress = Progress(update=update, epoch=1, update_in_epoch=3, audio_s=12.5, best=best)
    folder.save(progress, document=DOCUMENT, module=module, optimizer=optimizer, is_best=is_best)
    return module, optimizer


def test_restore_gives_back_weights_moments_and_place(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    module, optimizer = save(folder, 5, best=1.5)
    other, other_optimizer = trained(99)
    progress = folder.restore(other, other_optimizer, document=DOCUMENT)
    assert progress == Progress(update=5, epoch=1, update_in_epoch=3, audio_s=12.5, best=1.5)
    for (name, p), q in zip(module.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        for key, value in optimizer.state[p].items():
            assert torch.equal(other_optimizer.state[q][key], value), (name, key)


def test_the_last_k_and_the_best_are_kept(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=2)
    for update in (1, 2, 3, 4, 5):
        save(folder, update, is_best=update == 2, best=0.5)
    assert folder.names() == ["step_00000002", "step_00000004", "step_00000005"]
    assert folder.best().name == "step_00000002"


@pytest.mark.parametrize("victim", ["model.safetensors", "state/optimizer.safetensors", "state/progress.json"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, victim):
    folder = CheckpointFolder(tmp_path, keep_last=3)
    save(folder, 1)
    save(folder, 2)
    path = tmp_path / "checkpoints" / "step_00000002" / victim
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert folder.restore(*trained(9), document=DOCUMENT).update == 1
    assert "step_00000002 is damaged" in caplog.text


def test_no_whole_checkpoint_is_an_error_that_names_each(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=3)
    save(folder, 1)
    (tmp_path / "checkpoints" / "step_00000001" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="step_00000001"):
        folder.restore(*trained(9), document=DOCUMENT)


def test_another_model_is_refused_by_dotted_name(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=3)
    save(folder, 1)
    changed = {"kind": "pretraining", "model": {"dim": 4, "conv_dims": [1, 2]}}
    with pytest.raises(CheckpointError, match=r"model\.dim \(checkpoint: 3, now: 4\)"):
        folder.restore(*trained(9), document=changed)


def test_a_checkpoint_that_cannot_be_written_leaves_the_others(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path, keep_last=3)
    save(folder, 1)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("audio_ssl.train.state.save_tensors", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(folder, 2)
    assert folder.names() == ["step_00000001"]
    assert folder.restore(*trained(9), document=DOCUMENT).update == 1


class Shared:
    """Stands for the updates of a number of ranks."""

    fingerprint = "abc"

    def __init__(self, num_ranks: int, *, has_rest: bool = True) -> None:
        self.num_ranks, self.has_rest, self.taken = num_ranks, has_rest, None

    def take_parts(self, epoch, parts, *, order):
        self.taken, self.order = (epoch, list(parts)), order
        return self.has_rest


@pytest.mark.parametrize(
    ("saved", "has_rest", "expected", "taken", "said"),
    [
        ({"ranks": 2}, True, (4, 7, 2, []), (4, []), ""),
        ({"ranks": 8}, True, (4, 0, 2, [(8, 7, 0)]), (4, [(8, 7, 0)]), "2 ranks instead of 8"),
        ({"ranks": 8, "parts": [[4, 3]]}, True, (4, 0, 2, [[4, 3], (8, 7, 0)]), (4, [[4, 3], (8, 7, 0)]), "2 ranks"),
        ({"ranks": 8, "rollbacks": 3}, True, (4, 0, 2, [(8, 7, 3)]), (4, [(8, 7, 3)]), "2 ranks instead of 8"),
        ({"ranks": 8}, False, (5, 0, 2, []), (4, [(8, 7, 0)]), "2 ranks instead of 8"),
        ({"ranks": 8, "plan": "old"}, True, (5, 0, 2, []), (5, []), "have changed since"),
    ],
)
def test_a_run_goes_on_with_another_number_of_ranks_where_it_was(saved, has_rest, expected, taken, said):
    progress = Progress(**{"update": 40, "epoch": 4, "update_in_epoch": 7, "plan": "abc", **saved})
    updates = Shared(2, has_rest=has_rest)
    task = SimpleNamespace(module=None, optimizer=None, document=None)
    folder = SimpleNamespace(names=lambda: ["step"], restore=lambda *_, **__: progress)
    console = Console(record=True, width=200)
    found = _starting_point(SimpleNamespace(updates=updates, task=task, remarks=[]), folder, console=console)
    assert (found.epoch, found.update_in_epoch, found.ranks, found.parts) == expected
    assert updates.taken == taken
    assert updates.order == saved.get("rollbacks", 0)
    assert said in console.export_text()
    assert found.plan == "abc"
