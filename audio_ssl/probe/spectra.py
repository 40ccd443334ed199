"""Log-mel spectra and MFCC in the frames of an encoder: what any learned representation has to beat.

Spectra are of 25 ms about every 10 ms. A frame holds all spectra that begin within one period of the encoder, beside
each other, so that nothing of them is lost where the encoder has fewer frames; and more of its neighbours where it is
asked for, because a linear head sees no further than its frame.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.geometry import ConvGeometry
from audio_ssl.model.time_stats import TimeStats

SAMPLE_RATE_HZ, WINDOW, HOP = 16_000, 400, 160  # of spectra: 25 ms, every 10 ms where the period allows
NUM_MELS = 80
NUM_CEPSTRA = 13
_DELTA_FRAMES = 5  # that a slope is fitted to, as HTK, Kaldi and s3prl do
_FLOOR = 1e-6  # of a waveform of unit variance


def spectra_a_frame(period_samples: int) -> int:
    """Spectra that begin within a period: as many as bring their distance nearest to 10 ms, in whole samples."""
    divisors = [n for n in range(1, period_samples + 1) if period_samples % n == 0]
    return min(divisors, key=lambda n: abs(period_samples / n - HOP))


def context_spectra(context_samples: float, *, per_frame: int, hop_samples: int) -> int:
    """Spectra of a frame that sees about so much, as many before its own ones as behind them."""
    return per_frame + 2 * max(round((context_samples / hop_samples - per_frame) / 2), 0)


class LogMel:
    """Log-mel spectra, ``num_spectra`` of them beside each other in a frame, as one layer.

    Args:
        num_spectra: of a frame; ``per_frame`` or more of the same parity. Those in the middle of frame t are the
            spectra t * per_frame to (t + 1) * per_frame - 1. At the ends the last spectrum stands in for those that are
            missing.
        per_frame: spectra from a frame to the next.
        hop_samples: from a spectrum to the next.

    Attributes:
        geometry: samples to frames.
        dim: D.
    """

    def __init__(self, num_spectra: int, *, per_frame: int = 2, hop_samples: int = HOP) -> None:
        from librosa.filters import mel

        assert (num_spectra - per_frame) % 2 == 0, (num_spectra, per_frame)
        self._num_spectra, self._per_frame, self._hop = num_spectra, per_frame, hop_samples
        self._mels = torch.from_numpy(mel(sr=SAMPLE_RATE_HZ, n_fft=WINDOW, n_mels=NUM_MELS))  # (80, 201)
        self.geometry = ConvGeometry((WINDOW,), (per_frame * hop_samples,))

    @property
    def dim(self) -> int:
        """D."""
        return self.size * self._num_spectra

    @property
    def size(self) -> int:
        """Numbers of a spectrum."""
        return NUM_MELS

    def __call__(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        is_full: bool,  # noqa: ARG002
        time_stats: TimeStats | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        """(B, S) to (B, 1, T, D) and (B,) counts; each row by itself."""
        rows = [self._row(waveform[:length]) for waveform, length in zip(waveforms, num_samples.tolist(), strict=True)]
        lengths = torch.tensor([len(row) for row in rows])
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, None], lengths  # (B, T, D) -> (B, 1, T, D)

    def spectra(self, waveform: Tensor) -> Tensor:
        """(S,) to (X, M): M spectra of X numbers."""
        window = torch.hann_window(WINDOW, device=waveform.device)
        spectrum = torch.stft(waveform, WINDOW, self._hop, window=window, center=False, return_complex=True)
        return torch.log(self._mels.to(waveform.device) @ spectrum.abs().square() / WINDOW + _FLOOR)

    def _row(self, waveform: Tensor) -> Tensor:
        spectra = self.spectra(waveform)  # (X, M)
        step = self._per_frame
        num_frames = -(-spectra.shape[1] // step)
        before = (self._num_spectra - step) // 2
        after = step * (num_frames - 1) + self._num_spectra - before - spectra.shape[1]
        padded = F.pad(spectra[None], (before, after), mode="replicate")[0]
        stacked = padded.unfold(1, self._num_spectra, step)  # (X, .) -> (X, T, n)
        return stacked.permute(1, 2, 0).flatten(1)  # -> (T, n * X)


class Mfcc(LogMel):
    """13 cepstra of the log-mel spectra with their slopes and the slopes of these: 39 numbers a spectrum.

    The cosine transform is DCT-II, orthonormal; a slope is the least-squares one over five spectra.
    """

    @property
    def size(self) -> int:
        """Numbers of a spectrum."""
        return 3 * NUM_CEPSTRA

    def spectra(self, waveform: Tensor) -> Tensor:
        """(S,) to (39, M)."""
        from torchaudio.functional import compute_deltas, create_dct

        mels = super().spectra(waveform)
        cepstra = create_dct(NUM_CEPSTRA, NUM_MELS, "ortho").to(mels.device).T @ mels  # (80, M) -> (13, M)
        slopes = compute_deltas(cepstra, _DELTA_FRAMES)
        return torch.cat((cepstra, slopes, compute_deltas(slopes, _DELTA_FRAMES)))
