"""Waveform to latents without a conv stack: stacked log-mel energies, normalised over each utterance.

Nothing here learns, so nothing of it is in a checkpoint: settings say it all.

Reference: w2v-BERT 2.0 as released (2312.05187; transformers ``SeamlessM4TFeatureExtractor``): 80 log-mel energies of
25 ms every 10 ms, each band with zero mean and unit variance over the utterance, two in a row stacked to 160 values at
50 Hz, then layer norm and a linear layer (our ``FeatureProjection``). Deviates from it: no pre-emphasis, no removal of
a window's mean, a Hann window, bands from 0 Hz that are triangles in hertz (as torchaudio's), and the variance is that
of the frames themselves (ddof 0).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.geometry import ConvGeometry, fft_samples
from audio_ssl.model.feature_encoder import centre_over_time, require_a_frame
from audio_ssl.model.padding import blank, fills_width
from audio_ssl.model.time_stats import TimeStats, TimeSums
from audio_ssl.precision import full_precision
from audio_ssl.tensors import is_valid_mask

# Added to energies. A waveform of 16 bits has rounding noise of about 1e-8 a bin: under this, so digital silence and
# the last bit look alike; speech 40 dB below full scale lies five powers of ten above.
_FLOOR = 1e-6
_EPS = 1e-5  # added to variances: a band that never changes becomes zero


class MelEncoder(nn.Module):
    """Log-mel energies, stacked; it stands where the conv stack would.

    Args:
        num_bands: F, triangular bands, evenly spaced on the HTK mel scale.
        window_samples: Hann window of a spectrum.
        hop_samples: between the starts of windows.
        stack: windows a frame; C = F * stack.
        band_hz: lower edge of the first band and upper edge of the last.
        sample_rate_hz: of the waveforms.

    Attributes:
        geometry: the samples-to-frames arithmetic.
    """

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        num_bands: int,
        *,
        window_samples: int,
        hop_samples: int,
        stack: int,
        band_hz: tuple[float, float],
        sample_rate_hz: int,
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks  # models with convs do without torchaudio

        self.geometry = ConvGeometry.of_stacked_windows(window_samples, hop_samples, stack=stack)
        self.stack = stack
        self.hop_samples = hop_samples
        device = torch.get_default_device()
        with torch.device("cpu"):  # torchaudio looks at the numbers, which a meta tensor does not have
            filters = melscale_fbanks(
                fft_samples(window_samples) // 2 + 1, *band_hz, n_mels=num_bands, sample_rate=sample_rate_hz
            )
            window = torch.hann_window(window_samples)
        self.register_buffer("window", window.to(device), persistent=False)
        self.register_buffer("filters", filters.to(device), persistent=False)

    def activation_bytes(self, rows: int, num_samples: int, *, item_bytes: int, device_type: str) -> int:  # noqa: ARG002
        """As that of a conv stack: samples, complex spectra, two squares and their sum, all in float64."""
        bins = fft_samples(len(self.window)) // 2 + 1
        return 8 * rows * (num_samples + num_samples // self.hop_samples * (2 * bins + 3 * bins))

    def time_sums(self) -> TimeSums:
        """What to add an utterance's samples to so that stretches of it can be encoded; it works on the CPU."""
        on_cpu = copy.deepcopy(self).cpu()
        return TimeSums(self.geometry, lambda samples: on_cpu.log_energies(samples[None])[0], is_linear=False)

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        is_full: bool | None = None,
        time_stats: TimeStats | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveforms: (B, S) float32 at the model's rate; what lies beyond a row's samples is not looked at by
                any valid frame.
            num_samples: (B,) int64. Rows shorter than the receptive field have no frames.
            is_full: True when no row is padded; None to look (free on the CPU only).
            time_stats: from :meth:`time_sums`, of the one utterance that all rows are stretches of; None where each
                row is an utterance.

        Returns:
            Latents (B, T, C) float32, zero beyond each row's frames, and num_frames (B,) int64.

        Raises:
            ValueError: the batch is narrower than one receptive field, so that no row can have a frame.
        """
        require_a_frame(waveforms, self.geometry)
        num_frames = self.geometry.num_frames(num_samples)
        num_spectra = None
        if not fills_width(num_samples, waveforms.shape[1], is_full=is_full):
            num_spectra = num_frames * self.stack
        with full_precision(waveforms.device):
            energies = self.log_energies(waveforms)
            if time_stats is None:
                centred, variance = centre_over_time(energies, num_spectra)
            else:
                is_padding = None if num_spectra is None else ~is_valid_mask(num_spectra, energies.shape[1])[..., None]
                centred, variance = blank(energies - time_stats.mean, is_padding), time_stats.spread
            latents = (centred * torch.rsqrt(variance + _EPS)).float()
        rows, _, num_bands = latents.shape
        return latents.view(rows, -1, self.stack * num_bands), num_frames  # (B, T * stack, F) -> (B, T, C)

    def log_energies(self, waveforms: Tensor) -> Tensor:
        """Logarithms of energies over the floor, of the windows that belong to frames: (B, S) -> (B, T * stack, F).

        Float64, for a band that hardly changes is divided by next to nothing: what rounding in float32 left of silence
        was most of the result, and was another beside other rows. Costs 18 ms a minute of audio on one CPU thread.
        """
        num_spectra = self.stack * self.geometry.num_frames(waveforms.shape[1])
        width = len(self.window)
        windows = waveforms.double().unfold(1, width, self.hop_samples)[:, :num_spectra]  # (B, S) -> (B, T * stack, W)
        spectra = torch.fft.rfft(F.pad(windows * self.window, (0, fft_samples(width) - width)))  # W -> bins
        power = spectra.real.square() + spectra.imag.square()
        energies: Tensor = power @ self.filters.double()  # (B, T * stack, bins) -> (B, T * stack, F)
        return (energies / _FLOOR).log1p()  # log(energy + floor) less a constant, which the norm takes away anyhow
