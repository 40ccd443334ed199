"""From settings to a decoder, and many utterances through it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.decoding.greedy import GreedyDecoder
from audio_ssl.inference.decoding.settings import Decoder, DecodeSettings, LogProbs

K = TypeVar("K")
IN_FLIGHT = 4
"""Utterances a worker that wait or are being decoded: enough that none idles while the next is asked for."""


def build_decoder(vocabulary: Vocabulary, settings: DecodeSettings) -> Decoder:
    """The decoder that the settings describe, ready to be called.

    Args:
        vocabulary: names the columns of log-probabilities.
        settings: what is asked for.

    Raises:
        ConfigError: a file is missing or wrong, a word cannot be spelled, or the engine cannot do what is asked.
        MissingExtraError: a package that the settings need is not installed.
    """
    if settings.name == "greedy":
        return GreedyDecoder(vocabulary)
    from audio_ssl.inference.decoding.flashlight import FlashlightDecoder

    return FlashlightDecoder(vocabulary, settings)


def decode_all(
    items: Iterable[tuple[K, LogProbs]], vocabulary: Vocabulary, settings: DecodeSettings, *, workers: int
) -> Iterator[tuple[K, str]]:
    """Decode utterance after utterance, several at a time.

    Args:
        items: a key, which is handed back, and (T, A) float32; asked for as they are needed, never held all.
        vocabulary: names the columns.
        settings: of the decoder.
        workers: decoded at the same time.

    Yields:
        (key, text) in the order of ``items``.

    Raises:
        ConfigError: as :func:`build_decoder`.
        MissingExtraError: the same.
    """
    decoder = build_decoder(vocabulary, settings)
    if settings.name == "greedy" or workers <= 1:
        for key, log_probs in items:
            yield key, decoder(log_probs)
        return
    waiting: deque[tuple[K, Future[str]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="beam")
    try:
        for key, log_probs in items:
            waiting.append((key, pool.submit(decoder, log_probs)))
            if len(waiting) >= IN_FLIGHT * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
