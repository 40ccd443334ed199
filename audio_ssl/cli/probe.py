"""``audio-ssl probe``: what frozen representations are worth on tasks, beside log-mel and random weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from audio_ssl.cli.inference import (
    BatchOption,
    DeviceOption,
    WorkersOption,
    audio_progress,
    say,
    spoken,
    stream_settings,
)
from audio_ssl.cli.training import SetOption

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from audio_ssl.probe.outcome import Outcome
    from audio_ssl.probe.run import Asked, FramesOf
    from audio_ssl.probe.tables import TextTable

FILE_WIDTH = 160  # columns of a table that goes to no terminal

ModelsArgument: TypeAlias = Annotated[
    list[Path],
    typer.Argument(
        metavar="MODEL...",
        help="Model directories, checkpoints or run folders, each a line of the tables; or models of transformers, "
        "torchaudio, fairseq or fairseq2.",
        show_default=False,
    ),
]
TaskOption: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--task", metavar="NAME|FILE", help="A shipped task such as digits, or a TOML file; may be given again.",
        show_default=False,
    ),
]  # fmt: skip
OutOption: TypeAlias = Annotated[
    Path, typer.Option("-o", "--out", help="Folder for probe.json, table.md, report.html and layer_weights/.",
                       show_default=False)
]  # fmt: skip
CorporaOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--corpora", envvar="AUDIO_SSL_CORPORA", help="Folder that the tasks' data are named from."),
]
SeedsOption: TypeAlias = Annotated[
    int, typer.Option("--seeds", min=1, help="Times that each head learns; figures are means over them.")
]
NoBaselinesOption: TypeAlias = Annotated[
    bool, typer.Option("--no-baselines", help="Leave log-mel, MFCC and random weights out.")
]
PerLayerOption: TypeAlias = Annotated[
    bool, typer.Option("--per-layer", help="Measure each layer by itself, too: linear head, one seed.")
]
CacheOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--cache", help="Folder for frames, which other probes can share.", show_default="OUT/frames"),
]  # fmt: skip


def probe(
    model: ModelsArgument,
    *,
    task: TaskOption,
    out: OutOption,
    corpora: CorporaOption = None,
    seeds: SeedsOption = 3,
    no_baselines: NoBaselinesOption = False,
    per_layer: PerLayerOption = False,
    set_: SetOption = None,
    device: DeviceOption = "auto",
    batch_s: BatchOption = 60.0,
    workers: WorkersOption = 2,
    cache: CacheOption = None,
) -> None:
    """Measure frozen encoders on tasks that they were not trained for, beside log-mel, MFCC and random weights.

    Heads learn a weighted sum of layers with labels of speakers who are not measured on. Intervals are over speakers
    and seeds, differences over pairs. Run again, it goes on where it stopped. docs/probing.md tells more.

    Exit status: 0 done; 2 something to mend, which the message names; 130 Ctrl-C.

    Example: audio-ssl probe runs/first --task digits --task phones --corpora speech/ -o probes/first --per-layer
    """
    from audio_ssl.inference.models import open_runtime
    from audio_ssl.probe.candidates import candidates_for
    from audio_ssl.probe.lending import Lender
    from audio_ssl.probe.record import Store
    from audio_ssl.probe.run import How, run_probe

    console = say()
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    place = open_runtime(device).device
    candidates = candidates_for(model, with_baselines=not no_baselines, device=place)
    tasks = [_asked(name, corpora, set_ or []) for name in task]
    for one in tasks:
        _say_task(console, one)
    stream = stream_settings(batch_s, 60.0, 4.0, workers=workers)
    lender = Lender(cache or out / "frames", stream, place, partial(audio_progress, console))
    needs = lender.needs(tasks, candidates)
    tell(str(needs))
    if needs.warning is not None:
        tell(f"warning: {needs.warning}", style="yellow")
    outcome = run_probe(
        tasks, candidates, how=How(tuple(range(1, seeds + 1)), per_layer), store=Store(out / "results"),
        frames_of=lender, tell=tell,
    )  # fmt: skip
    _print(console, outcome)
    for path in _write(outcome, tasks, out=out, frames_of=lender):
        tell(f"written: {path}")


def _asked(name: str, corpora: Path | None, overrides: Sequence[str]) -> Asked:
    """A task with its items.

    Raises:
        ConfigError: no such task, or one that cannot be done.
        ManifestError: its data are not as it says.
    """
    from audio_ssl.probe.run import Asked
    from audio_ssl.probe.tasks import open_task

    found = open_task(name, corpora=corpora, overrides=overrides)
    return Asked(found.name, found.task, found.items, found.folds, found.source, found.notes)


def _say_task(console: Console, asked: Asked) -> None:
    """What a task is made of, before anything is computed."""
    from audio_ssl.probe.run import amounts_of, parts_of

    amounts = amounts_of(asked.items)
    voices = f" of {amounts.num_speakers} speakers" if asked.items.are_speakers else ""
    folds = f"{len(asked.folds)} folds" if len(asked.folds) > 1 else ", ".join(
        f"{part} {len(rows):,}" for part, rows in parts_of(asked.folds[0]).items() if len(rows)
    )  # fmt: skip
    tell = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    amount = f"{amounts.num_items:,} items{voices}, {spoken(3600 * amounts.hours)}"
    tell(f"{asked.name}: {asked.task.title}; {amount}; {folds}")
    for note in asked.notes:
        tell(f"  note: {note}")


def _print(console: Console, outcome: Outcome) -> None:
    """Tables on standard output, doubts beside them on standard error."""
    from rich.console import Console

    from audio_ssl.probe.tables import tables

    out = Console(width=None if os.isatty(1) else FILE_WIDTH)
    for found in outcome.tasks:
        for table in tables(found):
            out.print(_rich(table))
        for text in found.warnings:
            console.print(
                f"warning: {found.name}: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True
            )


def _rich(found: TextTable) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(found.title), title_justify="left", caption=escape(found.caption), caption_justify="left"
    )
    for place, heading in enumerate(found.headings):
        is_number = place >= found.num_names
        table.add_column(escape(heading), justify="right" if is_number else "left", no_wrap=not is_number)
    for row in found.rows:
        table.add_row(*map(escape, row))
    return table


def _write(outcome: Outcome, tasks: Sequence[Asked], *, out: Path, frames_of: FramesOf) -> list[Path]:
    """All files of a probe; the places of those that people look at."""
    from audio_ssl.inference.output import write_text
    from audio_ssl.probe.document import write_document, write_layer_weights
    from audio_ssl.probe.looks import looks_of
    from audio_ssl.probe.page import build_probe_page
    from audio_ssl.probe.tables import markdown

    write_document(outcome, out / "probe.json")
    write_text(out / "table.md", markdown(outcome.tasks))
    weights = write_layer_weights(outcome, out / "layer_weights")
    write_text(out / "report.html", build_probe_page(outcome, looks_of(outcome, tasks, frames_of)))
    return [out / "probe.json", out / "table.md", *([out / "layer_weights"] if weights else []), out / "report.html"]
