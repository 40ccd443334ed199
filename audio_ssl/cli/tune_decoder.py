"""``audio-ssl tune-decoder``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audio_ssl.cli.decoding import (
    BeamSizeOption,
    HotWordsOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    WordScoreOption,
    decode_settings,
)
from audio_ssl.cli.inference import (
    BatchOption,
    BothWorkersOption,
    DeviceOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    PrecisionOption,
    audio_progress,
    say,
    stream_settings,
    warn_refused,
)

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.inference.decoding import LogProbs
    from audio_ssl.inference.decoding.tune import Errors, Trial, Utterance
    from audio_ssl.inference.models import Recogniser, Runtime
    from audio_ssl.inference.stream import StreamSettings

NUM_SHOWN = 10


def tune_decoder(
    model: ModelArgument,
    valid: Annotated[
        Path, typer.Argument(metavar="VALID", help="A manifest with transcripts; not the one to report on later.")
    ],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="TOML file for --decoder of transcribe and evaluate.")],
    lm: LmOption = None,
    lexicon: LexiconOption = None,
    hot_words: HotWordsOption = None,
    beam_size: BeamSizeOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Weights to try, those given as options first.")] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the weights that are tried.")] = 1,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: BothWorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Find the weights of the beam search that give the fewest word errors on recordings whose text is known.

    The recogniser runs once; then everything is decoded with each of the weights. The file names language model,
    lexicon and hot words relative to itself.

    Example: audio-ssl tune-decoder runs/ctc valid.arrow --lm lm.arpa -o decoder.toml
    """
    from audio_ssl.inference.decoding import write_settings
    from audio_ssl.inference.decoding.tune import Tuner
    from audio_ssl.inference.models import open_recogniser, open_runtime

    settings = decode_settings(
        "beam", lexicon=lexicon, lm=lm, hot_words=hot_words, beam_size=beam_size, lm_weight=lm_weight,
        word_score=word_score,
    )  # fmt: skip
    console, runtime, recogniser = say(), open_runtime(device, precision), open_recogniser(model)
    recogniser.model.to(runtime.device)
    stream = stream_settings(batch_s, max_s, overlap_s, workers=workers)
    utterances = _utterances(console, recogniser, valid, stream, runtime=runtime)
    tuner = Tuner(utterances, recogniser.vocabulary, settings, count_errors=_count_errors, workers=workers)
    found = tuner.run(trials, seed=seed, on_trial=lambda trial: _tell(console, trial, tuner.names, trials))
    _show(found, tuner.names)
    write_settings(out, found[0].settings, comment=_comment(model, valid, found, seed=seed))
    console.print(f"decoder: {out}", markup=False, highlight=False, soft_wrap=True)


def _utterances(
    console: Console, recogniser: Recogniser, valid: Path, stream: StreamSettings, *, runtime: Runtime
) -> list[Utterance]:
    """Log-probabilities and references of the rows with text; rows without, and audio that fails, are named.

    Raises:
        ManifestError: nothing is left to measure on.
    """
    from audio_ssl.errors import ManifestError
    from audio_ssl.inference.decoding.tune import Utterance
    from audio_ssl.inference.source import ManifestSource, Refusal, open_input
    from audio_ssl.inference.stitching import passages_of
    from audio_ssl.inference.transcribe import open_stream

    opened = open_input(valid)
    refused, found = list(opened.refused), list[Utterance]()
    parts: dict[int, list[LogProbs]] = {}
    texts = opened.manifest.column("text")
    source = ManifestSource(opened.manifest)
    rows = [row for row, text in enumerate(texts) if text is not None and recogniser.vocabulary.normalize(text)]
    refused += [Refusal(*source.name(row), reason="it has no text") for row in set(range(len(texts))).difference(rows)]
    total_s = float(opened.manifest.durations_s()[rows].sum())
    with audio_progress(console, "log-probabilities", total_s) as advance:
        pieces = open_stream(source, recogniser, stream, runtime=runtime).run(rows)
        for passage in passages_of(pieces, recogniser.vocabulary):
            if isinstance(passage, Refusal):
                refused.append(passage)
                parts.pop(-1 if passage.row is None else passage.row, None)
                continue
            row = passage.row
            parts.setdefault(row, []).append(passage.log_probs)
            if passage.is_last:
                found.append(Utterance(tuple(parts.pop(row)), recogniser.vocabulary.normalize(texts[row] or "")))
                advance(source.num_samples(row) / source.rate_hz(row))
    warn_refused(console, refused)
    if not found:
        raise ManifestError(f"{valid} must have recordings with text to tune on, {len(texts)} rows have none")
    return found


def _count_errors(references: Sequence[str], hypotheses: Sequence[str]) -> Errors:
    from audio_ssl.evaluate.error_rate import count_edits, total
    from audio_ssl.inference.decoding.tune import Errors

    pairs = list(zip(references, hypotheses, strict=True))
    words = total([count_edits(*pair, unit="word") for pair in pairs])
    characters = total([count_edits(*pair, unit="character") for pair in pairs])
    return Errors(words.errors, characters.errors, words.reference_length, characters.reference_length)


def _tell(console: Console, trial: Trial, names: Sequence[str], num_trials: int) -> None:
    weights = ", ".join(f"{name} {getattr(trial.settings, name):g}" for name in names)
    console.print(f"{trial.number + 1}/{num_trials}: WER {trial.errors.word_rate:.2%} with {weights}", highlight=False)


def _show(found: Sequence[Trial], names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from audio_ssl.inference.decoding.tune import table

    head, *rows = table(found[:NUM_SHOWN], names)
    shown = Table(*head, title=f"best {len(rows)} of {len(found)}")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def _comment(model: Path, valid: Path, found: Sequence[Trial], *, seed: int) -> str:
    """Where the weights come from, for the head of the file."""
    errors, first = found[0].errors, min(found, key=lambda trial: trial.number).errors
    return (
        f"Found by audio-ssl tune-decoder for {model.name} on {valid.name}: best of {len(found)} trials, seed {seed}.\n"
        f"WER {errors.word_rate:.2%}, CER {errors.character_rate:.2%} there; WER {first.word_rate:.2%} with what "
        "it began with.\n"
    )
