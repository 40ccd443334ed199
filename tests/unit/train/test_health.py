"""What the guards make of rows of metrics, by hand."""

import math

import pytest

from audio_ssl.config import GuardConfig, Wav2Vec2Config
from audio_ssl.train.blanks import finetuning_signs
from audio_ssl.train.health import (
    WaitsForData,
    check_nonfinite,
    check_signs,
    pretraining_signs,
)
from audio_ssl.train.state import Progress

CHANCE = math.log(101)


def signs(**config):
    settings = {"chance_warn_updates": 30, "chance_stop_updates": 70, "collapse_updates": 50, **config}
    return pretraining_signs(GuardConfig(**settings), Wav2Vec2Config(), warmup_updates=100)


def healthy(**figures):
    return {"contrastive_loss": 3.0, "accuracy": 0.4, "code_perplexity": 200.0, **figures}


def told(watched, rows, *, num_updates: int = 10, first: int = 0):
    """(guard, update, stops) of all findings over rows of ten updates."""
    progress, found = Progress(update=first), []
    for row in rows:
        progress.update += num_updates
        for finding in check_signs(watched, row, progress, num_updates=num_updates):
            found.append((finding.guard, progress.update, finding.is_fatal))
    return found


def test_a_healthy_run_has_nothing_to_say():
    rows = [healthy(contrastive_loss=CHANCE)] * 10 + [healthy(contrastive_loss=CHANCE - 0.02)] * 30
    assert told(signs(), rows) == []


def test_chance_is_counted_after_the_warm_up_warned_of_once_and_then_stops():
    rows = [healthy(contrastive_loss=CHANCE)] * 20
    found = told(signs(), rows)
    assert found[:2] == [("chance", 130, False), ("chance", 170, True)]


def test_one_row_below_chance_starts_the_count_anew():
    rows = [healthy(contrastive_loss=CHANCE)] * 12 + [healthy()] + [healthy(contrastive_loss=CHANCE)] * 3
    assert told(signs(), rows) == [("chance", 160, False)]


def test_a_row_that_spans_the_end_of_the_warm_up_counts_from_there():
    assert told(signs(), [healthy(contrastive_loss=CHANCE)] * 2, num_updates=65) == [("chance", 130, False)]
    assert told(signs(), [healthy(contrastive_loss=CHANCE)], num_updates=129) == []


@pytest.mark.parametrize(
    ("sick", "guard"),
    [
        ({"accuracy": 0.995}, "trivial"),
        ({"code_perplexity": 2.9}, "collapse"),
        ({"code_perplexity_1": 130.0, "code_perplexity_2": 1.4}, "collapse"),
    ],
)
def test_a_sick_figure_warns_at_once_and_stops_when_it_stays(sick, guard):
    assert told(signs(), [healthy(**sick)] * 5) == [(guard, 10, False), (guard, 50, True)]


def test_figures_at_their_limits_are_healthy():
    rows = [healthy(accuracy=0.98, code_perplexity=3.0), healthy(code_perplexity_1=1.5, code_perplexity_2=1.6)]
    assert told(signs(), rows) == []


@pytest.mark.parametrize("off", ["max_accuracy", "min_codes", "chance_stop_updates"])
def test_0_switches_each_off(off):
    sick = {"max_accuracy": {"accuracy": 1.0}, "min_codes": {"code_perplexity": 2.0}}
    row = healthy(**sick.get(off, {"contrastive_loss": CHANCE}))
    assert told(signs(**{off: 0}, chance_warn_updates=0), [row] * 30) == []


def test_a_figure_that_is_no_number_is_no_sign():
    rows = [dict.fromkeys(healthy(), math.nan)] * 30
    assert told(signs(), rows) == []


def test_the_message_says_what_was_seen_why_and_what_to_change():
    progress = Progress(update=50)
    (finding,) = check_signs(signs(), healthy(code_perplexity_2=1.02, code_perplexity_1=9.0), progress, num_updates=50)
    for part in ("code_perplexity_2 is 1.02 of 320", "guard.min_codes", "50 updates, up to update 50",
                 "objective.diversity_weight", "optim.lr", "guard.collapse_updates = 50"):  # fmt: skip
        assert part in finding.message


def test_counts_go_on_where_a_resumed_run_left_them():
    progress = Progress(update=160, counts={"chance": 60.0})
    (finding,) = check_signs(signs(), healthy(contrastive_loss=CHANCE), progress, num_updates=10)
    assert finding.is_fatal


def tuning_signs(*, num_updates: int = 500, frozen: int = 100, **config):
    limits = GuardConfig(**{"blank_warn_share": 0.2, "blank_stop_share": 0.6, "collapse_updates": 50, **config})
    return finetuning_signs(limits, warmup_updates=20, frozen_updates=frozen, num_updates=num_updates)


BLANK, NEARLY, WORDS = {"blank_share": 1.0}, {"blank_share": 0.998}, {"blank_share": 0.8}


