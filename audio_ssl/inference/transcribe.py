"""Speech to text: utterances through a recogniser and a decoder, in input order, with word times when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.errors import AudioError, ManifestError
from audio_ssl.inference.align import Alignment, FrameClock, TimedToken, align
from audio_ssl.inference.decoding import Decoder, passages
from audio_ssl.inference.models import AudioNeeds, Recogniser, Runtime
from audio_ssl.inference.source import Refusal, Source
from audio_ssl.inference.stream import Stream, StreamSettings, joined
from audio_ssl.model.time_stats import TimeStats


@dataclass(frozen=True)
class Transcript:
    """The text of an utterance.

    Attributes:
        row: its row.
        id: its id.
        path: its file.
        text: as decoded.
        words: the text's words with their times, where they were asked for.
        times_error: why there are no times although they were asked for.
    """

    row: int
    id: str
    path: str
    text: str
    words: tuple[TimedToken, ...] | None = None
    times_error: str | None = None

    def to_document(self) -> dict[str, Any]:
        """JSON-able values; ``words`` with times in seconds and confidence where they were asked for."""
        document: dict[str, Any] = {"id": self.id, "path": self.path, "text": self.text}
        if self.words is not None:
            document["words"] = [asdict(word) for word in self.words]
        if self.times_error is not None:
            document["times_error"] = self.times_error
        return document


@dataclass(frozen=True)
class _CTCForward:
    recogniser: Recogniser

    def __call__(
        self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool, time_stats: TimeStats | None = None
    ) -> tuple[Tensor, Tensor]:
        log_probs, num_frames = self.recogniser.model(waveforms, num_samples, is_full=is_full, time_stats=time_stats)
        return log_probs, num_frames


def log_probs_of(
    source: Source, rows: Sequence[int], *, recogniser: Recogniser, settings: StreamSettings, runtime: Runtime
) -> Iterator[tuple[int, NDArray[np.float32]] | Refusal]:
    """Log-probabilities (T, A) of each utterance, longest of the short ones first; those of windows are stitched."""
    encoder = recogniser.model.encoder
    needs = AudioNeeds.of(encoder)
    yield from joined(
        Stream(source, _CTCForward(recogniser), needs=needs, settings=settings, runtime=runtime).run(rows)
    )


def transcribe_source(
    source: Source,
    *,
    recogniser: Recogniser,
    decoder: Decoder,
    settings: StreamSettings,
    runtime: Runtime,
    times: bool = False,
    strict: bool = False,
    on_progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[Transcript], list[Refusal]]:
    """Transcribe every utterance.

    Args:
        source: the utterances.
        recogniser: on the runtime's device.
        decoder: log-probabilities to text.
        settings: batches and windows.
        runtime: device and number format.
        times: align each text to its audio.
        strict: stop at the first utterance that cannot be done.
        on_progress: called with the seconds of audio of each utterance that is done.

    Returns:
        Transcripts in the order of the rows, and the utterances without one.

    Raises:
        AudioError: in strict mode.
    """
    transcripts, refused = list[Transcript](), list[Refusal]()
    everything = log_probs_of(source, range(len(source)), recogniser=recogniser, settings=settings, runtime=runtime)
    for result in everything:
        if isinstance(result, Refusal):
            if strict:
                raise AudioError(f"{result.id} ({result.path}): {result.reason} (--strict stops here)")
            refused.append(result)
            row = result.row or 0
        else:
            row = result[0]
            transcripts.append(_read(result[1], source, row, recogniser, decoder, times=times))
        on_progress(source.num_samples(row) / source.rate_hz(row))
    by_row: Callable[[Any], int] = lambda item: item.row  # noqa: E731 - one key for both lists
    return sorted(transcripts, key=by_row), sorted(refused, key=by_row)


def align_source(
    source: Source,
    texts: Sequence[str],
    *,
    recogniser: Recogniser,
    settings: StreamSettings,
    runtime: Runtime,
    on_progress: Callable[[float], None] = lambda _: None,
) -> tuple[list[Alignment], list[Refusal]]:
    """Align the known text of every utterance.

    Args:
        source: the utterances.
        texts: one a row.
        recogniser: on the runtime's device.
        settings: batches and windows.
        runtime: device and number format.
        on_progress: called with the seconds of audio of each utterance that is done.

    Returns:
        Alignments in the order of the rows, and the utterances without one.
    """
    found, refused = dict[int, Alignment](), list[Refusal]()
    everything = log_probs_of(source, range(len(source)), recogniser=recogniser, settings=settings, runtime=runtime)
    for result in everything:
        row = (result.row or 0) if isinstance(result, Refusal) else result[0]
        if isinstance(result, Refusal):
            refused.append(result)
        else:
            try:
                found[row] = _times(texts[row], result[1], source, row, recogniser)
            except ManifestError as error:
                refused.append(Refusal(*source.name(row), reason=str(error), row=row))
        on_progress(source.num_samples(row) / source.rate_hz(row))
    return [found[row] for row in sorted(found)], sorted(refused, key=lambda refusal: refusal.row or 0)


def _read(
    log_probs: NDArray[np.float32], source: Source, row: int, recogniser: Recogniser, decoder: Decoder, *, times: bool
) -> Transcript:
    """Decode passage by passage, and align each to its own text."""
    name, path = source.name(row)
    texts, words = list[str](), list[TimedToken]()
    error: str | None = None
    for part in passages(log_probs, recogniser.vocabulary):
        texts.append(decoder(log_probs[part]))
        if times and error is None:
            try:
                words += _times(texts[-1], log_probs[part], source, row, recogniser, first_frame=part.start).words
            except ManifestError as reason:  # a lexicon may spell a word with fewer symbols than its letters
                error = str(reason)
    text = " ".join(passage for passage in texts if passage)
    return Transcript(row, name, path, text, tuple(words) if times and error is None else None, error)


def _times(
    text: str,
    log_probs: NDArray[np.float32],
    source: Source,
    row: int,
    recogniser: Recogniser,
    *,
    first_frame: int = 0,
) -> Alignment:
    encoder = recogniser.model.encoder
    return align(
        source.name(row)[0], text, log_probs,
        vocabulary=recogniser.vocabulary, clock=FrameClock(encoder.geometry, encoder.sample_rate_hz, first_frame),
        duration_s=source.num_samples(row) / source.rate_hz(row),
    )  # fmt: skip
