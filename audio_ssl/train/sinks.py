"""Where a run's figures go: ``metrics.jsonl`` always, TensorBoard and Weights & Biases when asked.

What people see of them while the run goes on is in :mod:`audio_ssl.train.terminal`.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from audio_ssl.checkpoint import write_text
from audio_ssl.errors import MissingExtraError

SAMPLES = "samples"  # of hypotheses in a row of validation: texts, not figures


class Sink(Protocol):
    """Takes one row of figures."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take a row: ``update``, ``split`` and figures."""

    def close(self) -> None:
        """Flush and let go."""


class JsonLines:
    """``metrics.jsonl``: one object a line, flushed at once, so that a killed run keeps what it logged.

    Args:
        path: the file.
        keep_until: rows after this update are of a continuation that was lost, and are dropped on opening.
        owes_validation: that of this update is still to come: a row of it was lost, too.
        probed: update of the last probe that the run knows of: a later one will be made again.
    """

    def __init__(
        self, path: Path, *, keep_until: int, owes_validation: bool = False, probed: float = math.inf
    ) -> None:  # fmt: skip
        self._path = path
        self._file = _opened(path, keep_until=keep_until, owes_validation=owes_validation, probed=probed)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row without its texts; a figure that is not finite is written as null (JSON knows no NaN).

        Where a guard took the run back, rows after that update are dropped first, as on opening.
        """
        if row.get("action") == "rollback":
            self.close()
            self._file = _opened(self._path, keep_until=row["update"])
        figures = {k: v for k, v in row.items() if k != SAMPLES}
        safe = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in figures.items()}
        self._file.write(json.dumps(safe) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard under the run folder; those after ``keep_until`` are of a lost continuation.

    Raises:
        MissingExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, keep_until: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "run.tensorboard=true needs tensorboard: pip install 'audio_ssl[track]', or set it to false"
            ) from error
        self._writer: Any = SummaryWriter(str(folder), purge_step=keep_until + 1)  # type: ignore[no-untyped-call]

    def write(self, row: Mapping[str, Any]) -> None:
        """Write each figure as ``split/name``, and sample hypotheses as texts."""
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["update"])
        for sample in row.get(SAMPLES, ()):
            said = f"{sample['id']}, CER {sample['cer']:.1%}\n\n    {sample['reference']}\n    {sample['hypothesis']}"
            for which in sample["which"].split(" and "):
                self._writer.add_text(f"{row['split']}/{which}", said, row["update"])

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases; credentials come from its own ways.

    Raises:
        MissingExtraError: wandb is not installed.
    """

    def __init__(self, project: str, *, run_dir: Path, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError(
                "run.wandb_project needs wandb: pip install 'audio_ssl[track]', or leave it out"
            ) from error
        name_file = run_dir / "wandb_run"  # so that a resumed run goes on in its own record
        if not name_file.is_file():
            name_file.write_text(secrets.token_hex(4), encoding="utf-8")
        self._run: Any = wandb.init(
            project=project, dir=str(run_dir), config=dict(config), id=name_file.read_text(encoding="utf-8"),
            resume="allow",
        )  # fmt: skip

    def write(self, row: Mapping[str, Any]) -> None:
        """Log each figure as ``split/name``."""
        self._run.log(scalars(row), step=row["update"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row as ``split/name``: every number but its place."""
    return {
        f"{row['split']}/{name}": value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "update"
    }


def _opened(
    path: Path, *, keep_until: int, owes_validation: bool = False, probed: float = math.inf
) -> TextIO:  # fmt: skip
    last = (keep_until, not owes_validation)
    kept = [line for line in _lines(path) if _place_of(line, probed) <= last]
    write_text(path, "".join(f"{line}\n" for line in kept))
    return path.open("a", encoding="utf-8")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line] if path.is_file() else []


def _place_of(line: str, probed: float) -> tuple[float, bool]:
    """Update, and whether the row is of its validation, which comes after the others; no place for a lost probe."""
    try:
        row = json.loads(line)
        if row.get("split") == "probe" and row["update"] > probed:
            return math.inf, True
        return int(row["update"]), row.get("split") == "valid"
    except (ValueError, KeyError, TypeError, AttributeError):
        return math.inf, True  # a line cut off by a kill
