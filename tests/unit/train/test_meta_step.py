"""One whole update on the meta device: what a GPU runs, where no number can be read.

``Surroundings`` and ``run_update`` are the loop's own. Autocast does not exist on that device, so the step is in fp32;
which operations autocast casts is no matter of device or wait. CTC has no kernel there, and on a GPU it reads lengths
inside: what is shown of fine-tuning is that nothing else does.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from audio_ssl.config import CTCConfig, ModelConfig, OptimConfig, Wav2Vec2Config
from audio_ssl.config.model import PRESETS
from audio_ssl.config.objective import OF_PRESETS
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.objective.registry import build_objective
from audio_ssl.rng import torch_generator
from audio_ssl.tensors import Batch
from audio_ssl.train import loop
from audio_ssl.train.compiling import recompute_blocks
from audio_ssl.train.ctc_module import FinetuneModule
from audio_ssl.train.distributed import World
from audio_ssl.train.loop import Task, run_update
from audio_ssl.train.muon import hidden_matrices
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.pretrain import PretrainModule
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper, make_stepper
from audio_ssl.train.transcripts import Transcripts
from audio_ssl.train.watch import Watch
from tests.unit.train.device_watch import META, HostWaitError, MetaGenerator, fused_on_meta, watched
from tests.unit.train.toy import OPTIM, surroundings

WORLD = World(0, 1, META)
DROPOUTS = {"dropout": 0.1, "attention_dropout": 0.1, "activation_dropout": 0.1, "feature_dropout": 0.1}
WIDTH = 31_013  # samples
BATCH, STOP = ("tensors.py:to",) * 2, "loop.py:run_update"  # waveforms and lengths; whether a stop was asked for


def make_batch(*, is_full: bool) -> Batch:
    lengths = torch.tensor([WIDTH] * 3 if is_full else [WIDTH, 17_011, 5_003])
    return Batch(torch.zeros(3, WIDTH), lengths, (2, 0, 1), is_full=is_full)


def make_task(module: nn.Module, optim: OptimConfig = OPTIM) -> Task:
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = build_optimizer([(learning, 1.0)], optim, matrices=hidden_matrices(module.encoder))
    return Task(module, optimizer, source=None, summarize=None, validate=None, metric="", document={})


CHEAPER = {
    "masks": {"num_masks": 3},
    "visible": {"encode": "visible", "decoder_dim": 32, "num_masks": 2},
    "squeezed": {"context_stride": 2},
    "mel": {"front_end": "mel"},
}


def pretrain_module(preset: str, **changes) -> PretrainModule:
    of_model = {key: value for key, value in changes.items() if key in ModelConfig.model_fields}
    of_objective = {key: value for key, value in changes.items() if key not in of_model}
    with META:
        encoder = build_encoder(ModelConfig(**{"preset": preset, **DROPOUTS, "layer_drop": 0.0, **of_model}))
        config = Wav2Vec2Config(**{**OF_PRESETS[preset], "target_dropout": 0.1, **of_objective})
        return PretrainModule(encoder, build_objective(config, latent_dim=encoder.latent_dim, dim=encoder.dim)).train()


def finetune_module(model: dict, **config) -> FinetuneModule:
    labels = (torch.tensor([1, 2, 3]), torch.tensor([4, 4]), torch.tensor([2]))
    told = config.get("intermediate_layers", ()) if config.get("self_conditioned") else ()
    with META:
        encoder = build_encoder(ModelConfig(preset="tiny_cpu", **DROPOUTS, **model))
        recogniser = CTCModel(encoder, 5, final_dropout=0.1, conditioned_after=told)
    transcripts = Transcripts(("abc", "dd", "b"), labels, {}, np.zeros(3, dtype=np.int64))
    return FinetuneModule(recogniser, transcripts=transcripts, config=CTCConfig(**config)).train()


def update(
    tmp_path,
    module: nn.Module,
    batches: list[Batch],
    *allowed: str,
    stepper: Stepper | None = None,
    optim: OptimConfig = OPTIM,
):
    """One update as the loop runs it; its sums, the copies to the device and the optimizer."""
    around = replace(surroundings(tmp_path, [], world=WORLD), stepper=stepper or Stepper())
    task = make_task(module, optim)
    with fused_on_meta(), watched(*BATCH, STOP, *allowed) as copies:
        sums = run_update(task, module, batches, around, update=7, is_stop_asked=False, is_measured=stepper is not None)
    return sums, copies, task.optimizer


@pytest.fixture
def device_generator(monkeypatch):
    monkeypatch.setattr(loop, "torch_generator", lambda *name, device: MetaGenerator())


@pytest.mark.usefixtures("device_generator")
@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("preset", PRESETS)
def test_an_update_of_pretraining_neither_reads_nor_strays(tmp_path, preset, is_full):
    module = pretrain_module(preset)
    batches = [make_batch(is_full=is_full)] * 2
    sums, copies, optimizer = update(tmp_path, module, batches)
    assert copies == [*BATCH, *BATCH, STOP]
    assert {name for name, value in sums.items() if value.device != META} == {"updates", "audio_s", "padded_s"}
    # Every weight had a gradient and has moments; nothing of the optimizer lives on the host.
    assert optimizer.param_groups[0]["fused"]
    assert set(optimizer.state) == set(module.parameters())
    assert {value.device for state in optimizer.state.values() for value in state.values()} == {META}
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.usefixtures("device_generator")
@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("name", sorted(CHEAPER))
def test_an_update_of_cheaper_training_neither_reads_nor_strays(tmp_path, name, is_full):
    module = pretrain_module("tiny_cpu", **CHEAPER[name])
    sums, copies, optimizer = update(tmp_path, module, [make_batch(is_full=is_full)])
    assert copies == [*BATCH, STOP]
    assert {name for name, value in sums.items() if value.device != META} == {"updates", "audio_s", "padded_s"}
    assert {value.device for state in optimizer.state.values() for value in state.values()} == {META}


@pytest.mark.usefixtures("device_generator")
def test_an_update_with_muon_neither_reads_nor_strays(tmp_path):
    module = pretrain_module("tiny_cpu")
    muon = OPTIM.model_copy(update={"optimizer": "muon"})
    _, copies, optimizer = update(tmp_path, module, [make_batch(is_full=False)], optim=muon)
    assert copies == [*BATCH, STOP]
    assert {value.device for state in optimizer.state.values() for value in state.values()} == {META}
    chosen = {p for p in module.parameters() if "momentum_buffer" in optimizer.state[p]}
    assert chosen == set(hidden_matrices(module.encoder))
    assert set(optimizer.state) == set(module.parameters())


@pytest.mark.usefixtures("device_generator")
def test_what_hangs_on_a_step_neither_reads_nor_strays(tmp_path):
    module = pretrain_module("tiny_cpu")
    recompute_blocks(module.encoder)
    stepper = make_stepper(module, precision="fp16", ema_decay=0.999, device=META)
    sums, copies, _ = update(tmp_path, module, [make_batch(is_full=False)] * 2, stepper=stepper)
    assert copies == [*BATCH, *BATCH, STOP]
    assert {sums[name].device for name in ("skipped", "searched", "update_ratio")} == {META}


def test_draws_of_a_generator_on_the_host_are_moved_without_a_wait(tmp_path, monkeypatch):
    def on_the_host(seed, *name, device):
        return torch_generator(seed, *name)

    monkeypatch.setattr(loop, "torch_generator", on_the_host)
    module = pretrain_module("tiny_cpu")
    _, copies, _ = update(tmp_path, module, [make_batch(is_full=False)], "draws.py:uniform")
    draws = ["draws.py:uniform"] * 3  # masks, Gumbel noise, distractors
    assert copies == [*BATCH, *draws, STOP]


@pytest.mark.usefixtures("device_generator")
@pytest.mark.parametrize("model", [{}, CHEAPER["mel"], CHEAPER["squeezed"]], ids=["convs", "mel", "squeezed"])
@pytest.mark.parametrize(
    "config",
    [
        {}, {"freeze_feature_encoder": False}, {"freeze_encoder_updates": 9}, {"freeze_bottom_blocks": 2},
        {"intermediate_layers": [2], "self_conditioned": True},
    ],
)  # fmt: skip
def test_an_update_of_finetuning_reads_nothing_but_in_ctc_itself(tmp_path, config, model):
    module = finetune_module(model, **config)
    sums, copies, _ = update(tmp_path, module, [make_batch(is_full=False)], "transcripts.py:of_rows")
    assert copies == [*BATCH, "transcripts.py:of_rows", "transcripts.py:of_rows", STOP]
    assert sums["ctc"].device == META


@pytest.mark.usefixtures("device_generator")
@pytest.mark.parametrize("name", ["layer_drop", "grad_scale"])
def test_settings_that_choose_a_path_are_read_on_the_host(tmp_path, name):
    module = pretrain_module("tiny_cpu")
    if name == "layer_drop":
        module.encoder.context_network.layer_drop = 0.4
    else:
        module.encoder.feature_encoder.grad_scale = 0.0
    update(tmp_path, module, [replace(make_batch(is_full=True), is_full=None)])


def test_a_batch_of_validation_neither_reads_nor_strays():
    module = pretrain_module("small").eval()
    with torch.no_grad(), watched(*BATCH):
        terms = module(make_batch(is_full=False).to(META), update=7, generator=MetaGenerator())
    assert {value.device for value in terms.sums.values()} == {META}


@pytest.mark.usefixtures("device_generator")
def test_an_update_without_guards_stays_on_the_device(tmp_path):
    around = replace(surroundings(tmp_path, [], world=WORLD), watch=Watch())  # as a dry run makes it
    module = pretrain_module("tiny_cpu", num_layers=1)
    with fused_on_meta(), watched(*BATCH, STOP):
        sums = run_update(make_task(module), module, [make_batch(is_full=True)], around, update=7, is_stop_asked=False)
    assert sums["spiked"].device == META


class FewUpdatesError(Exception):
    """The source has no more: the loop must not have asked for a number before."""


class FewUpdates:
    """More updates than are timed at first, fewer than come before the first line of figures."""

    def epoch(self, epoch: int, first: int):
        for _ in range(loop.NUM_TIMED + 2):
            yield (make_batch(is_full=True),)
        raise FewUpdatesError


@pytest.mark.usefixtures("device_generator")
def test_the_loop_reads_nothing_between_lines_of_figures(tmp_path):
    module = pretrain_module("tiny_cpu", layer_drop=0.2, num_layers=2)
    around = surroundings(tmp_path, [], world=WORLD, num_updates=100, log_every=50, save_every=100)
    task = replace(make_task(module), source=FewUpdates(), validate=lambda update: pytest.fail("not asked for yet"))
    progress = Progress()
    with fused_on_meta(), watched(*BATCH, STOP) as copies, pytest.raises(FewUpdatesError):
        loop.train(task, progress, around)
    assert progress.update == loop.NUM_TIMED + 2
    assert copies == [*BATCH, STOP] * progress.update


X = torch.ones(3, 4, device=META)
WAITS = {
    "a number is read": lambda: X.sum().item(),
    "a branch on a number": lambda: bool(X.any()),
    "a list of numbers": X.tolist,
    "a size that depends on numbers": X.nonzero,
    "a host tensor among the operands": lambda: X + torch.ones(4),
    "a host scalar among the operands": lambda: X * torch.tensor(2.0),
    "a host index": lambda: X[torch.tensor([0, 2])],
    "a list as index": lambda: X[[0, 2]],
    "a boolean index": lambda: X.__setitem__(X > 0, torch.zeros((), device=META).expand(3)),
    "a tensor from values": lambda: torch.tensor([1, 2], device=META),
    "a copy that nobody named": lambda: torch.arange(3).to(META, non_blocking=True),
    "a copy into a tensor of the device": lambda: X.copy_(torch.ones(3, 4), non_blocking=True),
}


@pytest.mark.parametrize("wait", WAITS)
def test_the_watch_bites(wait):
    with watched(), pytest.raises((HostWaitError, RuntimeError)):
        WAITS[wait]()


def test_a_named_copy_must_not_block():
    with watched("test_meta_step.py:test_a_named_copy_must_not_block") as copies:
        torch.ones(3).to(META, non_blocking=True)
        X.copy_(torch.ones(3, 4), non_blocking=True)
        assert len(copies) == 2
        with pytest.raises(HostWaitError, match="blocks"):
            torch.ones(3).to(META)
        with pytest.raises(HostWaitError, match="blocks"):
            X.copy_(torch.ones(3, 4))
