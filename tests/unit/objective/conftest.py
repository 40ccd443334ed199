import pytest
import torch
from torch import Tensor, nn

from audio_ssl.config import Wav2Vec2Config
from audio_ssl.objective import Wav2Vec2Objective, build_objective
from audio_ssl.tensors import EncoderOutput, FrameSubset, is_valid_mask


class FakeEncoder(nn.Module):
    """An encoder in miniature: hop 10, no receptive field beyond it, context by a running mean over the row."""

    hop = 10

    def __init__(self, *, latent_dim: int = 6, dim: int = 8, device: str | None = None) -> None:
        super().__init__()
        self.conv = nn.Linear(self.hop, latent_dim, device=device)
        self.projection = nn.Linear(latent_dim, dim, device=device)
        self.mixer = nn.Linear(2 * dim, dim, device=device)
        self.mask_embedding = nn.Parameter(torch.full((dim,), 0.25, device=device))
        self.seen_features: Tensor | None = None
        self.rows_of_conv: list[int] = []

    def feature_encoder(
        self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        self.rows_of_conv.append(len(waveforms))
        return torch.tanh(self.conv(waveforms.unflatten(1, (-1, self.hop)))), num_samples // self.hop

    def feature_projection(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        normed = nn.functional.layer_norm(latents, latents.shape[-1:])
        return self.projection(normed), normed

    def context_network(
        self,
        features: Tensor,
        num_frames: Tensor,
        *,
        is_full: bool | None = None,
        kept_frames: FrameSubset | None = None,
    ) -> EncoderOutput:
        self.seen_features = features
        if kept_frames is not None:
            features, num_frames = kept_frames.pick(features), kept_frames.counts
        is_valid = is_valid_mask(num_frames, features.shape[1])
        kept = features * is_valid[..., None]
        mean = kept.sum(1, keepdim=True) / num_frames.clamp(min=1)[:, None, None]
        frames = self.mixer(torch.cat([kept, mean.expand_as(kept)], dim=-1))
        return EncoderOutput(frames * is_valid[..., None], num_frames)


@pytest.fixture
def make_encoder():
    return FakeEncoder


@pytest.fixture
def make_objective():
    def make(**changes) -> Wav2Vec2Objective:
        settings = {
            "mask_prob": 0.5,
            "mask_span_frames": 3,
            "num_distractors": 5,
            "num_groups": 2,
            "num_entries": 7,
            "code_dim": 6,
            "target_dim": 5,
            "target_dropout": 0.0,
            "decoder_dim": 12,
            "decoder_groups": 2,
            "decoder_layers": 2,
            "decoder_kernel": 3,
            "decoder_dropout": 0.0,
        }
        return build_objective(Wav2Vec2Config(**{**settings, **changes}), latent_dim=6, dim=8)

    return make


@pytest.fixture
def seeded():
    def make(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    return make
