"""Spikes of gradients, on the device, and of losses."""

import copy

import pytest
import torch

from audio_ssl.config import GuardConfig
from audio_ssl.errors import TrainingError
from audio_ssl.train.spikes import NUM_KNOWN, GradientSpikes, judge_loss
from audio_ssl.train.state import Progress
from audio_ssl.train.watch import Watch

CPU = torch.device("cpu")


def judged(spikes: GradientSpikes, norms, *, first: int = 0) -> list[bool]:
    return [bool(spikes(torch.tensor(float(norm)), update=first + i)) for i, norm in enumerate(norms)]


def test_a_norm_far_over_the_running_mean_is_a_spike():
    spikes = GradientSpikes(30.0, CPU)
    assert not any(judged(spikes, [2.0] * NUM_KNOWN))
    assert judged(spikes, [59.0, 2.0]) == [False, False]
    # The mean is (99 * 2 + 59) / 100 = 2.57, then (99 * 2.57 + 2) / 100 = 2.5643: a spike is over 76.93.
    assert judged(spikes, [76.9]) == [False]
    spikes.load_tensors({"norms": torch.tensor([2.5643, 102.0])})
    assert judged(spikes, [5000.0]) == [True]
    # It counts as the limit: (99 * 2.5643 + 76.929) / 100.
    assert spikes.tensors()["norms"].tolist() == pytest.approx([3.3080, 103.0], abs=1e-3)


def test_nothing_is_a_spike_before_the_mean_is_known():
    assert not any(judged(GradientSpikes(30.0, CPU), [1.0] * (NUM_KNOWN - 1) + [1e9]))
    assert judged(GradientSpikes(30.0, CPU), [1.0] * NUM_KNOWN + [1e9])[-1]


def test_norms_that_are_not_finite_are_another_guards():
    spikes = GradientSpikes(30.0, CPU)
    judged(spikes, [2.0] * NUM_KNOWN)
    assert judged(spikes, [float("nan"), float("inf")]) == [False, False]
    assert spikes.tensors()["norms"].tolist() == [2.0, NUM_KNOWN]


def test_where_norms_have_risen_for_good_updates_are_skipped_for_a_while_only():
    spikes = GradientSpikes(30.0, CPU)
    judged(spikes, [1.0] * NUM_KNOWN)
    skipped = judged(spikes, [1000.0] * 60)
    assert skipped[0]
    assert not any(skipped[20:])


def test_norms_start_anew_where_frozen_weights_begin_to_learn():
    spikes = GradientSpikes(30.0, CPU, fresh_at=(120,))
    judged(spikes, [1.0] * 120)
    assert not any(judged(spikes, [1000.0] * 50, first=120))
    assert spikes.tensors()["norms"].tolist() == [1000.0, 50.0]


def test_a_factor_of_0_skips_nothing():
    assert not any(judged(GradientSpikes(0.0, CPU), [1.0] * 200 + [1e30]))


def lossy(losses, *, num_updates: int = 20, progress: Progress | None = None, **config):
    progress, found = progress or Progress(), []
    for loss in losses:
        progress.update += num_updates
        found.append(judge_loss(loss, num_updates, progress, GuardConfig(**config)))
    return found, progress


NOISY = [4.0, 4.1, 3.9, 4.05, 3.95, 4.0, 4.02, 3.98]  # median 4.0, median deviation 0.035: a limit of 4.311


def test_a_loss_far_over_the_median_is_a_spike_and_a_second_one_lasts():
    found, progress = lossy([*NOISY, 4.3, 4.75, 4.8])
    assert found[:9] == [None] * 9
    assert (found[9].num_in_a_row, found[9].is_lasting, found[9].last_good) == (1, False, 180)
    assert found[9].median == pytest.approx(4.0)
    assert (found[10].num_in_a_row, found[10].is_lasting, found[10].last_good) == (2, True, 180)
    assert progress.losses == pytest.approx([*NOISY, 4.3])  # spikes do not move the median


