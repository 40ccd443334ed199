"""What `audio-ssl extract` says that it will need in memory, beside what it takes: one process a setting (Linux).

    python tools/memory_check.py                        every setting; about a quarter of an hour on two cores
    python tools/memory_check.py --only tiny            those whose names hold a word
    python tools/memory_check.py --json memory.json     the figures too

Exit status 1 where a statement is more than 10 % below or more than 25 % above what was taken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from audio_ssl.config import ModelConfig
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from benchmarks.resident import watch

MOST_BELOW, MOST_ABOVE = 0.10, 0.25
# Large in all but depth: 24 blocks of it take six times as long, and each adds weights alone.
LARGE_LIKE = {"preset": "wav2vec2_large", "num_layers": 4}
BASE, TINY = {"preset": "wav2vec2_base"}, {"preset": "tiny_cpu"}
LONG, SHORT = (130,), (15, 14, 13.5, 12, 9, 9, 8, 7, 6, 5.5, 4, 3, 2, 2, 1, 1)


@dataclass(frozen=True)
class Setting:
    """A model, its input (seconds of each file) and the options of a run."""

    name: str
    model: dict[str, Any]
    seconds: tuple[float, ...]
    options: tuple[str, ...] = ()
    rate_hz: int = 16_000


@dataclass(frozen=True)
class Figures:
    """MiB."""

    name: str
    stated: float
    taken: float

    @property
    def difference(self) -> float:
        """Of the statement, relative to what was taken."""
        return self.stated / self.taken - 1

    @property
    def is_good(self) -> bool:
        """Within what is promised."""
        return -MOST_BELOW <= self.difference <= MOST_ABOVE


SETTINGS = (
    Setting("base, long", BASE, LONG),
    Setting("base, long, --batch-s 20 --max-s 20", BASE, LONG, ("--batch-s", "20", "--max-s", "20")),
    Setting("base, long, --batch-s 120", BASE, LONG, ("--batch-s", "120")),
    Setting("base, long, --layer all", BASE, LONG, ("--layer", "all")),
    Setting("base, long, --precision bf16", BASE, LONG, ("--precision", "bf16")),
    Setting("base, short", BASE, SHORT),
    Setting("base, short, --batch-s 120", BASE, SHORT, ("--batch-s", "120")),
    Setting("base, whole, --max-s 130 --exact", BASE, LONG, ("--max-s", "130", "--exact")),
    Setting("large-like, long", LARGE_LIKE, LONG),
    Setting("large-like, short, --layer 2", LARGE_LIKE, SHORT, ("--layer", "2")),
    Setting("tiny, long", TINY, LONG),
    Setting("tiny, long, --batch-s 120 --layer all", TINY, LONG, ("--batch-s", "120", "--layer", "all")),
    Setting("tiny, long, 44.1 kHz", TINY, LONG, (), 44_100),
    Setting("tiny, short", TINY, SHORT),
    Setting("tiny mel, long", {**TINY, "front_end": "mel"}, LONG),
)


def main() -> int:
    """Run the settings; the exit status."""
    arguments = _parse()
    chosen = [setting for setting in SETTINGS if arguments.only in setting.name]
    with tempfile.TemporaryDirectory(prefix="memory_check_") as work:
        figures = [_told(measure(setting, Path(work))) for setting in chosen]
    _show(figures)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(one) for one in figures], indent=1) + "\n", encoding="utf-8")
    return 0 if all(one.is_good for one in figures) else 1


def measure(setting: Setting, work: Path) -> Figures:
    """One run in a process of its own."""
    place = work / setting.name.replace(" ", "_").replace(",", "")
    speech = place / "speech"
    speech.mkdir(parents=True)
    for number, seconds in enumerate(setting.seconds):
        noise = np.random.default_rng(number).standard_normal(round(seconds * setting.rate_hz))
        sf.write(speech / f"{number}.wav", (0.1 * noise).astype(np.float32), setting.rate_hz)
    config = ModelConfig(**setting.model)
    save_model_dir(place / "model", encoder_document(config), {"encoder": build_encoder(config)})
    command = [sys.executable, "-m", "audio_ssl", "extract", str(place / "model"), str(speech), str(place / "out")]
    watched = watch([*command, "--device", "cpu", *setting.options])
    if watched.stated_mib is None:
        raise SystemExit(f"error: {setting.name}: nothing was said of memory:\n{watched.said}")
    print(next(line for line in watched.said.splitlines() if "needs about" in line), flush=True)
    return Figures(setting.name, watched.stated_mib, watched.peak_mib)


def _told(figures: Figures) -> Figures:
    print(json.dumps(asdict(figures)), flush=True)
    return figures


def _show(figures: list[Figures]) -> None:
    table = Table("run", "stated MiB", "taken MiB", "stated is", title=f"torch {torch.__version__}")
    for one in figures:
        table.add_row(
            one.name, f"{one.stated:.0f}", f"{one.taken:.0f}", f"{one.difference:+.0%}",
            style=None if one.is_good else "red",
        )  # fmt: skip
    Console().print(table)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
