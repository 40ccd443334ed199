"""Activation checkpointing: the same numbers to the last bit, with dropout and layer drop, for less memory."""

import itertools
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from audio_ssl.config import CTCConfig, ModelConfig, RunConfig, Wav2Vec2Config
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train.compiling import prepare_blocks
from audio_ssl.train.ctc_module import FinetuneModule
from audio_ssl.train.distributed import data_parallel, joined_world, lay_out
from audio_ssl.train.loop import Task, run_update
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.precision import autocast
from audio_ssl.train.pretrain import PretrainModule
from audio_ssl.train.sharded_state import whole
from audio_ssl.train.stepper import make_stepper
from audio_ssl.train.transcripts import Transcripts
from tests.unit.train.toy import surroundings

CPU = torch.device("cpu")
ROWS, SAMPLES, DIM = 3, 8000, 24
FRAMES = 24
SMALL = {
    "preset": "tiny_cpu", "conv_dims": (8,) * 7, "dim": DIM, "num_heads": 3, "ffn_dim": 31, "pos_conv_groups": 4,
    "pos_conv_kernel": 8, "dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3, "feature_dropout": 0.1,
}  # fmt: skip


def run_config(*, recomputes: bool) -> RunConfig:
    return RunConfig(dir=Path("unused"), checkpoint_activations=recomputes)


def encoder_of(*, recomputes: bool, **changes):
    torch.manual_seed(3)
    encoder = build_encoder(ModelConfig(**{**SMALL, "num_layers": 3, "layer_drop": 0.4, **changes}))
    prepare_blocks(encoder, run_config(recomputes=recomputes))
    return encoder


def pretraining(*, recomputes: bool, **changes) -> nn.Module:
    of_objective = {key: changes.pop(key) for key in ("encode", "decoder_dim", "num_masks") if key in changes}
    encoder = encoder_of(recomputes=recomputes, **changes)
    config = Wav2Vec2Config(num_entries=7, code_dim=8, target_dim=12, num_distractors=5, **of_objective)
    return PretrainModule(encoder, build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim)).train()


def finetuning(*, recomputes: bool) -> nn.Module:
    labels = (torch.tensor([1, 2, 3]), torch.tensor([4, 4]), torch.tensor([2]))
    model = CTCModel(encoder_of(recomputes=recomputes), 5, final_dropout=0.1)
    transcripts = Transcripts(("abc", "dd", "b"), labels, {}, torch.zeros(3).numpy())
    return FinetuneModule(model, transcripts=transcripts, config=CTCConfig(freeze_encoder_updates=1)).train()


def make_batch() -> Batch:
    waveforms = torch.randn(ROWS, SAMPLES, generator=torch.Generator().manual_seed(1))
    return Batch(waveforms, torch.tensor([SAMPLES, 7001, 5003]), (0, 1, 2))


def two_micro_batches(module: nn.Module, *, precision: str = "fp32", update: int = 5) -> list[torch.Tensor | None]:
    """Gradients, and where torch's generator stands afterwards."""
    torch.manual_seed(7)
    for i in range(2):
        with autocast(precision, CPU):
            terms = module(make_batch(), update=update, generator=torch_generator(1, "test", i))
        terms.loss_sum.backward()
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()] + [torch.get_rng_state()]


def same(ours: list[torch.Tensor | None], theirs: list[torch.Tensor | None]) -> bool:
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


VARIANTS = {
    "as published": {},
    "visible frames alone": {"encode": "visible", "decoder_dim": 32, "num_masks": 2, "dim": 48},
    "squeezed": {"context_stride": 2},
    "local convolutions": {"block_conv_kernel": 5},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_and_draws_are_the_same_to_the_last_bit(name, precision):
    plain = two_micro_batches(pretraining(recomputes=False, **VARIANTS[name]), precision=precision)
    again = two_micro_batches(pretraining(recomputes=True, **VARIANTS[name]), precision=precision)
    assert same(plain, again)
    assert sum(g is not None for g in plain) > 20


@pytest.mark.parametrize("update", [0, 5])
def test_fine_tuning_is_the_same_too_frozen_or_not(update):
    plain = two_micro_batches(finetuning(recomputes=False), update=update)
    assert same(plain, two_micro_batches(finetuning(recomputes=True), update=update))


def saved_bytes(num_layers: int, *, recomputes: bool) -> int:
    """What autograd keeps of a forward pass."""
    total = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += tensor.untyped_storage().nbytes()
        return tensor

    encoder = encoder_of(recomputes=recomputes, num_layers=num_layers, layer_drop=0.0).train()
    batch = make_batch()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        encoder(batch.waveforms, batch.num_samples)
    return total


def test_of_a_block_its_input_is_kept_and_the_mask():
    kept, plain = (
        (saved_bytes(7, recomputes=recomputes) - saved_bytes(2, recomputes=recomputes)) / 5
        for recomputes in (True, False)
    )
    assert kept == ROWS * FRAMES * DIM * 4 + ROWS * FRAMES
    assert plain > 15 * kept


def test_nothing_is_recomputed_where_no_gradient_is_wanted(monkeypatch):
    monkeypatch.setattr("audio_ssl.model.transformer.checkpoint", lambda *_, **__: pytest.fail("recomputes"))
    batch = make_batch()
    with torch.no_grad():
        encoder_of(recomputes=True)(batch.waveforms, batch.num_samples)


def work(rank: int, port: int, out: Path) -> None:
    """Two updates with either layout, plain and recomputed: weights, their average and the length of the last step."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    found = {}
    with joined_world("cpu") as world:
        for layout, recomputes in itertools.product(("ddp", "fsdp"), (False, True)):
            module = lay_out(pretraining(recomputes=recomputes), world, layout)
            stepper = make_stepper(module, precision="fp32", ema_decay=0.5, device=CPU)
            around = replace(surroundings(out, [], world=world), stepper=stepper)
            optimizer = build_optimizer([(list(module.parameters()), 1.0)], around.optim)
            task = Task(module, optimizer, source=None, summarize=None, validate=None, metric="", document={})
            parallel = data_parallel(module, world)
            for update in (5, 6):
                sums = run_update(
                    task, parallel, [make_batch()] * 2, around, update=update, is_stop_asked=False, is_measured=True
                )
            weights = whole(module.state_dict(), world)
            with stepper.averaged():
                average = {name: value.clone() for name, value in whole(module.state_dict(), world).items()}
            found[layout, recomputes] = (weights, average, float(sums["update_ratio"]) * world.size)
    torch.save(found, out / f"{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_ranks_that_hold_all_or_shares_do_the_same_with_it(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, args=(port, tmp_path), nprocs=2)
    main, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for layout in ("ddp", "fsdp"):
        torch.testing.assert_close(main[layout, True], main[layout, False], rtol=0, atol=0)
    # The first steps of AdamW are signs of gradients: next to zero a sum in another order turns one.
    weights, average, ratio = main["ddp", False]
    sharded_weights, sharded_average, sharded_ratio = main["fsdp", False]
    assert weights.keys() == sharded_weights.keys() == average.keys()
    assert sharded_ratio == pytest.approx(ratio, rel=1e-3)
    assert other["fsdp", False][2] == sharded_ratio
    close, same_average = (
        sum(int((a[k] - b[k]).abs().lt(1e-4).sum()) for k in a) / sum(a[k].numel() for k in a)
        for a, b in ((weights, sharded_weights), (average, sharded_average))
    )
    assert min(close, same_average) > 0.999
    assert not torch.equal(weights["encoder.mask_embedding"], average["encoder.mask_embedding"])
