"""The contrastive task: tell the true quantized latent of a masked frame from distractors of the same utterance.

Works on masked frames packed into (B, M, ...), M the widest row: one similarity matrix a row, from which distractors
are gathered as numbers. Gathering distractor vectors, (K, T, D) as peers do, gives the same logits 37 to 96 times
slower on a CPU.

Reference: wav2vec 2.0 (2006.11477) section 3.2, eq. 3; fairseq wav2vec2.py (sampling with replacement).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.objective.draws import uniform
from audio_ssl.precision import full_precision
from audio_ssl.tensors import FrameSubset, is_valid_mask


@dataclass(frozen=True)
class MaskedFrames(FrameSubset):
    """The masked frames of a batch.

    Attributes:
        is_target: (B, M) bool, True where a masked frame has distractors: false on padding, and in a row whose only
            masked frame is alone.
    """

    is_target: Tensor


def pack_masked(is_masked: Tensor, *, max_masked: int) -> MaskedFrames:
    """Pack the masked frames of each row to its front.

    Args:
        is_masked: (B, T) bool.
        max_masked: M, no less than the masked frames of any row; known without asking the device.
    """
    packed = FrameSubset.of(is_masked, max_chosen=max_masked)
    is_target = is_valid_mask(packed.counts, max_masked) & (packed.counts > 1)[:, None]
    return MaskedFrames(packed.frame_idx, packed.counts, is_target)


def sample_distractors(counts: Tensor, *, num_distractors: int, generator: torch.Generator, max_masked: int) -> Tensor:
    """For each masked frame draw others of its row, uniformly, with replacement, never itself.

    Args:
        counts: (B,) integer, masked frames a row.
        num_distractors: K.
        generator: on the CPU or on the device of ``counts``.
        max_masked: M, columns of the packed rows.

    Returns:
        (B, M, K) int64, positions in the packed row. Meaningless, but in range, where a row has fewer than two.
    """
    shape = (counts.shape[0], max_masked, num_distractors)
    draw = uniform(shape, generator, device=counts.device)
    others = (counts - 1).clamp(min=0)[:, None, None]
    idx = (draw * others).long()  # below `others`: float32 rounds (1 - 2**-24) * n to less than n for every n > 0
    own = torch.arange(max_masked, device=counts.device)[:, None]
    return (idx + (idx >= own)).clamp(max=max(max_masked - 1, 0))  # skip itself: others stay uniform


@dataclass(frozen=True)
class ContrastiveTerms:
    """Sums of one micro-batch.

    Attributes:
        loss_sum: () float32, cross-entropy in nats summed over targets.
        num_correct: () int64, targets whose positive beats every distractor. A tie is no win, and neither is a
            positive that has no distractor left: so a collapsed model scores 0, not 1.
    """

    loss_sum: Tensor
    num_correct: Tensor


def contrastive_loss(
    context: Tensor,
    targets: Tensor,
    *,
    code_idx: Tensor,
    distractor_idx: Tensor,
    is_target: Tensor,
    temperature: float,
) -> ContrastiveTerms:
    """Contrastive term L_m over packed masked frames (2006.11477, eq. 3).

    A distractor with the positive's codes is the same vector and takes no part (fairseq and transformers compare the
    vectors, which costs (K, T, D); codes are the same test).

    Args:
        context: (B, M, D) predictions of the context network.
        targets: (B, M, D) projected quantized latents.
        code_idx: (B, M, G) integer, codes of the targets.
        distractor_idx: (B, M, K), see :func:`sample_distractors`.
        is_target: (B, M) bool, positions that count.
        temperature: kappa, divisor of the cosines.

    Returns:
        Loss sum and number of correct targets.
    """
    with full_precision(context.device):
        context = F.normalize(context.float(), dim=-1, eps=1e-8)
        targets = F.normalize(targets.float(), dim=-1, eps=1e-8)
        logits = context @ targets.transpose(1, 2) / temperature  # (B, M, D) x (B, D, M) -> (B, M, M)
        positive = logits.diagonal(dim1=1, dim2=2)  # (B, M)
        is_same = torch.ones_like(logits, dtype=torch.bool)
        for codes in code_idx.unbind(-1):  # a loop over groups: .all(-1) over two columns is slow
            is_same = is_same & (codes[:, :, None] == codes[:, None])  # (B, M) -> (B, M, M)
        negatives = logits.masked_fill(is_same, -torch.inf).gather(2, distractor_idx)  # -> (B, M, K)
        nats = -torch.cat([positive[..., None], negatives], dim=-1).log_softmax(-1)[..., 0]
        loss_sum = nats.masked_fill(~is_target, 0.0).sum()
    hardest = negatives.detach().amax(-1)
    is_correct = is_target & (hardest > -torch.inf) & (positive.detach() > hardest)
    return ContrastiveTerms(loss_sum, is_correct.sum())
