"""What the verbs that run a model share: their options, the progress bar, and what is said of refused input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.inference.source import Refusal
    from audio_ssl.inference.stream import StreamSettings

NUM_NAMED = 5

ModelArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model directory, a checkpoint or a run folder; or a model of transformers (directory), torchaudio, "
        "fairseq or fairseq2 (.pt file).",
    ),
]
BatchOption: TypeAlias = Annotated[
    float, typer.Option("--batch-s", help="Most seconds of audio in a batch, padding included: what memory must bear.")
]
MaxOption: TypeAlias = Annotated[
    float, typer.Option("--max-s", help="Longer utterances run in windows of this many seconds.")
]
OverlapOption: TypeAlias = Annotated[
    float, typer.Option("--overlap-s", help="Overlap of these windows; half of it is dropped at each seam.")
]
ExactOption: TypeAlias = Annotated[
    bool, typer.Option("--exact", help="Refuse utterances longer than --max-s instead of cutting them into windows.")
]
WorkersOption: TypeAlias = Annotated[int, typer.Option("--workers", min=1, help="Threads that read and decode.")]
BothWorkersOption: TypeAlias = Annotated[
    int, typer.Option("--workers", min=1, help="Threads that read audio; beam: as many more search.")
]
DeviceOption: TypeAlias = Annotated[
    str, typer.Option("--device", help="auto (the GPU where there is one), cpu, cuda or cuda:N.")
]
PrecisionOption: TypeAlias = Annotated[
    Literal["fp32", "bf16"], typer.Option("--precision", help="Number format of the forward pass.")
]
FastPrecisionOption: TypeAlias = Annotated[
    Literal["fp32", "bf16", "int8"],
    typer.Option(
        "--precision",
        help="Number format of the forward pass; its error on the first seconds of the input is said before the run.",
    ),
]
StrictOption: TypeAlias = Annotated[
    bool, typer.Option("--strict", help="Stop at the first utterance that cannot be done, instead of naming it.")
]


def say() -> Console:
    """The console for people: standard error, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True)


def stream_settings(
    batch_s: float, max_s: float, overlap_s: float, *, workers: int, exact: bool = False
) -> StreamSettings:
    """The options as settings.

    Raises:
        ConfigError: out of range.
    """
    from audio_ssl.inference.stream import StreamSettings
    from audio_ssl.inference.windows import WindowSettings

    return StreamSettings(batch_s, WindowSettings(max_s, overlap_s, exact), workers)


@contextmanager
def audio_progress(console: Console, what: str, total_s: float) -> Iterator[Callable[[float], None]]:
    """A bar over seconds of audio, on a terminal only; gives the function that advances it."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[done]} of {task.fields[all]} of audio"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=total_s, done="0 s", all=spoken(total_s))
        done_s = 0.0

        def advance(seconds: float) -> None:
            nonlocal done_s
            done_s += seconds
            bar.update(task, completed=done_s, done=spoken(done_s))

        yield advance


def spoken(seconds: float) -> str:
    """A length of audio for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def warn_refused(
    console: Console, refused: Sequence[Refusal], *, listed_in: Path | None = None, num: int | None = None
) -> None:
    """Say how many utterances gave no result (``num``, where not all are at hand).

    The first are named where a file lists them all, else every one.
    """
    num = len(refused) if num is None else num
    if not num:
        return
    console.print(f"warning: {num} without a result:", style="yellow", highlight=False)
    shown = refused if listed_in is None else refused[:NUM_NAMED]
    for refusal in shown:
        console.print(f"  {refusal.path}: {refusal.reason}", markup=False, highlight=False, soft_wrap=True)
    if num > len(shown):
        console.print(f"  and {num - len(shown)} more", highlight=False)
    if listed_in is not None:
        console.print(f"  all are listed in {listed_in}", markup=False, highlight=False, soft_wrap=True)


def stop_if_strict(refused: Sequence[Refusal], *, strict: bool) -> None:
    """Turn the first refusal into an error.

    Raises:
        AudioError: strict, and something was refused.
    """
    from audio_ssl.errors import AudioError

    if strict and refused:
        first = refused[0]
        raise AudioError(f"{first.id} ({first.path}): {first.reason} (--strict stops here)")
