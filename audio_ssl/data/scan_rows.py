"""Rows of one scanned file: what its header says, and what is known about it from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from audio_ssl.data.audio import AudioInfo
from audio_ssl.data.checks import MIN_DURATION_S, TOO_SHORT, Refusal
from audio_ssl.data.files import stem_path
from audio_ssl.data.formats.sidecar_files import Entry
from audio_ssl.data.sidecars import Segment, Sidecars
from audio_ssl.data.table import Utterance
from audio_ssl.errors import ManifestError

OUTSIDE = "segment outside its file"
SEGMENT_SLACK_S = 0.1  # segment times are rounded in many corpora; so much beyond the end is taken as the end
_NOTHING_KNOWN = Entry("")
SpeakerRule = Callable[[str], str | None]


def speaker_rule(rule: str) -> SpeakerRule:
    """A function from relative path to speaker.

    Raises:
        ManifestError: neither ``none``, ``parent`` nor a regular expression with a group ``speaker``.
    """
    if rule == "none":
        return lambda _: None
    if rule == "parent":
        return lambda name: PurePosixPath(name).parent.name or None
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ManifestError(f"speaker-from must be none, parent or a regular expression: {rule!r}: {error}") from error
    if "speaker" not in pattern.groupindex:
        raise ManifestError(
            rf"speaker-from must be none, parent or a regular expression with a group named speaker, such as "
            rf"'(?P<speaker>\d+)-\d+-\d+', got {rule!r}"
        )

    def search(name: str) -> str | None:
        match = pattern.search(name)
        return match["speaker"] if match else None

    return search


def rows_of_file(
    name: str, info: AudioInfo, *, sidecars: Sidecars, speaker: str | None, language: str | None
) -> Iterator[Utterance | Refusal]:
    """The row of a file, or those of its segments; and the segments that do not fit it.

    Args:
        name: the file, as the manifest calls it.
        info: what it is.
        sidecars: what is known about it.
        speaker: who speaks, whatever the sidecars say; None to ask them.
        language: of rows whose sidecars name none.
    """

    def row(identity: str, known: Entry, start: int, stop: int) -> Utterance:
        return Utterance(
            identity,
            name,
            start,
            stop - start,
            info.sample_rate,
            known.text,
            speaker or known.speaker,
            known.language or language,
        )

    segments = sidecars.segments.get(name)
    if segments is None:
        known = sidecars.known.get(name, _NOTHING_KNOWN)
        yield row(sidecars.ids.get(name) or stem_path(name), known, 0, info.num_samples)
        return
    for segment in segments:
        span = _span(segment, name, info)
        yield span if isinstance(span, Refusal) else row(segment.id, segment.known, *span)


def _span(segment: Segment, name: str, info: AudioInfo) -> tuple[int, int] | Refusal:
    """First sample and the one after the last, or why the segment is refused."""
    rate, length = info.sample_rate, info.num_samples
    start = round(segment.start_s * rate)
    stop = length if segment.end_s is None else round(segment.end_s * rate)
    if length < stop <= length + SEGMENT_SLACK_S * rate:
        stop = length
    if not 0 <= start < stop <= length:
        return Refusal(
            name,
            OUTSIDE,
            f"{segment.id} is {segment.start_s} s to {segment.end_s} s, the file ends at {length / rate} s",
        )
    if stop - start < MIN_DURATION_S * rate:
        return Refusal(name, TOO_SHORT, f"{segment.id} has {stop - start} samples at {rate} Hz")
    return start, stop
