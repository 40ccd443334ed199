import pytest
import torch
from torch.nn import functional as F

from audio_ssl.objective.quantizer import GumbelQuantizer, diversity_loss, gumbel_temperature, perplexity

N, C, G, V, d = 11, 5, 2, 7, 6


@pytest.fixture
def quantizer() -> GumbelQuantizer:
    torch.manual_seed(1)
    return GumbelQuantizer(latent_dim=C, code_dim=d, num_groups=G, num_entries=V)


def run(quantizer, latents, generator, *, temperature=2.0, is_counted=None):
    is_counted = torch.ones(len(latents), dtype=torch.bool) if is_counted is None else is_counted
    return quantizer(latents, is_counted=is_counted, temperature=temperature, generator=generator)


def entries_of(quantizer, code_idx):
    """Codebook entries by plain loops; entry v of group g is row g * V + v."""
    book = quantizer.codebook[0]
    return torch.stack([torch.cat([book[g * V + row[g]] for g in range(G)]) for row in code_idx.tolist()])


@pytest.mark.parametrize(("update", "expected"), [(0, 2.0), (1, 1.8), (2, 1.62), (100, 0.5)])
def test_temperature_by_hand(update, expected):
    assert gumbel_temperature(update, start=2.0, end=0.5, decay=0.9) == pytest.approx(expected)


def test_temperature_of_the_published_schedule():
    """2 -> .5 at .999995 an update reaches its floor after ln(4) / 5e-6 = 277 thousand updates."""
    assert gumbel_temperature(277_000, start=2, end=0.5, decay=0.999995) > 0.5
    assert gumbel_temperature(277_300, start=2, end=0.5, decay=0.999995) == 0.5


def test_perplexity_by_hand():
    probs = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]])
    assert perplexity(probs).tolist() == pytest.approx([4, 1, 2, 1], abs=1e-4)


def test_diversity_by_hand():
    """Two groups of 4: one even (perplexity 4), one collapsed (1): (8 - 5) / 8; nothing counted: (8 - 2) / 8."""
    prob_sums = torch.tensor([[3.0, 3, 3, 3], [12, 0, 0, 0]])
    assert diversity_loss(prob_sums, torch.tensor(12)).item() == pytest.approx(3 / 8, abs=1e-5)
    assert diversity_loss(torch.zeros(2, 4), torch.tensor(0)).item() == pytest.approx(6 / 8, abs=1e-5)


def test_evaluation_takes_the_likeliest_entry(quantizer, seeded):
    generator = seeded(2)
    latents = torch.randn(N, C)
    quantized = run(quantizer.eval(), latents, generator)
    logits = (latents @ quantizer.logits.weight.T + quantizer.logits.bias).view(N, G, V)
    assert torch.equal(quantized.code_idx, logits.argmax(-1))
    assert torch.equal(quantized.vectors, entries_of(quantizer, quantized.code_idx))
    assert torch.equal(generator.get_state(), seeded(2).get_state())  # no noise was drawn


def test_training_value_is_the_sampled_entry(quantizer, seeded):
    quantized = run(quantizer, torch.randn(N, C), seeded(3))
    assert torch.equal(quantized.vectors, entries_of(quantizer, quantized.code_idx))


def test_training_gradients_are_those_of_the_textbook_form(quantizer, seeded):
    """One-hot minus detached softmax plus softmax, times codebook, by autograd, on the same noise."""
    latents = torch.randn(N, C, requires_grad=True)
    pull = torch.randn(N, d)
    inputs = [latents, quantizer.codebook, quantizer.logits.weight, quantizer.logits.bias]
    ours = run(quantizer, latents, seeded(4), temperature=1.3)
    ours_grads = torch.autograd.grad((ours.vectors * pull).sum(), inputs)

    u = torch.rand(N, G, V, generator=seeded(4))
    logits = F.linear(latents, quantizer.logits.weight, quantizer.logits.bias).view(N, G, V)
    soft = ((logits - torch.log(-torch.log(u))) / 1.3).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), V).float()
    choice = (hard - soft.detach() + soft).view(N, G * V, 1)
    vectors = (choice * quantizer.codebook).view(N, G, V, d // G).sum(2).flatten(1)
    torch.testing.assert_close(ours.vectors, vectors)
    for mine, textbook in zip(ours_grads, torch.autograd.grad((vectors * pull).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, textbook, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_samples_follow_the_softmax(seeded, temperature):
    """Gumbel-max: odds 1 : 3 of the plain logits, whatever the temperature."""
    quantizer = GumbelQuantizer(latent_dim=1, code_dim=2, num_groups=1, num_entries=2)
    torch.nn.init.zeros_(quantizer.logits.weight)
    quantizer.logits.bias.data = torch.tensor([1.0, 3.0]).log()
    quantized = run(quantizer, torch.zeros(20_000, 1), seeded(5), temperature=temperature)
    assert quantized.code_idx.float().mean().item() == pytest.approx(0.75, abs=0.01)
    assert quantized.code_counts.tolist() == [[0, 20_000]]  # statistics are free of noise


def test_statistics_count_only_what_is_counted(quantizer, seeded):
    latents = torch.randn(N, C)
    is_counted = torch.arange(N) % 3 == 0  # 4 of 11
    quantized = run(quantizer, latents, seeded(6), is_counted=is_counted)
    logits = quantizer.logits(latents[is_counted]).view(-1, G, V)
    torch.testing.assert_close(quantized.prob_sums, logits.softmax(-1).sum(0))
    expected = torch.zeros(G, V)
    for row in logits.argmax(-1).tolist():
        for g, v in enumerate(row):
            expected[g, v] += 1
    assert torch.equal(quantized.code_counts, expected)
    assert not quantized.code_counts.requires_grad
    assert quantized.prob_sums.requires_grad


def test_autocast_does_not_reach_in(quantizer, seeded):
    latents = torch.randn(N, C).bfloat16()
    plain = run(quantizer, latents.float(), seeded(7))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = run(quantizer, latents, seeded(7))
    assert cast.vectors.dtype == torch.float32
    assert torch.equal(plain.code_idx, cast.code_idx)
    assert torch.equal(plain.prob_sums, cast.prob_sums)


def test_initial_values_are_fairseqs():
    torch.manual_seed(8)
    quantizer = GumbelQuantizer(latent_dim=64, code_dim=256, num_groups=2, num_entries=320, logit_scale=0.5)
    assert quantizer.codebook.shape == (1, 640, 128)
    assert 0 <= quantizer.codebook.min() < 0.01
    assert 0.99 < quantizer.codebook.max() <= 1
    assert quantizer.logits.weight.std().item() == pytest.approx(0.5, rel=0.02)
    assert not quantizer.logits.bias.any()
