"""Frozen features of utterances for the probes: every layer of an encoder, or log-mel spectra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from audio_ssl.data.manifest import Manifest
from audio_ssl.inference.models import AudioNeeds, Precision
from audio_ssl.model.encoder import Encoder
from audio_ssl.probe.candidates import Opened, opened
from audio_ssl.probe.frames import compute
from audio_ssl.probe.spectra import SAMPLE_RATE_HZ, LogMel
from audio_ssl.train.precision import resolve_precision
from benchmarks.cases import CPU

WIDE = 14  # log-mel frames (140 ms) beside each other: a linear head sees no further than its frame


@dataclass(frozen=True)
class Features:
    """A way from utterances to frames.

    Attributes:
        name: in tables.
        ready: the encoder, or spectra.
        precision: of its products.
    """

    name: str
    ready: Opened
    precision: Precision = "fp32"

    def of(self, manifest: Manifest, rows: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """(row, (L, T, D) float32) of each utterance, in whatever order is quick.

        Raises:
            AudioError: an utterance cannot be read or is too short: a probe of fewer would be another probe.
        """
        for row, frames in compute(self.ready, manifest, rows, name=self.name, precision=self.precision):
            yield row, torch.from_numpy(frames)


def of_encoder(name: str, encoder: Encoder) -> Features:
    """All layers: the input of block 1 and the output of each block; in bf16 where the machine multiplies it."""
    return Features(name, opened(encoder), cast(Precision, resolve_precision("auto", CPU)))


def log_mel(num_frames: int) -> Features:
    """Log-mel of waveforms that are normalised as an encoder's are, so that loudness tells nothing."""
    name = "log-mel" if num_frames == 2 else f"log-mel, {num_frames * 10} ms"
    spectra = LogMel(num_frames)
    return Features(name, Opened(spectra, AudioNeeds(SAMPLE_RATE_HZ, normalize=True, geometry=spectra.geometry)))
