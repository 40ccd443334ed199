"""fp16: the loss scale changes nothing but what overflows, finds itself, and losses are never computed in half."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.errors import TrainingError
from audio_ssl.model.ctc import CTCModel, ctc_loss_sum
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train.loop import train
from audio_ssl.train.precision import LEAST_SCALE, LossScale, autocast
from audio_ssl.train.pretrain import PretrainModule
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper, make_stepper
from tests.unit.train.device_watch import place
from tests.unit.train.toy import Collect, Line, Source, make_task, surroundings

CPU = torch.device("cpu")
SMALL = {
    "preset": "tiny_cpu", "conv_dims": (8,) * 7, "dim": 24, "num_heads": 3, "num_layers": 2, "ffn_dim": 31,
    "pos_conv_groups": 4, "pos_conv_kernel": 8, "layer_drop": 0.0,
}  # fmt: skip


def scale_of(value: float) -> LossScale:
    loss_scale = LossScale(CPU)
    loss_scale.scale.fill_(value)
    return loss_scale


def run(folder, module, loss_scale, **settings):
    sink = Collect()
    task = replace(make_task(module, Source([(0, 1), (1, 6)])), summarize=lambda sums: {"loss": 1.0})
    around = replace(surroundings(folder, [sink], save_every=100, **settings), stepper=Stepper(loss_scale))
    train(task, Progress(), around)
    return sink


class Overflowing(Line):
    """Gradients of fp16: infinite where a loss scale is above what they bear."""

    def __init__(self, loss_scale: LossScale, *, bears: float, until: float = math.inf) -> None:
        super().__init__()
        self.loss_scale, self.bears, self.until = loss_scale, bears, until

    def forward(self, batch, *, update, generator):
        terms = super().forward(batch, update=update, generator=generator)
        is_over = bool(self.loss_scale.scale > self.bears) and update < self.until
        return replace(terms, loss_sum=terms.loss_sum * (math.inf if is_over else 1.0))


def test_a_power_of_two_changes_no_bit(tmp_path):
    plain, scaled = Line(noise=0.2), Line(noise=0.2)
    ours, theirs = (
        run(tmp_path / "a", scaled, scale_of(2.0**10), num_updates=6),
        run(tmp_path / "b", plain, None, num_updates=6),
    )
    assert torch.equal(plain.linear.weight, scaled.linear.weight)
    assert ours.figure("grad_norm") == theirs.figure("grad_norm")
    assert [value for _, value in ours.figure("loss_scale")] == [2.0**10] * 6
    assert "loss_scale" not in theirs.rows[0]


def test_an_overflow_skips_the_update_and_halves_the_scale(tmp_path):
    loss_scale = scale_of(8.0)
    module = Overflowing(loss_scale, bears=2.0)
    sink = run(tmp_path, module, loss_scale, num_updates=5)
    assert [value for _, value in sink.figure("loss_scale")] == [4.0, 2.0, 2.0, 2.0, 2.0]
    assert [value for _, value in sink.figure("searched_updates")] == [1, 1, 0, 0, 0]
    assert not any(value for _, value in sink.figure("skipped_updates"))
    assert torch.isfinite(module.linear.weight).all()


def test_2000_good_updates_in_a_row_double_the_scale():
    loss_scale, good, bad = scale_of(4.0), torch.zeros(()), torch.ones(())
    for _ in range(1999):
        loss_scale.update(good)
    assert loss_scale.scale == 4
    loss_scale.update(bad)
    for _ in range(1999):
        loss_scale.update(good)
    assert loss_scale.scale == 2
    loss_scale.update(good)
    assert loss_scale.scale == 4


def test_a_restored_scale_goes_on_with_its_count():
    first, again = scale_of(4.0), LossScale(CPU)
    for _ in range(1500):
        first.update(torch.zeros(()))
    again.load_tensors({name: value.clone() for name, value in first.tensors().items()})
    for _ in range(500):
        again.update(torch.zeros(()))
    assert again.scale == 8


def test_a_long_search_for_the_scale_is_no_dying_run(tmp_path):
    loss_scale = LossScale(CPU)
    sink = run(tmp_path, Overflowing(loss_scale, bears=2.0**-13), loss_scale, num_updates=20, log_every=1)
    assert [value for _, value in sink.figure("searched_updates")] == [1] * 13 + [0] * 7


@pytest.mark.parametrize(("log_every", "last"), [(1, 24), (5, 25)])
def test_a_search_that_never_ends_is_one(tmp_path, log_every, last):
    loss_scale = LossScale(CPU)
    num_searched = round(math.log2(1 / LEAST_SCALE))  # 14, and then 10 that count
    with pytest.raises(TrainingError, match=f"the {last - num_searched} updates up to update {last} "):
        run(tmp_path, Overflowing(loss_scale, bears=0.0), loss_scale, num_updates=99, log_every=log_every)
    assert loss_scale.scale == LEAST_SCALE


def pretraining(precision: str):
    """Loss and gradients of one small batch."""
    torch.manual_seed(3)
    encoder = build_encoder(ModelConfig(**SMALL))
    config = Wav2Vec2Config(num_entries=7, code_dim=8, target_dim=12, num_distractors=5, feature_penalty_weight=10.0)
    module = PretrainModule(encoder, build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim)).train()
    stepper = make_stepper(module, precision=precision, ema_decay=0.0, device=CPU)
    waveforms = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
    batch = Batch(waveforms, torch.tensor([8000, 7001, 5003]), (0, 1, 2))
    with autocast(precision, CPU):
        terms = module(batch, update=0, generator=torch_generator(1, "test"))
    stepper.scaled(terms.loss_sum).backward()
    gradients = torch.cat([p.grad.flatten() for p in module.parameters()])
    return float(terms.loss_sum.detach()), gradients * stepper.unscaling(torch.ones(()))


def test_fp16_on_a_cpu_gives_the_gradients_of_fp32():
    (loss, gradients), (half_loss, half_gradients) = pretraining("fp32"), pretraining("fp16")
    assert half_loss == pytest.approx(loss, rel=1e-2)
    assert not torch.equal(gradients, half_gradients)
    assert torch.nn.functional.cosine_similarity(gradients, half_gradients, dim=0) > 0.99


class HalfLossError(AssertionError):
    """A number that decides a loss was made in half precision."""


# By file, and function where others of the file may be in half: projections before the cosines, the head before CTC.
IN_FULL = ("contrastive.py:", "quantizer.py:", "draws.py:", "wav2vec2.py:_feature_penalty", "ctc.py:ctc_loss_sum")
SOFTMAXES = ("aten::_log_softmax", "aten::_softmax", "aten::log", "aten::exp", "aten::_ctc_loss")
HALVES = (torch.float16, torch.bfloat16)


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        where = place()
        is_loss = where.startswith(IN_FULL) or ("ctc.py" in where and func._schema.name in SOFTMAXES)
        if is_loss:
            self.seen.add(where)
            if any(isinstance(x, torch.Tensor) and x.dtype in HALVES for x in tree_leaves(made)):
                raise HalfLossError(f"{func} gives half numbers in {where}")
        return made


@contextmanager
def no_half_losses(*expected: str) -> Iterator[None]:
    with _Watch() as watch:
        yield
    assert {name for name in expected if not any(where.startswith(name) for where in watch.seen)} == set()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_no_loss_of_pretraining_is_computed_in_half(precision):
    with no_half_losses("contrastive.py:contrastive_loss", "quantizer.py:forward", "wav2vec2.py:_feature_penalty"):
        pretraining(precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_ctc_is_not_computed_in_half(precision):
    torch.manual_seed(3)
    model = CTCModel(build_encoder(ModelConfig(**SMALL)), 5)
    with no_half_losses("ctc.py:log_probs", "ctc.py:ctc_loss_sum"), autocast(precision, CPU):
        log_probs, num_frames = model(torch.randn(2, 8000), torch.tensor([8000, 7001]))
        loss = ctc_loss_sum(log_probs, num_frames, torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 1]))
    assert (log_probs.dtype, loss.dtype) == (torch.float32, torch.float32)


def test_the_watch_for_halves_bites(monkeypatch):
    from contextlib import nullcontext

    monkeypatch.setattr("audio_ssl.objective.contrastive.full_precision", lambda device: nullcontext())
    with pytest.raises(HalfLossError, match="contrastive_loss"), no_half_losses():
        pretraining("bf16")
