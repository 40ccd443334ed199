"""Where speech is, by Silero's voice activity detector: a small network that knows speech from noise of any loudness.

The package ``silero-vad`` brings the network as an ONNX file, and onnxruntime runs it; the package itself is not
imported, for it sets the number of torch's threads. This module knows probabilities; ``silence`` makes cuts of them.

Reference: github.com/snakers4/silero-vad, ``sequence_vad.py`` (frames of a block in one call) and
``get_speech_timestamps`` (from probabilities to speech). Decision 21.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.data.waveform import resample
from audio_ssl.errors import MissingExtraError

RATE_HZ = 16000
FRAME_SAMPLES = 512  # 32 ms
SPEECH_PROB, PAUSE_PROB = 0.5, 0.35  # speech begins at the first, and a pause below the second
MIN_PAUSE_FRAMES, MIN_SPEECH_FRAMES = 4, 8  # 0.1 s and 0.25 s, rounded up
_CONTEXT_SAMPLES = 64  # of the frame before, which the network sees too
_STATE_SHAPE = (1, 1, 128)
_FRAMES_A_CALL = 512  # 16 s: what a call holds beside the audio
_MODEL = "silero_vad_16k_sequence.onnx"
_EDGE_S = 0.1  # longer than the resamplers' filters

Span = tuple[int, int]


class SileroVAD:
    """The network. Calls from several threads do not meet: each signal has a state of its own.

    Raises:
        MissingExtraError: silero-vad or onnxruntime is not installed, or too old.
    """

    def __init__(self) -> None:
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            raise _missing(f"onnxruntime cannot be imported: {error}") from error
        spec = importlib.util.find_spec("silero_vad")
        if spec is None or spec.origin is None:
            raise _missing("there is no package silero_vad")
        model = Path(spec.origin).parent / "data" / _MODEL
        if not model.is_file():
            raise _missing(f"it must hold data/{_MODEL}, which came with silero-vad 6.2.3")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def probabilities(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """How surely each 32 ms of a signal are speech.

        Args:
            blocks: (S,) float32 at 16 kHz, the parts of one signal in order, of any lengths; one is held at a time.

        Returns:
            (F,) float32 in 0..1, F = ceil(samples / 512); the last frame is filled up with zeros.
        """
        hidden, cell = (np.zeros(_STATE_SHAPE, dtype=np.float32) for _ in range(2))
        context = np.zeros(_CONTEXT_SAMPLES, dtype=np.float32)
        found = [np.zeros(0, dtype=np.float32)]
        for frames in _framed(blocks):
            before = np.concatenate([context[None], frames[:-1, -_CONTEXT_SAMPLES:]])
            given = {"input": np.concatenate([before, frames], axis=1), "h": hidden, "c": cell}  # (frames, 576)
            values, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], given)
            found.append(values.reshape(-1))
            context = frames[-1, -_CONTEXT_SAMPLES:].copy()
        return np.concatenate(found)


def speech_spans(probabilities: np.ndarray) -> list[Span]:
    """Frames of speech: first, and the one after the last.

    Speech begins at a frame of :data:`SPEECH_PROB` and ends where it falls below :data:`PAUSE_PROB` and does not come
    back to :data:`SPEECH_PROB` for :data:`MIN_PAUSE_FRAMES` or more. What is shorter than :data:`MIN_SPEECH_FRAMES` is
    no speech.

    Args:
        probabilities: (F,) float32.
    """
    spans: list[Span] = []
    start = pause = -1
    for i, value in enumerate(probabilities.tolist()):
        if value >= SPEECH_PROB:
            if start >= 0 and 0 <= pause <= i - MIN_PAUSE_FRAMES:
                spans.append((start, pause))
                start = -1
            start, pause = i if start < 0 else start, -1
        elif value < PAUSE_PROB and start >= 0 and pause < 0:
            pause = i
    if start >= 0:
        spans.append((start, len(probabilities) if pause < 0 else pause))
    return [(a, b) for a, b in spans if b - a >= MIN_SPEECH_FRAMES]


def resampled_blocks(
    read: Callable[[int, int], np.ndarray], num_samples: int, *, from_hz: int, to_hz: int = RATE_HZ, block_s: float
) -> Iterator[np.ndarray]:
    """A long signal at another rate, block by block and without seams: what resampling all of it at once gives.

    Each block is resampled with a tenth of a second around it, from and to places that both rates have.

    Args:
        read: (first sample, samples) to (samples,) float32.
        num_samples: of the signal.
        from_hz: its rate.
        to_hz: of the blocks.
        block_s: seconds that are held at a time.

    Yields:
        (S,) float32, ceil(num_samples * to_hz / from_hz) samples in all.
    """
    shared = gcd(from_hz, to_hz)
    step, new_step = from_hz // shared, to_hz // shared
    block, edge = (max(1, -(-round(s * from_hz) // step)) * step for s in (block_s, _EDGE_S))
    for start in range(0, num_samples, block):
        stop = min(start + block, num_samples)
        first, last = max(0, start - edge), min(num_samples, stop + edge)
        part = resample(read(first, last - first), from_hz=from_hz, to_hz=to_hz)
        offset = (start - first) // step * new_step
        yield part[offset : offset - (-(stop - start) * to_hz // from_hz)]


def _framed(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """(frames, 512) of a signal, at most 512 of them at a time; the last one filled up with zeros."""
    rest = np.zeros(0, dtype=np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // FRAME_SAMPLES * FRAME_SAMPLES
        frames, rest = rest[:whole].reshape(-1, FRAME_SAMPLES), rest[whole:]
        for i in range(0, len(frames), _FRAMES_A_CALL):
            yield frames[i : i + _FRAMES_A_CALL]
    if len(rest):
        yield np.pad(rest, (0, FRAME_SAMPLES - len(rest)))[None]


def _missing(reason: str) -> MissingExtraError:
    return MissingExtraError(
        f"--vad silero must have the packages silero-vad and onnxruntime ({reason}): pip install 'audio_ssl[vad]', or "
        "use --vad energy"
    )
