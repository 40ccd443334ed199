"""Where a resumed run goes on when the number of ranks or the data has changed."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from audio_ssl.train.start import starting_point
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
