"""What the ranks of a run hear of a pass, also when their number changes on the way."""

import hashlib
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_ssl.data.mixture import Mixture, Source
from audio_ssl.data.plan import VERSION, PlanSettings
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


def data_of(num_rows: int) -> SimpleNamespace:
    """Every second row of the manifest takes part."""
    lengths = np.random.default_rng(num_rows).integers(1, 51, num_rows).astype(np.int32)
    rows = np.arange(0, 2 * num_rows, 2, dtype=np.uint32)
    return SimpleNamespace(num_samples=lengths, rows=rows, loader=Rows(), manifest=range(2 * num_rows))


def mixture_of(num_rows: int) -> Mixture:
    """Half of an epoch is every tenth row, again and again."""
    lengths, places = data_of(num_rows).num_samples, np.arange(num_rows, dtype=np.uint32)
    parts = places[places % 10 == 0], places[places % 10 > 0]
    total = int(lengths.sum())
    sources = (Source(f"s{i}", part, int(lengths[part].sum()), total // 2) for i, part in enumerate(parts))
    return Mixture(tuple(sources), lengths, seed=3)


def updates_of(num_rows: int, world: World, *, is_mixed: bool = False) -> Updates:
    mixture = mixture_of(num_rows) if is_mixed else None
    return Updates(data_of(num_rows), settings=SIZES, seed=3, world=world, mixture=mixture)


def heard(
    num_rows: int,
    size: int,
    parts: list[tuple[int, int]],
    *,
    epoch: int,
    first: int = 0,
    is_mixed: bool = False,
) -> list[list[list]]:
    """Row numbers (entries, where the epoch is mixed) by rank and update."""
    ranks = []
    for rank in range(size):
        updates = updates_of(num_rows, World(rank, size, torch.device("cpu")), is_mixed=is_mixed)
        assert updates.take_parts(epoch, parts)
        ranks.append([[row for batch in u for row in batch.rows] for u in updates.epoch(epoch, first)])
    return ranks


@settings(max_examples=60)
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


def expected_entries(num_rows: int, epoch: int) -> set[int]:
    """By hand: row + copy * (rows of the manifest), the n-th occurrence of a row being its copy n."""
    places = mixture_of(num_rows).epoch(epoch)[0].tolist()
    entries = {2 * place + copy * 2 * num_rows for place, n in Counter(places).items() for copy in range(n)}
    assert len(entries) == len(places)
    return entries


@pytest.mark.parametrize("size", [1, 3])
def test_a_mixed_epoch_is_shared_out_whole(size: int):
    entries = [entry for rank in heard(60, size, [], epoch=4, is_mixed=True) for update in rank for entry in update]
    assert len(entries) == len(set(entries))
    assert set(entries) <= (expected := expected_entries(60, 4))
    assert len(expected) - len(entries) < size
    assert max(entries) > 5 * 120  # the small source comes five times and more


@settings(max_examples=40)
@given(st.integers(40, 90), RUNS, st.integers(1, 4), st.integers(0, 9))
def test_no_entry_of_a_mixed_epoch_is_heard_twice_or_missed(num_rows, runs, last, epoch):
    expected = expected_entries(num_rows, epoch)
    parts: list[tuple[int, int]] = []
    entries: list[int] = []
    for size, num_updates in runs:
        done = [ranks[:num_updates] for ranks in heard(num_rows, size, parts, epoch=epoch, is_mixed=True)]
        entries += [entry for rank in done for update in rank for entry in update]
        parts = [*parts, (size, len(done[0]))]
        if len(expected) - len(entries) < 8:
            break
    if len(expected) - len(entries) >= last:
        rest = heard(num_rows, last, parts, epoch=epoch, is_mixed=True)
        entries += [entry for rank in rest for update in rank for entry in update]
        assert len(expected) - len(entries) < last
    assert len(entries) == len(set(entries))
    assert set(entries) <= expected


def test_resuming_inside_a_mixed_pass_is_a_slice():
    for parts in ([], [(1, 4)]):
        whole = heard(70, 2, parts, epoch=3, is_mixed=True)
        assert heard(70, 2, parts, epoch=3, first=3, is_mixed=True) == [rank[3:] for rank in whole]


def test_a_mixture_has_a_name_of_its_own_and_none_changes_nothing():
    world = World(0, 1, torch.device("cpu"))
    data = data_of(50)
    name = hashlib.blake2b(repr((VERSION, SIZES, 3)).encode(), digest_size=8)
    name.update(data.rows.tobytes() + data.num_samples.tobytes())
    assert updates_of(50, world).fingerprint == name.hexdigest()
    mixed = updates_of(50, world, is_mixed=True)
    assert mixed.fingerprint not in (name.hexdigest(), updates_of(51, world, is_mixed=True).fingerprint)
    sources = mixture_of(50).sources
    other = Mixture((sources[0], Source("s1", sources[1].places, sources[1].pass_samples, 7)), data.num_samples, seed=3)
    assert Updates(data, settings=SIZES, seed=3, world=world, mixture=other).fingerprint != mixed.fingerprint


def test_a_mixture_that_repeats_nothing_gives_the_batches_of_none():
    world, data = World(0, 1, torch.device("cpu")), data_of(80)
    places = np.arange(80, dtype=np.uint32)
    parts = places[places % 3 == 0], places[places % 3 > 0]
    totals = [int(data.num_samples[part].sum()) for part in parts]
    sources = tuple(Source(f"s{i}", *part) for i, part in enumerate(zip(parts, totals, totals, strict=True)))
    mixture = Mixture(sources, data.num_samples, seed=3)
    pair = [Updates(data, settings=SIZES, seed=3, world=world, mixture=m) for m in (mixture, None)]
    for epoch in (0, 5):
        with_it, without = ([[batch.rows for batch in u] for u in updates.epoch(epoch, 0)] for updates in pair)
        assert with_it == without
