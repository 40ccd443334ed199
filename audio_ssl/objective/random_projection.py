"""Which code does a masked frame have? Codes of latents by a quantizer that is drawn once and never learns.

Reference: BEST-RQ (2202.01855) section 3.1, for the quantizer; w2v-BERT 2.0 (2312.05187) for several
codebooks, and for prediction of their codes beside the contrastive task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_ssl.precision import full_precision
from audio_ssl.rng import torch_generator

CODE_DIM = 16  # BEST-RQ, section 4.1


class RandomProjectionTask(nn.Module):
    """Codes of random projections of latents, and the linear map that tells them from context.

    Projections and codebooks are the same in every run and part of no checkpoint: settings say them all.

    Args:
        latent_dim: C; latents have about zero mean and unit variance in each channel, as a filterbank's do.
        dim: D, width of the frames that predict.
        num_codebooks: N.
        num_entries: V, codes of each.
    """

    projections: Tensor
    codebooks: Tensor

    def __init__(self, *, latent_dim: int, dim: int, num_codebooks: int, num_entries: int) -> None:
        super().__init__()
        self.num_codebooks, self.num_entries = num_codebooks, num_entries
        device = torch.get_default_device()
        with torch.device("cpu"):  # a generator draws on its own device alone
            generator = torch_generator(0, "random projection")
            spread = (2 / (latent_dim + CODE_DIM)) ** 0.5  # Xavier's
            projections = spread * torch.randn(num_codebooks, latent_dim, CODE_DIM, generator=generator)
            codebooks = torch.randn(num_codebooks, num_entries, CODE_DIM, generator=generator)
        self.register_buffer("projections", projections.to(device), persistent=False)
        self.register_buffer("codebooks", F.normalize(codebooks, dim=-1).to(device), persistent=False)
        self.head = nn.Linear(dim, num_codebooks * num_entries)

    @torch.no_grad()
    def codes(self, latents: Tensor) -> Tensor:
        """The entry nearest to each latent's projection, by cosine: (..., C) -> (..., N) int64 below V."""
        with full_precision(latents.device):
            projected = torch.einsum("...c,ncd->...nd", latents.float(), self.projections)
            return torch.einsum("...nd,nvd->...nv", projected, self.codebooks).argmax(-1)

    def forward(self, frames: Tensor, latents: Tensor, *, is_target: Tensor) -> tuple[Tensor, Tensor]:
        """How well frames tell codes.

        Args:
            frames: (B, M, D), of masked features.
            latents: (B, M, C), of the same frames unmasked.
            is_target: (B, M) bool, positions that count.

        Returns:
            () float32, cross entropy in nats, of the mean codebook, summed over targets; and () float32, the share of
            codebooks whose code is told, summed likewise.
        """
        codes = self.codes(latents)  # (B, M, N)
        logits = self.head(frames).unflatten(-1, (self.num_codebooks, self.num_entries))  # (B, M, D) -> (B, M, N, V)
        nats = F.cross_entropy(logits.float().flatten(0, -2), codes.flatten(), reduction="none").view(codes.shape)
        is_told = (logits.detach().argmax(-1) == codes).float()
        left_out = ~is_target  # filled and not picked: how many there are is not asked of the device
        return nats.mean(-1).masked_fill(left_out, 0.0).sum(), is_told.mean(-1).masked_fill(left_out, 0.0).sum()
