"""Back to the last good checkpoint, and on in another order of the data."""

from __future__ import annotations

from pathlib import Path

from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.distributed import World, barrier, of_main
from audio_ssl.train.loop import Task
from audio_ssl.train.state import Progress
from audio_ssl.train.updates import Updates


class RollBack:
    """Takes a run back in place; all ranks call it together.

    What is left of the pass over the data is dealt out anew, so that each utterance still comes once. The checkpoint is
    written again with that in it, before those after it go: a run that is killed at any moment goes on in the same way.

    Args:
        task: weights and optimizer.
        updates: the order of its data.
        folder: of the run.
        world: this rank among its peers.
    """

    def __init__(self, task: Task, updates: Updates, folder: CheckpointFolder, world: World) -> None:
        self._task, self._updates, self._folder, self._world = task, updates, folder, world

    def __call__(self, progress: Progress, last_good: int) -> Path | None:
        """Go back to the newest whole checkpoint of update ``last_good`` or before.

        Args:
            progress: becomes the checkpoint's, with one more roll-back.
            last_good: last update before the trouble.

        Returns:
            That checkpoint; None where there is none: nothing is changed then.
        """
        folder, num_before = self._folder, progress.rollbacks
        folder.finish()  # of all ranks, before the main one looks
        barrier(self._world)
        if not of_main(folder.names(not_after=last_good), self._world):
            return None
        back = folder.restore(self._task, not_after=last_good)
        back.leave_part()
        back.rollbacks = max(back.rollbacks, num_before) + 1
        if not self._updates.take_parts(back.epoch, back.parts, order=back.rollbacks):
            back.start_epoch()
        vars(progress).update(vars(back))
        place = folder.save(progress, self._task, is_best=False)
        folder.finish()
        folder.settle(progress)
        if self._world.is_main:
            folder.forget_after(progress.update)
        return place
