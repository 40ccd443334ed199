import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F

from audio_ssl.config import Wav2Vec2Config
from audio_ssl.objective import build_objective
from audio_ssl.objective.masked_pass import MaskedPass
from audio_ssl.tensors import Batch


def make_batch(num_frames=(31, 17, 23), hop: int = 10, *, seed: int = 1) -> Batch:
    num_samples = torch.tensor(num_frames) * hop
    waveforms = torch.randn(len(num_frames), int(num_samples.max()), generator=torch.Generator().manual_seed(seed))
    waveforms[torch.arange(waveforms.shape[1]) >= num_samples[:, None]] = 0
    return Batch(waveforms, num_samples, tuple(range(len(num_frames))))


def make_pass(*, rows: int = 4, width: int = 29, masked: int = 11, latent_dim: int = 6, dim: int = 8) -> MaskedPass:
    """Random encodings, the same number of masked frames in each row."""
    g = torch.Generator().manual_seed(2)
    order = torch.rand(rows, width, generator=g).argsort(1)
    return MaskedPass(
        latents=torch.randn(rows, width, latent_dim, generator=g),
        normed_latents=torch.randn(rows, width, latent_dim, generator=g).requires_grad_(),
        frames=torch.randn(rows, width, dim, generator=g).requires_grad_(),
        num_frames=torch.full((rows,), width),
        is_masked=order < masked,
    )


def rows_of(encoded: MaskedPass, rows: slice) -> MaskedPass:
    return MaskedPass(*(getattr(encoded, field.name)[rows] for field in dataclasses.fields(encoded)))


def test_untrained_loss_is_at_chance(make_encoder, seeded):
    """ln(101) = 4.615 nats for 100 distractors."""
    torch.manual_seed(3)
    objective = build_objective(Wav2Vec2Config(), latent_dim=64, dim=48)
    encoder = make_encoder(latent_dim=64, dim=48)
    batch = make_batch((311, 307, 293))
    terms = objective(encoder, batch, update=0, generator=seeded(4))
    figures = objective.summarize(terms.sums)
    assert figures["contrastive_loss"] == pytest.approx(math.log(101), abs=0.15)
    assert figures["accuracy"] == pytest.approx(1 / 101, abs=0.02)
    assert figures["masked_share"] == pytest.approx(0.49, abs=0.05)
    assert figures["gumbel_temperature"] == pytest.approx(2.0)


def test_collapse_shows(make_objective, make_encoder, seeded):
    """A dead quantizer: every latent gets one code; accuracy 0 and perplexity 1 a group say so, the loss does not."""
    objective = make_objective().eval()
    objective.quantizer.logits.weight.data.zero_()
    objective.quantizer.logits.bias.data = F.one_hot(torch.tensor(3), 7).repeat(2) * 50.0
    figures = objective.summarize(objective(make_encoder(), make_batch(), update=0, generator=seeded(5)).sums)
    assert figures["contrastive_loss"] == pytest.approx(0, abs=1e-6)
    assert figures["accuracy"] == 0
    assert figures["code_perplexity"] == pytest.approx(2, abs=1e-3)
    assert figures["prob_perplexity"] == pytest.approx(2, abs=1e-3)
    assert figures["diversity_loss"] == pytest.approx(12 / 14, abs=1e-3)


def test_only_masked_frames_are_replaced(make_objective, make_encoder, seeded):
    encoder, objective, batch = make_encoder(), make_objective(), make_batch()
    objective(encoder, batch, update=0, generator=seeded(6))
    is_masked = objective.sample_mask(torch.tensor([31, 17, 23]), max_frames=31, generator=seeded(6))
    features, _ = encoder.feature_projection(encoder.feature_encoder(batch.waveforms, batch.num_samples)[0])
    assert is_masked.any()
    assert (encoder.seen_features[is_masked] == encoder.mask_embedding).all()
    assert torch.equal(encoder.seen_features[~is_masked], features[~is_masked])


def repeated(batch: Batch, times: int) -> Batch:
    """Each row ``times`` times in turn."""
    waveforms, num_samples = (x.repeat_interleave(times, 0) for x in (batch.waveforms, batch.num_samples))
    return Batch(waveforms, num_samples, tuple(row for row in batch.rows for _ in range(times)))


