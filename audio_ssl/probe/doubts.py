"""What makes the figures of a task worth less than they seem, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from audio_ssl.probe.candidates import Candidate
from audio_ssl.probe.control import leaks, luck
from audio_ssl.probe.heard import heard
from audio_ssl.probe.items import Fold, Items
from audio_ssl.probe.outcome import Measured
from audio_ssl.probe.scores import Score

FEW_BLOCKS = 5


def doubts(
    items: Items, folds: Sequence[Fold], measured: Sequence[Measured], *, chance: float | None
) -> tuple[str, ...]:
    """All that is odd about a task's figures.

    Args:
        items: of the task.
        folds: of the task.
        measured: what everybody reached.
        chance: what who knows nothing reaches; None where that is not known.
    """
    found = [] if chance is None else _of_controls(measured, chance, luck(items, folds, chance))
    found += _perfect(measured)
    blocks = {result.score.num_blocks for one in measured for result in one.results}
    what = "speakers" if items.are_speakers else "blocks"
    if blocks and 1 < min(blocks) < FEW_BLOCKS:
        found.append(f"there are {min(blocks)} {what} to draw from: intervals over so few are wide and rough")
    if blocks and min(blocks) == 1:
        found.append(f"there is one of the {what} alone, so no figure has an interval")
    if not items.are_speakers:
        found.append("speakers are not known: intervals are over recordings, and the same voice may be on both sides")
    return tuple(found)


def heard_in_training(items: Items, folds: Sequence[Fold], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """What each model heard of the test items, or that nobody knows."""
    models = [c.path for c in candidates if c.role == "model" and c.path is not None]
    return tuple(text for path in models if (text := heard(path, items, folds)) is not None)


def _of_controls(measured: Sequence[Measured], chance: float, by_luck: float) -> list[str]:
    """A head that learns labels at random must not find the right ones."""
    controls = [(one.candidate.name, one.control.score) for one in measured if one.control is not None]
    if controls and chance + by_luck >= 1:
        return ["labels and folds are so few that luck could find every one of them: the control says nothing here"]
    return [
        f"{name}: with labels that changed places among the items that are learned from, "
        f"{score.metric} is still {100 * score.value:.1f} %, above the {100 * chance:.1f} % of chance: test labels "
        "reach the head in another way than by learning, so the task leaks"
        for name, score in controls
        if leaks(score, chance, by_luck)
    ]


def _perfect(measured: Sequence[Measured]) -> list[str]:
    names = [
        one.candidate.name for one in measured if any(_is_perfect(result.score) for result in one.results)
    ]  # fmt: skip
    if not names:
        return []
    return [
        f"{', '.join(names)}: every test item is right. Either the features hold the label itself, or the task is too "
        "easy to tell representations apart"
    ]


def _is_perfect(score: Score) -> bool:
    """Whether a share of right answers is all, or one of wrong answers is nothing."""
    is_right = score.metric.endswith("accuracy") or score.metric.startswith("precision")
    is_wrong = score.metric == "eer" or score.metric.endswith("error_rate")
    return (is_right and score.value == 1.0) or (is_wrong and score.value == 0.0)
