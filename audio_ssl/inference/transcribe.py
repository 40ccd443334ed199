"""Speech to text: utterances through a recogniser and a decoder, in input order as they come, in bounded memory.

A recording of any length is decoded passage by passage. What is held: the texts of a group of neighbouring rows, whose
batches are sorted by length, and the log-probabilities that a decoder has in hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audio_ssl.data.text import BLANK, collapse
from audio_ssl.errors import AudioError, ManifestError
from audio_ssl.inference.align import FrameClock, align_labels
from audio_ssl.inference.decoding import Decoder
from audio_ssl.inference.models import AudioNeeds, Recogniser, Runtime
from audio_ssl.inference.source import Refusal, Source
from audio_ssl.inference.stitching import MAX_PASSAGE_FRAMES, Passage, passages_of
from audio_ssl.inference.stream import Stream, StreamSettings
from audio_ssl.inference.transcripts import PassageText, Transcript, joined
from audio_ssl.inference.voice_edges import loudness_of, words_at_the_voice
from audio_ssl.model.time_stats import TimeStats

GROUP_S = 600.0
"""Seconds of audio whose batches are sorted by length: what comes before the first result, and what a kill may cost."""
GROUP_ROWS = 4096

Place: TypeAlias = tuple[int, int]  # row and first frame of a passage
Decode: TypeAlias = Callable[[Iterable[tuple[Place, NDArray[np.float32]]]], Iterator[tuple[Place, str]]]
"""Texts of log-probabilities (T, A), in their order; asks for no more at once than it works on."""


class Journal(Protocol):
    """What is kept of recordings of several passages while they are not complete."""

    def known(self, row: int) -> Sequence[PassageText]:
        """The passages of a recording that an earlier run has done, from its first on."""

    def add(self, row: int, passage: PassageText) -> None:
        """Keep the next passage of a recording."""


class _NoJournal:
    def known(self, row: int) -> Sequence[PassageText]:  # noqa: ARG002 - the protocol's
        return ()

    def add(self, row: int, passage: PassageText) -> None:
        pass


@dataclass(frozen=True)
class _CTCForward:
    recogniser: Recogniser

    def __call__(
        self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool, time_stats: TimeStats | None = None
    ) -> tuple[Tensor, Tensor]:
        log_probs, num_frames = self.recogniser.model(waveforms, num_samples, is_full=is_full, time_stats=time_stats)
        return log_probs, num_frames


def open_stream(source: Source, recogniser: Recogniser, settings: StreamSettings, *, runtime: Runtime) -> Stream:
    """A recogniser at work on a source: log-probabilities of windows, overlaps included."""
    needs = AudioNeeds.of(recogniser.model.encoder)
    forward = _CTCForward(recogniser)
    return Stream(source, forward, needs=needs, settings=settings, runtime=runtime, keeps_overlap=True)


def log_probs_of(
    source: Source, rows: Sequence[int], *, recogniser: Recogniser, settings: StreamSettings, runtime: Runtime
) -> Iterator[tuple[int, NDArray[np.float32]] | Refusal]:
    """Log-probabilities (T, A) of each utterance, longest of the short ones first; those of windows are stitched."""
    stream = open_stream(source, recogniser, settings, runtime=runtime)
    for found in passages_of(stream.run(rows), recogniser.vocabulary, max_frames=None):
        yield found if isinstance(found, Refusal) else (found.row, found.log_probs)


def one_by_one(decoder: Decoder) -> Decode:
    """Decode in this process, each utterance when it comes."""

    def decode(items: Iterable[tuple[Place, NDArray[np.float32]]]) -> Iterator[tuple[Place, str]]:
        for place, log_probs in items:
            yield place, decoder(log_probs)

    return decode


def groups_of(source: Source, rows: Iterable[int], *, seconds: float = GROUP_S) -> Iterator[list[int]]:
    """Cut rows into groups of neighbours of about ``seconds`` of audio; the last of a group may exceed it."""
    group, total = list[int](), 0.0
    for row in rows:
        group.append(row)
        total += source.num_samples(row) / source.rate_hz(row)
        if total >= seconds or len(group) == GROUP_ROWS:
            yield group
            group, total = [], 0.0
    if group:
        yield group


@dataclass(frozen=True)
class Transcriber:
    """A recogniser with its decoder.

    Attributes:
        recogniser: on the runtime's device.
        decode: log-probabilities to texts.
        settings: batches and windows.
        runtime: device and number format.
        times: align each text to its audio.
        joins_words: whether a word that goes on over the cut between two passages is one word: yes, unless the words
            are those of a lexicon.
        max_frames: of a passage.
    """

    recogniser: Recogniser
    decode: Decode
    settings: StreamSettings
    runtime: Runtime
    times: bool = False
    joins_words: bool = True
    max_frames: int = MAX_PASSAGE_FRAMES

    def run(
        self,
        source: Source,
        groups: Iterable[Sequence[int]],
        *,
        journal: Journal | None = None,
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> Generator[Transcript | Refusal, None, None]:
        """Transcribe groups of rows.

        Args:
            source: the utterances.
            groups: rows whose batches are sorted by length; the next group is asked for when all audio of the one
                before has been through the model.
            journal: keeps passages of long recordings, and knows those of an earlier run.
            on_progress: called with the seconds of audio that are done.

        Yields:
            A transcript or a refusal for each row, in the order of the groups.
        """
        yield from _Run(self, source, groups, journal or _NoJournal(), on_progress).results()


def transcribe_source(
    source: Source,
    *,
    recogniser: Recogniser,
    decode: Decode,
    settings: StreamSettings,
    runtime: Runtime,
    times: bool = False,
    strict: bool = False,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Transcript | Refusal]:
    """Transcribe every utterance.

    Args:
        source: the utterances.
        recogniser: on the runtime's device.
        decode: log-probabilities to texts: :func:`one_by_one`, or in processes.
        settings: batches and windows.
        runtime: device and number format.
        times: align each text to its audio.
        strict: stop at the first utterance that cannot be done.
        on_progress: called with the seconds of audio that are done.

    Yields:
        A transcript for each row, or the refusal of one that cannot be done; in the order of the rows.

    Raises:
        AudioError: in strict mode.
    """
    transcriber = Transcriber(recogniser, decode, settings, runtime, times)
    for result in transcriber.run(source, groups_of(source, range(len(source))), on_progress=on_progress):
        if strict and isinstance(result, Refusal):
            raise AudioError(f"{result.id} ({result.path}): {result.reason} (--strict stops here)")
        yield result


@dataclass
class _Run:
    """One way through some groups: what has been begun and not been given out."""

    how: Transcriber
    source: Source
    groups: Iterable[Sequence[int]]
    journal: Journal
    on_progress: Callable[[float], None]
    order: deque[int] = field(default_factory=deque)  # rows to give out
    done: dict[int, Transcript | Refusal] = field(default_factory=dict)
    parts: dict[int, list[PassageText]] = field(default_factory=dict)
    decoding: dict[Place, Passage] = field(default_factory=dict)  # without log-probs where nothing is aligned

    def results(self) -> Iterator[Transcript | Refusal]:
        for place, text in self.how.decode(self._emissions()):
            self._take(self._read(self.decoding.pop(place), text), place[0])
            yield from self._ready()
        yield from self._ready()

    def _ready(self) -> Iterator[Transcript | Refusal]:
        while self.order and self.order[0] in self.done:
            yield self.done.pop(self.order.popleft())

    def _emissions(self) -> Iterator[tuple[Place, NDArray[np.float32]]]:
        how = self.how
        stream = open_stream(self.source, how.recogniser, how.settings, runtime=how.runtime)
        for group in self.groups:
            self.order.extend(group)
            begin = {row: stop for row in group if (stop := self._take_known(row))}
            left = [row for row in group if row not in self.done]
            pieces = stream.run(left, begin=begin)
            for found in passages_of(pieces, how.recogniser.vocabulary, max_frames=how.max_frames, begin=begin):
                if isinstance(found, Refusal):
                    self._refuse(found)
                else:
                    place = found.row, found.first_frame
                    self.decoding[place] = found
                    yield place, found.log_probs

    def _take_known(self, row: int) -> int:
        """Take what an earlier run has done of a row; gives the first frame that is left."""
        known = self.journal.known(row)
        for passage in known:
            self._take(passage, row, is_new=False)
        return known[-1].stop_frame if known else 0

    def _refuse(self, refusal: Refusal) -> None:
        assert refusal.row is not None  # only files that never became rows have none
        row = refusal.row
        done_s = sum(self._seconds(passage) for passage in self.parts.pop(row, []))
        self.done[row] = refusal
        self.on_progress(max(self._duration_s(row) - done_s, 0.0))

    def _take(self, passage: PassageText, row: int, *, is_new: bool = True) -> None:
        if row in self.done:  # refused since: a recording that breaks off while its beginning is being decoded
            return
        parts = self.parts.setdefault(row, [])
        parts.append(passage)
        if is_new and not (passage.is_last and len(parts) == 1):
            self.journal.add(row, passage)
        if not passage.is_last:
            self.on_progress(self._seconds(passage))
            return
        name, path = self.source.name(row)
        text, words, error = joined(self.parts.pop(row), self.how.recogniser.vocabulary, joins=self.how.joins_words)
        if words:  # of the whole recording: where it was cut into passages must not show
            try:
                words = words_at_the_voice(words, loudness_of(self.source, row), duration_s=self._duration_s(row))
            except AudioError as reason:
                words, error = None, str(reason)
        self.done[row] = Transcript(row, name, path, self._duration_s(row), text, words, error)
        self.on_progress(max(self._duration_s(row) - sum(map(self._seconds, parts[:-1])), 0.0))

    def _read(self, passage: Passage, text: str) -> PassageText:
        vocabulary, log_probs = self.how.recogniser.vocabulary, passage.log_probs
        labels = collapse(log_probs.argmax(axis=-1).tolist(), blank=BLANK)
        words, error = None, None
        if self.how.times:
            own = labels if vocabulary.decode_ids(labels) == text else vocabulary.encode(text)
            name = self.source.name(passage.row)[0]
            try:
                aligned = align_labels(
                    name, text, own,
                    log_probs=log_probs, vocabulary=vocabulary, clock=self._clock(passage.first_frame),
                    duration_s=self._duration_s(passage.row),
                )  # fmt: skip
                words = aligned.words
            except ManifestError as reason:  # a lexicon may spell a word with fewer symbols than its letters
                error = str(reason)
        stop = passage.first_frame + len(log_probs)
        edges = (labels[0], labels[-1]) if labels else None
        return PassageText(passage.first_frame, stop, passage.is_last, text, words, error, edges)

    def _clock(self, first_frame: int) -> FrameClock:
        encoder = self.how.recogniser.model.encoder
        return FrameClock(encoder.geometry, encoder.sample_rate_hz, first_frame)

    def _duration_s(self, row: int) -> float:
        return self.source.num_samples(row) / self.source.rate_hz(row)

    def _seconds(self, passage: PassageText) -> float:
        encoder = self.how.recogniser.model.encoder
        return (passage.stop_frame - passage.first_frame) * encoder.geometry.hop_samples / encoder.sample_rate_hz
