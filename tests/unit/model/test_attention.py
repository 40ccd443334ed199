"""Attention on the CPU against the same written out, values and gradients, and the mask of its dropout."""

from __future__ import annotations

import pytest
import torch

from audio_ssl.model import attention
from audio_ssl.model.attention import SelfAttention, attend_on_cpu
from audio_ssl.model.dropout import keep_factor

B, H, T, HEAD_DIM = 3, 5, 7, 4
NUM_FRAMES = (7, 5, 6)


def draw_heads(dtype=torch.float64, *, seed=1):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, B, H, T, HEAD_DIM, dtype=dtype, generator=generator)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def padding():
    return (torch.arange(T) < torch.tensor(NUM_FRAMES)[:, None])[:, None, None]


def written_out(query, key, value, *, attends, kept):
    """Weights first, then the mask that dropout drew, then values."""
    scores = query @ key.transpose(2, 3) / HEAD_DIM**0.5
    if attends is not None:
        scores = scores.masked_fill(~attends, -torch.inf)
    return (scores.softmax(-1) * kept) @ value


def mask_of_dropout(attends, rate, *, seed):
    """0 or the factor for each weight, read off the outputs for values that are unit vectors, one key at a time."""
    query, key, _ = draw_heads()
    columns = []
    for k in range(T):
        value = torch.zeros(B, H, T, HEAD_DIM, dtype=torch.float64)
        value[:, :, k] = 1.0
        torch.manual_seed(seed)
        with torch.no_grad():
            got = attend_on_cpu(query, key, value, attends=attends, rate=rate)[..., 0]
            plain = attend_on_cpu(query, key, value, attends=attends, rate=0.0)[..., 0]
        columns.append(torch.where(plain > 0, got / plain, torch.zeros_like(got)))
    return torch.stack(columns, dim=-1)  # (B, H, T, T)


@pytest.mark.parametrize("chunk", [1, 2 * T * T, 4 << 20])  # one head, two, and all of a row at a time
@pytest.mark.parametrize("has_padding", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_values_and_gradients_are_those_of_attention_written_out(monkeypatch, rate, has_padding, chunk):
    monkeypatch.setattr(attention, "_CHUNK", chunk)
    attends = padding() if has_padding else None
    kept = mask_of_dropout(attends, rate, seed=5)
    query, key, value = draw_heads()
    torch.manual_seed(5)
    got = attend_on_cpu(query, key, value, attends=attends, rate=rate)
    expected = written_out(query, key, value, attends=attends, kept=kept)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)

    towards = torch.randn(got.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        torch.autograd.grad(got, (query, key, value), towards),
        torch.autograd.grad(expected, (query, key, value), towards), rtol=1e-11, atol=1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [T * T, 7 * T * T])  # a head, or heads of two rows at a time
def test_frames_may_be_hidden_anywhere(monkeypatch, chunk):
    monkeypatch.setattr(attention, "_CHUNK", chunk)
    of_rows = ["1111111", "1011101", "0000010"]  # none, with frames that count behind them, all but one
    attends = torch.tensor([[c == "1" for c in row] for row in of_rows])[:, None, None]
    query, key, value = draw_heads()
    with torch.no_grad():
        got = attend_on_cpu(query, key, value, attends=attends, rate=0.0)
    expected = written_out(query, key, value, attends=attends, kept=1.0)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[2], value[2, :, 5:6].expand_as(got[2]), rtol=1e-12, atol=1e-12)


def test_what_memory_held_before_does_not_reach_scores(monkeypatch):
    """Scores take memory that nothing has cleared."""
    fresh = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *shape: fresh(x, *shape).fill_(torch.nan))
    for dtype in (torch.bfloat16, torch.float64):
        query, key, value = draw_heads(dtype)
        for is_training in (True, False):
            with torch.set_grad_enabled(is_training):
                assert attend_on_cpu(query, key, value, attends=padding(), rate=0.0).isfinite().all()


def test_dropout_takes_weights_at_its_rate_and_keeps_the_mean():
    kept = mask_of_dropout(None, 0.3, seed=6)
    values = {round(v, 6) for v in kept.unique().tolist()}
    assert values == {0.0, round(keep_factor(0.3), 6)}
    assert abs((kept == 0).double().mean().item() - 0.3) < 5 * (0.3 * 0.7 / kept.numel()) ** 0.5
    rows = kept.flatten(0, 1)
    assert not torch.equal(rows[0], rows[1])  # heads of one row draw each for itself
    assert not torch.equal(kept[0], kept[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_each_precision_gives_torchs_numbers_with_and_without_gradients(dtype):
    query, key, value = draw_heads(dtype)
    wide = [x.detach().double() for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(*wide, attn_mask=padding())
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-6
    for is_training in (True, False):
        with torch.set_grad_enabled(is_training):
            got = attend_on_cpu(query, key, value, attends=padding(), rate=0.0)
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_bfloat16_marks_what_dropout_took_as_float32_does(rate):
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        query, key, value = (x.detach().bfloat16().to(dtype).requires_grad_() for x in draw_heads())
        torch.manual_seed(7)
        context = attend_on_cpu(query, key, value, attends=None, rate=rate)
        results.append((context.float(), *(g.float() for g in torch.autograd.grad(context.sum(), (query, key, value)))))
    for low, full in zip(*results, strict=True):
        torch.testing.assert_close(low, full, rtol=0.05, atol=0.05)


def test_backward_keeps_one_number_a_weight():
    query, key, value = draw_heads(torch.float32)
    sizes = []

    def pack(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attend_on_cpu(query, key, value, attends=None, rate=0.3)
    assert sizes.count(B * H * T * T) == 1
    assert sum(sizes) == B * H * T * T + 4 * B * H * T * HEAD_DIM


def test_weights_are_kept_only_where_something_learns(monkeypatch):
    query, key, value = (x.detach() for x in draw_heads(torch.float32))
    monkeypatch.setattr(attention._Attention, "apply", lambda *given: pytest.fail("kept for nobody"))
    attend_on_cpu(query, key, value, attends=None, rate=0.0)


def test_the_module_drops_in_training_only():
    module = SelfAttention(20, num_heads=H, dropout=0.5)
    x = torch.randn(B, T, 20)
    torch.testing.assert_close(module.eval()(x, None), module.eval()(x, None))
    assert not torch.equal(module.train()(x, None), module.eval()(x, None))
