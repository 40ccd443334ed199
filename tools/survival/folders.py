"""Run folders: is every file whole, is nothing left behind, and do two runs agree to the last bit?

Figures that are measured (speeds, times, memory) and the process's own number are all that may differ.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MEASURED = re.compile(r"_per_s$|update_s$|checkpoint_s$|time|wait|memory|_[mg]i?b$")
DRAFT = re.compile(r"^\.step_.*\.tmp$")


def drafts(run_dir: Path) -> dict[Path, int]:
    """Checkpoints that are being written, or were when their process died, and when something last came into each."""
    found = {}
    with suppress(OSError):  # one that is done meanwhile
        for path in (run_dir / "checkpoints").iterdir():
            if DRAFT.match(path.name):
                found[path] = path.stat().st_mtime_ns
    return found


def checkpoints(run_dir: Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    return sorted(path.name for path in (run_dir / "checkpoints").glob("step_*"))


def half_written(run_dir: Path, whole: Path) -> list[str]:
    """Faults of the files under final names, at any moment of a run.

    Args:
        run_dir: of a run that was killed.
        whole: an uninterrupted run of the same settings that kept every checkpoint; each one present must equal its.
    """
    faults = []
    for name in checkpoints(run_dir):
        faults += different_trees(run_dir / "checkpoints" / name, whole / "checkpoints" / name)
    for pointer in ("latest.json", "best.json"):
        path = run_dir / "checkpoints" / pointer
        if path.is_file() and _json(path).get("name") not in checkpoints(run_dir):
            faults.append(f"{pointer} names no checkpoint that is there: {path.read_text(encoding='utf-8')!r}")
    if (run_dir / "config.toml").is_file():
        faults += _different_settings(run_dir, whole)
    if (run_dir / "metrics.jsonl").is_file():
        lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
        faults += [f"metrics.jsonl ends within a line: {lines[-1]!r}"] if lines[-1] else []
    return faults


def left_behind(run_dir: Path, whole: Path) -> list[str]:
    """Files that an uninterrupted run does not leave, checkpoints apart."""
    return sorted(_files(run_dir) - _files(whole))


def different_runs(run_dir: Path, whole: Path, *, keep_last: int) -> list[str]:
    """What differs between a run that is done and an uninterrupted one.

    Args:
        run_dir: the run, which keeps the newest ``keep_last`` checkpoints and the best.
        whole: kept every checkpoint.
        keep_last: of ``run_dir``.
    """
    best = _json(whole / "checkpoints" / "best.json").get("name")
    kept = sorted({*checkpoints(whole)[-keep_last:], *([best] if best else [])})
    faults = [] if checkpoints(run_dir) == kept else [f"checkpoints are {checkpoints(run_dir)}, not {kept}"]
    faults += [f"missing: {name}" for name in sorted(_files(whole) - _files(run_dir))]
    faults += half_written(run_dir, whole)
    faults += different_trees(run_dir / "model", whole / "model")
    for pointer in ("latest.json", "best.json"):
        faults += different_trees(run_dir / "checkpoints" / pointer, whole / "checkpoints" / pointer)
    ours, theirs = rows(run_dir), rows(whole)
    if ours != theirs:
        first = next((b for a, b in zip(ours, theirs, strict=False) if a != b), None)
        faults.append(f"metrics.jsonl: {len(ours)} rows, not {len(theirs)}; the first that differs should be {first}")
    return faults


def rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what is measured."""
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [row for row in map(json.loads, lines) if "data_wait" not in row.values()]  # a guard's, of measured times
    return [_computed(row) for row in found]


def different_trees(ours: Path, theirs: Path) -> list[str]:
    """Files that differ between two folders, or two files: JSON but for what is measured, all else byte for byte."""
    if not theirs.exists() or not ours.exists():
        return [] if theirs.exists() == ours.exists() else [f"{ours} is there, or should be: {theirs} is the other way"]
    if theirs.is_file():
        is_json = theirs.suffix == ".json"
        is_same = _json(ours) == _json(theirs) if is_json else ours.read_bytes() == theirs.read_bytes()
        return [] if is_same else [f"{ours} differs"]
    names = {path.name for folder in (ours, theirs) for path in folder.iterdir()}
    return [fault for name in sorted(names) for fault in different_trees(ours / name, theirs / name)]


def _files(run_dir: Path) -> set[str]:
    """Of a run: every path in it but those inside of checkpoints."""
    paths = (path.relative_to(run_dir) for path in run_dir.rglob("*"))
    return {str(path) for path in paths if not any(part.startswith("step_") for part in path.parts)}


def _different_settings(run_dir: Path, whole: Path) -> list[str]:
    try:
        ours, theirs = (tomllib.loads((x / "config.toml").read_text(encoding="utf-8")) for x in (run_dir, whole))
    except ValueError as error:
        return [f"config.toml of the run is not whole: {error}"]
    for document in (ours, theirs):
        run = document.get("run", {})
        document["run"] = {k: v for k, v in run.items() if k not in ("dir", "keep_last")}
    return [] if ours == theirs else ["config.toml of the run differs"]


def _json(path: Path) -> dict[str, Any]:
    try:
        return _computed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        return {"error": str(error)}


def _computed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not MEASURED.search(name)}
