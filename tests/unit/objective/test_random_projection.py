"""The second task: codes of a quantizer that never learns, told from the context of masked frames."""

import math

import pytest
import torch

from audio_ssl.config import Wav2Vec2Config
from audio_ssl.objective import build_objective
from audio_ssl.objective.random_projection import RandomProjectionTask
from tests.unit.objective.test_wav2vec2_objective import make_batch, make_pass

ON = {"random_projection_weight": 0.5, "random_projection_codebooks": 3, "random_projection_entries": 11}


def make_task(*, latent_dim=6, dim=8, num_codebooks=3, num_entries=11):
    return RandomProjectionTask(latent_dim=latent_dim, dim=dim, num_codebooks=num_codebooks, num_entries=num_entries)


def test_codes_are_the_nearest_unit_vectors():
    """2202.01855, eq. 1: argmin over i of || l2norm(c_i) - l2norm(A x) ||, for each codebook by itself."""
    task, latents = make_task(), torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    found = task.codes(latents)
    for latent, codes in zip(latents, found, strict=True):
        for projection, entries, code in zip(task.projections, task.codebooks, codes, strict=True):
            projected = projection.T @ latent
            distances = [(entry / entry.norm() - projected / projected.norm()).norm() for entry in entries]
            assert code == min(range(11), key=distances.__getitem__)


def test_projections_are_xaviers_and_entries_lie_on_the_sphere():
    task = make_task(latent_dim=320, num_entries=512)
    assert task.projections.std() == pytest.approx(math.sqrt(2 / (320 + 16)), rel=0.02)
    assert task.projections.mean() == pytest.approx(0, abs=0.002)
    torch.testing.assert_close(task.codebooks.norm(dim=-1), torch.ones(3, 512))
    assert torch.linalg.matrix_rank(task.codebooks.flatten(0, 1)) == 16
    assert not torch.allclose(task.projections[0], task.projections[1])


def test_noise_uses_most_of_the_codes():
    codes = make_task(latent_dim=320, num_entries=64).codes(torch.randn(20_000, 320))
    shares = torch.bincount(codes[:, 0], minlength=64) / len(codes)
    assert torch.special.entr(shares).sum().exp() > 40


def test_they_are_the_same_in_every_run_and_in_no_checkpoint():
    tasks, following = [], []
    for seed in (4, 5, 4):
        torch.manual_seed(seed)
        tasks.append(make_task())
        following.append(torch.rand(1))
    torch.manual_seed(4)
    torch.nn.Linear(8, 33)  # what the head draws, and nothing else is
    assert following == [torch.rand(1), following[1], following[0]]
    assert torch.equal(tasks[0].projections, tasks[1].projections)
    assert torch.equal(tasks[0].codebooks, tasks[1].codebooks)
    assert not torch.equal(tasks[0].head.weight, tasks[1].head.weight)
    assert set(tasks[0].state_dict()) == {"head.weight", "head.bias"}


def test_a_seed_gives_these_codes():
    """A run that goes on elsewhere has the targets that it had: torch's generator on the CPU is the same everywhere."""
    latents = torch.arange(24.0).view(4, 6).sin()
    assert make_task().codes(latents).tolist() == [[10, 1, 7], [10, 1, 5], [5, 9, 5], [5, 9, 5]]


def test_loss_and_share_by_hand():
    task = make_task(num_codebooks=2, num_entries=3)
    frames, latents = torch.randn(2, 4, 8), torch.randn(2, 4, 6)
    is_target = torch.tensor([[True, True, False, False], [True, True, True, False]])
    with torch.no_grad():
        nats, told = task(frames, latents, is_target=is_target)
    expected_nats = expected_told = 0.0
    for b, m in is_target.nonzero().tolist():
        logits = (task.head.weight @ frames[b, m] + task.head.bias).detach().view(2, 3)
        for n, code in enumerate(task.codes(latents[b, m]).tolist()):
            expected_nats += float(torch.logsumexp(logits[n], 0) - logits[n, code]) / 2
            expected_told += (int(logits[n].argmax()) == code) / 2
    assert float(nats) == pytest.approx(expected_nats, rel=1e-5)
    assert float(told) == pytest.approx(expected_told)


def test_nothing_flows_into_the_latents():
    task, latents = make_task(), torch.randn(1, 4, 6, requires_grad=True)
    frames = torch.randn(1, 4, 8, requires_grad=True)
    task(frames, latents, is_target=torch.ones(1, 4, dtype=torch.bool))[0].backward()
    assert latents.grad is None
    assert frames.grad.abs().sum() > 0


def test_it_is_added_with_its_weight_and_told(make_objective, seeded):
    """The contrastive task draws what it drew without the second one."""
    encoded = make_pass()
    torch.manual_seed(0)
    alone = make_objective()
    torch.manual_seed(0)
    both = make_objective(**ON)
    both.load_state_dict(alone.state_dict(), strict=False)
    without, sums = (o.score(encoded, update=0, generator=seeded(13)).sums for o in (alone, both))
    torch.testing.assert_close(sums["contrastive"], without["contrastive"])
    torch.testing.assert_close(sums["loss"], without["loss"] + 0.5 * sums["random_projection"])
    figures = both.summarize(sums)
    assert figures["random_projection_loss"] == pytest.approx(math.log(11), abs=0.3)
    assert figures["random_projection_loss"] == pytest.approx(float(sums["random_projection"] / sums["num_targets"]))
    assert 0 <= figures["random_projection_accuracy"] <= 0.4
    assert not any(name.startswith("random_projection") for name in alone.summarize(without))


def test_codes_of_the_clean_latents_are_told_from_masked_frames(make_objective, make_encoder, seeded):
    """Each masked frame's code, which the objective gives the task, is that of the latent at its own place."""
    objective, encoder, seen = make_objective(**ON), make_encoder(), []
    objective.random_projection.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[1], kwargs["is_target"])), with_kwargs=True
    )
    batch, masks = make_batch(), []
    sample = objective.sample_mask
    objective.sample_mask = lambda *args, **kwargs: masks.append(sample(*args, **kwargs)) or masks[-1]
    objective(encoder, batch, update=0, generator=seeded(3))
    latents, _ = encoder.feature_encoder(batch.waveforms, batch.num_samples)
    ((given, is_target),) = seen
    for row in range(3):
        torch.testing.assert_close(given[row][is_target[row]], latents[row][masks[0][row]])


def test_a_second_task_can_be_learned():
    """Of frames that say their latent, a few steps make a head tell its codes."""
    encoded = make_pass(latent_dim=6, dim=8)
    frames = torch.cat([encoded.latents, encoded.latents[..., :2]], dim=-1)
    task = make_task()
    optimizer = torch.optim.Adam(task.parameters(), lr=0.1)
    first = None
    for _ in range(100):
        nats, _ = task(frames, encoded.latents, is_target=encoded.is_masked)
        first = nats.item() if first is None else first
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
    assert nats.item() < 0.4 * first


def test_only_the_head_is_kept():
    objective = build_objective(Wav2Vec2Config(**ON), latent_dim=320, dim=256)
    added = {name: tuple(value.shape) for name, value in objective.state_dict().items() if "random" in name}
    assert added == {"random_projection.head.weight": (33, 256), "random_projection.head.bias": (33,)}
