"""The guards of a run as the loop meets them: what it notes after an update, and what a row of metrics leads to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from audio_ssl.config.guard import GuardConfig
from audio_ssl.errors import TrainingError
from audio_ssl.tensors import Batch
from audio_ssl.train.dumps import BrokenUpdates
from audio_ssl.train.health import Finding, Row, Sign, WaitsForData, check_nonfinite, check_signs
from audio_ssl.train.sinks import Sink
from audio_ssl.train.spikes import GradientSpikes, LossSpike, forget_losses, judge_loss
from audio_ssl.train.state import Progress

ABOUT_SPIKES = (
    "Usual causes: a learning rate that is too high or rises too fast, a few odd recordings, a format too small for "
    "the numbers. Lower optim.lr, raise optim.warmup_share; lower optim.clip_norm only where grad_norm is mostly "
    "below it (elsewhere every update is scaled down already)"
)


class Watch:
    """All guards of a run.

    Args:
        config: their limits.
        signs: of the task.
        gradients: judges gradient norms on the device; None: none is a spike, on any device.
        thaws_at: updates at which other weights begin to learn: losses may rise there, and are compared with those
            after it alone.
        broken: writes down updates with a gradient that is not finite; None: nobody does.
        roll_back: takes the run back to its last checkpoint at or before an update, in another order of the data, and
            returns that checkpoint; None where there is none. Without it a lasting spike stops the run.
        sinks: get a row for each finding: ``split`` "guard", ``guard``, ``action`` (warning, rollback or stop) and
            ``message``.
        console: where warnings are said.
    """

    def __init__(
        self,
        config: GuardConfig | None = None,
        *,
        signs: Sequence[Sign] = (),
        gradients: GradientSpikes | None = None,
        thaws_at: Collection[int] = (),
        broken: BrokenUpdates | None = None,
        roll_back: Callable[[Progress, int], Path | None] | None = None,
        sinks: Sequence[Sink] = (),
        console: Console | None = None,
    ) -> None:
        self.config = config or GuardConfig()
        self.gradients = gradients or GradientSpikes(0.0, torch.device("cpu"))
        self._signs, self._thaws_at, self._broken, self._roll_back = signs, thaws_at, broken, roll_back
        self._sinks, self._console = sinks, console or Console(quiet=True)
        self._waits = WaitsForData(self.config.max_data_wait_share)
        self._was_skipping = False

    def note(self, progress: Progress, micro_batches: Sequence[Batch], is_broken: Tensor) -> None:
        """Remember an update that was just done, until its window is over; see :class:`BrokenUpdates`."""
        if self._broken is not None:
            self._broken.note(progress, micro_batches, is_broken)

    def check(self, row: Row, progress: Progress, *, num_updates: int) -> Path | None:
        """Look at a row of metrics; all ranks must call this together.

        Args:
            row: the figures, ``skipped_updates`` (gradient not finite) and ``spiked_updates`` (too large) among them.
            progress: at the end of the row; taken back where the run is.
            num_updates: of the row.

        Returns:
            The checkpoint that the run was taken back to, if it was.

        Raises:
            TrainingError: the run must stop.
        """
        self._write_down(row["skipped_updates"])
        findings = [
            *check_nonfinite(row["skipped_updates"], num_updates, progress, self.config),
            *check_signs(self._signs, row, progress, num_updates=num_updates),
            *self._waits.check(row, progress),
            *self._skipped(row, progress),
        ]
        for finding in findings:
            self._tell(finding, progress.update)
        if any(progress.update - num_updates <= thaw < progress.update for thaw in self._thaws_at):
            forget_losses(progress)
        if not -float("inf") < row["loss"] < float("inf"):
            return None
        spike = judge_loss(row["loss"], num_updates, progress, self.config)
        return None if spike is None else self._meet(spike, progress)

    def _write_down(self, num_broken: int) -> None:
        if self._broken is None:
            return
        if not num_broken:
            self._broken.forget()
            return
        for path in self._broken.write():
            self._console.print(
                f"warning: a gradient was not finite and its update was skipped: {path}", style="yellow"
            )

    def _skipped(self, row: Row, progress: Progress) -> list[Finding]:
        """Say it when updates begin to be skipped for their size; silent until a row without."""
        num_spiked = row.get("spiked_updates", 0)
        begins, self._was_skipping = num_spiked > 0 and not self._was_skipping, num_spiked > 0
        if not begins:
            return []
        message = (
            f"{num_spiked} of the updates up to update {progress.update} were skipped: their gradient norm was over "
            f"{self.config.skip_grad_factor:g} times its running mean (guard.skip_grad_factor). {ABOUT_SPIKES}"
        )
        return [Finding("spike", message, is_fatal=False)]

    def _meet(self, spike: LossSpike, progress: Progress) -> Path | None:
        """Warn of a spike; where it lasts, go back, or stop."""
        update, most = progress.update, self.config.max_rollbacks
        seen = (
            f"loss is {spike.loss:.3f} at update {update}, a spike is over {spike.limit:.3f} (the median before is "
            f"{spike.median:.3f}; guard.spike_mads, guard.spike_share)"
        )
        if not spike.is_lasting:
            message = f"{seen}. Where it lasts the run goes back to its last good checkpoint"
            self._tell(Finding("spike", message, is_fatal=False), update)
            return None
        if progress.rollbacks >= most:
            ends = f"the run went back {progress.rollbacks} times already (guard.max_rollbacks = {most})"
            self._tell(Finding("spike", f"{seen}, and {ends}. {ABOUT_SPIKES}", is_fatal=True), update)
        place = None if self._roll_back is None else self._roll_back(progress, spike.last_good)
        if place is None:
            ends = f"there is no checkpoint of update {spike.last_good} or before to go back to (run.save_every)"
            self._tell(Finding("spike", f"{seen}, and {ends}. {ABOUT_SPIKES}", is_fatal=True), update)
        message = (
            f"{seen}. The run goes back to update {progress.update} and on in another order of the data, for the "
            f"{progress.rollbacks}. time of {most} (guard.max_rollbacks). {ABOUT_SPIKES}"
        )
        self._say("spike", "rollback", message, progress.update)
        return place

    def _tell(self, finding: Finding, update: int) -> None:
        self._say(finding.guard, "stop" if finding.is_fatal else "warning", finding.message, update)
        if finding.is_fatal:
            raise TrainingError(f"the run must not go on: {finding.message}. The newest checkpoint is whole")

    def _say(self, guard: str, action: str, message: str, update: int) -> None:
        row: dict[str, Any] = {"update": update, "split": "guard", "guard": guard, "action": action, "message": message}
        for sink in self._sinks:
            sink.write(row)
        if action != "stop":  # which is said by the error
            self._console.print(f"warning: {message}", style="yellow", highlight=False, soft_wrap=True)
