"""One problem for both sides: our modules and a batch by seed, the random draws, our numbers, and a peer's weights.

Both sides hold the same weights and are given the same masks, distractors and Gumbel noise: ours draws them from a
generator as in training, and :func:`draw` replays that generator for the peer.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from exactness import Case
from peer_side import named_gradients
from peers import SYMBOLS, prefixed, random_encoder
from torch import Tensor, nn
from torch.nn import functional as F

from audio_ssl.config import CTCConfig
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.objective import Wav2Vec2Objective, build_objective
from audio_ssl.objective.contrastive import MaskedFrames, pack_masked, sample_distractors
from audio_ssl.objective.draws import uniform
from audio_ssl.objective.masking import sample_channel_mask, sample_whole_spans
from audio_ssl.tensors import Batch, is_valid_mask
from audio_ssl.train.ctc_module import FinetuneModule

UPDATE = 100_000  # a Gumbel temperature in the midst of its schedule: 1.21


@dataclass(frozen=True)
class Problem:
    """Our modules and a batch; the labels are those of its rows."""

    case: Case
    encoder: Encoder
    objective: Wav2Vec2Objective
    head: nn.Linear
    waveforms: Tensor
    num_samples: Tensor
    labels: Tensor
    num_labels: Tensor

    @property
    def num_frames(self) -> Tensor:
        """(B,)."""
        return self.case.model.geometry.num_frames(self.num_samples)

    @property
    def is_valid(self) -> Tensor:
        """(B, T) bool."""
        return is_valid_mask(self.num_frames, int(self.num_frames.max()))

    def tensors(self, kind: str) -> dict[str, Tensor]:
        """Weights of a pre-training or a CTC model under our names."""
        rest = prefixed("head", self.head.state_dict()) if kind == "ctc" else None
        rest = rest or prefixed("objective", self.objective.state_dict())
        return prefixed("encoder", self.encoder.state_dict()) | rest

    def peer_batches(self) -> list[slice]:
        """Rows of the batch that a peer may see together, see :attr:`Case.is_padded_alike`."""
        rows = len(self.num_samples)
        return [slice(0, rows)] if self.case.is_padded_alike else [slice(i, i + 1) for i in range(rows)]

    def rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Waveforms and lengths of some rows, no wider than the longest."""
        num_samples = self.num_samples[rows]
        return self.waveforms[rows, : int(num_samples.max())], num_samples


@functools.lru_cache(maxsize=1)
def _modules(case: Case) -> tuple[Encoder, Wav2Vec2Objective, nn.Linear]:
    """Random weights that float32 can carry to the bar.

    Fresh ones cannot, on either side (float64 agrees to 1e-13 there too): code logits of size 60 are rounded by 1e-5,
    and so is every probability; target vectors of like length make gradients small differences of large sums; the
    logarithms of 50 frames' probabilities, all near 1/A, add up to 100 inside torch's CTC, rounded by 1e-5. So here
    code logits have size 1, codes differ in length and direction, and blanks are likely, as in a trained recogniser.
    """
    encoder = random_encoder(case.model, seed=case.seed)
    scale = 1.0 if case.is_fresh else encoder.latent_dim**-0.5
    settings = case.objective.model_copy(update={"quantizer_logit_scale": scale})
    objective = build_objective(settings, latent_dim=encoder.latent_dim, dim=encoder.dim)
    head = nn.Linear(encoder.dim, len(SYMBOLS))
    codebook = objective.quantizer.codebook
    if not case.is_fresh:
        with torch.no_grad():
            codebook.copy_(torch.randn_like(codebook) * torch.randn(*codebook.shape[:2], 1).exp())
            head.weight.normal_(std=encoder.dim**-0.5)
            head.bias[0] = 5.0
    dtype = torch.float64 if case.is_double else torch.float32
    return encoder.to(dtype), objective.to(dtype), head.to(dtype)


def pose(case: Case, *, is_equal_length: bool = False) -> Problem:
    """The case's modules in training mode without gradients, and its batch: three (small) or two rows of audio.

    Args:
        case: which.
        is_equal_length: all rows as long as the longest, else shorter ones and padding.
    """
    encoder, objective, head = _modules(case)
    for module in (encoder, objective, head):
        module.train().zero_grad()
    encoder.feature_encoder.grad_scale = case.model.feature_grad_scale
    objective.feature_penalty_weight = case.objective.feature_penalty_weight
    num_samples = torch.tensor([8003, 6101, 4409] if case.size == "small" else [24_000, 19_777])
    if is_equal_length:
        num_samples = torch.full_like(num_samples, int(num_samples.max()))
    generator = torch.Generator().manual_seed(case.seed)
    labels = torch.tensor([[3, 4, 4, 5], [6, 3, 2, 0], [4, 0, 0, 0]])[: len(num_samples)]
    num_labels = torch.tensor([4, 3, 1])[: len(num_samples)]
    waveforms = _audio(num_samples, generator).to(encoder.mask_embedding.dtype)
    return Problem(case, encoder, objective, head, waveforms, num_samples, labels, num_labels)


