"""What a run folder says of itself, read without its model; a file that is half written or gone is a note, no error."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from audio_ssl.errors import CheckpointError

METRICS_FILE, CONFIG_FILE, EVENTS_FILE = "metrics.jsonl", "config.toml", "events.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that the folder keeps.

    Attributes:
        name: of its folder.
        num_bytes: of its files.
        is_best: by the validation figure.
        is_newest: what a resumed run starts from.
    """

    name: str
    num_bytes: int
    is_best: bool
    is_newest: bool


@dataclass(frozen=True)
class RunFolder:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        config: the run's settings; empty where they cannot be read.
        rows: of ``metrics.jsonl``, in order.
        events: starts, warnings and ends, in order.
        checkpoints: oldest first.
        written: when a figure was last written, None without any.
        notes: what is missing or cannot be read, for people.
    """

    path: Path
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    checkpoints: Sequence[Checkpoint]
    written: datetime | None
    notes: Sequence[str]

    @property
    def is_pretraining(self) -> bool:
        """Whether the run learns from raw speech; else it trains a recogniser."""
        return "objective" in self.config or any("contrastive_loss" in row for row in self.rows)

    def of(self, split: str) -> list[Mapping[str, Any]]:
        """Rows of ``train`` or ``valid``."""
        return [row for row in self.rows if row.get("split") == split]

    @property
    def update(self) -> int:
        """The last update with figures."""
        return max((row["update"] for row in self.rows), default=0)

    @property
    def num_updates(self) -> int | None:
        """Updates that are planned."""
        value = _section(self.config, "run").get("num_updates")
        return value if isinstance(value, int) else None

    @property
    def state(self) -> str:
        """How the run stands, in a few words."""
        told = [event for event in self.events if event["event"] in ("start", "end")]
        last = told[-1] if told else {}
        if last.get("event") == "end":
            message = f": {last.get('message')}" if last.get("message") else ""
            return f"{last.get('how')}{message}"
        if self.num_updates is not None and self.update >= self.num_updates:
            return "done"
        return "going on, or killed: it has not said that it ended"


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        CheckpointError: it is none: there is no such folder, or it holds neither figures nor settings of a run.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} must be the folder of a run (run.dir), but there is no such folder")
    notes: list[str] = []
    config = _read_config(path / CONFIG_FILE, notes)
    if not (path / METRICS_FILE).is_file() and "run" not in config:
        hint = "; it is a model: give the folder of the run that made it" if "model" in config else ""
        raise CheckpointError(
            f"{path} must be the folder of a run (run.dir), which holds {METRICS_FILE} and the run's {CONFIG_FILE}, "
            f"but these are not in it{hint}"
        )
    rows = _read_rows(path / METRICS_FILE, ("update", "split"), notes)
    if not rows:
        notes.append(f"{METRICS_FILE} holds no figures yet: the curves are empty")
    events = _read_rows(path / EVENTS_FILE, ("update", "event", "time"), notes)
    if not events:
        notes.append(f"there is no {EVENTS_FILE}: surroundings, warnings and the run's end are not known")
    metrics = path / METRICS_FILE
    written = datetime.fromtimestamp(metrics.stat().st_mtime, UTC) if metrics.is_file() else None
    return RunFolder(path, config, rows, events, _checkpoints(path / "checkpoints"), written, tuple(notes))


def _read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        notes.append(f"the settings cannot be read: {error}")
        return {}


def _read_rows(path: Path, needed: Sequence[str], notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file that have what is needed; others are counted."""
    if not path.is_file():
        return []
    rows, num_bad = [], 0
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return []
    for line in filter(None, text.split("\n")):
        try:
            row = json.loads(line)
        except ValueError:
            num_bad += 1
            continue
        if isinstance(row, dict) and all(name in row for name in needed) and type(row["update"]) is int:
            rows.append(row)
        else:
            num_bad += 1
    if num_bad:
        notes.append(f"{path.name}: {num_bad} line{'s' * (num_bad > 1)} cannot be read and {_is_are(num_bad)} left out")
    return rows


def _checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    best = _pointed(folder / "best.json")
    places = sorted(place for place in folder.glob("step_*") if place.is_dir())
    return tuple(
        Checkpoint(place.name, _size(place), is_best=place.name == best, is_newest=place == places[-1])
        for place in places
    )


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # a running run has just removed it
            continue
    return total


def _pointed(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _is_are(count: int) -> str:
    return "are" if count > 1 else "is"
