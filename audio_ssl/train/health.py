"""Guards that look at rows of metrics: each says what was seen, what usually causes it, and what to change.

They see no weights and no tensors, so nothing here waits for a device. What they count is in ``Progress``: a resumed
run goes on counting, and all ranks decide alike since their figures are equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audio_ssl.config import Wav2Vec2Config
from audio_ssl.config.guard import GuardConfig
from audio_ssl.train.state import Progress

CHANCE_MARGIN_NATS = 0.01  # below chance; runs that never learned ended 0.000 to 0.002 above it
WAITING_ROWS = 3  # in a row, over which the loop waited for data
Row = Mapping[str, Any]
Counts = dict[str, float]


@dataclass(frozen=True)
class Sign:
    """A figure beyond its limit for many updates in a row.

    Attributes:
        name: what ``Progress.counts`` calls it.
        seen: from a row of metrics and ``Progress.counts`` what is wrong, in words and numbers; None where nothing is.
        advice: usual causes and what to change.
        after: updates of the run before it is looked at.
        warn_after: updates in a row that are worth a warning.
        stop_after: ... and the end of the run; 0: never.
        limit: the setting that says so, with its value.
        is_optional: 0 as that setting lets the run go on.
    """

    name: str
    seen: Callable[[Row, Counts], str | None]
    advice: str
    after: int
    warn_after: int
    stop_after: int
    limit: str
    is_optional: bool = False


@dataclass(frozen=True)
class Finding:
    """What a guard has to say.

    Attributes:
        guard: its name.
        message: for people.
        is_fatal: whether the run must stop.
    """

    guard: str
    message: str
    is_fatal: bool


def pretraining_signs(config: GuardConfig, objective: Wav2Vec2Config, *, warmup_updates: int) -> tuple[Sign, ...]:
    """What is wrong with a pre-training run: chance for ever, a trivial task, a collapsed codebook."""
    chance = math.log(objective.num_distractors + 1)
    collapse = f"guard.collapse_updates = {config.collapse_updates}"

    def at_chance(row: Row, _: Counts) -> str | None:
        loss = row.get("contrastive_loss", math.nan)
        if not loss >= chance - CHANCE_MARGIN_NATS:
            return None
        level = f"ln({objective.num_distractors} + 1) = {chance:.3f}"
        return f"contrastive_loss is {loss:.3f}, at chance ({level}): nothing was learned"

    def trivial(row: Row, _: Counts) -> str | None:
        accuracy = row.get("accuracy", math.nan)
        if config.max_accuracy == 0 or not accuracy >= config.max_accuracy:
            return None
        return f"accuracy is {accuracy:.1%}, the task is trivial from {config.max_accuracy:.1%} (guard.max_accuracy) on"

    def collapsed(row: Row, _: Counts) -> str | None:
        codes, group = min(_codes_of_groups(row, objective.num_groups), default=(math.nan, ""))
        if not codes < config.min_codes:
            return None
        return (
            f"code_perplexity{group} is {codes:.2f} of {objective.num_entries}, below {config.min_codes:g} "
            "(guard.min_codes): the codebook has collapsed"
        )

    return (
        Sign(
            "chance", at_chance,
            "Usual causes: a small model with layer norm that cannot hear loudness, a learning rate that does not fit, "
            "small batches. Set model.conv_bias=true, change optim.lr, raise data.batch_s",
            after=warmup_updates, warn_after=config.chance_warn_updates, stop_after=config.chance_stop_updates,
            limit=f"guard.chance_stop_updates = {config.chance_stop_updates}", is_optional=True,
        ),
        Sign(
            "trivial", trivial,
            "Usual causes: targets that leak into the context, the same few recordings again and again, too few "
            "distractors. Look at data.train (`audio-ssl manifest dedupe`), objective.mask_prob and "
            "objective.num_distractors",
            after=0, warn_after=1, stop_after=config.collapse_updates, limit=collapse,
        ),
        Sign(
            "collapse", collapsed,
            "Usual causes: too little diversity for the size of a batch, silent or constant audio, a learning rate "
            "that is too high. Raise objective.diversity_weight (small models want 1 or more), lower optim.lr, listen "
            "to data.train",
            after=0, warn_after=1, stop_after=config.collapse_updates, limit=collapse,
        ),
    )  # fmt: skip


def _codes_of_groups(row: Row, num_groups: int) -> list[tuple[float, str]]:
    """Perplexity of each codebook group and the end of its figure's name."""
    found = [(float(v), m[1]) for k, v in row.items() if (m := re.fullmatch(r"code_perplexity(_\d+)", k))]
    return found or ([(row["code_perplexity"] / num_groups, " a group")] if "code_perplexity" in row else [])


