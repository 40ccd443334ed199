"""Executes a plan: micro-batches of row numbers to batches of waveforms, decoded ahead by threads.

A row that cannot be read is counted and named, and never stops a batch silently: see :class:`Loader`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from audio_ssl.config.augment import AugmentConfig
from audio_ssl.data.collate import Draft, Place, padded_width
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.plan import MicroBatch
from audio_ssl.data.rows import BadRow, BadRows, Crop, Reading, RowSettings, read_row, told_fault
from audio_ssl.data.threads import on_one_thread
from audio_ssl.errors import AudioSSLError, TrainingError
from audio_ssl.tensors import Batch

Engine = Literal["auto", "fairseq2", "threads"]
Reader = Callable[[Place], Reading]


class Loader:
    """Turns micro-batches of an epoch's entries into :class:`audio_ssl.tensors.Batch`, in order.

    An entry is row + copy * N: N rows are in the manifest, and copy counts a row's occurrences in the epoch from 0. So
    entries are row numbers where no row comes again.

    The batches are a pure function of the manifest, the settings, the epoch and the entries: neither the engine nor the
    number of workers changes a bit of them. A row that cannot be decoded, is too short or holds NaN is counted in
    :attr:`bad_rows` and named in the log once; the batch goes on without it. So is noise or an impulse response that
    cannot be read, and the next one takes its place. Where no row of a batch is left, the next readable row of the
    manifest takes the place (``replace``), so that every rank has its batch.

    Args:
        manifest: rows to read.
        sample_rate_hz: the model's rate.
        normalize: zero mean and unit variance a row, over its samples after the crop.
        max_samples: longer rows are cropped to this many samples at the model's rate; None keeps them whole.
        min_samples: rows shorter than this count as bad.
        crop: ``random``: drawn for (seed, epoch, row, copy); ``start``: from the row's start.
        seed: the run's seed.
        epoch: default for :meth:`batches`.
        engine: ``threads``, ``fairseq2`` (native pipeline) or ``auto``: fairseq2 where it imports.
        num_workers: reading threads; 0 reads in line.
        prefetch: micro-batches that are read ahead.
        max_bad_share: see :class:`audio_ssl.data.rows.BadRows`; ignored where ``bad_rows`` is given.
        replace: False for extraction: a batch with no readable row is left out.
        width_multiple: batches are padded to a multiple of this many samples. Kernels are prepared for each shape that
            comes up: few shapes make training on a CPU about twice as fast (``tools/bench.py widths``).
        usable_rows: rows that may stand in for others; None for all.
        bad_rows: a count to go on with; None starts one.
        augment: what to change in waveforms; None, for validation and extraction: nothing.
        min_row_samples: (N,) int64, the fewest samples that the labels of each row need. Where it is given, augmenting
            keeps rows whole: speed changes their length, up to ``max_samples``. None: rows keep the length that a plan
            was made from, and speed changes how much of them is read.

    Raises:
        ManifestError: the manifest's audio was moved, or a manifest to augment with cannot be used.
        ConfigError: ``augment`` asks for what cannot work with this model or manifest.
        MissingExtraError: ``engine="fairseq2"`` where it cannot be imported.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        sample_rate_hz: int,
        normalize: bool,
        max_samples: int | None = None,
        min_samples: int = 400,
        crop: Crop = "random",
        seed: int = 0,
        epoch: int = 0,
        engine: Engine = "auto",
        num_workers: int = 2,
        prefetch: int = 4,
        max_bad_share: float = 1.0,
        replace: bool = True,
        width_multiple: int = 1,
        usable_rows: Sequence[int] | np.ndarray | None = None,
        bad_rows: BadRows | None = None,
        augment: AugmentConfig | None = None,
        min_row_samples: NDArray[np.int64] | None = None,
    ) -> None:
        manifest.check_root()
        self.manifest = manifest
        self.settings = RowSettings(
            sample_rate_hz=sample_rate_hz,
            normalize=normalize,
            max_samples=max_samples,
            min_samples=min_samples,
            crop=crop,
            seed=seed,
        )
        self.epoch = epoch
        self.engine = resolve_engine(engine)
        self.num_workers = num_workers
        self.prefetch = max(1, prefetch)
        self.replace = replace
        self.width_multiple = width_multiple
        self.bad_rows = BadRows(max_share=max_bad_share) if bad_rows is None else bad_rows
        rows = np.arange(len(manifest)) if usable_rows is None else np.asarray(usable_rows)
        self._usable = rows if (rows[:-1] <= rows[1:]).all() else np.sort(rows)
        self._augmenter = None
        if augment is not None and augment.is_on:
            from audio_ssl.data.augment.augmenter import Augmenter

            self._augmenter = Augmenter(
                augment, manifest=manifest, usable_rows=self._usable, settings=self.settings,
                min_row_samples=min_row_samples,
            )  # fmt: skip

    def batches(self, micro_batches: Iterable[MicroBatch], *, epoch: int | None = None) -> Generator[Batch]:
        """Yield a batch for each micro-batch, in order; close the generator to end its threads early.

        Args:
            micro_batches: entries, as from ``plan``: ``[m for update in plan.updates for m in update]``.
            epoch: decides random crops and augmentation.

        Raises:
            TrainingError: more than ``max_bad_share`` of the rows were bad, or no row can be read at all.
            AudioSSLError: reading failed in a way that nobody foresaw; the message names the row and the place.
        """
        current = self.epoch if epoch is None else epoch

        def read(place: Place) -> Reading:
            entry, memory = place
            copy, row = self._copy_and_row(entry)
            try:
                return read_row(
                    self.manifest, row, settings=self.settings, epoch=current, copy=copy, augmenter=self._augmenter,
                    place=memory,
                )  # fmt: skip
            except AudioSSLError:
                raise
            except Exception as error:  # in a thread: without this nobody would know the row
                raise AudioSSLError(f"{self.manifest.describe(row)}: {told_fault(error)}") from error

        with closing(self._read_ahead(map(self._draft, micro_batches), read)) as ahead:
            for draft, readings in ahead:
                batch = self._assemble(draft, readings, read)
                if batch is not None:
                    yield batch

    def _draft(self, entries: MicroBatch) -> Draft:
        """Memory for a micro-batch; none where rows are not cropped: a manifest may say any length."""
        settings = self.settings
        if settings.max_samples is None or not entries:
            return Draft(entries, None)
        rows = (self._copy_and_row(entry)[1] for entry in entries)
        longest = max(self.manifest.length_of(row, settings.sample_rate_hz) for row in rows)
        width = padded_width(min(longest, settings.max_samples), self.width_multiple)
        return Draft(entries, torch.empty(len(entries), width))

    def _read_ahead(self, drafts: Iterable[Draft], read: Reader) -> Generator[tuple[Draft, list[Reading]]]:
        if self.num_workers == 0:
            return _in_line(drafts, read)
        read = on_one_thread(read)
        if self.engine == "fairseq2":
            from audio_ssl.data.engine_fairseq2 import read_with_fairseq2

            return read_with_fairseq2(drafts, read, num_workers=self.num_workers, prefetch=self.prefetch)
        return _with_threads(drafts, read, num_workers=self.num_workers, prefetch=self.prefetch)

    def _copy_and_row(self, entry: int) -> tuple[int, int]:
        return divmod(entry, max(1, len(self.manifest)))

    def _assemble(self, draft: Draft, readings: list[Reading], read: Reader) -> Batch | None:
        """Count the bad rows, replace where none is left, and pad; None where the batch is left out."""
        kept: list[tuple[int, np.ndarray]] = []
        for entry, reading in zip(draft.entries, readings, strict=True):
            _, row = self._copy_and_row(entry)
            waveform = self._counted(row, reading)
            if waveform is not None:
                kept.append((row, waveform))
        if not kept and not self.replace:
            return None
        kept = kept or [self._stand_in(draft.entries[0] if draft.entries else 0, read)]
        return draft.batch(kept, width_multiple=self.width_multiple)

    def _counted(self, row: int, reading: Reading) -> np.ndarray | None:
        """The waveform, where there is one, after the row and its helpers were counted."""
        for name, reason in reading.bad_helpers:
            self.bad_rows.add(name, reason)
        for _ in range(reading.num_helpers):
            self.bad_rows.good()
        if isinstance(reading.waveform, BadRow):
            self.bad_rows.add(self.manifest.describe(row), reading.waveform.reason)
            return None
        self.bad_rows.good()
        return reading.waveform

    def _stand_in(self, entry: int, read: Reader) -> tuple[int, np.ndarray]:
        """The next readable row after that of ``entry`` among the usable ones, from the start again after the last."""
        _, row = self._copy_and_row(entry)
        first = int(np.searchsorted(self._usable, row, side="right"))
        for step in range(len(self._usable)):
            candidate = int(self._usable[(first + step) % len(self._usable)])
            if candidate == row:
                continue
            waveform = self._counted(candidate, read((entry - row + candidate, None)))  # the same copy of another row
            if waveform is not None:
                return candidate, waveform
        raise TrainingError(f"at least one row must be readable, but none is:\n{self.bad_rows.summary()}")


