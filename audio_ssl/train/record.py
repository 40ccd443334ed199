"""What a run leaves about itself beside its figures: where each start of it ran, what it warned of, how it ended.

``events.jsonl`` in the run folder, one object a line. Lines are facts and stay, also those of updates that a
resumed run does again. Names of hosts, environment variables and the command line are left out:
reports are shown around.
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from audio_ssl import __version__
from audio_ssl.train.distributed import World, processors_of_a_rank
from audio_ssl.train.sinks import SAMPLES

EVENTS_FILE = "events.jsonl"
MAX_WARNINGS = 1000  # kept of one start
PARTS = ("torchaudio", "numpy", "soundfile", "librosa", "fairseq2")
_SOURCE = Path(__file__).parents[2]


class RunRecord(logging.Handler):
    """Writes events; as a handler it takes warnings, and as a sink it learns at which update they come.

    Args:
        path: the file, which is appended to; None on ranks that do not write.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__(level=logging.WARNING)
        self._path = path
        self._update = 0
        self._num_warnings = 0
        self._has_begun = False  # what fails before a new run has begun leaves no file
        self._lines: list[str] = []

    def started(self, update: int, *, world: World, precision: str, init_from: Path | None = None) -> None:
        """Note where the run stands, what it runs on, and the model that it began from where no setting says that.

        Raises:
            OSError: the file cannot be written.
        """
        self._update = update
        begun = {} if init_from is None else {"init_from": str(init_from)}
        self._append("start", **begun, ranks=world.size, precision=precision, **environment(world.device))

    def write(self, row: Mapping[str, Any]) -> None:
        """Learn the update from a row of figures; keep what a guard says, and sample hypotheses."""
        self._update = int(row["update"])
        if row["split"] == "guard":
            self._warn("warning", str(row["message"]))
        if row.get(SAMPLES):
            with suppress(OSError):  # of a full disk: what must be written says so
                self._append(SAMPLES, samples=row[SAMPLES])

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self._warn(record.levelname.lower(), record.getMessage())

    def _warn(self, level: str, message: str) -> None:
        self._num_warnings += 1
        if self._num_warnings > MAX_WARNINGS:
            return
        if self._num_warnings == MAX_WARNINGS:
            message += f" (the last of {MAX_WARNINGS} warnings that are kept; later ones are on the terminal only)"
        with suppress(OSError):  # of a full disk: what must be written says so
            self._append(level, message=message)

    def ended_as_planned(self, update: int, *, stopped_by: int | None) -> None:
        """Note the end after ``update`` updates: all that were planned, or as many as a signal let it do."""
        self._update = update
        self._end("done" if stopped_by is None else "stopped", "" if stopped_by is None else f"signal {stopped_by}")

    def failed(self, error: BaseException) -> None:
        """Note the error that ended the run."""
        self._end("failed", f"{type(error).__name__}: {error}")

    def _end(self, how: str, message: str) -> None:
        with suppress(OSError):
            self._append("end", how=how, message=message)

    def _append(self, event: str, **values: Any) -> None:
        if self._path is None:
            return
        self._has_begun = self._has_begun or event == "start" or self._path.is_file()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, "update": self._update, "event": event, **values})
        self._lines.append(f"{line}\n")
        if not self._has_begun:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(self._lines)
        self._lines = []


@contextmanager
def recorded(run_dir: Path | None) -> Iterator[RunRecord]:
    """Keep the warnings of this package in ``run_dir`` for the length of the context, and the error that ends it."""
    record = RunRecord(None if run_dir is None else run_dir / EVENTS_FILE)
    logger = logging.getLogger("audio_ssl")
    logger.addHandler(record)
    try:
        yield record
    except BaseException as error:
        record.failed(error)
        raise
    finally:
        logger.removeHandler(record)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and device, and the revision of the source where it is a git checkout."""
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({_processor()})",
        "processors": processors_of_a_rank(),
        "platform": platform.platform(terse=True),
        "versions": _versions(),
    }
    if torch.version.cuda and device.type == "cuda":
        facts["versions"]["CUDA"] = torch.version.cuda
    revision = _revision()
    return facts | ({"revision": revision} if revision else {})


def _versions() -> dict[str, str]:
    found = {"audio_ssl": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name in PARTS:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _revision() -> str | None:
    if not (_SOURCE / ".git").exists():
        return None
    command = ["git", "-C", str(_SOURCE), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - no data in it
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