def test_blanks_are_normal_while_the_encoder_is_frozen_and_for_a_share_of_the_rest():
    # 400 updates are left after the thaw: a fifth of them is 80, three fifths are 240
    assert told(tuning_signs(), [BLANK] * 34) == [("blanks", 180, False), ("blanks", 340, True)]
    assert told(tuning_signs(), [BLANK] * 17 + [NEARLY] + [BLANK] * 8) == [("blanks", 260, False)]
    assert told(tuning_signs(), [NEARLY] * 50) == []
    assert told(tuning_signs(blank_warn_share=0.0, blank_stop_share=0.0), [BLANK] * 50) == []
    assert told(tuning_signs(blank_stop_share=0.0), [BLANK] * 50) == [("blanks", 180, False)]


def test_a_short_run_is_only_warned_and_one_that_never_thaws_is_judged_after_its_warm_up():
    assert told(tuning_signs(num_updates=130), [BLANK] * 13) == []
    assert told(tuning_signs(num_updates=160), [BLANK] * 16) == [("blanks", 150, False)]
    never = tuning_signs(num_updates=500, frozen=0)  # of 480 updates, 96 and 288
    assert told(never, [BLANK] * 31) == [("blanks", 120, False), ("blanks", 310, True)]


def test_falling_back_to_blanks_is_told_at_once_and_stops_soon():
    learned = [WORDS] * 2 + [BLANK] * 4 + [WORDS] * 3
    assert told(tuning_signs(), [*learned, *[BLANK] * 5]) == [("relapse", 100, False), ("relapse", 140, True)]
    assert told(tuning_signs(), [*learned, *[NEARLY] * 30]) == []
    assert told(tuning_signs(collapse_updates=1000), [*learned, *[BLANK] * 40]) == [("relapse", 100, False)]
    # The head of a fresh model answers everything at first; that is no answer to fall back from.
    assert told(tuning_signs(), [WORDS] * 2 + [BLANK] * 10) == []


def test_what_was_learned_before_is_known_after_a_restart():
    progress = Progress(update=300, counts={"has_been_blank": 1.0, "has_answered": 1.0})
    (finding,) = check_signs(tuning_signs(), BLANK, progress, num_updates=10)
    assert (finding.guard, finding.is_fatal) == ("relapse", False)
    for part in ("blank_share is 100.0%", "had learned to answer", "optim.lr", "guard.collapse_updates = 50"):
        assert part in finding.message
    assert "clip_norm" not in finding.message  # which scales every update of fine-tuning down as it is


def test_the_message_about_blanks_says_where_to_look_and_what_to_change():
    progress = Progress(update=330, counts={"blanks": 230.0})
    (finding,) = check_signs(tuning_signs(), BLANK, progress, num_updates=10)
    for part in (
        "preflight.json", "run.num_updates", "optim.lr", "ctc.head_lr_scale", "ctc.freeze_", "ctc.mask_prob",
        "240 updates, up to update 330", "guard.blank_stop_share = 0.6 stops a run here, 0 lets it go on",
    ):  # fmt: skip
        assert part in finding.message


def broken(counts, *, num_updates: int = 10, in_a_row: int = 0, **config):
    """Messages over rows with so many broken updates each."""
    progress, found = Progress(skipped_in_a_row=in_a_row), []
    for count in counts:
        progress.update += num_updates
        found += check_nonfinite(count, num_updates, progress, GuardConfig(**config))
    return [finding.message for finding in found if finding.is_fatal]


@pytest.mark.parametrize(("in_a_row", "dies"), [(0, False), (9, False), (10, True), (31, True)])
def test_a_run_dies_only_after_many_broken_updates_in_a_row(in_a_row, dies):
    messages = broken([0], in_a_row=in_a_row)
    assert bool(messages) == dies
    if dies:
        assert f"the {in_a_row} updates up to update 10 " in messages[0]
        assert "optim.lr" in messages[0]


def test_a_budget_of_broken_updates_is_spent_and_wins_back():
    # A third of a window of 30 is there after 10 updates (29/30)^10 = 0.712: 3, 5.14, 6.66, 7.74, towards 10.4.
    config = {"nonfinite_window_updates": 30}
    assert broken([3] * 3, nonfinite_budget=6, **config)
    assert not broken([3] * 2, nonfinite_budget=6, **config)
    assert not broken([3] * 99, nonfinite_budget=11, **config)
    assert not broken([6, 0, 0, 0, 6, 0, 0, 0, 6], nonfinite_budget=8, **config)
    assert not broken([3] * 99, nonfinite_budget=0, nonfinite_in_a_row=0, **config)


def test_waiting_is_warned_of_when_it_lasts_and_again_when_it_comes_back():
    waits, progress = WaitsForData(0.3), Progress()
    shares = [0.4, 0.4, 0.2, 0.4, 0.4, 0.4, 0.9, 0.9, 0.3, 0.4, 0.4, 0.4]
    found = [bool(waits.check({"data_wait_share": share}, progress)) for share in shares]
    assert [i for i, is_told in enumerate(found) if is_told] == [5, 11]
    assert not any(WaitsForData(0.0).check({"data_wait_share": 1.0}, progress) for _ in range(9))
    assert not waits.check({}, progress)  # the first row of a process has no speed