def resolve_engine(engine: Engine) -> Literal["fairseq2", "threads"]:
    """``auto`` to the engine that it means here.

    Raises:
        MissingExtraError: fairseq2 is asked for and cannot be imported.
    """
    if engine == "threads":
        return "threads"
    from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable, require_fairseq2

    if engine == "fairseq2":
        require_fairseq2()
        return "fairseq2"
    return "fairseq2" if fairseq2_unavailable() is None else "threads"


def _in_line(drafts: Iterable[Draft], read: Reader) -> Generator[tuple[Draft, list[Reading]]]:
    for draft in drafts:
        yield draft, [read(place) for place in draft.places]


def _with_threads(
    drafts: Iterable[Draft], read: Reader, *, num_workers: int, prefetch: int
) -> Generator[tuple[Draft, list[Reading]]]:
    """Read at most ``prefetch`` micro-batches ahead; the threads end with the generator."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="audio_ssl-loader")
    waiting: deque[tuple[Draft, list[Future[list[Reading]]]]] = deque()

    def read_all(task: Sequence[Place]) -> list[Reading]:
        return [read(place) for place in task]

    try:
        for draft in drafts:
            waiting.append((draft, [pool.submit(read_all, task) for task in draft.tasks(2 * num_workers)]))
            if len(waiting) > prefetch:
                yield _collected(*waiting.popleft())
        while waiting:
            yield _collected(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collected(draft: Draft, futures: list[Future[list[Reading]]]) -> tuple[Draft, list[Reading]]:
    return draft, [reading for future in futures for reading in future.result()]
