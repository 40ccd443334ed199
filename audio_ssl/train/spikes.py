"""Spikes: of the gradient's norm, where the device itself skips an update, and of the loss in rows of metrics."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_ssl.config.guard import GuardConfig
from audio_ssl.train.state import Progress

NUM_KNOWN = 100  # norms after which their mean means something, and over which it runs
NUM_LOSSES = 16  # that the median is of: more would take a falling curve for a noisy one; ...
FEWEST_LOSSES = 8  # ... and without which there is none
SPIKES_TO_ROLL_BACK = 2  # in a row
TO_DEVIATION = 1.4826  # a normal distribution's standard deviation is so many median absolute deviations


class GradientSpikes:
    """Tells on the device whether a gradient norm is far over its running mean; the host never waits.

    A norm counts into the mean as the limit at most, so one spike hardly moves it; but where norms have risen for good
    the mean follows within some tens of updates, and updates are skipped for that while only.

    Args:
        factor: a norm over so many times the mean is a spike; 0: none is.
        device: of the norms.
        fresh_at: updates at which other weights begin to learn, so that norms start anew.

    Reference: ZClip (2504.02507), which clips where this skips; PaLM (2204.02311) section 5.1 skips batches by hand.
    """

    def __init__(self, factor: float, device: torch.device, *, fresh_at: Collection[int] = ()) -> None:
        self._factor, self._fresh_at = factor, fresh_at
        self._state = torch.zeros(2, device=device)  # the mean, and how many norms it has seen

    def __call__(self, norm: Tensor, *, update: int) -> Tensor:
        """Judge the norm of an update, and remember it.

        Args:
            norm: () float32, equal on all ranks.
            update: number of updates done before this one.

        Returns:
            () bool, True where the update is to be skipped; False for a norm that is not finite.
        """
        if self._factor == 0:
            return torch.zeros_like(norm, dtype=torch.bool)
        if update in self._fresh_at:
            self._state = torch.zeros_like(self._state)
        mean, num_seen = self._state.unbind()
        limit = self._factor * mean
        is_known, is_finite = num_seen >= NUM_KNOWN, torch.isfinite(norm)
        is_spike = is_known & is_finite & (norm > limit)
        seen = torch.where(is_spike, limit, norm)
        next_mean = mean + (seen - mean) / (num_seen + 1).clamp(max=NUM_KNOWN)
        self._state = torch.where(is_finite, torch.stack([next_mean, num_seen + 1]), self._state)
        return is_spike

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs: ``norms`` (2,) float32."""
        return {"norms": self._state}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        self._state = tensors["norms"]


@dataclass(frozen=True)
class LossSpike:
    """A loss far over those before it.

    Attributes:
        loss: mean over the updates judged.
        median: of the losses before.
        limit: above which a loss is a spike.
        num_in_a_row: spikes, this one among them.
        last_good: last update of the losses before.
    """

    loss: float
    median: float
    limit: float
    num_in_a_row: int
    last_good: int

    @property
    def is_lasting(self) -> bool:
        """Whether it is time to go back."""
        return self.num_in_a_row >= SPIKES_TO_ROLL_BACK


def judge_loss(loss: float, num_updates: int, progress: Progress, config: GuardConfig) -> LossSpike | None:
    """Compare a row's loss with the median of those before; all state is in ``progress``.

    Short rows are joined until they make up ``guard.spike_updates``.

    Args:
        loss: mean over the row, finite.
        num_updates: of the row.
        progress: at the end of the row.
        config: the limits.

    Returns:
        The spike, if it is one.
    """
    counts = progress.counts
    total = counts.get("loss_sum", 0.0) + loss * num_updates
    num_joined = counts.get("loss_updates", 0.0) + num_updates
    if num_joined < config.spike_updates:
        counts["loss_sum"], counts["loss_updates"] = total, num_joined
        return None
    counts["loss_sum"] = counts["loss_updates"] = 0.0
    mean = total / num_joined
    limit, median = _limit(progress.losses, config)
    if mean > limit:
        counts["spikes"] = counts.get("spikes", 0.0) + 1
        return LossSpike(mean, median, limit, int(counts["spikes"]), int(counts["last_good"]))
    counts["spikes"], counts["last_good"] = 0.0, float(progress.update)
    progress.losses = [*progress.losses, mean][-NUM_LOSSES:]
    return None


def forget_losses(progress: Progress) -> None:
    """Begin to learn anew what losses are usual, as at the start of a run."""
    progress.losses = []
    for name in ("loss_sum", "loss_updates", "spikes"):
        progress.counts.pop(name, None)


def _limit(losses: list[float], config: GuardConfig) -> tuple[float, float]:
    """Above what a loss is a spike, and the median of ``losses``; infinite while these are few."""
    if len(losses) < FEWEST_LOSSES or config.spike_mads == 0:
        return float("inf"), float("nan")
    median = statistics.median(losses)
    deviation = TO_DEVIATION * statistics.median(abs(loss - median) for loss in losses)
    return median + max(config.spike_mads * deviation, config.spike_share * abs(median)), median
