"""Dropout: its rate, its mean, its seed, and that its bits are independent."""

from __future__ import annotations

import pytest
import torch

from audio_ssl.model.dropout import Dropout, draw_kept


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_rate_and_mean_are_as_asked(rate):
    torch.manual_seed(3)
    n = 200_003
    y = Dropout(rate).train()(torch.ones(n))
    deviation = (rate * (1 - rate) / n) ** 0.5
    assert abs((y == 0).double().mean().item() - rate) < 5 * deviation + 2**-16
    assert y.max().item() == pytest.approx(1 / (1 - rate), rel=1e-4)
    assert abs(y.double().mean().item() - 1) < 5 * deviation / (1 - rate) + 1e-4


def test_elements_of_one_word_and_of_neighbours_are_independent():
    torch.manual_seed(4)
    is_dropped = draw_kept(torch.empty(400_000), 0.5)[0] == 0
    for lag in (1, 2, 3, 4, 5, 8, 64):
        together = (is_dropped[lag:] & is_dropped[:-lag]).double().mean().item()
        assert abs(together - 0.25) < 5 * (0.25 * 0.75 / 400_000) ** 0.5 * 1.5


def test_the_same_seed_gives_the_same_mask_and_the_next_draw_another():
    x = torch.randn(5, 7, 11)
    torch.manual_seed(5)
    first, second = Dropout(0.5).train()(x), Dropout(0.5).train()(x)
    torch.manual_seed(5)
    assert torch.equal(Dropout(0.5).train()(x), first)
    assert not torch.equal(first, second)


def test_gradient_is_the_mask_and_evaluation_does_nothing():
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    layer = Dropout(0.5)
    y = layer.train()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)
    assert set(gradient.unique().tolist()) == {0.0, 2.0}
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_mask_has_the_dtype_of_what_it_masks(dtype):
    kept, scale = draw_kept(torch.empty(3, 5, dtype=dtype), 0.25)
    assert kept.dtype == dtype
    assert scale == pytest.approx(4 / 3, rel=1e-4)
