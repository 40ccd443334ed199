"""The ``checkpoints/`` of a run: written whole and aside from training, checked when read, pruned by rule.

The training thread only copies tensors into host memory; a thread writes them beside their place, with a list of
checksums that ``sha256sum -c SHA256SUMS`` reads, and moves them there. So the newest folder is whole at any moment.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from audio_ssl.checkpoint import (
    draft_of,
    load_strict,
    load_tensors,
    read_document,
    remove_whole,
    replaced_directory,
    save_model,
    write_json,
)
from audio_ssl.config import RunConfig
from audio_ssl.config.text import with_text_rules
from audio_ssl.errors import CheckpointError
from audio_ssl.train.distributed import World, is_sharded, of_main
from audio_ssl.train.guard import require_disk_space
from audio_ssl.train.sharded_state import like, load_state, new_stager, save_state, whole
from audio_ssl.train.state import Progress, Resumable, empty_state, load_state_tensors, state_tensors

logger = logging.getLogger(__name__)
STEP_NAME = "step_{:08d}"
CHECKSUMS = "SHA256SUMS"
_DRAFT = "run"  # of the draft's name: the run folder's lock makes it the only one


class CheckpointFolder:
    """A run's checkpoints; of them the last ``run.keep_last``, the best and every ``run.keep_every`` updates are kept.

    Every rank has one, and every rank calls :meth:`save`, :meth:`restore` and :meth:`finish`: the main rank writes
    what all have, each rank writes its share of what is sharded.

    Args:
        run: where, and what to keep.
        world: this rank and its peers.
    """

    def __init__(self, run: RunConfig, world: World) -> None:
        self.folder = run.dir / "checkpoints"
        self._run, self._world = run, world
        self._stage = new_stager(world.device)
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def names(self, *, not_after: int | None = None) -> list[str]:
        """Names of the checkpoints, oldest first; of those at or before an update where one is given."""
        names = sorted(p.name for p in self.folder.glob("step_*") if p.is_dir())
        return names if not_after is None else [name for name in names if name <= STEP_NAME.format(not_after)]

    def forget_after(self, update: int) -> None:
        """Remove the checkpoints after ``update``: the run went back to it."""
        for name in self.names()[len(self.names(not_after=update)) :]:
            remove_whole(self.folder / name)

    def save(self, progress: Progress, task: Resumable, *, is_best: bool) -> Path:
        """Copy everything and begin to write it; waits only for the checkpoint before.

        Raises:
            CheckpointError: the one before could not be written; earlier ones are intact.
        """
        self.finish()
        place = self.folder / STEP_NAME.format(progress.update)
        if not (self._world.is_main or is_sharded(task.module)):
            return place  # the main rank has all that this one has
        weights, state = whole(task.module.state_dict(), self._world), state_tensors(task)
        staged = self._stage({**{f"model/{k}": v for k, v in weights.items()}, **state})
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = self._writer.submit(
            self._write, place, staged, asdict(progress), task.document, is_best=is_best
        )
        return place

    def raise_fault(self) -> None:
        """Raise what a writing that has ended by itself met, so that a run learns of it at once.

        Raises:
            CheckpointError: the last checkpoint could not be written; earlier ones are intact.
        """
        if self._writing is not None and self._writing.done():
            self.finish()

    def finish(self) -> None:
        """Wait until the checkpoint in hand is written.

        Raises:
            CheckpointError: it could not be; earlier ones are intact.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Wait for the thread, whatever became of its work: for the end of a run that ends in error."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)

    def restore(self, task: Resumable, *, not_after: int | None = None) -> Progress:
        """Load the newest whole checkpoint, of those at or before an update where one is given.

        A damaged one is named and the one before is used.

        Raises:
            CheckpointError: none is whole, or the newest belongs to another model.
        """
        name, faults = of_main(self._newest_whole(not_after) if self._world.is_main else None, self._world)
        if name is None:
            raise CheckpointError("no checkpoint of this run can be read:\n" + "\n".join(f"  - {f}" for f in faults))
        place = self.folder / name
        _refuse_another_model(read_document(place), task.document, place)
        _load_weights(task.module, load_tensors(place / "model.safetensors"), place)
        load_state_tensors(task, load_state(place / "state" / "tensors", empty_state(task)))
        return _read_progress(place)

    def best(self) -> Path | None:
        """The best checkpoint, else the newest, else None."""
        names = self.names()
        try:
            name = json.loads((self.folder / "best.json").read_text(encoding="utf-8"))["name"]
        except (OSError, ValueError, KeyError, TypeError):
            name = None  # no validation yet, or half of a dead run
        if name in names:
            return self.folder / str(name)
        return self.folder / names[-1] if names else None

    def best_whole(self) -> Path | None:
        """The best checkpoint; where that is damaged the newest whole one, and the log says so; None: there is none."""
        best = self.best()
        if best is None:
            return None
        try:
            verify(best)
        except CheckpointError as error:
            name, _ = self._newest_whole(None)
            logger.warning("the best checkpoint %s is damaged (%s); the newest whole one stands in", best, error)
            return None if name is None else self.folder / name
        return best

    def settle(self, progress: Progress) -> None:
        """Point at the checkpoint that a run goes on from, and prune, as whoever wrote it was about to do when killed.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        if not self._world.is_main:
            return
        name, best = STEP_NAME.format(progress.update), STEP_NAME.format(progress.best_update or 0)
        if (self.folder / best).is_dir():
            self._point("best.json", best, update=progress.best_update, metric=progress.best)
        self._point("latest.json", name, update=progress.update, metric=progress.best)
        self._prune(newest=name)

    def _newest_whole(self, not_after: int | None) -> tuple[str | None, list[str]]:
        """The newest checkpoint without a fault, and the faults of those after it."""
        faults = []
        for name in reversed(self.names(not_after=not_after)):
            place = self.folder / name
            try:
                verify(place)
                _read_progress(place)
            except CheckpointError as error:
                faults.append(f"{place}: {error}")
                logger.warning("checkpoint %s is damaged and passed over: %s", place, error)
                continue
            return name, faults
        return None, faults

    def _write(
        self,
        place: Path,
        staged: Mapping[str, Tensor],
        record: Mapping[str, Any],
        document: Mapping[str, Any],
        *,
        is_best: bool,
    ) -> None:
        """The thread's work; ``staged`` is host memory that nobody else touches until it is done."""
        weights = {k.removeprefix("model/"): v for k, v in staged.items() if k.startswith("model/")}
        state = {k: v for k, v in staged.items() if not k.startswith("model/")}
        if not self._world.is_main:
            self._write_share(draft_of(place, _DRAFT), state)
            return
        with replaced_directory(place, owner=_DRAFT) as draft:
            require_disk_space(self.folder.parent, sum(t.nbytes for t in staged.values()))
            save_model(draft, document=document, tensors=weights)
            (draft / "state" / "tensors").mkdir(parents=True, exist_ok=True)
            save_state(draft / "state" / "tensors", state, self._world)
            write_json(draft / "state" / "progress.json", record)
            write_checksums(draft)
        for file in ("best.json", "latest.json") if is_best else ("latest.json",):
            self._point(file, place.name, update=record["update"], metric=record["best"])
        self._prune(newest=place.name)

    def _write_share(self, draft: Path, state: Mapping[str, Tensor]) -> None:
        try:
            save_state(draft / "state" / "tensors", state, self._world)
        except OSError as error:
            raise CheckpointError(f"{draft} must be writable with room to spare: {error}") from error

    def _point(self, file: str, name: str, *, update: int | None, metric: float | None) -> None:
        try:
            write_json(self.folder / file, {"name": name, "update": update, "metric": metric})
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} must be writable with room to spare: {error}. Its checkpoints are intact; free space, "
                "then start again with --resume auto"
            ) from error

    def _prune(self, *, newest: str) -> None:
        best, every = self.best(), self._run.keep_every
        # Later ones were passed over as damaged when this run resumed before them: they do not count.
        for name in [n for n in self.names() if n <= newest][: -self._run.keep_last]:
            is_kept = every is not None and update_of(name) % every == 0
            if not is_kept and (best is None or name != best.name):
                remove_whole(self.folder / name)


