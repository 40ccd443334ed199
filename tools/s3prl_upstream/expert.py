"""The upstream itself, by s3prl's interface (``upstream/example/expert.py``); it imports nothing of s3prl."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from audio_ssl import load_encoder
from audio_ssl.data.waveform import VARIANCE_FLOOR
from audio_ssl.errors import ConfigError
from audio_ssl.model.squeeze import SqueezedContextNetwork

_RATE_HZ = 16_000  # of all audio in s3prl


class UpstreamExpert(nn.Module):
    """Every layer of a model, as s3prl's own wav2vec 2.0 upstream gives them.

    State n is the input of block n + 1; the last one is the network's output, which in pre-LN models comes after the
    final norm. With ``-f`` the context network is fine-tuned, without layer drop and with the feature encoder frozen,
    as in s3prl's.

    Args:
        ckpt: any MODEL of ``audio-ssl extract`` (``-k`` on s3prl's command line).
        model_config: not needed: a model's settings lie beside its weights.
        others: what else s3prl hands to every upstream.

    Raises:
        CheckpointError: no usable model.
        ConfigError: a model that wants another rate than s3prl's 16 kHz.
    """

    def __init__(self, ckpt: str, model_config: str | None = None, **others: Any) -> None:  # noqa: ARG002
        super().__init__()
        self.encoder = load_encoder(ckpt)
        if self.encoder.sample_rate_hz != _RATE_HZ:
            raise ConfigError(
                f"{ckpt} must take waveforms of {_RATE_HZ} Hz, which is all that s3prl gives; it takes "
                f"{self.encoder.sample_rate_hz} Hz"
            )
        network = self.encoder.context_network
        blocks = network.network if isinstance(network, SqueezedContextNetwork) else network
        blocks.layer_drop = 0.0
        self.encoder.feature_encoder.requires_grad_(False)

    def get_downsample_rates(self, key: str) -> int:  # noqa: ARG002 - s3prl's signature
        """Samples a frame."""
        return self.encoder.geometry.hop_samples

    def forward(self, wavs: list[Tensor]) -> dict[str, Any]:
        """Encode a batch.

        Args:
            wavs: each (S,) float32 at 16 kHz, of different lengths.

        Returns:
            ``hidden_states``: num_layers + 1 of (B, T, D), zero beyond each row's frames, which depend neither on
            padding nor on the rows beside it; and ``last_hidden_state``, the last of them.
        """
        device = self.encoder.mask_embedding.device
        num_samples = torch.tensor([len(wav) for wav in wavs], device=device)
        if self.encoder.normalize_waveform:
            wavs = [F.layer_norm(wav, wav.shape, eps=VARIANCE_FLOOR) for wav in wavs]
        padded = pad_sequence(wavs, batch_first=True).to(device)
        shortest = self.encoder.geometry.receptive_field_samples
        padded = F.pad(padded, (0, max(shortest - padded.shape[1], 0)))
        output = self.encoder(padded, num_samples, return_layers=True)
        states = [*output.layers[:-1], output.frames]
        return {"hidden_states": states, "last_hidden_state": output.frames}