def test_the_limit_by_hand():
    found, _ = lossy([*NOISY, 4.6])
    assert found[-1].limit == pytest.approx(4.0 + 6 * 1.4826 * 0.035)
    found, _ = lossy([*[4.0] * 8, 4.21])  # no deviation at all: 5 % of the median
    assert found[-1].limit == pytest.approx(4.2)


def test_a_single_spike_is_forgotten():
    found, _ = lossy([*NOISY, 5.0, 4.0, 5.0])
    assert [spike is not None and spike.is_lasting for spike in found[-3:]] == [False, False, False]
    assert found[-1].last_good == 200


def test_few_losses_a_falling_loss_and_0_are_no_reason():
    assert lossy([4.0] * 7 + [9.0])[0][-1] is None
    assert set(lossy([5.0 - 0.1 * i for i in range(40)])[0]) == {None}
    assert set(lossy([*NOISY, 50.0, 60.0], spike_mads=0)[0]) == {None}


def test_short_rows_are_joined_until_they_are_long_enough():
    found, progress = lossy([4.0, 5.0, 3.0, 4.0] * 2, num_updates=5)
    assert progress.losses == [4.0, 4.0]
    assert progress.counts["last_good"] == 40
    found, progress = lossy([4.0, 7.0], num_updates=15)
    assert progress.losses == [5.5]
    assert set(found) == {None}


def test_only_so_many_losses_are_kept():
    _, progress = lossy([9.0] * 8 + [4.0] * 40)
    assert progress.losses == [4.0] * 16


class Rows(list):
    """A sink that keeps what it is given."""

    write = list.append


def watched(losses, *, thaws_at=(), num_updates: int = 20, progress: Progress | None = None):
    """Updates of the rows in which the guard spoke, and the state after."""
    progress, rows = progress or Progress(), Rows()
    watch = Watch(thaws_at=thaws_at, sinks=[rows])
    try:
        for loss in losses:
            progress.update += num_updates
            watch.check({"loss": loss, "skipped_updates": 0}, progress, num_updates=num_updates)
    except TrainingError:
        pass
    assert all("lower optim.clip_norm only where" in row["message"] for row in rows if row["action"] == "stop")
    return [(row["update"], row["action"]) for row in rows], progress


RISES = [*[3.0] * 8, 4.0, 3.7]  # as an encoder that begins to learn after 160 updates; a spike is over 3.15


def test_a_loss_that_rises_is_a_spike_until_a_thaw():
    assert watched(RISES)[0] == [(180, "warning"), (200, "stop")]
    assert watched(RISES, thaws_at=(180,))[0] == [(180, "warning")]  # update 180 is the first of the second row


@pytest.mark.parametrize("thaw", [160, 179])  # the first and the last update of the row that rises
def test_losses_are_compared_with_those_after_a_thaw(thaw):
    assert watched(RISES, thaws_at=(thaw,))[0] == []
    assert watched([*RISES, *[3.7] * 6, 4.5], thaws_at=(thaw,))[0] == [(340, "warning")]
    # A row that is not finite may be that of the thaw.
    assert watched([*[3.0] * 8, float("nan"), 4.0, 3.7], thaws_at=(thaw,))[0] == []


def test_a_thaw_forgets_spikes_and_rows_that_were_not_long_enough_and_a_restart_does_not_bring_them_back():
    _, progress = watched([*[3.0] * 32, 9.0, 9.0, 9.0, 9.0, 9.0], num_updates=5)
    assert (len(progress.losses), progress.counts["spikes"], progress.counts["loss_sum"]) == (8, 1, 45.0)
    resumed = copy.deepcopy(progress)
    assert watched([4.0, 4.0, 4.0], thaws_at=(185,), num_updates=5, progress=resumed)[0] == []
    assert (resumed.losses, resumed.counts["loss_sum"], resumed.counts.get("spikes", 0)) == ([], 60.0, 0)
    assert watched([4.0], thaws_at=(185,), num_updates=5, progress=resumed)[1].losses == [4.0]
