"""Where a run's figures go: ``metrics.jsonl`` always, the terminal, TensorBoard and Weights & Biases when asked."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from audio_ssl.errors import MissingExtraError

HEADLINE = (
    # metric, label, format
    ("loss", "loss", "{:.3f}"),
    ("contrastive_loss", "contrastive", "{:.3f}"),
    ("accuracy", "acc", "{:.1%}"),
    ("code_perplexity", "codes", "{:.0f}"),
    ("cer", "CER", "{:.1%}"),
    ("wer", "WER", "{:.1%}"),
    ("blank_share", "blank", "{:.0%}"),
    ("lr", "lr", "{:.1e}"),
    ("grad_norm", "gnorm", "{:.2f}"),
    ("audio_h", "heard", "{:.2f} h"),
    ("audio_s_per_s", "speed", "{:.0f} s/s"),
)


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
    """

    def __init__(self, path: Path, *, keep_until: int) -> None:
        self._path = path
        self._file = _opened(path, keep_until=keep_until)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row; a figure that is not finite is written as null (JSON knows no NaN).

        Where a guard took the run back, rows after that update are dropped first, as on opening.
        """
        if row.get("action") == "rollback":
            self.close()
            self._file = _opened(self._path, keep_until=row["update"])
        safe = {k: (v if not isinstance(v, float) or math.isfinite(v) else None) for k, v in row.items()}
        self._file.write(json.dumps(safe) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Terminal:
    """A progress bar on a terminal, and one readable line a row everywhere.

    Args:
        console: where to print.
        num_updates: length of the run.
        first_update: where the run starts.
    """

    def __init__(self, console: Console, *, num_updates: int, first_update: int) -> None:
        self._console = console
        self._num_updates = num_updates
        self._width = len(str(num_updates))
        self._bar = Bar(
            "[progress.description]{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._bar.start()
        self._job = self._bar.add_task("updates", total=num_updates, completed=first_update)

    def write(self, row: Mapping[str, Any]) -> None:
        """Print the row's headline figures, the time left as measured among them; what guards say was said."""
        if row["split"] == "guard":
            return
        shown = [f"{label} {form.format(row[name])}" for name, label, form in HEADLINE if row.get(name) is not None]
        if "time_left_s" in row:
            shown.append(f"left {timedelta(seconds=round(row['time_left_s']))}")
        self._console.print(
            f"{row['split']} {row['update']:>{self._width}}/{self._num_updates}  " + "  ".join(shown),
            style="bold" if row["split"] == "valid" else None, highlight=False, soft_wrap=True,
        )  # fmt: skip
        self._bar.update(self._job, completed=row["update"])

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


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
        """Write each figure as ``split/name``."""
        for name, value in row.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{row['split']}/{name}", value, row["update"])

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
        figures = {f"{row['split']}/{k}": v for k, v in row.items() if isinstance(v, float)}
        self._run.log(figures, step=row["update"])

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _opened(path: Path, *, keep_until: int) -> TextIO:
    kept = [line for line in _lines(path) if _update_of(line) <= keep_until]
    draft = path.with_suffix(".tmp")
    draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    draft.replace(path)
    return path.open("a", encoding="utf-8")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line] if path.is_file() else []


def _update_of(line: str) -> float:
    try:
        return int(json.loads(line)["update"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by a kill
