"""Known texts of many utterances, aligned in input order as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from audio_ssl.errors import AudioError, ManifestError
from audio_ssl.inference.align import Alignment, FrameClock, align
from audio_ssl.inference.models import Recogniser, Runtime
from audio_ssl.inference.source import Refusal, Source
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.transcribe import groups_of, log_probs_of
from audio_ssl.inference.voice_edges import at_the_voice, loudness_of


def align_source(
    source: Source,
    texts: Callable[[int], str],
    *,
    recogniser: Recogniser,
    settings: StreamSettings,
    runtime: Runtime,
    on_progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Alignment | Refusal]:
    """Align the known text of every utterance.

    Args:
        source: the utterances.
        texts: of each row.
        recogniser: on the runtime's device.
        settings: batches and windows.
        runtime: device and number format.
        on_progress: called with the seconds of audio of each utterance that is done.

    Yields:
        An alignment for each row, or the refusal of one that cannot be done; in the order of the rows.
    """
    encoder, vocabulary = recogniser.model.encoder, recogniser.vocabulary
    clock = FrameClock(encoder.geometry, encoder.sample_rate_hz)
    for group in groups_of(source, range(len(source))):
        found = dict[int, Alignment | Refusal]()
        for result in log_probs_of(source, group, recogniser=recogniser, settings=settings, runtime=runtime):
            if isinstance(result, Refusal):
                row = result.row or 0
                found[row] = result
            else:
                row, log_probs = result
                name, path = source.name(row)
                try:
                    aligned = align(
                        name, texts(row), log_probs,
                        vocabulary=vocabulary, clock=clock, duration_s=source.num_samples(row) / source.rate_hz(row),
                    )  # fmt: skip
                    found[row] = at_the_voice(aligned, loudness_of(source, row))
                except (ManifestError, AudioError) as error:
                    found[row] = Refusal(name, path, str(error), row)
            on_progress(source.num_samples(row) / source.rate_hz(row))
        yield from (found[row] for row in group)
