"""Which figures a report draws, what each says, and where it lies in a healthy run (``docs/runbook.md``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

Rows = Sequence[Mapping[str, Any]]
NOT_FIGURES = {"update", "split", "epoch", "is_best", "time_left_s", "audio_h", "contrastive_error", "update_s"}
GROUPS = ("Learning", "Codebook", "Optimizer", "Speed and data", "Other figures")
EARLY_SHARE = 0.1  # of the updates, in which a run may still be outside of the bands


@dataclass(frozen=True)
class Panel:
    """A chart of one figure, or of one figure for each group.

    Attributes:
        name: in ``metrics.jsonl``; ``NAME_*`` means one for each group.
        title: for people.
        unit: of the values, in words.
        group: heading under which it stands.
        text: what is seen, and what it should do.
        band: where it lies in a healthy run.
        level: a value to compare with, such as chance, and what it is called.
        scale: factor on the values; 100 for shares in percent.
        is_log: of the scale.
        include: values that the window holds in any case.
        mend: what to do where it lies outside of its band.
    """

    name: str
    title: str
    unit: str
    group: str
    text: str
    band: tuple[float, float] | None = None
    level: tuple[float, str] | None = None
    scale: float = 1.0
    is_log: bool = False
    include: tuple[float, ...] = ()
    mend: str = ""

    @property
    def is_percent(self) -> bool:
        """Whether values are shares."""
        return self.scale == 100


def panels(config: Mapping[str, Any], rows: Rows, *, is_pretraining: bool) -> list[Panel]:
    """The panels of a run that it has figures for, known ones first, then every other number that it logged."""
    known = _pretraining(config) if is_pretraining else _finetuning()
    known += _of_every_run(is_pretraining=is_pretraining)
    rows = [row for row in rows if row["split"] in ("train", "valid")]  # what guards say is among the warnings
    logged = {name for row in rows for name, value in row.items() if is_number(value)} - NOT_FIGURES
    found = [panel for panel in known if _names(panel, logged)]
    drawn = {name for panel in known for name in _names(panel, logged)}
    others = [
        Panel(name, name.replace("_", " "), "", "Other figures", f"{name}, as the run logged it.")
        for name in sorted(logged - drawn)
    ]
    return [panel for panel in found if not _is_all_zero(panel, rows)] + others


def names_of(panel: Panel, rows: Rows) -> list[str]:
    """The figures that a panel draws."""
    return _names(panel, {name for row in rows for name in row})


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a logged value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _names(panel: Panel, logged: set[str]) -> list[str]:
    if not panel.name.endswith("_*"):
        return [panel.name] if panel.name in logged else []
    stem = panel.name.removesuffix("*")
    found = [name for name in logged if name.startswith(stem) and name.removeprefix(stem).isdigit()]
    return sorted(found, key=lambda name: int(name.removeprefix(stem)))


def _is_all_zero(panel: Panel, rows: Rows) -> bool:
    """A part of the loss that is off is not drawn."""
    return panel.name == "feature_penalty" and not any(row.get(panel.name) for row in rows)


def _pretraining(config: Mapping[str, Any]) -> list[Panel]:
    objective = config.get("objective")
    objective = objective if isinstance(objective, dict) else {}

    def setting(name: str, default: float) -> float:
        value = objective.get(name)
        return float(value) if is_number(value) and value > 0 else default

    span = setting("mask_span_frames", 10)
    masked = round(1 - (1 - min(1.0, setting("mask_prob", 0.65) / span)) ** span, 2)
    return [
        *_of_the_loss(setting("num_distractors", 100) + 1),
        *_of_the_second_task(setting("random_projection_entries", 512)),
        *_of_the_codebook(setting("num_entries", 320), setting("num_groups", 2)),
        _of_the_mask(masked),
    ]


def _of_the_loss(candidates: float) -> list[Panel]:
    chance = math.log(candidates)
    return [
        Panel(
            "contrastive_loss", "Contrastive loss", "nats per masked frame", "Learning",
            f"How well the true latent is told from {candidates - 1:.0f} others. It starts at chance, "
            f"ln {candidates:.0f} = {chance:.3f}, leaves it within the first tenth of the run "
            "and then falls slowly. At 0 it is a collapse.",
            band=(0.5, chance - 0.02), level=(chance, "chance"),
            mend="at chance: train longer, or see `Chance for a long time` in the runbook; near 0: a collapse",
        ),
        Panel(
            "accuracy", "Contrastive accuracy", "% of masked frames", "Learning",
            f"How often the true latent beats every distractor; {100 / candidates:.2g} % by chance. It rises for the "
            "whole run. A tie counts as wrong, so a collapsed model has 0.",
            band=(round(2 / candidates, 3), 0.95), level=(1 / candidates, "chance"), scale=100, include=(0.0,),
            mend="at chance: as for the loss; 0 while the loss is 0: a collapse",
        ),
        Panel(
            "loss", "Whole loss", "nats per masked frame", "Learning",
            "What is minimised: contrastive loss, and diversity, feature penalty and second task times their weights.",
        ),
        Panel(
            "feature_penalty", "Feature penalty", "mean squared latent", "Learning",
            "Size of the convolutions' output. It should level off; growth without end precedes instability.",
        ),
    ]  # fmt: skip


def _of_the_second_task(entries: float) -> list[Panel]:
    chance = math.log(entries)
    return [
        Panel(
            "random_projection_loss", "Loss on random projections", "nats per masked frame", "Learning",
            f"How well codes of random projections are told, which never change. It starts at chance, ln {entries:.0f} "
            f"= {chance:.3f}, and falls for the whole run; random codes of speech cannot be told well.",
            band=(0.5, chance - 0.02), level=(chance, "chance"), mend="at chance: as for the contrastive loss",
        ),
        Panel(
            "random_projection_accuracy", "Accuracy on random projections", "% of masked frames", "Learning",
            f"How often the likeliest code is the right one; {100 / entries:.2g} % by chance, if all were as common.",
            level=(1 / entries, "chance"), scale=100, include=(0.0,),
        ),
    ]  # fmt: skip


def _of_the_codebook(entries: float, groups: float) -> list[Panel]:
    collapse = "the codebook collapses: raise objective.diversity_weight"
    of_all, of_one = (0.3 * groups * entries, groups * entries), (0.3 * entries, entries)
    return [
        Panel(
            "code_perplexity", "Code perplexity", "entries in use", "Codebook",
            f"Effective number of entries that are chosen, all groups together, of {groups:.0f} × "
            f"{entries:.0f}. Healthy runs use more than "
            "half of them; a fall towards the number of groups is a collapse.",
            band=of_all, include=(0.0,), mend=collapse,
        ),
        Panel(
            "code_perplexity_*", "Code perplexity of each group", "entries in use", "Codebook",
            f"The same, group by group, of {entries:.0f} each: a sum hides that one group has collapsed.",
            band=of_one, include=(0.0,), mend=collapse,
        ),
        Panel(
            "prob_perplexity", "Probability perplexity", "entries in use", "Codebook",
            "The same for the mean of the probabilities, before an entry is chosen. The diversity loss raises it.",
            band=of_all, include=(0.0,), mend=collapse,
        ),
        Panel(
            "prob_perplexity_*", "Probability perplexity of each group", "entries in use", "Codebook",
            f"Group by group, of {entries:.0f} each.", band=of_one, include=(0.0,), mend=collapse,
        ),
        Panel(
            "diversity_loss", "Diversity loss", "share of entries unused", "Codebook",
            "Share of the entries that a micro-batch leaves unused; small micro-batches cannot use all.",
            band=(0.0, 0.7), scale=100, include=(0.0,), mend=collapse,
        ),
        Panel(
            "gumbel_temperature", "Gumbel temperature", "", "Codebook",
            "How soft the choice of an entry is in training; falls by schedule from objective.gumbel_start to "
            "gumbel_end.",
        ),
    ]  # fmt: skip


def _of_the_mask(masked: float) -> Panel:
    of_masked = (masked - 0.06, masked + 0.06)
    return Panel(
        "masked_share", "Masked share", "% of valid frames", "Speed and data",
        f"Masked frames among all frames; these settings give {masked:.0%} in long rows.",
        band=of_masked, include=of_masked, scale=100,
        mend="rows are very short, or objective.mask_prob is not what was meant",
    )  # fmt: skip


def _finetuning() -> list[Panel]:
    return [
        Panel(
            "loss", "CTC loss", "nats per label", "Learning",
            "It falls quickly to about 3 (only blanks), stays there for a while, then falls again as letters come.",
            include=(0.0,),
        ),
        Panel(
            "cer", "Character error rate", "% of the reference's characters", "Learning",
            "On the validation set, greedy decoding. 100 % while the model answers blanks only.",
            level=(1.0, "nothing recognised"), band=(0.0, 0.98), scale=100, include=(0.0,),
            mend="only blanks yet: train longer, raise optim.lr, or check the transcripts",
        ),
        Panel(
            "wer", "Word error rate", "% of the reference's words", "Learning",
            "On the validation set. It may exceed 100 %: words that were not said count as well.",
            scale=100, include=(0.0,),
        ),
        Panel(
            "blank_share", "Blank share", "% of frames", "Learning",
            "Frames whose best symbol is the blank. Near 100 % at first is normal: CTC answers blank before letters.",
            band=(0.2, 0.97), scale=100, include=(1.0,),
            mend="only blanks: train longer, raise optim.lr, or check the transcripts",
        ),
    ]  # fmt: skip


def _of_every_run(*, is_pretraining: bool) -> list[Panel]:
    # How long a gradient is depends on the loss: CTC's, a sum over an utterance, is longer by its number of labels.
    of_gradient = (0.1, 15.0) if is_pretraining else None
    return [
        Panel(
            "grad_norm", "Gradient norm", "before clipping", "Optimizer",
            "Length of the gradient, mean of a window. Healthy runs stay within a power of ten; growth without end "
            "precedes divergence. Logarithmic.",
            band=of_gradient, is_log=True, mend="growing without end: lower optim.lr",
        ),
        Panel(
            "update_ratio", "Update ratio", "step over weights", "Optimizer",
            "Length of a line's last step over that of all weights; goes with the rate, 0.0002 to 0.001 near its peak. "
            "Logarithmic.", is_log=True,
        ),
        Panel("lr", "Learning rate", "", "Optimizer", "By schedule: warm-up, then decay.", include=(0.0,)),
        Panel(
            "skipped_updates", "Skipped updates", "in a window", "Optimizer",
            "Updates left out for a gradient that was not finite.", band=(0.0, 0.0), include=(0.0, 1.0),
            mend="lower optim.lr, or use run.precision=fp32",
        ),
        Panel(
            "audio_s_per_s", "Speed", "audio-seconds a second", "Speed and data",
            "Seconds of audio that all ranks together learn from in a second. Steps down mean that the machine is "
            "shared, "
            "or that data comes late.", include=(0.0,),
        ),
        Panel(
            "data_wait_share", "Wait for data", "% of the time", "Speed and data",
            "Time that the loop waits for audio, on the rank that waits longest.",
            band=(0.0, 0.05), scale=100, include=(0.0, 0.05), mend="raise data.num_workers, or bring the audio nearer",
        ),
        Panel(
            "padding_share", "Padding", "% of the samples", "Speed and data",
            "Samples that only fill rows up to the longest of their micro-batch.",
            band=(0.0, 0.15), scale=100, include=(0.0,),
            mend="rows of very different length: larger data.micro_batch_s, or data.max_s nearer to most rows",
        ),
        Panel(
            "checkpoint_s", "Checkpoints", "seconds", "Speed and data",
            "Time that training stood still for a checkpoint.", include=(0.0,),
        ),
        Panel("device_memory_gib", "Memory", "GiB", "Speed and data", "Most that was in use.", include=(0.0,)),
    ]  # fmt: skip
