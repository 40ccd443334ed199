"""``audio-ssl align``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from audio_ssl.cli.inference import (
    BatchOption,
    DeviceOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    WorkersOption,
    audio_progress,
    say,
    stop_if_strict,
    stream_settings,
    warn_refused,
)

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.inference.align import Alignment, FrameClock


def align(
    model: ModelArgument,
    input_: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A manifest or folder with transcripts, or an audio file (--text).")
    ],
    *,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write; for textgrid a folder, one file an utterance.")
    ],
    text: Annotated[str | None, typer.Option("--text", help="What is said in a single audio file.")] = None,
    form: Annotated[
        Literal["ctm", "textgrid", "json"],
        typer.Option("--format", help="ctm: words of all; textgrid: for Praat; json: one object a line, with all."),
    ] = "ctm",
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Refuse to write anything unless all is aligned.")] = False,
) -> None:
    """Find when each word and character of a known text was said.

    Times are seconds from the utterance's start; a frame stands for one hop around its centre.

    Example: audio-ssl align runs/ctc talk.wav --text 'good morning' -o talk.ctm
    """
    from audio_ssl.inference.align import FrameClock
    from audio_ssl.inference.models import open_recogniser, open_runtime
    from audio_ssl.inference.source import ManifestSource, Refusal, open_input
    from audio_ssl.inference.align_source import align_source

    console = say()
    runtime = open_runtime(device)
    recogniser = open_recogniser(model)
    encoder = recogniser.model.to(runtime.device).encoder
    opened = open_input(input_)
    manifest, texts, without = _with_texts(opened.manifest, text)
    refused = [*opened.refused, *(Refusal(name, path, "it has no text to align") for name, path in without)]
    with audio_progress(console, "align", float(manifest.durations_s().sum())) as advance:
        results = list(align_source(
            ManifestSource(manifest), texts.__getitem__,
            recogniser=recogniser, runtime=runtime, on_progress=advance,
            settings=stream_settings(batch_s, max_s, overlap_s, workers=workers),
        ))  # fmt: skip
    alignments = [result for result in results if not isinstance(result, Refusal)]
    refused += [result for result in results if isinstance(result, Refusal)]
    stop_if_strict(refused, strict=strict)
    _write(alignments, out, form, FrameClock(encoder.geometry, encoder.sample_rate_hz))
    warn_refused(console, refused)
    console.print(f"{len(alignments)} utterances aligned: {out}", markup=False, highlight=False, soft_wrap=True)
    if refused and not alignments:
        raise typer.Exit(1)


def _with_texts(manifest: Manifest, text: str | None) -> tuple[Manifest, list[str], list[tuple[str, str]]]:
    """The rows that have a text, their texts, and (id, path) of the others.

    Raises:
        ConfigError: ``--text`` for more than one utterance.
    """
    from audio_ssl.errors import ConfigError

    if text is not None:
        if len(manifest) != 1:
            raise ConfigError(f"--text must come with a single audio file, INPUT holds {len(manifest)} utterances")
        return manifest, [text], []
    texts = manifest.column("text")
    rows = [row for row, known in enumerate(texts) if known]
    without = [(manifest[row].id, str(manifest.audio_path(row))) for row, known in enumerate(texts) if not known]
    return manifest.select(rows), [texts[row] for row in rows], without


def _write(alignments: list[Alignment], out: Path, form: str, clock: FrameClock) -> None:
    from audio_ssl.inference.align_formats import to_ctm, to_json_lines, to_textgrid
    from audio_ssl.inference.output import write_text
    from audio_ssl.inference.sinks.npy import embedding_file

    if form == "textgrid":
        for alignment in alignments:
            name = embedding_file(alignment.id).removesuffix(".npy")
            write_text(out / f"{name}.TextGrid", to_textgrid(alignment))
    else:
        write_text(out, to_ctm(alignments) if form == "ctm" else to_json_lines(alignments, clock))
