"""Frozen features of utterances for the probes: every layer of an encoder, or log-mel spectra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.data.manifest import Manifest
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import AudioNeeds, Precision, Runtime
from audio_ssl.inference.source import ManifestSource, Refusal
from audio_ssl.inference.stream import Forward, Stream, StreamSettings, joined
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.time_stats import TimeStats
from audio_ssl.train.precision import resolve_precision
from benchmarks.cases import CPU
from benchmarks.report import BenchError

SAMPLE_RATE_HZ, WINDOW, HOP = 16_000, 400, 160  # of log-mel: 25 ms every 10 ms
NUM_MELS = 80
WIDE = 14  # log-mel frames (140 ms) beside each other: a linear head sees no further than its frame
_FLOOR = 1e-6  # of a waveform of unit variance


@dataclass(frozen=True)
class Features:
    """A way from utterances to frames.

    Attributes:
        name: in tables.
        forward: (B, S) waveforms to (B, L, T, D) frames of L layers.
        needs: of its input.
        precision: of its products.
    """

    name: str
    forward: Forward
    needs: AudioNeeds
    precision: Precision = "fp32"

    def of(self, manifest: Manifest, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """(row, (L, T, D) float32) of each utterance, in whatever order is quick.

        Raises:
            BenchError: an utterance cannot be read or is too short: a probe of fewer would be another probe.
        """
        source, runtime = ManifestSource(manifest), Runtime(CPU, self.precision)
        stream = Stream(source, self.forward, needs=self.needs, settings=StreamSettings(), runtime=runtime)
        for found in joined(stream.run(rows)):
            if isinstance(found, Refusal):
                raise BenchError(f"{self.name} of {found.path}: {found.reason}")
            yield found[0], torch.from_numpy(found[1])


def of_encoder(name: str, encoder: Encoder) -> Features:
    """All layers: the input of block 1 and the output of each block; in bf16 where the machine multiplies it."""
    forward = LayerForward(encoder.eval(), choose_layer("all", num_layers=encoder.num_layers))
    precision = cast(Precision, resolve_precision("auto", CPU))
    return Features(name, forward, AudioNeeds.of(encoder), precision)


class LogMel:
    """Log-mel frames, ``num_frames`` of them beside each other every 20 ms, as one layer.

    Args:
        num_frames: even; the middle pair of frame t are log-mel frames 2t and 2t + 1. At the ends the last frame stands
            in for those that are missing.
    """

    def __init__(self, num_frames: int) -> None:
        from librosa.filters import mel

        self.num_frames = num_frames
        self._mels = torch.from_numpy(mel(sr=SAMPLE_RATE_HZ, n_fft=WINDOW, n_mels=NUM_MELS))  # (80, 201)

    def __call__(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        is_full: bool,  # noqa: ARG002
        time_stats: TimeStats | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """(B, S) to (B, 1, T, 80 * num_frames); each row by itself."""
        rows = [self._row(waveform[:length]) for waveform, length in zip(waveforms, num_samples.tolist(), strict=True)]
        lengths = torch.tensor([len(row) for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, None], lengths  # (B, T, X) -> (B, 1, T, X)

    def _row(self, waveform: Tensor) -> Tensor:
        window = torch.hann_window(WINDOW)
        spectrum = torch.stft(waveform, WINDOW, HOP, window=window, center=False, return_complex=True)
        mels = torch.log(self._mels @ spectrum.abs().square() / WINDOW + _FLOOR)  # -> (80, number of frames)
        pairs = mels.shape[1] // 2 + mels.shape[1] % 2
        before = self.num_frames // 2 - 1
        after = 2 * (pairs - 1) + self.num_frames - before - mels.shape[1]
        padded = F.pad(mels[None], (before, after), mode="replicate")[0]
        stacked = padded.unfold(1, self.num_frames, 2)  # (80, .) -> (80, T, n)
        return stacked.permute(1, 2, 0).flatten(1)  # -> (T, n * 80)


def log_mel(num_frames: int) -> Features:
    """Log-mel of waveforms that are normalised as an encoder's are, so that loudness tells nothing."""
    name = "log-mel" if num_frames == 2 else f"log-mel, {num_frames * 10} ms"
    needs = AudioNeeds(SAMPLE_RATE_HZ, normalize=True, geometry=ConvGeometry((WINDOW,), (2 * HOP,)))
    return Features(name, LogMel(num_frames), needs)
