"""The console script: registers the verbs, sets up logging, and turns errors for people into one clear message."""

from __future__ import annotations

import io
import logging
import signal
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from audio_ssl import __version__
from audio_ssl.cli.align import align
from audio_ssl.cli.convert import convert
from audio_ssl.cli.doctor import doctor
from audio_ssl.cli.evaluate import evaluate
from audio_ssl.cli.export import export
from audio_ssl.cli.extract import extract
from audio_ssl.cli.finetune import finetune
from audio_ssl.cli.lm import lm
from audio_ssl.cli.manifest import app as manifest_app
from audio_ssl.cli.pretrain import pretrain
from audio_ssl.cli.probe import probe
from audio_ssl.cli.report import report
from audio_ssl.cli.stream import lasting_stderr
from audio_ssl.cli.transcribe import transcribe
from audio_ssl.cli.tune_decoder import tune_decoder
from audio_ssl.cli.units import app as units_app
from audio_ssl.errors import AudioSSLError

app = typer.Typer(
    name="audio-ssl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Self-supervised learning of speech: pre-train on raw recordings, extract frame embeddings, fine-tune and "
        "run a recogniser.\n\nThe way: manifest build, pretrain, extract, probe or finetune, transcribe, evaluate."
    ),
)
app.add_typer(manifest_app, name="manifest")
app.add_typer(units_app, name="units")
for verb in (
    pretrain,
    finetune,
    extract,
    lm,
    tune_decoder,
    transcribe,
    align,
    evaluate,
    probe,
    report,
    convert,
    export,
    doctor,
):
    app.command()(verb)


@app.callback(invoke_without_command=True)
def _main(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"audio_ssl {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _log_handler(console: Console) -> logging.Handler:
    """Warnings: in colour on a terminal; elsewhere a plain line each, since there is no width to wrap names at."""
    handler: logging.Handler = logging.StreamHandler()
    form = "%(levelname)s %(message)s"
    if console.is_terminal:
        handler, form = RichHandler(console=console, show_time=False, show_path=False, markup=False), "%(message)s"
    handler.setFormatter(logging.Formatter(form))
    return handler


def run() -> None:
    """Entry point of ``audio-ssl``; ``docs/runbook.md`` lists its exit statuses."""
    console = Console(file=lasting_stderr())
    logging.basicConfig(level=logging.WARNING, handlers=[_log_handler(console)])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    try:
        app()
    except AudioSSLError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except OSError as error:  # a full disk or a folder without permission, at any place that writes
        console.print(
            f"error: {error}; give a place that can be written and has room. What was whole before is still whole",
            style="red", markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(AudioSSLError.exit_status)