def check_signs(signs: Sequence[Sign], row: Row, progress: Progress, *, num_updates: int) -> list[Finding]:
    """Count the updates that each sign has lasted, and tell those that have lasted long enough to matter.

    Args:
        signs: of the task.
        row: of metrics.
        progress: holds the counts.
        num_updates: of the row.
    """
    findings = []
    for sign in signs:
        watched = min(num_updates, progress.update - sign.after)
        seen = sign.seen(row, progress.counts) if watched > 0 else None
        before = progress.counts.get(sign.name, 0.0)
        lasted = progress.counts[sign.name] = 0.0 if seen is None else before + watched
        if seen is None:
            continue
        since = f"{seen}. So it has been for {lasted:.0f} updates, up to update {progress.update}. {sign.advice}"
        if 0 < sign.stop_after <= lasted:
            goes_on = ", 0 lets it go on" if sign.is_optional else ""
            what = f"{since}; {sign.limit} stops a run here{goes_on}"
            findings.append(Finding(sign.name, what, is_fatal=True))
        elif 0 < sign.warn_after <= lasted and before < sign.warn_after:
            ends = f"; after {sign.stop_after} such updates ({sign.limit}) the run stops" if sign.stop_after else ""
            findings.append(Finding(sign.name, since + ends, is_fatal=False))
    return findings


def check_nonfinite(num_broken: int, num_updates: int, progress: Progress, config: GuardConfig) -> list[Finding]:
    """Gradients that were not finite: in a row, and over about the last ``nonfinite_window_updates`` updates.

    Args:
        num_broken: such updates of the row.
        num_updates: of the row.
        progress: holds ``skipped_in_a_row`` and a count from which each update takes 1/window of what is there.
        config: the budgets.
    """
    kept = (1 - 1 / config.nonfinite_window_updates) ** num_updates
    recent = progress.counts["nonfinite"] = progress.counts.get("nonfinite", 0.0) * kept + num_broken
    advice = (
        "The weights are as before them. Usual causes: a learning rate that is too high, a format too small for the "
        "numbers, weights that hold NaN. Lower optim.lr, or use run.precision=fp32; the updates are in dumps/, and "
        "--replay shows where it begins"
    )
    in_a_row = progress.skipped_in_a_row
    if 0 < config.nonfinite_in_a_row <= in_a_row:
        message = (
            f"gradients must be finite; those of the {in_a_row} updates up to update {progress.update} were not "
            f"(guard.nonfinite_in_a_row = {config.nonfinite_in_a_row}). {advice}"
        )
        return [Finding("nonfinite", message, is_fatal=True)]
    if 0 < config.nonfinite_budget < recent:
        message = (
            f"gradients must be finite; those of {recent:.0f} of about the last {config.nonfinite_window_updates} "
            f"updates up to update {progress.update} were not (guard.nonfinite_budget = {config.nonfinite_budget}). "
            f"{advice}"
        )
        return [Finding("nonfinite", message, is_fatal=True)]
    return []


class WaitsForData:
    """Warns where the loop waits for data rather than the other way round; it never stops a run.

    Args:
        max_share: of the time.
    """

    def __init__(self, max_share: float) -> None:
        self._max_share = max_share
        self._rows_in_a_row = 0

    def check(self, row: Row, progress: Progress) -> list[Finding]:
        """Warn once, when some rows in a row were beyond the share, and again when it comes back."""
        share = row.get("data_wait_share", 0.0)
        is_over = 0 < self._max_share < share
        self._rows_in_a_row = self._rows_in_a_row + 1 if is_over else 0
        if self._rows_in_a_row != WAITING_ROWS:
            return []
        message = (
            f"waiting for data takes {share:.0%} of the time, at update {progress.update} and in the "
            f"{WAITING_ROWS - 1} rows before (guard.max_data_wait_share = {self._max_share:.0%}). Usual causes: a slow "
            "or remote disk, too few reading threads, formats that are slow to decode. Raise data.num_workers, pack "
            "the audio (`audio-ssl manifest pack`), let data.cache_dir be on a disk of this machine. The run goes on"
        )
        return [Finding("data_wait", message, is_fatal=False)]
