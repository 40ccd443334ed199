"""Ours against every installed peer from the same weights, masks, distractors and noise: see ``exactness``."""

from __future__ import annotations

import pytest
import torch
from comparisons import COMPARISONS, reason_to_leave_out
from exactness import Case, relative_difference, rows_under

# Seeds modulo 4 are the four pairs of conv norm and norm order. Float64 tells every formula from rounding.
CASES = [
    *(Case("small", seed) for seed in range(8)),
    *(Case("small", seed, is_double=True) for seed in range(8, 12)),
    *(Case("small", seed, is_double=True, is_fresh=True) for seed in range(4)),
    Case("base", 0),
    Case("large", 0, num_layers=2),
]


def name_of(case: Case) -> str:
    marks = [mark for mark, is_on in (("double", case.is_double), ("fresh", case.is_fresh)) if is_on]
    return "-".join([case.size, str(case.seed), *marks])


@pytest.fixture(autouse=True)
def _same_global_draws():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _two_threads():
    """How sums are rounded depends on how many threads share them; the figures in docs/results.md are of two."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# By case first: its modules are built once.
@pytest.mark.filterwarnings("ignore")  # of the peers' own code
@pytest.mark.parametrize(("peer", "comparison"), [(peer, f) for peer, all_of in COMPARISONS.items() for f in all_of])
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_every_number_and_gradient_is_the_peers(case, peer, comparison):
    reason = reason_to_leave_out(peer)
    if reason:
        pytest.skip(reason)
    if comparison.__name__ == "padded_pretraining" and not case.is_padded_alike:
        pytest.skip("fairseq2 takes padding into group norm (docs/decisions/0004)")
    rows = rows_under(comparison, case)
    assert rows
    assert not [row for row in rows if not row.is_near]


def test_measure_is_the_largest_difference_over_the_largest_value():
    theirs = torch.tensor([1.0, -4.0])
    assert relative_difference(torch.tensor([1.5, -4.0]), theirs) == 0.125
    assert relative_difference(torch.tensor([1.5, -4.0]), theirs, scale=torch.tensor([0.0, -1.0])) == 0.5
    with pytest.raises(ValueError, match="shape"):
        relative_difference(torch.zeros(2, 1), theirs)
