"""``audio-ssl report``: a run as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_ssl.cli.probe import CorporaOption
from audio_ssl.errors import AudioSSLError, ConfigError

if TYPE_CHECKING:
    from audio_ssl.evaluate.report.run_folder import RunFolder


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run (run.dir), finished or not.")],
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The page; RUN/report.html by default.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="NAME|FILE", show_default="probe.tasks of the run",
            help="Show the quantizer's codes beside the labels of this task of `audio-ssl probe`; may be given again.",
        ),
    ] = None,
    corpora: CorporaOption = None,
) -> None:  # fmt: skip
    """Write one HTML page about a run: curves beside healthy bands, codebook, a masked utterance, settings, warnings.

    The page needs nothing beside it and nothing from the network. Codebook, similarities, spectrogram and transcripts
    are computed on the CPU from the best checkpoint and a few utterances of data.valid (else data.train); where these
    are gone the page says so. A run may go on meanwhile. With --task it shows which code stands for which label.

    Example: audio-ssl report runs/first -o first.html
    """
    from audio_ssl.cli.training import say
    from audio_ssl.evaluate.report.examples import look
    from audio_ssl.evaluate.report.page import build_page
    from audio_ssl.evaluate.report.run_folder import read_run
    from audio_ssl.inference.output import write_text
    from audio_ssl.probe.pictures import style

    console = say()
    found = read_run(run)
    codes = _codes(found, task, corpora)
    examples = look(found)
    place = run / "report.html" if out is None else out
    write_text(place, build_page(found, examples, codes=codes, own_style=style() if codes else ""))
    notes = [*found.notes, *examples.notes]
    for note in notes:
        console.print(f"note: {note}")
    missing = f"; {len(notes)} thing{'s' * (len(notes) > 1)} could not be shown" if notes else ""
    console.print(f"report: {place} ({place.stat().st_size / 1e6:.2f} MB){missing}")


def _codes(run: RunFolder, given: list[str] | None, corpora: Path | None) -> str:
    """HTML of codes and labels: of the tasks that are asked for, else of those that the run was probed on.

    Raises:
        ConfigError: a task is asked for of a run without codes, or cannot be opened; of the run's own ones the page
            says so.
        ManifestError: the same, of its data.
    """
    from audio_ssl.evaluate.report.sections import notes
    from audio_ssl.probe.code_labels import KINDS, code_figures, open_for_codes

    if not run.is_pretraining:
        if given:
            raise _without_codes(run)
        return ""
    own: Mapping[str, Any] = run.config.get("probe") or {}
    known = Path(own["corpora"]) if "corpora" in own else None
    folder = (corpora or known) if given else (known or corpora)  # its own tasks lie where they lay
    parts = []
    for name in given or own.get("tasks", ()):
        try:
            asked = open_for_codes(name, folder)
        except AudioSSLError as error:
            if given:
                raise
            parts.append(notes([f"{name}: codes and labels cannot be shown: {error}"]))
            continue
        if asked is None and given:
            raise ConfigError(f"--task {name} must be of kind {', '.join(KINDS)}: its labels must say what is heard")
        if asked is not None:
            parts.append(code_figures(run.path, asked, heading=asked.name))
            if given and not parts[-1]:
                raise _without_codes(run)
    return "".join(parts)


def _without_codes(run: RunFolder) -> ConfigError:
    return ConfigError(
        f"--task must go with a run of pre-training that has a quantizer, for it shows what codes stand for, and "
        f"{run.path} has none; leave it out, or measure the encoder with audio-ssl probe {run.path} --task"
    )
