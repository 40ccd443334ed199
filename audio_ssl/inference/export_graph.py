"""A model as one graph of torch's plain operations, for other runtimes: raw samples in, frames out, for any batch.

Knows neither files nor formats.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from audio_ssl.data.waveform import VARIANCE_FLOOR
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.tensors import is_valid_mask

INPUTS = ("waveforms", "num_samples")


class ExportedModel(nn.Module):
    """What is exported: an encoder with the normalisation that it wants, and the head of a recogniser.

    Args:
        model: in eval mode, its linear layers plain.
        max_layer: the last block that runs; None runs everything, and a recogniser's head.
    """

    def __init__(self, model: Encoder | CTCModel, max_layer: int | None) -> None:
        super().__init__()
        self.encoder = model if isinstance(model, Encoder) else model.encoder
        self.recogniser = model if isinstance(model, CTCModel) and max_layer is None else None
        self.max_layer = max_layer

    @property
    def min_width_samples(self) -> int:
        """The least S: a dimension of one counts as a constant in a graph, so there are two frames, or two groups."""
        return self.encoder.geometry.samples_for_frames(self.encoder.context_stride + 1)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` gives."""
        return ("frames", "num_frames", *(("log_probs",) if self.recogniser else ()))

    def forward(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, ...]:
        """Embed a batch.

        Args:
            waveforms: (B, S) float32 as recorded, S at least :attr:`min_width_samples`; what lies beyond a row's
                samples does not matter.
            num_samples: (B,) int64, from 0 to S.

        Returns:
            frames (B, T, D) float32, zero beyond num_frames (B,) int64; of a recogniser log_probs (B, T, A) too.
        """
        if self.encoder.normalize_waveform:
            waveforms = normalize_rows(waveforms, num_samples)
        if self.recogniser is None:
            output = self.encoder(waveforms, num_samples, max_layer=self.max_layer, is_full=False)
            return output.frames, output.num_frames
        output = self.recogniser.frames(waveforms, num_samples, is_full=False)
        return output.frames, output.num_frames, self.recogniser.log_probs(output.frames)


def normalize_rows(waveforms: Tensor, num_samples: Tensor) -> Tensor:
    """Zero mean and unit variance over each row's samples, as :func:`audio_ssl.data.waveform.normalize` does it.

    Args:
        waveforms: (B, S) float32.
        num_samples: (B,) int64.

    Returns:
        (B, S), zero beyond a row's samples.
    """
    is_padding = ~is_valid_mask(num_samples, waveforms.shape[1])
    counts = num_samples.clamp(min=1)[:, None].to(waveforms.dtype)
    centred = waveforms.masked_fill(is_padding, 0.0)
    for _ in range(2):  # the second time takes what rounding has left of a mean far from zero
        mean = centred.sum(dim=1, keepdim=True) / counts
        centred = (centred - mean).masked_fill(is_padding, 0.0)
    variance = centred.square().sum(dim=1, keepdim=True) / counts
    return centred * torch.rsqrt(variance + VARIANCE_FLOOR)


@torch.no_grad()
def trace(model: ExportedModel) -> ExportedProgram:
    """The graph, for batches and lengths of any size."""
    least = model.min_width_samples
    lengths = [5 * least + 7, 3 * least, 2 * least + 1]  # an example; no number of it is in the graph
    waveforms = torch.randn(len(lengths), lengths[0], generator=torch.Generator().manual_seed(0))
    free = Dim.DYNAMIC  # named dimensions fail in torch 2.9, which then solves bounds like "samples <= 10737413804/7"
    return torch.export.export(
        model, (waveforms, torch.tensor(lengths)), dynamic_shapes=({0: free, 1: free}, {0: free}), strict=False
    )
