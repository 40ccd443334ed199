"""``audio-ssl transcribe``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

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
    NUM_NAMED,
    BatchOption,
    BothWorkersOption,
    DeviceOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    PrecisionOption,
    StrictOption,
    audio_progress,
    say,
    stream_settings,
    warn_refused,
)
from audio_ssl.cli.texts import CueOption, LineCharsOption, SpeedOption, is_folder, lines_to, open_writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console

    from audio_ssl.inference.decoding import DecodeSettings
    from audio_ssl.inference.ranks import Rank
    from audio_ssl.inference.source import OpenedInput, Refusal
    from audio_ssl.inference.text_formats import Writer
    from audio_ssl.inference.transcribe import Transcriber
    from audio_ssl.inference.transcript_folder import Summary
    from audio_ssl.inference.transcripts import Transcript

BUSY_STATUS = 75  # "temporary failure" of sysexits.h

InputArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="An audio file, a folder, a manifest; or - for paths of audio files from standard input, one a line.",
    ),
]
OutOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "-o", "--out", help="File to write; or a folder (FOLDER/) for a file a recording. Standard output without it."
    ),
]
FormatOption: TypeAlias = Annotated[
    Literal["text", "jsonl", "ctm", "textgrid", "srt", "vtt"],
    typer.Option(
        "--format",
        help="text: id, tab, text; jsonl: one object a line; ctm: a word a line, with times; textgrid: for Praat; "
        "srt, vtt: subtitles.",
    ),
]
AudioOption: TypeAlias = Annotated[
    bool, typer.Option("--stdin-audio", help="INPUT - is one recording itself (WAV, FLAC, Ogg, MP3), not a list.")
]


def transcribe(
    model: ModelArgument,
    input_: InputArgument,
    *,
    out: OutOption = None,
    form: FormatOption = "text",
    times: Annotated[bool, typer.Option("--times", help="jsonl: times and confidence of each word.")] = False,
    stdin_audio: AudioOption = False,
    decoder: DecoderOption = "greedy",
    lexicon: LexiconOption = None,
    lm: LmOption = None,
    hot_words: HotWordsOption = None,
    beam_size: BeamSizeOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    line_chars: LineCharsOption = 42,
    cue_s: CueOption = 7.0,
    chars_per_s: SpeedOption = 17.0,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: BothWorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    strict: StrictOption = False,
) -> None:
    """Turn speech into text with a fine-tuned recogniser; results come in input order.

    With -o, run again it goes on where it was stopped, also inside a long recording, to the same bytes. Under torchrun
    each process does its share: torchrun --nproc-per-node 2 -m audio_ssl transcribe ...

    Exit status: as of `audio-ssl extract`.

    Example: audio-ssl transcribe runs/ctc interviews/ --format srt -o subtitles/
    """
    from audio_ssl.errors import ConfigError
    from audio_ssl.inference.ranks import Rank

    if times and form == "text":
        raise ConfigError("--times must come with --format jsonl: a line of text has no place for times")
    decoding = decode_settings(
        decoder, lexicon=lexicon, lm=lm, hot_words=hot_words, beam_size=beam_size, lm_weight=lm_weight,
        word_score=word_score,
    )  # fmt: skip
    writer = open_writer(
        form, lambda transcript: transcript.to_document(), line_chars=line_chars, cue_s=cue_s, chars_per_s=chars_per_s
    )
    verb = _Verb(say(), model, decoding, writer, Rank.of_environment(), strict)
    verb.check(input_, out, is_audio=stdin_audio)
    transcriber = verb.transcriber(
        stream_settings(batch_s, max_s, overlap_s, workers=workers), device, precision,
        times=times or writer.form.has_times,
    )  # fmt: skip
    raise typer.Exit(verb.run(transcriber, input_, out, is_audio=stdin_audio))


@dataclass(frozen=True)
class _Verb:
    """What was asked for, but for the input."""

    console: Console
    model: Path
    decoding: DecodeSettings
    writer: Writer
    rank: Rank
    strict: bool

    def check(self, input_: str, out: str | None, *, is_audio: bool) -> None:
        """Refuse what cannot be, before a model is opened.

        Raises:
            ConfigError: it cannot.
        """
        from audio_ssl.errors import ConfigError

        if is_audio and input_ != "-":
            raise ConfigError(f"--stdin-audio must come with INPUT -, got {input_}")
        if self.rank.size > 1 and (out is None or input_ == "-"):
            raise ConfigError(
                "several processes must have -o, and an INPUT that each can read: standard input and standard output "
                "are one process's; write the list to a manifest, or start a single process"
            )
        if input_ == "-" and not is_audio and out is None:
            is_folder(out, self.writer.form, num_utterances=2)  # who knows how many

    def transcriber(self, stream: Any, device: str, precision: Any, *, times: bool) -> Transcriber:
        """The model and the decoder, ready to run."""
        from functools import partial

        from audio_ssl.inference.decoding import build_decoder
        from audio_ssl.inference.decoding.build import run_decoder
        from audio_ssl.inference.models import open_recogniser, open_runtime
        from audio_ssl.inference.transcribe import Transcriber

        runtime = open_runtime(self.rank.device(device), precision)
        recogniser = open_recogniser(self.model)
        recogniser.model.to(runtime.device)
        decoder = build_decoder(recogniser.vocabulary, self.decoding)  # what is wrong with its files is said first
        workers = 1 if self.decoding.name == "greedy" else stream.num_threads
        decode = partial(run_decoder, decoder=decoder, workers=workers)
        return Transcriber(recogniser, decode, stream, runtime, times, joins_words=self.decoding.lexicon is None)

    def run(self, transcriber: Transcriber, input_: str, out: str | None, *, is_audio: bool) -> int:
        """Transcribe; the exit status."""
        import sys

        from audio_ssl.inference.listed import open_list, read_paths, transcribe_listed
        from audio_ssl.inference.source import ManifestSource, open_input
        from audio_ssl.inference.transcribe import groups_of

        if input_ == "-" and is_audio:
            return self._recording(transcriber, out)
        if input_ == "-" and out is None:
            return self._tell_each(transcribe_listed(transcriber, read_paths(sys.stdin.buffer)), None)
        threads = transcriber.settings.num_threads
        listed = open_list(read_paths(sys.stdin.buffer), workers=threads) if input_ == "-" else None
        opened = open_input(input_) if listed is None else listed
        total_s = float(opened.manifest.durations_s().sum()) / self.rank.size
        with audio_progress(self.console, "transcribe", total_s) as advance:
            if out is not None:
                return self._keep(transcriber, opened, out, advance)
            num = len(opened.manifest) + len(opened.refused)
            is_folder(out, self.writer.form, num_utterances=num)
            source = ManifestSource(opened.manifest)
            results = transcriber.run(source, groups_of(source, range(len(source))), on_progress=advance)
            return self._tell_each(results, None, opened.refused)

    def _recording(self, transcriber: Transcriber, out: str | None) -> int:
        """One recording from standard input; it stands in a file meanwhile, for decoders go back and forth."""
        import shutil
        import sys
        import tempfile
        from dataclasses import replace

        from audio_ssl.inference.source import ManifestSource, manifest_of_files

        with tempfile.TemporaryDirectory(prefix="audio_ssl_") as folder:
            file = Path(folder) / "stdin"
            with file.open("wb") as stream:
                shutil.copyfileobj(sys.stdin.buffer, stream)
            source = ManifestSource(manifest_of_files([file]))
            results = (replace(result, path="-") for result in transcriber.run(source, [[0]]))
            return self._tell_each(results, None if out is None else Path(out))

    def _tell_each(
        self, results: Iterable[Transcript | Refusal], out: Path | None, refused: Iterable[Refusal] = ()
    ) -> int:
        """Say each result when it comes, and what has none at the end."""
        from audio_ssl.inference.shard_work import stopped
        from audio_ssl.inference.source import Refusal
        from audio_ssl.inference.transcript_folder import without_times

        without, num_texts = list(refused), 0
        if self.strict and without:
            raise stopped(without[0])
        with lines_to(out) as tell:
            for found in results:
                result = without_times(found, self.writer.form)
                if not isinstance(result, Refusal):
                    num_texts += 1
                    tell(self.writer(result))
                    continue
                if self.strict:
                    raise stopped(result)
                without.append(result)
        warn_refused(self.console, without)
        return 1 if without and not num_texts else 0

    def _keep(self, transcriber: Transcriber, opened: OpenedInput, out: str, advance: Callable[[float], None]) -> int:
        """Write a file or a folder; the exit status."""
        from dataclasses import replace

        from audio_ssl.inference.transcript_folder import TranscriptFolder, settings_of
        from audio_ssl.interop.source import weights_hash

        num, place = len(opened.manifest) + len(opened.refused), Path(out)
        into_folder = is_folder(out, self.writer.form, num_utterances=num)
        writer = replace(self.writer, is_alone=into_folder)
        settings = settings_of(
            transcriber, model_hash=weights_hash(self.model), decoding=self.decoding,
            writer=writer if into_folder else None,
        )  # fmt: skip
        folder = TranscriptFolder(transcriber, writer, settings, self.strict)
        write = folder.to_folder if into_folder else folder.to_file
        summary = write(opened, place, rank=self.rank, on_progress=advance)
        self._say(summary, place, errors=place / "errors.jsonl" if into_folder else Path(f"{out}.errors.jsonl"))
        if summary.busy:
            return BUSY_STATUS
        return 1 if summary.is_complete and summary.is_empty else 0

    def _say(self, summary: Summary, out: Path, *, errors: Path) -> None:
        who = f"rank {self.rank.index} of {self.rank.size}: " if self.rank.size > 1 else ""
        listed_in = errors if summary.num_refused > NUM_NAMED and summary.is_complete else None
        warn_refused(self.console, summary.refused, listed_in=listed_in, num=summary.num_refused)
        before = f"; {summary.num_present} were there already" if summary.num_present else ""
        lines = [f"{who}{summary.num_written} utterances transcribed: {out}{before}"]
        if summary.busy:
            lines.append(
                f"{who}{len(summary.busy)} of {summary.num_shards} shards are left to another process, which is at "
                "work on them; run the same command again when it has ended"
            )
        elif not summary.is_complete:
            lines.append(f"{who}other ranks are not done; the last one completes {out}")
        for line in lines:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