@pytest.mark.parametrize("encode", ["all", "visible"])
@pytest.mark.parametrize("num_masks", [1, 2, 5])
def test_several_masks_are_the_batch_repeated_with_one_conv_pass(
    make_objective, make_encoder, seeded, num_masks, encode
):
    """N masks of B rows give the sums, the figures and the gradients of one mask of each row N times over."""
    encoder, batch = make_encoder(), make_batch()
    one, several = make_objective(encode=encode), make_objective(encode=encode, num_masks=num_masks)
    several.load_state_dict(one.state_dict())
    inputs = [*encoder.parameters(), *one.parameters()]
    plain = one(encoder, repeated(batch, num_masks), update=0, generator=seeded(21))
    expected = torch.autograd.grad(plain.loss_sum, inputs)
    terms = several(encoder, batch, update=0, generator=seeded(21))
    found = torch.autograd.grad(terms.loss_sum, [*encoder.parameters(), *several.parameters()])
    assert encoder.rows_of_conv == [3 * num_masks, 3]
    assert encoder.seen_features.shape[0] == 3 * num_masks
    assert terms.num_targets == plain.num_targets > 0
    for name, value in plain.sums.items():
        torch.testing.assert_close(terms.sums[name], value, msg=name)
    assert several.summarize(terms.sums) == pytest.approx(one.summarize(plain.sums), rel=1e-5)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_several_masks_differ(make_objective, make_encoder, seeded):
    objective, encoder = make_objective(num_masks=5), make_encoder()
    objective(encoder, make_batch((31,)), update=0, generator=seeded(22))
    masks = (encoder.seen_features == encoder.mask_embedding).all(-1)
    assert len(masks.unique(dim=0)) == 5


def test_dropout_of_targets_is_drawn_for_each_mask(make_objective, make_encoder, seeded, monkeypatch):
    """Five times the same mask of one utterance: the same latents with other zeros each time."""
    objective, seen = make_objective(num_masks=5, target_dropout=0.5), []
    quantize, draw = objective.quantizer.forward, objective.sample_mask
    monkeypatch.setattr(objective.quantizer, "forward", lambda x, **kwargs: seen.append(x) or quantize(x, **kwargs))
    monkeypatch.setattr(objective, "sample_mask", lambda *args, **kwargs: draw(*args, **kwargs)[:1].repeat(5, 1))
    objective(make_encoder(), make_batch((31,)), update=0, generator=seeded(22))
    assert len((seen[0].view(5, -1, 6) == 0).unique(dim=0)) == 5


