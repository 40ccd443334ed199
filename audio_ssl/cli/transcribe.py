"""``audio-ssl transcribe``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from audio_ssl.cli.decoding import (
    BeamSizeOption,
    DecoderOption,
    HotWordsOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    WordScoreOption,
    decode_settings,
)
from audio_ssl.cli.inference import (
    BatchOption,
    DeviceOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    PrecisionOption,
    StrictOption,
    WorkersOption,
    audio_progress,
    say,
    stop_if_strict,
    stream_settings,
    warn_refused,
)

if TYPE_CHECKING:
    from audio_ssl.inference.transcribe import Transcript


def transcribe(
    model: ModelArgument,
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="An audio file, a folder, or a manifest.")],
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File to write; standard output without it.")] = None,
    form: Annotated[
        Literal["text", "jsonl"], typer.Option("--format", help="text: id, tab, text; jsonl: one object a line.")
    ] = "text",
    times: Annotated[bool, typer.Option("--times", help="Times and confidence of each word (jsonl only).")] = False,
    decoder: DecoderOption = "greedy",
    lexicon: LexiconOption = None,
    lm: LmOption = None,
    hot_words: HotWordsOption = None,
    beam_size: BeamSizeOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    strict: StrictOption = False,
) -> None:
    """Turn speech into text with a fine-tuned recogniser; results come in input order.

    Example: audio-ssl transcribe runs/ctc interviews/ --format jsonl --times -o interviews.jsonl
    """
    from audio_ssl.errors import ConfigError
    from audio_ssl.inference.decoding import build_decoder
    from audio_ssl.inference.models import open_recogniser, open_runtime
    from audio_ssl.inference.source import ManifestSource, open_input
    from audio_ssl.inference.transcribe import transcribe_source

    if times and form == "text":
        raise ConfigError("--times must come with --format jsonl: a line of text has no place for times")
    settings = decode_settings(
        decoder, lexicon=lexicon, lm=lm, hot_words=hot_words, beam_size=beam_size, lm_weight=lm_weight,
        word_score=word_score,
    )  # fmt: skip
    console = say()
    runtime = open_runtime(device, precision)
    recogniser = open_recogniser(model)
    recogniser.model.to(runtime.device)
    chosen = build_decoder(recogniser.vocabulary, settings)
    opened = open_input(input_)
    stop_if_strict(opened.refused, strict=strict)
    with audio_progress(console, "transcribe", float(opened.manifest.durations_s().sum())) as advance:
        transcripts, refused = transcribe_source(
            ManifestSource(opened.manifest), recogniser=recogniser, decoder=chosen,
            settings=stream_settings(batch_s, max_s, overlap_s, workers=workers), runtime=runtime,
            times=times, strict=strict, on_progress=advance,
        )  # fmt: skip
    _write(transcripts, out, form)
    warn_refused(console, [*opened.refused, *refused])
    if (opened.refused or refused) and not transcripts:
        raise typer.Exit(1)


def _write(transcripts: list[Transcript], out: Path | None, form: str) -> None:
    import json

    from audio_ssl.inference.output import write_text

    lines = [
        f"{t.id}\t{t.text}" if form == "text" else json.dumps(t.to_document(), ensure_ascii=False) for t in transcripts
    ]
    text = "".join(f"{line}\n" for line in lines)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text(out, text)
    say().print(f"{len(lines)} utterances transcribed: {out}", markup=False, highlight=False, soft_wrap=True)
