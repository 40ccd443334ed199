import math

import pytest
import torch

from audio_ssl.objective.contrastive import contrastive_loss, pack_masked, sample_distractors


def reference(context, targets, code_idx, distractor_idx, is_target, temperature):
    """Eq. 3 of 2006.11477 in plain loops over targets and distractors."""
    loss, num_correct = context.sum() * 0, 0
    for b in range(context.shape[0]):
        for m in range(context.shape[1]):
            if not is_target[b, m]:
                continue
            candidates = [m] + [j for j in distractor_idx[b, m].tolist() if code_idx[b, j].ne(code_idx[b, m]).any()]
            logits = torch.stack([torch.cosine_similarity(context[b, m], targets[b, j], dim=0) for j in candidates])
            logits = logits / temperature
            loss = loss - logits.log_softmax(0)[0]
            num_correct += int(len(candidates) > 1 and bool((logits[0] > logits[1:]).all()))
    return loss, num_correct


def make_problem(seed: int = 1):
    g = torch.Generator().manual_seed(seed)
    counts = torch.tensor([7, 2, 1])  # the last row has nothing to tell apart
    is_masked = torch.arange(11).expand(3, -1) < counts[:, None]
    masked = pack_masked(is_masked, max_masked=7)
    book = torch.randn(3, 3, 5, generator=g)  # 3 x 3 codes: some distractors are the positive
    code_idx = torch.randint(3, (3, 7, 2), generator=g)
    targets = book[code_idx[..., 0], code_idx[..., 1]].clone().requires_grad_()
    context = torch.randn(3, 7, 5, generator=g).requires_grad_()
    distractor_idx = sample_distractors(counts, num_distractors=13, generator=g, max_masked=7)
    return {
        "context": context, "targets": targets, "code_idx": code_idx,
        "distractor_idx": distractor_idx, "is_target": masked.is_target, "temperature": 0.1,
    }  # fmt: skip


def test_values_and_gradients_are_those_of_the_plain_loops():
    problem = make_problem()
    ours = contrastive_loss(**problem)
    loss, num_correct = reference(*problem.values())
    same = (problem["code_idx"][:, :, None] == problem["code_idx"][:, None]).all(-1)
    assert same.gather(2, problem["distractor_idx"])[0].any()  # the problem does hold equal codes
    torch.testing.assert_close(ours.loss_sum, loss)
    assert ours.num_correct.item() == num_correct
    inputs = [problem["context"], problem["targets"]]
    for mine, plain in zip(torch.autograd.grad(ours.loss_sum, inputs), torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-5, rtol=1e-4)


def test_sums_over_rows_add_up():
    problem = make_problem()
    tensors = [name for name, value in problem.items() if isinstance(value, torch.Tensor)]
    whole = contrastive_loss(**problem)
    rows = [contrastive_loss(**{**problem, **{name: problem[name][b : b + 1] for name in tensors}}) for b in range(3)]
    torch.testing.assert_close(whole.loss_sum, sum(row.loss_sum for row in rows))
    inputs = [problem["context"], problem["targets"]]
    grads = torch.autograd.grad(whole.loss_sum, inputs)
    split = [torch.autograd.grad(row.loss_sum, inputs, retain_graph=True) for row in rows]
    for i, grad in enumerate(grads):
        torch.testing.assert_close(grad, sum(part[i] for part in split))


def test_collapse_scores_zero_not_one():
    """All targets have one code: no distractor is left, the loss is 0, and nothing counts as right."""
    problem = make_problem()
    problem["code_idx"] = torch.zeros_like(problem["code_idx"])
    terms = contrastive_loss(**problem)
    assert terms.loss_sum.item() == pytest.approx(0, abs=1e-6)
    assert terms.num_correct.item() == 0
    grads = torch.autograd.grad(terms.loss_sum, [problem["context"], problem["targets"]])
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_equal_logits_score_zero_and_cost_chance():
    """Equal vectors under different codes: a tie everywhere, ln(K + 1) a target."""
    problem = make_problem()
    problem["targets"] = torch.ones_like(problem["targets"])
    problem["code_idx"] = torch.arange(7).expand(3, -1)[..., None]
    terms = contrastive_loss(**problem)
    assert terms.loss_sum.item() == pytest.approx((7 + 2) * math.log(14), rel=1e-5)
    assert terms.num_correct.item() == 0


def test_perfect_context_is_always_right():
    problem = make_problem()
    problem["targets"] = torch.eye(7).expand(3, -1, -1)
    problem["context"] = 5 * problem["targets"]  # cosines do not see the length
    problem["code_idx"] = torch.arange(7).expand(3, -1)[..., None]
    terms = contrastive_loss(**problem)
    assert terms.num_correct.item() == 7 + 2
    assert terms.loss_sum.item() == pytest.approx(9 * math.log1p(13 * math.exp(-10)), rel=1e-2)


def test_autocast_does_not_reach_in():
    problem = make_problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = contrastive_loss(**problem)
    assert torch.equal(cast.loss_sum, contrastive_loss(**problem).loss_sum)


def test_pack_puts_masked_frames_first_in_order():
    is_masked = torch.tensor([[0, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]]).bool()
    masked = pack_masked(is_masked, max_masked=4)
    assert masked.counts.tolist() == [3, 1, 0]
    assert masked.frame_idx[0].tolist() == [1, 3, 4, 0]  # padding points at an unmasked frame
    assert masked.frame_idx[1, 0].item() == 6
    assert masked.is_target.tolist() == [[True] * 3 + [False], [False] * 4, [False] * 4]
    frames = torch.arange(21.0).view(3, 7, 1)
    assert masked.pick(frames)[0, :3, 0].tolist() == [1, 3, 4]


def test_distractors_are_uniform_over_the_others(seeded):
    counts = torch.tensor([5, 2])
    idx = sample_distractors(counts, num_distractors=20_000, generator=seeded(2), max_masked=5)
    assert idx.shape == (2, 5, 20_000)
    for m in range(5):
        shares = torch.bincount(idx[0, m], minlength=5) / 20_000
        expected = [0.0 if j == m else 0.25 for j in range(5)]
        assert shares.tolist() == pytest.approx(expected, abs=0.015)
        assert shares[m] == 0
    assert set(idx[1, 0].tolist()) == {1}
    assert set(idx[1, 1].tolist()) == {0}


def test_distractors_stay_in_range_at_the_edges_of_the_draw(seeded, monkeypatch):
    counts = torch.arange(2000)
    for edge, expected in ((0.0, (1, 0)), (1 - 2.0**-24, (-1, -2))):  # choices of the first and of the last frame
        monkeypatch.setattr("torch.rand", lambda shape, edge=edge, **_: torch.full(shape, edge))
        idx = sample_distractors(counts, num_distractors=1, generator=seeded(3), max_masked=2000)[..., 0]
        assert idx.min() >= 0
        assert idx.max() <= 1999
        rows = counts[counts > 1]
        assert torch.equal(idx[rows, 0] % rows, torch.full_like(rows, expected[0]) % rows)
        assert torch.equal(idx[rows, rows - 1] % rows, torch.full_like(rows, expected[1]) % rows)
        assert (idx[rows, 0] < rows).all()
        assert (idx[rows, rows - 1] < rows).all()
