"""The plan's laws: a partition of the rows, budgets kept, ranks in step, the same from the same seed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.data import plan as planning
from audio_ssl.data.plan import Plan, PlanSettings, eval_batches, plan
from audio_ssl.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 50), min_size=0, max_size=60).map(np.array)
NOISE = st.sampled_from([0.0, 0.05, 0.5])
SETTINGS = st.builds(
    PlanSettings, batch_samples=st.integers(1, 700), micro_batch_samples=st.integers(50, 200), length_noise=NOISE
) | st.builds(
    PlanSettings,
    batch_samples=st.integers(1, 700),
    micro_batch_samples=st.integers(100, 400),  # 50 samples count as 100 where quadratic_samples is 50
    length_noise=NOISE,
    quadratic_samples=st.integers(50, 200),
)
WORLD = st.integers(1, 5)


def all_ranks(lengths: np.ndarray, sizes: PlanSettings, world: int, *, seed: int = 1, epoch: int = 0) -> list[Plan]:
    return [plan(lengths, settings=sizes, seed=seed, epoch=epoch, rank=rank, world=world) for rank in range(world)]


def rows_of(plans: list[Plan]) -> list[int]:
    return [row for p in plans for update in p for micro in update for row in micro]


@given(LENGTHS, SETTINGS, WORLD)
def test_every_row_is_on_one_rank_once(lengths: np.ndarray, sizes: PlanSettings, world: int):
    plans = all_ranks(lengths, sizes, world)
    rows = rows_of(plans)
    assert len(rows) == len(set(rows)) == len(lengths) - plans[0].num_left_out
    assert set(rows) <= set(range(len(lengths)))
    assert plans[0].num_left_out < world
    assert plans[0].num_rows == len(rows)
    assert plans[0].num_samples == lengths[rows].sum()


@given(LENGTHS, SETTINGS)
def test_one_rank_leaves_no_row_out(lengths: np.ndarray, sizes: PlanSettings):
    assert sorted(rows_of(all_ranks(lengths, sizes, 1))) == list(range(len(lengths)))


@given(LENGTHS, SETTINGS, WORLD)
def test_no_pass_is_wider_than_its_budget_or_empty(lengths: np.ndarray, sizes: PlanSettings, world: int):
    for p in all_ranks(lengths, sizes, world):
        for update in p:
            assert update
            for micro in update:
                longest = int(lengths[list(micro)].max())
                cost = longest + (longest**2 / sizes.quadratic_samples if sizes.quadratic_samples else 0)
                assert 0 < len(micro) * cost <= sizes.micro_batch_samples


@given(LENGTHS, SETTINGS, WORLD)
def test_ranks_are_in_step_and_agree(lengths: np.ndarray, sizes: PlanSettings, world: int):
    plans = all_ranks(lengths, sizes, world)
    shapes = {tuple(len(update) for update in p) for p in plans}
    assert len(shapes) == 1
    counts = [len(update) for update in plans[0]]
    assert not counts or max(counts) - min(counts) <= 1
    assert len({(p.num_rows, p.num_samples, p.padding_share, p.num_left_out) for p in plans}) == 1
    padded = sum(len(m) * int(lengths[list(m)].max()) for p in plans for u in p for m in u)
    assert plans[0].padding_share == (pytest.approx(1 - plans[0].num_samples / padded) if padded else 0)


@given(LENGTHS, SETTINGS, WORLD, st.integers(0, 5))
def test_the_same_seed_gives_the_same_plan(lengths: np.ndarray, sizes: PlanSettings, world: int, epoch: int):
    first, second = (all_ranks(lengths, sizes, world, epoch=epoch) for _ in range(2))
    assert [tuple(p) for p in first] == [tuple(p) for p in second]


REAL = np.clip((np.random.default_rng(0).gamma(2, 2, 1009) * 16000).astype(int), 8000, 320_000)
MINUTE = PlanSettings(batch_samples=60 * 16000, micro_batch_samples=60 * 16000)


def test_epochs_and_seeds_differ_in_order_and_in_company():
    plans = [plan(REAL, settings=MINUTE, seed=s, epoch=e) for s, e in ((1, 0), (1, 1), (2, 0))]
    assert len({tuple(p) for p in plans}) == 3
    company = [{frozenset(m) for u in p for m in u} for p in plans]
    assert len(company[0] & company[1]) < len(company[0]) / 10


def test_rows_of_equal_length_change_company_too():
    sizes = PlanSettings(batch_samples=30, micro_batch_samples=30, length_noise=0)
    company = [{frozenset(u[0]) for u in plan(np.full(101, 10), settings=sizes, seed=1, epoch=e)} for e in (0, 1)]
    assert len(company[0] & company[1]) < 3


@pytest.mark.parametrize(
    ("batch_s", "micro_s", "world"), [(60, 60, 1), (60, 30, 1), (240, 50, 1), (60, 60, 3), (500, 60, 2), (33, 60, 1)]
)
def test_updates_see_about_what_was_asked_for(batch_s: int, micro_s: int, world: int):
    sizes = PlanSettings(batch_samples=batch_s * 16000, micro_batch_samples=micro_s * 16000)
    plans = all_ranks(REAL, sizes, world)
    seconds = [sum(REAL[list(m)].sum() for p in plans for m in p[u]) / 16000 for u in range(len(plans[0]))]
    assert 0.8 * batch_s <= np.mean(seconds) <= 1.1 * batch_s
    # one update may hold what was left at the end of the sorted rows
    assert sorted(seconds)[1] >= 0.5 * batch_s
    assert max(seconds) <= 1.5 * batch_s + 20


@pytest.mark.parametrize(("batch_s", "micro_s", "world"), [(120, 240, 1), (480, 120, 1), (480, 240, 3)])
def test_with_a_quadratic_term_all_passes_cost_about_the_same(batch_s: int, micro_s: int, world: int):
    lengths, quadratic = np.random.default_rng(0).integers(16000, 320_000, 3001), 20 * 16000
    spread, seconds = {}, {}
    for term in (None, quadratic):
        sizes = PlanSettings(batch_s * 16000, micro_s * 16000, quadratic_samples=term)
        plans = all_ranks(lengths, sizes, world)
        passes = [lengths[list(m)] for p in plans for u in p for m in u]
        costs = [(rows + rows**2 / quadratic).sum() for rows in passes]
        spread[term] = np.quantile(costs, 0.9) / np.quantile(costs, 0.1)
        seconds[term] = lengths.sum() / 16000 / len(plans[0])
    assert spread[None] > 1.4  # rows of 19 s cost 1.95 a second, those of 6 s 1.3
    assert spread[quadratic] < 1.25
    assert seconds[quadratic] == pytest.approx(batch_s, rel=0.1)


def test_costs_by_hand():
    lengths = np.array([1, 10, 15], dtype=np.int32)
    assert planning.pass_costs(lengths, 10).tolist() == [2, 20, 38]  # 1 + 0.1, 10 + 10, 15 + 22.5, rounded up
    assert planning.pass_costs(lengths, None) is lengths
    assert planning.pass_costs(np.array([300_000], dtype=np.int32), 16).tolist() == [300_000 + 5_625_000_000]


def test_bucketing_pads_little_and_mixes_lengths_over_the_epoch():
    p = plan(REAL, settings=MINUTE, seed=1, epoch=0)
    assert p.padding_share < 0.08
    means = np.array([REAL[list(update[0])].mean() for update in p])
    halves = means[: len(means) // 2], means[len(means) // 2 :]
    assert abs(halves[0].mean() - halves[1].mean()) < 0.25 * means.mean()  # not sorted by length


def test_ranks_get_passes_of_similar_width_at_the_same_moment_in_turn():
    sizes = PlanSettings(MINUTE.batch_samples, MINUTE.micro_batch_samples, length_noise=0)
    plans = all_ranks(REAL, sizes, 3)
    widths = np.array([[REAL[list(u[0])].max() for u in p] for p in plans])  # (rank, update)
    assert np.median(widths.max(axis=0) / widths.min(axis=0)) < 1.2
    assert np.bincount(widths.argmax(axis=0), minlength=3).min() > widths.shape[1] / 6


def test_resuming_is_a_slice():
    whole = plan(REAL, settings=MINUTE, seed=4, epoch=2)
    again = plan(REAL, settings=MINUTE, seed=4, epoch=2)
    done, rest = whole[:13], tuple(again.from_update(13))
    assert done + rest == tuple(whole)
    rows = [row for update in done + rest for micro in update for row in micro]
    assert sorted(rows) == list(range(len(REAL)))


def test_fewer_rows_than_ranks_give_no_update_and_are_counted():
    p = plan(np.array([5, 5]), settings=PlanSettings(10, 10), seed=0, epoch=0, world=3)
    assert (tuple(p), p.num_left_out, p.num_rows) == ((), 2, 0)


def test_single_rows_share_a_pass_rather_than_stay_out():
    sizes = PlanSettings(batch_samples=8, micro_batch_samples=8, length_noise=0)
    plans = all_ranks(np.array([4, 4, 4]), sizes, 2)  # aims at one row a pass; two fit
    assert sorted(rows_of(plans)) == [0, 1, 2]
    assert plans[0].num_left_out == 0


def test_a_large_corpus_is_planned_whole():
    lengths = np.random.default_rng(0).integers(16000, 320_000, 100_000)
    p = plan(lengths, settings=MINUTE, seed=0, epoch=0)
    assert p.num_rows == 100_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plan(np.array([5, 61]), settings=PlanSettings(9, 60), seed=0, epoch=0),
            "row 1 has 61: raise data.micro",
        ),
        (lambda: plan(np.array([5, 0]), settings=PlanSettings(9, 60), seed=0, epoch=0), "row 1 has 0"),
        (lambda: plan(np.array([5]), settings=PlanSettings(9, 60), seed=0, epoch=0, rank=2, world=2), "rank must be"),
        (lambda: PlanSettings(0, -1), "batch_samples must be > 0, got 0; micro_batch_samples must be > 0, got -1"),
        (lambda: PlanSettings(1, 1, length_noise=1.0), "length_noise"),
        (lambda: PlanSettings(1, 1, quadratic_samples=0), "quadratic_samples must be > 0, got 0"),
        (
            lambda: plan(np.array([5, 40]), settings=PlanSettings(9, 60, quadratic_samples=50), seed=0, epoch=0),
            r"row 1 has 40, which count as 72 \(data.quadratic_s\): raise data.micro",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(call, message: str):
    with pytest.raises(ConfigError, match=message):
        call()


@given(LENGTHS, st.integers(1, 300))
def test_evaluation_batches_hold_all_rows_longest_first(lengths: np.ndarray, budget: int):
    batches = eval_batches(lengths, micro_batch_samples=budget)
    rows = [row for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert (np.diff(lengths[rows]) <= 0).all()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[list(batch)].max() <= budget
    assert eval_batches(lengths, micro_batch_samples=budget) == batches


@given(st.lists(st.integers(1, 50), min_size=0, max_size=9).map(np.array), st.integers(1, 150), st.integers(0, 60))
def test_batches_cost_least_of_all_that_there_could_be(lengths, budget, cost):
    def price(batches):
        return sum(len(batch) * max(batch) + cost for batch in batches)

    ordered = sorted(lengths.tolist(), reverse=True)
    prices = []
    for cuts in range(2 ** max(len(ordered) - 1, 0)):
        batches = [[]] if ordered else []
        for i, length in enumerate(ordered):
            if i and cuts >> (i - 1) & 1:
                batches.append([])
            batches[-1].append(length)
        if all(len(batch) == 1 or len(batch) * max(batch) <= budget for batch in batches):
            prices.append(price(batches))
    found = eval_batches(lengths, micro_batch_samples=budget, batch_cost_samples=cost)
    assert price([lengths[list(batch)].tolist() for batch in found]) == min(prices)
    assert lengths[[row for batch in found for row in batch]].tolist() == ordered


def greedily(ordered: list[int], *, target: float, budget: int) -> list[list[int]]:
    """The rule in words: go on while that comes nearer to the target, and while the padded batch fits."""
    batches: list[list[int]] = []
    for length in ordered:
        now = batches[-1] if batches else []
        is_nearer = abs(sum(now) + length - target) <= abs(target - sum(now))
        if now and is_nearer and (len(now) + 1) * max(*now, length) <= budget:
            now.append(length)
        else:
            batches.append([length])
    return batches


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200), st.integers(50, 200))
def test_stretches_are_cut_side_by_side_as_each_alone(lengths: list[int], target: int, budget: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_STRETCH", 16)
        bounds = planning._cut(np.array(lengths, dtype=np.int32), target=target, budget=budget)
    parts = [lengths[a:b] for a, b in pairwise(bounds.tolist())]
    stretches = [lengths[i : i + 16] for i in range(0, len(lengths), 16)]
    assert parts == [batch for stretch in stretches for batch in greedily(stretch, target=target, budget=budget)]


@given(LENGTHS, SETTINGS, WORLD, st.integers(0, 20))
def test_rows_after_some_updates_are_those_that_no_rank_has_had(
    lengths: np.ndarray, sizes: PlanSettings, world: int, num_updates: int
):
    plans = all_ranks(lengths, sizes, world)
    done = min(num_updates, len(plans[0]))
    had = {row for p in plans for update in p[:done] for micro in update for row in micro}
    assert plans[0].rows_after(done).tolist() == [row for row in range(len(lengths)) if row not in had]


def test_updates_are_indexed_as_tuples_are():
    p = plan(REAL, settings=MINUTE, seed=1, epoch=0)
    assert p[-1] == tuple(p)[-1]
    assert p[3:9:2] == tuple(p)[3:9:2]
    with pytest.raises(IndexError):
        p[len(p)]
