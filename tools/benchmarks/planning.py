"""What a manifest of millions of rows costs before the first batch: opening, planning an epoch, resuming inside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audio_ssl.config import DataConfig
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.manifest_io import stored_root
from audio_ssl.data.table import METADATA_ROOT, METADATA_VERSION, PLAIN_SCHEMA, PLAIN_VERSION
from audio_ssl.rng import numpy_generator
from audio_ssl.train.datasets import open_training_data
from audio_ssl.train.distributed import World
from audio_ssl.train.updates import Updates, open_updates
from benchmarks.cases import CPU
from benchmarks.measure import Spread
from benchmarks.memory import BENCH, mib_of
from benchmarks.report import BenchError, Row, note

RATE = 16000
ROWS_A_PIECE = 250_000
BATCH_S = 120.0
UNITS = {"open_s": "s", "epoch_plan_s": "s", "first_batch_s": "s", "rss_mib": "MiB", "resume_ratio": "ratio"}
UNITS |= {"padding_share": "share", "hours": "h"}


def run(*, num_rows: int, repeats: int) -> list[Row]:
    """Rows of ``plan``, each of a process of its own with nothing else in it.

    - ``open_s``: the manifest is open, and its length is known;
    - ``epoch_plan_s``: the plan of an epoch, on one rank, at 120 s a batch;
    - ``first_batch_s``: from the start of opening to the row numbers of the first batch, choice of rows and name of the
      plan included;
    - ``resume_ratio``: the same for the first batch after half of the epoch, over that;
    - ``rss_mib``: the most memory that the process had, with the manifest open in the loader;
    - ``padding_share`` of the epoch, and ``hours`` of audio in the manifest.
    """
    with TemporaryDirectory(prefix="bench-plan-") as folder:
        path = Path(folder) / "large.arrow"
        note(f"writing a manifest of {num_rows:,} rows")
        write_synthetic(path, num_rows)
        measured = [_child(path) for _ in range(repeats)]
    place = f"{num_rows:,} rows"
    return [
        Row.of(("plan", place, metric), Spread.of(figures[metric] for figures in measured), unit)
        for metric, unit in UNITS.items()
    ]


def write_synthetic(path: Path, num_rows: int) -> None:
    """An Arrow manifest with lengths as in read speech (9 s on average, 1 to 20 s), written piece by piece."""
    metadata = {METADATA_VERSION: str(PLAIN_VERSION).encode(), METADATA_ROOT: stored_root(path.parent, path).encode()}
    schema = PLAIN_SCHEMA.with_metadata(metadata)
    generator = numpy_generator(1, "bench", num_rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for first in range(0, num_rows, ROWS_A_PIECE):
            count = min(ROWS_A_PIECE, num_rows - first)
            writer.write_batch(_piece(first, count, generator))


def _piece(first: int, count: int, generator: np.random.Generator) -> pa.RecordBatch:
    numbers = pc.cast(pa.array(np.arange(first, first + count)), pa.string())
    lengths = np.clip(generator.gamma(2.2, 4.1, count), 1, 20) * RATE
    values = {
        "id": pc.binary_join_element_wise("utterance", numbers, "-"),
        "path": pc.binary_join_element_wise("audio", pc.binary_join_element_wise(numbers, "flac", "."), "/"),
        "start": pa.array(np.zeros(count, dtype=np.int64)),
        "num_samples": pa.array(lengths.astype(np.int64)),
        "sample_rate": pa.array(np.full(count, RATE, dtype=np.int32)),
    }
    columns = [values.get(field.name, pa.nulls(count, field.type)) for field in PLAIN_SCHEMA]
    return pa.record_batch(columns, schema=PLAIN_SCHEMA)


def _child(path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(BENCH), "--plan-child", str(path)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"the process that plans ended with status {done.returncode}; see above")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(path: Path) -> dict[str, float]:
    """The figures of one opening; run this in a process of its own."""
    started = time.perf_counter()
    num_rows = len(Manifest.read(path))
    open_s = time.perf_counter() - started
    assert num_rows
    first = _Start.at(path, 0.0)
    started = time.perf_counter()
    plan = first.updates.plan(1)
    epoch_plan_s = time.perf_counter() - started
    figures = {
        "open_s": open_s,
        "epoch_plan_s": epoch_plan_s,
        "first_batch_s": first.seconds,
        "rss_mib": mib_of("VmHWM"),
        "padding_share": plan.padding_share,
        "hours": plan.num_samples / RATE / 3600,
    }
    del plan
    return {**figures, "resume_ratio": _Start.at(path, 0.5).seconds / first.seconds}


@dataclass(frozen=True)
class _Start:
    """What a run does before its first batch is read, and how long it took."""

    seconds: float
    updates: Updates

    @classmethod
    def at(cls, path: Path, share: float) -> _Start:
        """From a manifest's path to row numbers, ``share`` of the epoch being done."""
        started = time.perf_counter()
        config = DataConfig(train=(path,), batch_s=BATCH_S, micro_batch_s=BATCH_S)
        data = open_training_data(
            config.train, config, sample_rate_hz=RATE, normalize=True, min_samples=400, seed=1, is_train=True
        )
        updates = open_updates(data, config, seed=1, world=World(0, 1, CPU))
        assert updates.fingerprint
        plan = updates.plan(0)
        assert next(plan.from_update(round(share * len(plan))))
        return cls(time.perf_counter() - started, updates)
