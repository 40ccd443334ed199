"""What the ranks of a run hear of a pass, also when their number changes on the way."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_ssl.data.plan import PlanSettings
from audio_ssl.errors import TrainingError
from audio_ssl.tensors import Batch
from audio_ssl.train.distributed import World
from audio_ssl.train.updates import Updates

SIZES = PlanSettings(batch_samples=120, micro_batch_samples=60)
RUNS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), max_size=3)


class Rows:
    """Stands for a loader: each batch holds its row numbers only."""

    def batches(self, planned, *, epoch: int):
        for rows in planned:
            yield Batch(torch.zeros(len(rows), 1), torch.ones(len(rows), dtype=torch.int64), rows)


def updates_of(num_rows: int, world: World) -> Updates:
    """Every second row of the manifest takes part."""
    lengths = np.random.default_rng(num_rows).integers(1, 51, num_rows).astype(np.int32)
    rows = np.arange(0, 2 * num_rows, 2, dtype=np.uint32)
    data = SimpleNamespace(num_samples=lengths, rows=rows, loader=Rows())
    return Updates(data, settings=SIZES, seed=3, world=world)


def heard(num_rows: int, size: int, parts: list[tuple[int, int]], *, epoch: int, first: int = 0) -> list[list[list]]:
    """Row numbers by rank and update."""
    ranks = []
    for rank in range(size):
        updates = updates_of(num_rows, World(rank, size, torch.device("cpu")))
        assert updates.take_parts(epoch, parts)
        ranks.append([[row for batch in u for row in batch.rows] for u in updates.epoch(epoch, first)])
    return ranks


@settings(deadline=None, max_examples=60)
@given(st.integers(40, 90), RUNS, st.integers(1, 4))
def test_nothing_is_heard_twice_or_missed_when_the_number_of_ranks_changes(num_rows, runs, last):
    parts: list[tuple[int, int]] = []
    rows: list[int] = []
    for size, num_updates in runs:
        done = [ranks[:num_updates] for ranks in heard(num_rows, size, parts, epoch=2)]
        rows += [row for rank in done for update in rank for row in update]
        parts = [*parts, (size, len(done[0]))]
        if num_rows - len(rows) < 8:
            break
    if num_rows - len(rows) >= last:
        rest = [row for rank in heard(num_rows, last, parts, epoch=2) for update in rank for row in update]
        assert num_rows - len(rows) - len(rest) < last  # fewer than the ranks may be left over
        rows += rest
    assert len(rows) == len(set(rows))
    assert set(rows) <= set(range(0, 2 * num_rows, 2))


def test_the_pass_after_a_divided_one_is_whole():
    rows = [row for rank in heard(50, 2, [(1, 3)], epoch=2) for update in rank for row in update]
    assert len(rows) < 50
    updates = updates_of(50, World(0, 1, torch.device("cpu")))
    assert updates.take_parts(2, [(2, 3)])
    assert sorted(row for u in updates.epoch(3, 0) for batch in u for row in batch.rows) == list(range(0, 100, 2))


def test_resuming_inside_a_divided_pass_is_a_slice():
    whole = heard(70, 2, [(1, 4)], epoch=0)
    assert heard(70, 2, [(1, 4)], epoch=0, first=3) == [rank[3:] for rank in whole]


def test_a_pass_with_fewer_rows_left_than_ranks_is_over():
    one = updates_of(50, World(0, 1, torch.device("cpu")))
    done = len(one.plan(0))
    two = updates_of(50, World(0, 2, torch.device("cpu")))
    assert not two.take_parts(0, [(1, done)])
    with pytest.raises(TrainingError, match="2 ranks"):
        two.plan(0)


def test_the_plans_name_is_the_same_for_any_number_of_ranks_and_another_for_other_rows():
    names = [updates_of(50, World(0, size, torch.device("cpu"))).fingerprint for size in (1, 3)]
    assert names[0] == names[1]
    assert updates_of(51, World(0, 1, torch.device("cpu"))).fingerprint != names[0]
