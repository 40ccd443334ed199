"""Results on disk, each found again by what it was computed from, so that a probe that was killed goes on."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import ProbeTask
from audio_ssl.inference.output import write_text
from audio_ssl.probe.items import Fold, Items
from audio_ssl.probe.scores import Result, Score

SCHEMA, SCHEMA_VERSION = "audio_ssl.probe_step", 1
_TELLING = (
    "document.py",
    "page.py",
    "tables.py",
    "outcome.py",
    "looks.py",
    "heard.py",
    "doubts.py",
    "lending.py",
    "online.py",
    "held_frames.py",
    "code_labels.py",
)  # modules that no figure depends on


@dataclass(frozen=True)
class Step:
    """A piece of work that is done or not.

    Attributes:
        results: in the order of the runner.
        seconds: that it took.
    """

    results: tuple[Result, ...]
    seconds: float


class Store:
    """A folder of finished steps.

    Args:
        folder: made when something is put into it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str, digest: str) -> Step | None:
        """The step, or None where it is not done: no file of it, or one that cannot be read."""
        try:
            document: dict[str, Any] = json.loads(self._path(name, digest).read_text(encoding="utf-8"))
            if (document["schema"], document["schema_version"]) != (SCHEMA, SCHEMA_VERSION):
                return None
            return Step(tuple(map(_result_of, document["results"])), document["seconds"])
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            return None

    def put(self, name: str, digest: str, step: Step) -> None:
        """Keep a step, whole or not at all.

        Raises:
            ConfigError: the folder cannot be written.
        """
        document = {
            "schema": SCHEMA, "schema_version": SCHEMA_VERSION, "name": name, "digest": digest,
            "seconds": step.seconds, "results": [_record(result) for result in step.results],
        }  # fmt: skip
        write_text(self._path(name, digest), json.dumps(document, ensure_ascii=False) + "\n")

    def _path(self, name: str, digest: str) -> Path:
        return self._folder / f"{slug(name)}.{digest}.json"


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("._")[:120] or "unnamed"


def digest_of(*parts: object) -> str:
    """16 hex digits that name values which JSON can hold."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def task_digest(task: ProbeTask, items: Items, folds: Sequence[Fold]) -> str:
    """Names a task as it is measured: every label, who is in which part, and the settings that a runner reads."""
    settings = task.model_dump(mode="json", include={"kind", "training", "across", "clusters", "trials"})
    trials = "" if task.trials is None else Path(task.trials).read_text(encoding="utf-8")
    columns = [items.manifest.column(name) for name in ("id", "num_samples", "sample_rate")]
    segments = [[(s.start_s, s.end_s, s.label) for s in own] for own in items.segments]
    parts = [(fold.name, *(rows.tolist() for rows in (fold.train, fold.valid, fold.test))) for fold in folds]
    return digest_of(
        settings, trials, columns, items.labels, items.speakers, items.languages, segments, parts, source_digest()
    )  # fmt: skip


@cache
def source_digest() -> str:
    """Names the code of this room that figures depend on: nobody has to remember to raise a number."""
    folder = resources.files("audio_ssl.probe")
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py") and file.name not in _TELLING:
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _record(result: Result) -> dict[str, Any]:
    return {
        "head": result.head, "score": _score_record(result.score),
        "others": {name: _score_record(score) for name, score in result.others.items()},
        "layer_weights": None if result.layer_weights is None else list(result.layer_weights), "layer": result.layer,
        "notes": list(result.notes),
    }  # fmt: skip


def _score_record(score: Score) -> dict[str, Any]:
    return {
        "metric": score.metric, "value": score.value, "resamples": _packed(score.resamples),
        "num_blocks": score.num_blocks, "of_seed": {str(seed): value for seed, value in score.of_seed.items()},
        "higher_is_better": score.higher_is_better, "of_block": dict(score.of_block),
    }  # fmt: skip


def _result_of(record: Mapping[str, Any]) -> Result:
    weights = record["layer_weights"]
    others = {name: _score_of(score) for name, score in record["others"].items()}
    return Result(
        record["head"], _score_of(record["score"]), others, None if weights is None else tuple(weights),
        record["layer"], tuple(record["notes"]),
    )  # fmt: skip


def _score_of(record: Mapping[str, Any]) -> Score:
    return Score(
        record["metric"], record["value"], _unpacked(record["resamples"]), record["num_blocks"],
        {int(seed): value for seed, value in record["of_seed"].items()}, record["higher_is_better"],
        record["of_block"],
    )  # fmt: skip


def _packed(values: NDArray[np.float64]) -> str:
    """To the last bit: a difference of pairs is taken after a restart, too."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype="<f8").tobytes())).decode("ascii")


def _unpacked(text: str) -> NDArray[np.float64]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<f8").astype(np.float64)
