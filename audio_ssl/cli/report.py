"""``audio-ssl report``: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run (run.dir), finished or not.")],
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The page; RUN/report.html by default.")] = None,
) -> None:
    """Write one HTML page about a run: curves beside healthy bands, codebook, a masked utterance, settings, warnings.

    The page needs nothing beside it and nothing from the network. Codebook, similarities, spectrogram and transcripts
    are computed on the CPU from the best checkpoint and a few utterances of data.valid (else data.train); where these
    are gone the page says so. A run may go on meanwhile.

    Example: audio-ssl report runs/first -o first.html
    """
    from audio_ssl.cli.training import say
    from audio_ssl.evaluate.report.examples import look
    from audio_ssl.evaluate.report.page import build_page
    from audio_ssl.evaluate.report.run_folder import read_run
    from audio_ssl.inference.output import write_text

    console = say()
    found = read_run(run)
    examples = look(found)
    place = run / "report.html" if out is None else out
    write_text(place, build_page(found, examples))
    notes = [*found.notes, *examples.notes]
    for note in notes:
        console.print(f"note: {note}")
    missing = f"; {len(notes)} thing{'s' * (len(notes) > 1)} could not be shown" if notes else ""
    console.print(f"report: {place} ({place.stat().st_size / 1e6:.2f} MB){missing}")