def update_of(name: str) -> int:
    """Updates done in the checkpoint of this name."""
    return int(name.removeprefix("step_"))


def write_checksums(directory: Path) -> None:
    """List the SHA-256 of every file of ``directory`` as ``sha256sum`` does."""
    lines = [f"{_sha256(path)}  {path.relative_to(directory).as_posix()}\n" for path in _files(directory)]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def verify(directory: Path) -> None:
    """Compare every file of a checkpoint with its checksum.

    Raises:
        CheckpointError: naming the files that are damaged, missing or not of the checkpoint.
    """
    try:
        lines = (directory / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {p.relative_to(directory).as_posix(): _sha256(p) for p in _files(directory)}
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"its files and {CHECKSUMS} must be readable: {error}") from error
    faults = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"{name} is not of this checkpoint" for name in sorted(found.keys() - wanted.keys())]
    faults += [f"{name} is damaged" for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]]
    if faults or not wanted:
        raise CheckpointError("; ".join(faults) or f"{CHECKSUMS} is empty")


def _files(directory: Path) -> Sequence[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != CHECKSUMS)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_progress(place: Path) -> Progress:
    path = place / "state" / "progress.json"
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} must be the progress of a run of this version: {error}") from error


def _load_weights(module: nn.Module, tensors: Mapping[str, Tensor], place: Path) -> None:
    own = module.state_dict()
    load_strict(module, {k: like(own[k], v) if k in own else v for k, v in tensors.items()}, source=place)


def _refuse_another_model(found: Mapping[str, Any], wanted: Mapping[str, Any], place: Path) -> None:
    """Refuse to resume into another shape; dotted names of what differs."""
    differing: list[str] = []

    def compare(a: Any, b: Any, name: str) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in sorted(a.keys() | b.keys()):
                compare(a.get(key), b.get(key), f"{name}.{key}" if name else key)
        elif _plain(a) != _plain(b):
            differing.append(f"{name} (checkpoint: {a!r:.200}, now: {b!r:.200})")

    found = {k: v for k, v in found.items() if k != "format_version"}
    if "ctc" in found:
        found["ctc"] = with_text_rules(found["ctc"])
    compare(found, dict(wanted), "")
    if differing:
        raise CheckpointError(
            f"{place} can be resumed only with the settings it was made with; these differ: {'; '.join(differing)}. "
            "Give the old settings back, or start a new run.dir with --init-from"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