def _audio(num_samples: Tensor, generator: torch.Generator) -> Tensor:
    """Noise whose loudness and colour change, with zero mean and unit variance a row; zeros beyond the row."""
    width = int(num_samples.max())
    noise = torch.randn(len(num_samples), width, generator=generator)
    bands = torch.randn(len(num_samples), 2, width // 400 + 2, generator=generator).exp()
    loud, rough = F.interpolate(bands, size=width, mode="linear").unbind(1)
    x = loud * (noise + rough * noise.roll(1, 1))
    is_real = is_valid_mask(num_samples, width)
    x = torch.stack([(row - row[real].mean()) / row[real].std() for row, real in zip(x, is_real, strict=True)])
    return x.masked_fill(~is_real, 0.0)


@dataclass(frozen=True)
class Draws:
    """The random numbers of one pre-training step.

    Attributes:
        is_masked: (B, T) bool.
        masked: the masked frames, packed.
        noise: (B, M, G, V) uniform numbers that the Gumbel noise is made of.
        distractor_idx: (B, M, K) positions among a row's masked frames.
    """

    is_masked: Tensor
    masked: MaskedFrames
    noise: Tensor
    distractor_idx: Tensor


def draw(problem: Problem, *, is_equal_count: bool = False) -> Draws:
    """Masks, and what our objective will draw from :func:`step_generator` after them.

    Args:
        problem: whose rows.
        is_equal_count: unmask the last masked frames of a row until all rows have the same number, a multiple of 4:
            fairseq2 knows a distractor with the target's codes by equal projected vectors, and with 19 targets a row
            the matrix product gave only 54 of 70 such pairs the same last bit (float64, width 768).
    """
    objective, num_frames = problem.objective, problem.num_frames
    generator = torch.Generator().manual_seed(problem.case.seed + 1)
    is_masked = objective.sample_mask(num_frames, max_frames=int(num_frames.max()), generator=generator)
    if is_equal_count:
        is_masked = is_masked & (is_masked.cumsum(1) <= is_masked.sum(1).min() // 4 * 4)
    masked = pack_masked(is_masked, max_masked=objective.num_masked(is_masked.shape[1]))
    batch, width = masked.frame_idx.shape
    quantizer, generator = objective.quantizer, step_generator(problem)
    shape = (batch * width, quantizer.num_groups, quantizer.num_entries)
    noise = uniform(shape, generator, device=generator.device).unflatten(0, (batch, width))
    distractor_idx = sample_distractors(
        masked.counts, num_distractors=objective.num_distractors, generator=generator, max_masked=width
    )
    return Draws(is_masked, masked, noise, distractor_idx)


def step_generator(problem: Problem) -> torch.Generator:
    """Of Gumbel noise and distractors in pre-training, of masks in fine-tuning."""
    return torch.Generator().manual_seed(problem.case.seed + 2)


def _batch(problem: Problem) -> Batch:
    return Batch(problem.waveforms, problem.num_samples, tuple(range(len(problem.num_samples))))


def our_pretraining(problem: Problem, draws: Draws) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Numbers and gradients of one training step of ours."""
    objective = problem.objective
    with mock.patch.object(objective, "sample_mask", return_value=draws.is_masked):
        terms = objective(problem.encoder, _batch(problem), update=UPDATE, generator=step_generator(problem))
    terms.loss_sum.backward()
    summary = objective.summarize(terms.sums)
    numbers = {name: terms.sums[name] for name in ("contrastive", "diversity", "feature_penalty")}
    for name in ("code_perplexity", "prob_perplexity"):
        numbers[name] = torch.tensor(summary[name], dtype=torch.float64)
    numbers["loss"] = terms.loss_sum.detach()
    gradients = named_gradients(prefixed("encoder", dict(problem.encoder.named_parameters())))
    return numbers, gradients | named_gradients(prefixed("objective", dict(objective.named_parameters())))


def ctc_masks(problem: Problem) -> tuple[Tensor, Tensor]:
    """The frames (B, T) and the channels (B, D) that :func:`our_ctc` masks."""
    config, generator = _ctc_config(problem), step_generator(problem)
    frames = sample_whole_spans(
        problem.num_frames, mask_prob=config.mask_prob, span=config.mask_span_frames,
        generator=generator, max_frames=int(problem.num_frames.max()),
    )  # fmt: skip
    channels = sample_channel_mask(
        len(problem.num_frames), problem.encoder.dim, mask_prob=config.channel_mask_prob,
        span=config.channel_mask_span, generator=generator, device=frames.device,
    )  # fmt: skip
    return frames, channels


def _ctc_config(problem: Problem) -> CTCConfig:
    small = {"mask_span_frames": 3, "channel_mask_span": 2} if problem.case.size == "small" else {}
    return CTCConfig(freeze_feature_encoder=False, **small)


def our_ctc(problem: Problem) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss and gradients of one fine-tuning step of ours, frames and channels masked."""
    transcripts: Any = SimpleNamespace(of_rows=lambda *_: (problem.labels, problem.num_labels))
    model = CTCModel(problem.encoder, len(SYMBOLS))
    model.head = problem.head
    module = FinetuneModule(model, transcripts=transcripts, config=_ctc_config(problem)).train()
    terms = module(_batch(problem), update=0, generator=step_generator(problem))
    terms.loss_sum.backward()
    return {"loss": terms.loss_sum.detach()}, named_gradients(dict(module.named_parameters()))


@torch.no_grad()
def our_frames(problem: Problem) -> dict[str, Tensor]:
    """Every layer, the final frames and the CTC logits in evaluation: (P, width) over valid frames."""
    encoder = problem.encoder.eval()
    output = encoder(problem.waveforms, problem.num_samples, return_layers=True)
    assert output.layers is not None
    named = {f"hidden states: layer {i}": layer for i, layer in enumerate(output.layers)}
    named |= {"hidden states: final": output.frames, "CTC logits": problem.head(output.frames)}
    return {name: frames[output.is_valid] for name, frames in named.items()}
