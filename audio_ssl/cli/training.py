"""What the two training verbs share: their common options, the console, and the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from audio_ssl.cli.stream import lasting_stderr

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.train.loop import Outcome

SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting; may be given again."),
]
ResumeOption: TypeAlias = Annotated[
    Literal["never", "auto"],
    typer.Option(help="auto: go on from the newest checkpoint of run.dir; never: refuse a run.dir that has one."),
]
BudgetOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Train for this long (2h, 90m, 1d12h): the number of updates is fitted to the speed."
    ),
]
DryOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Try the dearest and the median batch, say memory, speed, time and disk, and leave nothing."
    ),
]

ReplayOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DUMP",
        help="Run an update again that a run wrote to its dumps/ for a gradient that was not finite, say where that "
        "begins, and exit; the run is not touched.",
    ),
]


def overrides(set_: list[str] | None, budget: str | None) -> list[str]:
    """What the command line says of settings, as ``--set`` words."""
    return [*(set_ or []), *([] if budget is None else [f"run.budget={budget}"])]


def say() -> Console:
    """The console of a training run: standard error, so that output can be piped."""
    from rich.console import Console

    console = Console(file=lasting_stderr(), markup=False, highlight=False)  # names in brackets are names, not styles
    console.soft_wrap = not console.is_terminal  # a file or a pipe has no width: names stay whole
    return console


def exit_after(outcome: Outcome | None) -> None:
    """Exit with 128 + signal when a signal ended the run, as shells expect; else return."""
    if outcome is not None and outcome.stopped_by is not None:
        raise typer.Exit(128 + outcome.stopped_by)
