"""Gumbel product quantizer: a latent picks one entry of each codebook group, differentiably.

Reference: wav2vec 2.0 (2006.11477) section 3.2, eq. 1, and fairseq's GumbelVectorQuantizer for what the paper leaves
open (initial values, what the perplexities are taken of).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio_ssl.objective.draws import uniform
from audio_ssl.precision import full_precision


def gumbel_temperature(update: int, *, start: float, end: float, decay: float) -> float:
    """Temperature at an optimizer update: ``max(start * decay ** update, end)``.

    A function of the update and not of the number of forward passes, so accumulating gradients does not speed it up.
    """
    return max(start * decay**update, end)


def perplexity(probs: Tensor) -> Tensor:
    """Effective number of entries in use: exp of the entropy in nats.

    Args:
        probs: (..., V) non-negative, each row summing to 1 (or to 0: then the result is 1).

    Returns:
        (...) between 1 and V.
    """
    return torch.exp(-(probs * torch.log(probs + 1e-7)).sum(-1))


def diversity_loss(prob_sums: Tensor, num_targets: Tensor) -> Tensor:
    """Share of codebook entries left unused, from 0 (all used alike) to nearly 1 (collapse).

    Deviates from eq. 4, which sums the negative entropy: fairseq and transformers train with
    ``(G * V - sum of perplexities) / (G * V)`` instead, and the published weight .1 belongs to that form.

    Args:
        prob_sums: (G, V) softmax probabilities summed over targets.
        num_targets: () integer.
    """
    num_codes = prob_sums.numel()
    return (num_codes - perplexity(prob_sums / num_targets.clamp(min=1)).sum()) / num_codes


@dataclass(frozen=True)
class Quantized:
    """What the quantizer made of N latents.

    Attributes:
        vectors: (N, d) float32, the chosen entries of all groups side by side.
        code_idx: (N, G) int64, the chosen entry of each group (in training the Gumbel sample's).
        prob_sums: (G, V) float32 with gradient, softmax of the plain logits (no noise, temperature 1) summed over
            the counted latents.
        code_counts: (G, V) float32, how often an entry had the highest plain logit among the counted latents. As in
            fairseq noise-free, or a collapsed codebook would look alive through the noise.
    """

    vectors: Tensor
    code_idx: Tensor
    prob_sums: Tensor
    code_counts: Tensor


class GumbelQuantizer(nn.Module):
    """Product quantizer with straight-through Gumbel samples in training and the best entry in evaluation.

    Args:
        latent_dim: C, width of the latents.
        code_dim: d, width of a quantized vector, all groups together; a multiple of ``num_groups``.
        num_groups: G.
        num_entries: V, entries a group.
        logit_scale: standard deviation of the initial logit weights; fairseq's is 1.
    """

    def __init__(
        self, *, latent_dim: int, code_dim: int, num_groups: int, num_entries: int, logit_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.num_entries = num_entries
        self.codebook = nn.Parameter(torch.rand(1, num_groups * num_entries, code_dim // num_groups))
        self.logits = nn.Linear(latent_dim, num_groups * num_entries)
        nn.init.normal_(self.logits.weight, std=logit_scale)
        nn.init.zeros_(self.logits.bias)

    def forward(
        self, latents: Tensor, *, is_counted: Tensor, temperature: float, generator: torch.Generator
    ) -> Quantized:
        """Quantize latents.

        Args:
            latents: (N, C) float of any precision; computed in float32 whatever autocast says.
            is_counted: (N,) bool, which latents enter ``prob_sums`` and ``code_counts`` (padding does not).
            temperature: of the Gumbel softmax whose gradient stands in for the sample's; above 0.
            generator: of the Gumbel noise; not drawn from in evaluation.

        Returns:
            Vectors, chosen entries and code statistics.
        """
        with full_precision(latents.device):
            logits = self._entry_logits(latents)  # (N, C) -> (N, G, V)
            best_idx = logits.detach().argmax(-1)  # (N, G)
            if self.training:
                vectors, code_idx = self._sample(logits, temperature=temperature, generator=generator)
            else:
                vectors, code_idx = self._look_up(best_idx), best_idx
            weight = is_counted.to(logits.dtype)
            prob_sums = (weight @ logits.softmax(-1).flatten(1)).view(self.num_groups, self.num_entries)  # -> (G, V)
        counts = torch.zeros_like(prob_sums, requires_grad=False)
        counts = counts.scatter_add(1, best_idx.T, weight.expand(self.num_groups, -1))
        return Quantized(vectors, code_idx, prob_sums, counts)

    def best_codes(self, latents: Tensor) -> Tensor:
        """The entry with the highest logit in each group: normed latents (..., C) -> (..., G) int64.

        What evaluation quantizes to (fairseq: ``quantizer.forward_idx``).
        """
        with full_precision(latents.device):
            return self._entry_logits(latents).argmax(-1)

    def _entry_logits(self, latents: Tensor) -> Tensor:
        logits: Tensor = self.logits(latents.float())
        return logits.view(*logits.shape[:-1], self.num_groups, self.num_entries)  # (..., G*V) -> (..., G, V)

    def _sample(self, logits: Tensor, *, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Straight-through Gumbel sample: (N, G, V) -> (N, d), (N, G)."""
        # Two logs of a uniform draw: a CPU makes an exponential one seven times slower.
        noise = uniform(tuple(logits.shape), generator, device=logits.device).log_().neg_().log_()
        noisy = logits - noise  # minus the log of an exponential is a Gumbel variable; a draw of 0 bars the entry
        soft = (noisy / temperature).softmax(-1)  # (N, G, V)
        code_idx = noisy.detach().argmax(-1)
        vectors: Tensor = _StraightThrough.apply(soft, code_idx, self.codebook)  # type: ignore[no-untyped-call]
        return vectors, code_idx

    def _look_up(self, code_idx: Tensor) -> Tensor:
        """Entries by number: (N, G) -> (N, d)."""
        return F.embedding(_flat_codes(code_idx, self.num_entries), self.codebook[0]).flatten(1)


class _StraightThrough(torch.autograd.Function):
    """Value of the hard choice, gradient of the soft one.

    Forward looks entries up; backward costs one matrix product a group for the choice and a scatter for the codebook.
    The textbook form, (one-hot - soft.detach() + soft) times codebook, builds (N, G*V, d/G); as an einsum it still
    takes three products and four passes over (N, G, V).
    """

    @staticmethod
    def forward(ctx: Any, soft: Tensor, code_idx: Tensor, codebook: Tensor) -> Tensor:
        """Look up: (N, G, V), (N, G), (1, G*V, d/G) -> (N, d)."""
        flat_idx = _flat_codes(code_idx, soft.shape[-1])
        ctx.save_for_backward(flat_idx, codebook)
        ctx.num_entries = soft.shape[-1]
        return F.embedding(flat_idx, codebook[0]).flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        """Gradients of ``soft`` (N, G, V) and of the codebook."""
        flat_idx, codebook = ctx.saved_tensors
        grad = grad.view(*flat_idx.shape, codebook.shape[-1])  # (N, d) -> (N, G, d/G); N may be 0
        entries = codebook.view(flat_idx.shape[1], ctx.num_entries, -1)  # (1, G*V, d/G) -> (G, V, d/G)
        grad_soft = torch.einsum("nge,gve->ngv", grad, entries)
        grad_codebook = torch.zeros_like(codebook[0]).index_add(0, flat_idx.flatten(), grad.flatten(0, 1))
        return grad_soft, None, grad_codebook[None]


def _flat_codes(code_idx: Tensor, num_entries: int) -> Tensor:
    """Row of the codebook for the entry of each group: (N, G) -> (N, G)."""
    return code_idx + torch.arange(code_idx.shape[1], device=code_idx.device) * num_entries
