"""The guard of a recogniser against blanks: CTC answers nothing but blanks at first, and a sick run stays there.

Blanks are the cheapest answer before anything is learned, so every run goes through them. What tells a sick run is how
long it stays, in updates in which it could have learned, and whether it comes back.
"""

from __future__ import annotations

import math

from audio_ssl.config.guard import GuardConfig
from audio_ssl.train.health import Counts, Row, Sign

ONLY_BLANKS = 0.999  # of the frames
WORDS_AMONG_BLANKS = 0.95  # of the frames: with fewer blanks a recogniser has learned to answer
LEAST_TO_WARN, LEAST_TO_STOP = 50, 100  # updates, however short the run


def finetuning_signs(
    config: GuardConfig, *, warmup_updates: int, frozen_updates: int, num_updates: int
) -> tuple[Sign, ...]:
    """What is wrong with a fine-tuning run: blanks for ever, and blanks again. At first they are normal.

    Args:
        config: limits.
        warmup_updates: of the learning rate.
        frozen_updates: before the last thaw of the run.
        num_updates: of the whole run.
    """
    after = max(warmup_updates, frozen_updates)
    judged = max(num_updates - after, 0)

    def only_blanks(row: Row, counts: Counts) -> str | None:
        share = row.get("blank_share", math.nan)
        if not share >= ONLY_BLANKS or counts.get("has_answered"):
            return None
        return f"blank_share is {share:.1%}: the model has never answered anything but blanks"

    return (
        Sign(
            "relapse", _blanks_again,
            "Usual causes: a learning rate that is too high, or rises too fast, or comes when the encoder thaws; a "
            "few transcripts that do not belong to their audio. Lower optim.lr, raise optim.warmup_share, or lower "
            "ctc.layer_lr_decay; start again, or from the best checkpoint (init_from)",
            after=0, warn_after=1, stop_after=config.collapse_updates,
            limit=f"guard.collapse_updates = {config.collapse_updates}",
        ),
        Sign(
            "blanks", only_blanks,
            "Usual causes: transcripts that do not belong to their audio (listen to some rows, and read preflight.json "
            "in the run folder), too few updates or too low a rate to leave the stage of blanks (raise "
            "run.num_updates, optim.lr or ctc.head_lr_scale), an encoder that was not pre-trained but is frozen "
            "(ctc.freeze_*), more masks than so little speech bears (lower ctc.mask_prob)",
            after=after, warn_after=_share_of(judged, config.blank_warn_share, least=LEAST_TO_WARN),
            stop_after=_share_of(judged, config.blank_stop_share, least=LEAST_TO_STOP),
            limit=f"guard.blank_stop_share = {config.blank_stop_share:g}", is_optional=True,
        ),
    )  # fmt: skip


def _blanks_again(row: Row, counts: Counts) -> str | None:
    """Remember that a model had left the stage of blanks; say where it comes back.

    A fresh head answers all symbols alike, which is no leaving: it must have been in the stage before.
    """
    share = row.get("blank_share", math.nan)
    if share >= ONLY_BLANKS:
        counts["has_been_blank"] = 1.0
        if counts.get("has_answered"):
            return (
                f"blank_share is {share:.1%}: the model had learned to answer, and now gives nothing but blanks again"
            )
    elif share < WORDS_AMONG_BLANKS and counts.get("has_been_blank"):
        counts["has_answered"] = 1.0
    return None


def _share_of(num_updates: int, share: float, *, least: int) -> int:
    return max(least, math.ceil(share * num_updates)) if share else 0
