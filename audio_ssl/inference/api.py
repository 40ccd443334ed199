"""Text in Python: ``audio_ssl.transcribe``. Frames are :mod:`audio_ssl.inference.embedder`'s."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audio_ssl.inference.decoding import Decoder, GreedyDecoder
from audio_ssl.inference.inputs import InputSource, OneInput, is_one, open_one
from audio_ssl.inference.models import Precision, Recogniser, Runtime, open_recogniser
from audio_ssl.inference.source import Refusal
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.transcribe import one_by_one, transcribe_source
from audio_ssl.inference.windows import WindowSettings


def load_recogniser(path: str | Path) -> Recogniser:
    """Load a fine-tuned recogniser, in eval mode on the CPU; for many calls of :func:`transcribe`.

    Raises:
        CheckpointError: no usable recogniser there.
    """
    return open_recogniser(path)


def transcribe(
    model: str | Path | Recogniser,
    inputs: OneInput | Iterable[OneInput],
    *,
    sample_rate_hz: int | None = None,
    decoder: Decoder | None = None,
    batch_s: float = 60.0,
    max_s: float = 60.0,
    overlap_s: float = 4.0,
    precision: Precision = "fp32",
) -> Any:
    """Text of one input or of many.

    Args:
        model: a recogniser from :func:`load_recogniser` or the path of one.
        inputs: as :meth:`~audio_ssl.inference.embedder.Embedder.extract`.
        sample_rate_hz: as :meth:`~audio_ssl.inference.embedder.Embedder.stream`.
        decoder: None for greedy; or one of :func:`audio_ssl.inference.decoding.build_decoder`.
        batch_s: as :meth:`~audio_ssl.inference.embedder.Embedder.stream`.
        max_s: as :meth:`~audio_ssl.inference.embedder.Embedder.stream`.
        overlap_s: as :meth:`~audio_ssl.inference.embedder.Embedder.stream`.
        precision: as :func:`~audio_ssl.inference.embedder.load`.

    Returns:
        str; a list of them, in order, for a list.

    Raises:
        AudioError: as :meth:`~audio_ssl.inference.embedder.Embedder.extract`.
        CheckpointError: no usable recogniser.
    """
    recogniser = model if isinstance(model, Recogniser) else open_recogniser(model)
    encoder = recogniser.model.encoder
    if recogniser.model.training:
        recogniser.model.eval()
    rate = encoder.sample_rate_hz if sample_rate_hz is None else sample_rate_hz
    items = [inputs] if is_one(inputs) else list(inputs)  # type: ignore[arg-type]
    results = transcribe_source(
        InputSource({number: open_one(item, number, rate_hz=rate) for number, item in enumerate(items)}),
        recogniser=recogniser,
        decode=one_by_one(decoder or GreedyDecoder(recogniser.vocabulary)),
        settings=StreamSettings(batch_s, WindowSettings(max_s, overlap_s)),
        runtime=Runtime(encoder.mask_embedding.device, precision),
    )
    texts = list[str]()
    for result in results:
        if isinstance(result, Refusal):
            raise result.error()
        texts.append(result.text)
    return texts[0] if is_one(inputs) else texts
