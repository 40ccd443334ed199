"""The objective in evaluation against transformers' Wav2Vec2ForPreTraining; training is in ``test_exactness``."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from audio_ssl.config import Wav2Vec2Config as ObjectiveConfig
from audio_ssl.objective import build_objective, wav2vec2
from audio_ssl.objective.masked_pass import MaskedPass
from audio_ssl.objective.quantizer import diversity_loss, perplexity

transformers = pytest.importorskip("transformers")
hf_wav2vec2 = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")

B, T, C, D, K = 3, 47, 24, 40, 13
NAMES = {
    "quantizer.codebook": "quantizer.codevectors",
    "quantizer.logits.weight": "quantizer.weight_proj.weight",
    "quantizer.logits.bias": "quantizer.weight_proj.bias",
    "target_projection.weight": "project_q.weight",
    "target_projection.bias": "project_q.bias",
    "context_projection.weight": "project_hid.weight",
    "context_projection.bias": "project_hid.bias",
}


class FixedEncodings(nn.Module):
    """Stands where transformers has its encoder, and gives the encodings of the test."""

    def __init__(self, frames: torch.Tensor, normed_latents: torch.Tensor) -> None:
        super().__init__()
        self.frames, self.normed_latents = frames, normed_latents

    def forward(self, *_, **__):
        return transformers.modeling_outputs.Wav2Vec2BaseModelOutput(
            last_hidden_state=self.frames, extract_features=self.normed_latents
        )


@pytest.fixture
def pair(monkeypatch):
    """Both heads with one set of weights, and one problem with its distractors in both layouts."""
    torch.manual_seed(1)
    np.random.seed(1)  # transformers draws masks and negatives from the global generator
    peer = transformers.Wav2Vec2ForPreTraining(
        transformers.Wav2Vec2Config(
            hidden_size=D, conv_dim=(C,), conv_kernel=(10,), conv_stride=(5,), num_feat_extract_layers=1,
            num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_conv_pos_embedding_groups=2,
            num_codevector_groups=2, num_codevectors_per_group=5, codevector_dim=12, proj_codevector_dim=16,
            feat_quantizer_dropout=0.0, contrastive_logits_temperature=0.1, diversity_loss_weight=0.1,
        )
    )  # fmt: skip
    nn.init.normal_(peer.quantizer.weight_proj.weight)
    nn.init.uniform_(peer.quantizer.codevectors)
    ours = build_objective(
        ObjectiveConfig(
            mask_span_frames=3, num_distractors=K, num_groups=2, num_entries=5, code_dim=12, target_dim=16,
            target_dropout=0.0, feature_penalty_weight=0.0,
        ),
        latent_dim=C,
        dim=D,
    )  # fmt: skip
    ours.load_state_dict({name: peer.state_dict()[theirs] for name, theirs in NAMES.items()})

    frames, normed = torch.randn(B, T, D, requires_grad=True), torch.randn(B, T, C, requires_grad=True)
    peer.wav2vec2 = FixedEncodings(frames, normed)
    is_masked = hf_wav2vec2._compute_mask_indices((B, T), mask_prob=0.5, mask_length=3)
    negatives = hf_wav2vec2._sample_negative_indices((B, T), K, mask_time_indices=is_masked)
    is_masked, negatives = torch.from_numpy(is_masked).bool(), torch.from_numpy(negatives).long()
    encoded = MaskedPass(torch.randn(B, T, C), normed, frames, torch.full((B,), T), is_masked)
    monkeypatch.setattr(wav2vec2, "sample_distractors", lambda *_, **__: packed(negatives, is_masked))
    monkeypatch.setattr(ours, "num_masked", lambda _: int(is_masked.sum(1).max()))  # theirs is random

    def run_peer():
        return peer(torch.zeros(B, 1), mask_time_indices=is_masked, sampled_negative_indices=negatives)

    def run_ours(update: int = 0):
        return ours.score(encoded, update=update, generator=torch.Generator())

    return SimpleNamespace(peer=peer, ours=ours, encoded=encoded, run_peer=run_peer, run_ours=run_ours)


def packed(negatives: torch.Tensor, is_masked: torch.Tensor) -> torch.Tensor:
    """Frame numbers of the whole batch, as transformers has them, to positions among a row's masked frames."""
    rank = is_masked.cumsum(1) - 1
    rows = [rank[b][negatives[b][is_masked[b]] - b * T] for b in range(B)]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def assert_equal_gradients(pair, ours_loss: torch.Tensor, peer_loss: torch.Tensor) -> None:
    inputs = {"frames": pair.encoded.frames, "normed_latents": pair.encoded.normed_latents}
    mine = gradients(ours_loss, {**inputs, **dict(pair.ours.named_parameters())})
    theirs = dict(pair.peer.named_parameters())
    expected = gradients(peer_loss, {**inputs, **{name: theirs[NAMES[name]] for name in NAMES}})
    assert mine.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(mine[name], grad, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def gradients(loss: torch.Tensor, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By name; zero where the loss does not depend on the tensor."""
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def test_evaluation_contrastive_loss_and_gradients(pair):
    pair.peer.eval()
    pair.ours.eval()
    pair.ours.diversity_weight = 0.0  # in evaluation transformers takes the diversity of hard choices
    ours, peer = pair.run_ours(), pair.run_peer()
    torch.testing.assert_close(ours.loss_sum, peer.contrastive_loss)
    assert_equal_gradients(pair, ours.loss_sum, peer.contrastive_loss)


def test_equal_codes_do_occur(pair):
    """Else the tests above would not see whether distractors with the positive's codes are left out."""
    pair.ours.eval()
    normed, is_masked = pair.encoded.normed_latents, pair.encoded.is_masked
    latents = normed[is_masked].detach()
    codes = pair.ours.quantizer(
        latents, is_counted=torch.ones(len(latents), dtype=torch.bool), temperature=1.0, generator=torch.Generator()
    ).code_idx
    assert len(codes.unique(dim=0)) < len(codes)


def test_quantizer_in_evaluation(pair):
    pair.peer.eval()
    pair.ours.eval()
    latents, is_masked = pair.encoded.normed_latents, pair.encoded.is_masked
    vectors, code_perplexity = pair.peer.quantizer(latents, mask_time_indices=is_masked)
    ours = pair.ours.quantizer(
        latents.flatten(0, 1), is_counted=is_masked.flatten(), temperature=1.0, generator=torch.Generator()
    )
    torch.testing.assert_close(ours.vectors, vectors.flatten(0, 1))
    torch.testing.assert_close(perplexity(ours.code_counts / is_masked.sum()).sum(), code_perplexity)


def test_diversity_is_their_formula():
    torch.manual_seed(2)
    probs = (3 * torch.randn(B * T, 2, 5)).softmax(-1)
    is_masked = torch.rand(B, T) < 0.4
    theirs = hf_wav2vec2.Wav2Vec2GumbelVectorQuantizer._compute_perplexity(probs, is_masked)
    ours = diversity_loss(probs[is_masked.flatten()].sum(0), is_masked.sum())
    torch.testing.assert_close(ours, (10 - theirs) / 10)
