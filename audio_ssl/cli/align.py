"""``audio-ssl align``."""

from __future__ import annotations

from contextlib import nullcontext
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
from audio_ssl.cli.texts import CueOption, LineCharsOption, SpeedOption, is_folder, lines_to, open_writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audio_ssl.data.manifest import Manifest
    from audio_ssl.inference.align import Alignment
    from audio_ssl.inference.source import Refusal
    from audio_ssl.inference.text_formats import Writer


def align(
    model: ModelArgument,
    input_: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A manifest or folder with transcripts, or an audio file (--text).")
    ],
    *,
    out: Annotated[
        str, typer.Option("-o", "--out", help="File to write; or a folder (FOLDER/) for a file an utterance.")
    ],
    text: Annotated[str | None, typer.Option("--text", help="What is said in a single audio file.")] = None,
    form: Annotated[
        Literal["ctm", "textgrid", "json", "srt", "vtt"],
        typer.Option(
            "--format",
            help="ctm: words of all; textgrid: for Praat; json: one object a line, with all; srt, vtt: subtitles.",
        ),
    ] = "ctm",
    line_chars: LineCharsOption = 42,
    cue_s: CueOption = 7.0,
    chars_per_s: SpeedOption = 17.0,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first utterance that cannot be aligned.")
    ] = False,
) -> None:
    """Find when each word and character of a known text was said.

    Times are seconds from the utterance's start; a frame stands for one hop around its centre.

    Example: audio-ssl align runs/ctc talk.wav --text 'good morning' -o talk.ctm
    """
    from audio_ssl.inference.align import FrameClock
    from audio_ssl.inference.align_source import align_source
    from audio_ssl.inference.models import open_recogniser, open_runtime
    from audio_ssl.inference.source import ManifestSource, Refusal, open_input
    from audio_ssl.inference.timed_formats import to_document

    console = say()
    runtime = open_runtime(device)
    recogniser = open_recogniser(model)
    encoder = recogniser.model.to(runtime.device).encoder
    opened = open_input(input_)
    manifest, texts, without = _with_texts(opened.manifest, text)
    refused = [*opened.refused, *(Refusal(name, path, "it has no text to align") for name, path in without)]
    stop_if_strict(refused, strict=strict)
    clock = FrameClock(encoder.geometry, encoder.sample_rate_hz)
    writer = open_writer(
        "jsonl" if form == "json" else form, lambda alignment: to_document(alignment, clock),
        line_chars=line_chars, cue_s=cue_s, chars_per_s=chars_per_s,
    )  # fmt: skip
    with audio_progress(console, "align", float(manifest.durations_s().sum())) as advance:
        results = align_source(
            ManifestSource(manifest), texts.__getitem__,
            recogniser=recogniser, runtime=runtime, on_progress=advance,
            settings=stream_settings(batch_s, max_s, overlap_s, workers=workers),
        )  # fmt: skip
        num_aligned, failed = _write(results, out, writer, num_utterances=len(manifest), strict=strict)
    refused += failed
    warn_refused(console, refused)
    console.print(f"{num_aligned} utterances aligned: {out}", markup=False, highlight=False, soft_wrap=True)
    if refused and not num_aligned:
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


def _write(
    results: Iterator[Alignment | Refusal], out: str, writer: Writer, *, num_utterances: int, strict: bool
) -> tuple[int, list[Refusal]]:
    """Write each alignment when it comes; how many there are, and what has none.

    Raises:
        AudioError: strict, and something has none. A file is not written then; of a folder what came before it is.
    """
    from dataclasses import replace

    from audio_ssl.inference.output import file_name, write_text
    from audio_ssl.inference.source import Refusal

    refused, num_aligned = list[Refusal](), 0
    into_folder = is_folder(out, writer.form, num_utterances=num_utterances)
    writer = replace(writer, is_alone=into_folder)
    with nullcontext() if into_folder else lines_to(Path(out)) as tell:
        for result in results:
            if isinstance(result, Refusal):
                stop_if_strict([result], strict=strict)
                refused.append(result)
                continue
            num_aligned += 1
            if tell is None:
                write_text(Path(out) / file_name(result.id, writer.form.suffix), writer(result))
            else:
                tell(writer(result))
    return num_aligned, refused
