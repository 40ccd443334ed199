"""Dropout: its rate, its mean, its seed, and that its bits are independent."""

from __future__ import annotations

import pytest
import torch

from audio_ssl.model.dropout import Dropout, Droppings, draw_seed, keep_factor


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_rate_and_mean_are_as_asked(rate):
    torch.manual_seed(3)
    n = 200_003
    y = Dropout(rate).train()(torch.ones(n))
    deviation = (rate * (1 - rate) / n) ** 0.5
    assert abs((y == 0).double().mean().item() - rate) < 5 * deviation + 2**-15
    assert y.max().item() == pytest.approx(1 / (1 - rate), rel=1e-4)
    assert abs(y.double().mean().item() - 1) < 5 * deviation / (1 - rate) + 1e-4


def test_elements_of_one_word_and_of_neighbours_are_independent():
    torch.manual_seed(4)
    is_dropped = Droppings(0.5, draw_seed()).signs(torch.Size((400_000,))) < 0
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_marks_are_the_signs_of_the_same_stream(dtype):
    shape = torch.Size((3, 5, 7))
    weights = torch.rand(shape).to(dtype)
    signs = Droppings(0.25, 11).signs(shape)
    marked = Droppings(0.25, 11).mark(weights.clone())
    assert marked.dtype == dtype
    torch.testing.assert_close(marked, torch.where(signs < 0, -weights, weights), rtol=0, atol=0)
    assert keep_factor(0.25) == pytest.approx(4 / 3, rel=1e-4)


def test_a_stream_goes_on_with_new_bits():
    stream = Droppings(0.5, 12)
    assert not torch.equal(stream.signs(torch.Size((64,))), stream.signs(torch.Size((64,))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_backward_keeps_no_mask(dtype):
    sizes = []

    def pack(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = Dropout(0.5).train()(torch.randn(7, 11, dtype=dtype, requires_grad=True))
    assert y.dtype == dtype
    assert not sizes
