"""Where a resumed run goes on when the number of ranks or the data has changed; and whether there is room for it."""

from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from audio_ssl.config import RunConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.train.start import require_room, starting_point
from audio_ssl.train.state import Progress


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
    folder = SimpleNamespace(names=lambda: ["step"], restore=lambda *_, **__: progress, settle=id)
    console = Console(record=True, width=200)
    found = starting_point(SimpleNamespace(updates=updates, task=task, remarks=[]), folder, console=console)
    assert (found.epoch, found.update_in_epoch, found.ranks, found.parts) == expected
    assert updates.taken == taken
    assert updates.order == saved.get("rollbacks", 0)
    assert said in console.export_text()
    assert found.plan == "abc"


@pytest.mark.parametrize(("free", "fits"), [(1431, False), (1432, True)])
def test_all_that_will_be_kept_must_fit(tmp_path, monkeypatch, free, fits):
    """Two, the best, the draft and ten of a hundred updates: 14 of 3 x 32 + 4 bytes, and the model's own 32."""
    monkeypatch.setattr("audio_ssl.train.guard.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    extra = SimpleNamespace(tensors=lambda: {"scale": torch.zeros(1)})
    task = SimpleNamespace(module=torch.nn.Linear(3, 2), extras={"loss_scale": extra})
    run = RunConfig(dir=tmp_path, num_updates=100, keep_last=2, save_every=5, keep_every=10)
    folder = SimpleNamespace(folder=tmp_path / "checkpoints")
    if fits:
        require_room(task, folder, run)
    else:
        with pytest.raises(CheckpointError, match=r"must have room for its checkpoints"):
            require_room(task, folder, run)
