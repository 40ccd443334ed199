"""What the report shows of an objective is what its loss is made of."""

import pytest
import torch

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective.contrastive import sample_distractors
from audio_ssl.objective.inspection import code_counts, compare
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch

MODEL = ModelConfig(preset="tiny_cpu", conv_dims=(16,) * 7, dim=48, num_heads=3, num_layers=2, pos_conv_groups=4)
SMALL = {"num_entries": 7, "num_groups": 2, "code_dim": 12, "target_dim": 11, "num_distractors": 5}


def build(**changes):
    torch.manual_seed(2)
    encoder = build_encoder(MODEL).eval()
    config = Wav2Vec2Config(**{**SMALL, **changes})
    return build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim).eval(), encoder


def one_row(length: int = 9_000) -> Batch:
    waveforms = torch.randn(1, length, generator=torch.Generator().manual_seed(4))
    return Batch(waveforms, torch.tensor([length]), (0,), is_full=True)


@pytest.mark.parametrize("changes", [{}, {"encode": "visible", "decoder_dim": 32}])
def test_the_similarities_give_the_loss_of_the_same_draws(changes):
    objective, encoder = build(**changes)
    batch = one_row()
    terms = objective(encoder, batch, update=0, generator=torch_generator(0, "x"))
    generator = torch_generator(0, "x")
    found = compare(objective, encoder, batch, generator=generator)  # draws the mask, as the objective does first
    masked = found.is_masked.nonzero().squeeze(1)
    num_masked = objective.num_masked(found.similarity.shape[0])
    assert len(masked) == num_masked
    drawn = sample_distractors(
        torch.tensor([num_masked]), num_distractors=5, generator=generator, max_masked=num_masked
    )[0]  # fmt: skip
    codes = best_codes(objective, encoder, batch)[masked]
    logits = found.similarity[masked][:, masked].double() / 0.1
    nats = 0.0
    for i in range(num_masked):
        others = [j for j in drawn[i].tolist() if not torch.equal(codes[i], codes[j])]
        nats -= float(torch.cat([logits[i, i : i + 1], logits[i, others]]).log_softmax(0)[0])
    assert nats == pytest.approx(float(terms.sums["contrastive"]), rel=1e-4)


def test_of_several_masks_the_first_is_shown():
    objective, encoder = build(num_masks=3)
    batch = one_row()
    found = compare(objective, encoder, batch, generator=torch_generator(0, "x"))
    num_frames = encoder.geometry.num_frames(9_000)
    masks = objective.sample_mask(
        torch.tensor([num_frames] * 3), max_frames=num_frames, generator=torch_generator(0, "x")
    )  # fmt: skip
    assert torch.equal(found.is_masked, masks[0])
    assert found.similarity.shape == (num_frames, num_frames)


def best_codes(objective, encoder, batch):
    """(T, G) entries by the quantizer's own logits."""
    latents, _ = encoder.feature_encoder(batch.waveforms, batch.num_samples, is_full=True)
    _, normed = encoder.feature_projection(latents)
    return objective.quantizer.logits(normed[0]).view(-1, 2, 7).argmax(-1)


def test_codes_are_counted_over_valid_frames_of_each_row():
    objective, encoder = build()
    waveforms = torch.randn(2, 9_000, generator=torch.Generator().manual_seed(4))
    waveforms[1, 5_000:] = 0
    batch = Batch(waveforms, torch.tensor([9_000, 5_000]), (0, 1))
    found = code_counts(objective, encoder, batch, generator=torch_generator(0, "x"))
    alone = [
        code_counts(
            objective, encoder, Batch(waveforms[i : i + 1, :n], torch.tensor([n]), (0,), is_full=True),
            generator=torch_generator(0, "x"),
        )
        for i, n in ((0, 9_000), (1, 5_000))
    ]  # fmt: skip
    assert found.shape == (2, 7)
    assert torch.equal(found, alone[0] + alone[1])
    num_frames = encoder.geometry.num_frames(9_000) + encoder.geometry.num_frames(5_000)
    assert found.sum(1).tolist() == [num_frames, num_frames]
    first = Batch(waveforms[:1], torch.tensor([9_000]), (0,), is_full=True)
    entries = best_codes(objective, encoder, first)
    assert torch.equal(alone[0][1], torch.bincount(entries[:, 1], minlength=7).float())