SECOND_TASK = {"random_projection_weight": 1.0, "random_projection_codebooks": 2, "random_projection_entries": 5}
VARIANTS = [
    {}, {"num_masks": 3}, {"encode": "visible"}, {"encode": "visible", "num_masks": 3}, {"num_masks": 3, **SECOND_TASK},
    {"encode": "visible", **SECOND_TASK},
]  # fmt: skip


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_parameter_learns(make_objective, make_encoder, seeded, changes):
    encoder, objective = make_encoder(), make_objective(**changes)
    objective(encoder, make_batch(), update=0, generator=seeded(7)).loss_sum.backward()
    for name, parameter in [*encoder.named_parameters(), *objective.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert torch.isfinite(parameter.grad).all(), name


def test_same_generator_same_loss(make_objective, make_encoder, seeded):
    encoder, objective, batch = make_encoder(), make_objective(), make_batch()
    losses = [objective(encoder, batch, update=0, generator=seeded(seed)).loss_sum for seed in (8, 8, 9)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("changes", [{}, SECOND_TASK])
def test_halves_add_up_to_the_whole(make_objective, seeded, changes):
    """Contrastive sums and gradients do not depend on how the rows are split into micro-batches."""
    objective = make_objective(diversity_weight=0.0, feature_penalty_weight=0.0, **changes).eval()
    encoded = make_pass()
    inputs = [encoded.normed_latents, encoded.frames, *objective.parameters()]

    def grads(loss):
        found = torch.autograd.grad(loss, inputs, allow_unused=True)  # in evaluation no gradient reaches the logits
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    whole = objective.score(encoded, update=0, generator=seeded(10))
    generator = seeded(10)  # goes on from half to half, so both ways draw the same distractors
    halves = [
        objective.score(rows_of(encoded, rows), update=0, generator=generator) for rows in (slice(0, 2), slice(2, 4))
    ]
    assert whole.num_targets.item() == 44 == sum(half.num_targets.item() for half in halves)
    torch.testing.assert_close(whole.loss_sum, halves[0].loss_sum + halves[1].loss_sum)
    for mine, first, second in zip(
        grads(whole.loss_sum), grads(halves[0].loss_sum), grads(halves[1].loss_sum), strict=True
    ):
        torch.testing.assert_close(mine, first + second, atol=1e-5, rtol=1e-5)
    summed = {name: halves[0].sums[name] + halves[1].sums[name] for name in whole.sums}
    names = ("contrastive_loss", "accuracy", "code_perplexity", "prob_perplexity", "masked_share")
    for name in (*names, *(["random_projection_loss", "random_projection_accuracy"] if changes else [])):
        assert objective.summarize(summed)[name] == pytest.approx(objective.summarize(whole.sums)[name], rel=1e-5)


def test_padding_frames_change_nothing(make_objective, seeded, monkeypatch):
    objective = make_objective().eval()
    monkeypatch.setattr(objective, "num_masked", lambda _: 11)  # one packing, or other distractors are drawn
    encoded = make_pass()
    padded = dataclasses.replace(
        encoded,
        latents=F.pad(encoded.latents, (0, 0, 0, 5), value=9.0),
        normed_latents=F.pad(encoded.normed_latents, (0, 0, 0, 5), value=9.0),
        frames=F.pad(encoded.frames, (0, 0, 0, 5), value=9.0),
        is_masked=F.pad(encoded.is_masked, (0, 5)),
    )
    plain, wide = (objective.score(x, update=0, generator=seeded(11)) for x in (encoded, padded))
    for name, value in plain.sums.items():
        torch.testing.assert_close(wide.sums[name], value, msg=name)


def test_only_masked_frames_are_scored(make_objective, seeded):
    objective, encoded = make_objective(), make_pass()
    loss = objective.score(encoded, update=0, generator=seeded(12)).loss_sum
    for grad in torch.autograd.grad(loss, [encoded.frames, encoded.normed_latents]):
        assert torch.equal(grad.abs().sum(-1) > 0, encoded.is_masked)


def test_loss_is_the_weighted_sum_of_its_terms(make_objective, seeded):
    """contrastive + .3 * diversity + 2 * penalty; the penalty is the mean square over the frames that exist."""
    objective = make_objective(diversity_weight=0.3, feature_penalty_weight=2.0)
    encoded = make_pass(rows=2)
    encoded.num_frames[1] = 23
    encoded.is_masked[1, 23:] = False
    sums = objective.score(encoded, update=0, generator=seeded(13)).sums
    squares = [encoded.latents[0].square(), encoded.latents[1, :23].square()]
    mean_square = torch.cat(squares).mean()
    torch.testing.assert_close(sums["feature_penalty"], sums["num_targets"] * mean_square)
    average = sums["prob_sums"] / sums["num_targets"]
    perplexities = torch.distributions.Categorical(average).entropy().exp()
    torch.testing.assert_close(
        sums["diversity"], sums["num_targets"] * (14 - perplexities.sum()) / 14, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        sums["loss"], sums["contrastive"] + 0.3 * sums["diversity"] + 2.0 * sums["feature_penalty"]
    )
    assert all(value.dtype == torch.float32 and not value.requires_grad for value in sums.values())


def test_penalty_of_weight_zero_is_left_out(make_objective, seeded):
    objective = make_objective(feature_penalty_weight=0.0)
    encoded = dataclasses.replace(make_pass(), latents=torch.full((4, 29, 6), torch.nan))
    terms = objective.score(encoded, update=0, generator=seeded(14))
    assert torch.isfinite(terms.loss_sum)
    assert terms.sums["feature_penalty"] == 0


def test_target_dropout_is_for_training_only(make_objective, seeded):
    objective, encoded = make_objective(target_dropout=0.5), make_pass()

    def code_counts() -> torch.Tensor:
        return objective.score(encoded, update=0, generator=seeded(15)).sums["prob_sums"]

    torch.manual_seed(0)
    assert not torch.equal(code_counts(), code_counts())
    objective.eval()
    assert torch.equal(code_counts(), code_counts())


def test_update_sets_the_temperature(make_objective, seeded):
    objective = make_objective(gumbel_start=2.0, gumbel_end=0.5, gumbel_decay=0.5)
    for update, expected in ((0, 2.0), (1, 1.0), (2, 0.5), (7, 0.5)):
        sums = objective.score(make_pass(), update=update, generator=seeded(16)).sums
        assert objective.summarize(sums)["gumbel_temperature"] == pytest.approx(expected)


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("num_frames", [(0, 1, 2), (1, 1)])
def test_rows_without_company_are_no_targets(make_objective, make_encoder, seeded, num_frames, changes):
    """Rows of 2 frames have one masked frame, which has nothing to be told from; shorter rows have none."""
    encoder, objective = make_encoder(), make_objective(**changes)
    terms = objective(encoder, make_batch(num_frames), update=0, generator=seeded(17))
    assert terms.num_targets.item() == 0
    assert terms.loss_sum.item() == 0
    terms.loss_sum.backward()
    for parameter in objective.parameters():
        assert not parameter.grad.any()
    figures = objective.summarize(terms.sums)
    assert math.isnan(figures["loss"])
    assert math.isnan(figures["accuracy"])


def test_summary_by_hand(make_objective):
    sums = {
        "loss": 30.0, "contrastive": 20.0, "diversity": 5.0, "feature_penalty": 2.5, "temperature": 15.0,
        "num_targets": 10.0, "num_correct": 3.0, "num_masked": 12.0, "num_frames": 48.0,
        "prob_sums": [[5.0, 5.0], [10.0, 0.0]], "code_counts": [[10.0, 0.0], [0.0, 10.0]],
    }  # fmt: skip
    figures = make_objective().summarize({name: torch.tensor(value) for name, value in sums.items()})
    assert figures == pytest.approx(
        {
            "loss": 3.0, "contrastive_loss": 2.0, "diversity_loss": 0.5, "feature_penalty": 0.25, "accuracy": 0.3,
            "code_perplexity": 2.0, "code_perplexity_1": 1.0, "code_perplexity_2": 1.0,
            "prob_perplexity": 3.0, "prob_perplexity_1": 2.0, "prob_perplexity_2": 1.0,
            "gumbel_temperature": 1.5, "masked_share": 0.25,
        },
        abs=1e-4,
    )  # fmt: skip


def test_names_and_shapes_that_converters_map():
    objective = build_objective(Wav2Vec2Config(), latent_dim=512, dim=768)
    assert {name: tuple(value.shape) for name, value in objective.state_dict().items()} == {
        "quantizer.codebook": (1, 640, 128),
        "quantizer.logits.weight": (640, 512),
        "quantizer.logits.bias": (640,),
        "target_projection.weight": (256, 256),
        "target_projection.bias": (256,),
        "context_projection.weight": (256, 768),
        "context_projection.bias": (256,),
    }


@pytest.mark.parametrize("changes", VARIANTS)
def test_no_device_value_is_read(make_objective, make_encoder, seeded, changes):
    """On the meta device there are no values: reading one, as a host sync does, fails."""
    objective, encoder = make_objective(**changes).to("meta"), make_encoder(device="meta")
    batch = make_batch().to(torch.device("meta"))
    terms = objective(encoder, batch, update=3, generator=seeded(18))
    terms.loss_sum.backward()
    assert terms.loss_sum.shape == ()
    assert encoder.mask_embedding.grad.shape == (8,)
    assert objective.quantizer.codebook.grad.shape == objective.quantizer.codebook.shape


def test_a_wider_packing_only_adds_padding(make_objective, seeded, monkeypatch):
    """Rows are packed into the widest row's number of masked frames; the figures do not depend on it."""
    from audio_ssl.objective import contrastive, wav2vec2

    objective, encoded = make_objective().eval(), make_pass()

    def sample(counts, *, num_distractors, generator, max_masked):
        idx = contrastive.sample_distractors(
            counts, num_distractors=num_distractors, generator=seeded(19), max_masked=11
        )
        return F.pad(idx, (0, 0, 0, max_masked - 11))

    monkeypatch.setattr(wav2vec2, "sample_distractors", sample)
    monkeypatch.setattr(objective, "num_masked", lambda _: 11)
    narrow = objective.score(encoded, update=0, generator=seeded(19))
    monkeypatch.setattr(objective, "num_masked", lambda _: 17)
    wide = objective.score(encoded, update=0, generator=seeded(19))
    torch.testing.assert_close(wide.loss_sum, narrow.loss_sum)
    for name, value in narrow.sums.items():
        torch.testing.assert_close(wide.sums[name], value, msg=name)
