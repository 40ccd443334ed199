"""Protocols of fine-tuning, from settings to a model directory in use: what is saved is what was trained."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console

from audio_ssl.checkpoint import load_tensors, read_document
from audio_ssl.config import FinetuneConfig, ModelConfig
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.source import load_ctc
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from audio_ssl.train.finetune import finetune

RATE = 16000
MODEL = {
    "preset": "tiny_cpu", "conv_dims": (8,) * 7, "dim": 24, "num_heads": 3, "num_layers": 3, "ffn_dim": 31,
    "pos_conv_groups": 4, "pos_conv_kernel": 8,
}  # fmt: skip
TEXTS = ("ab", "ba a", "b", "a b a")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    rows = []
    for i, text in enumerate(TEXTS):
        num_samples = 9001 + 1003 * i
        sf.write(root / f"{i}.wav", 0.1 * generator.standard_normal(num_samples), RATE)
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, num_samples, RATE, text=text))
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    return root / "list.tsv"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """An encoder with norms and biases that are not their initial 1 and 0."""
    torch.manual_seed(7)
    model = ModelConfig(**MODEL)
    encoder = build_encoder(model)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    place = tmp_path_factory.mktemp("pretrained") / "model"
    save_model_dir(place, encoder_document(model), {"encoder": encoder})
    return place


def tune(manifest: Path, run_dir: Path, *, resume: str = "never", **sections) -> str:
    """Fine-tune for a few updates; returns what was said."""
    run = {"dir": run_dir, "device": "cpu", "precision": "fp32", "num_updates": 4, "log_every": 1, "save_every": 2}
    data = {"train": [manifest], "batch_s": 4.0, "micro_batch_s": 2.0, "max_s": 2.0, "num_workers": 0}
    config = FinetuneConfig(**{
        "data": data, "optim": {"lr": 1e-2, "eps": 1e-8, "schedule": "constant"}, **sections,
        "run": {**run, **sections.get("run", {})},
    })  # fmt: skip
    console = Console(width=400, file=io.StringIO())
    finetune(config, resume=resume, console=console)
    return console.file.getvalue()


def log_probs(model: Path) -> torch.Tensor:
    recogniser, _ = load_ctc(model)
    waveforms = torch.randn(2, 6001, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return recogniser(waveforms, torch.tensor([6001, 5003]))[0]


def test_a_self_conditioned_recogniser_is_saved_with_its_conditions(manifest, pretrained, tmp_path):
    ctc = {"intermediate_layers": [1, 2], "self_conditioned": True, "layer_lr_decay": 0.8, "head_lr_scale": 3.0}
    tune(manifest, tmp_path / "run", init_from=pretrained, ctc=ctc)
    model = tmp_path / "run" / "model"
    assert read_document(model)["ctc"]["conditioned_after"] == [1, 2]
    recogniser, _ = load_ctc(model)
    assert recogniser.conditioned_after == (1, 2)
    assert recogniser.condition.weight.any()  # it has learned
    told = log_probs(model)
    # Without the blocks' names the tensors are strays, and no other system has a place for them.
    text = (model / "config.toml").read_text()
    (model / "config.toml").write_text(text.replace("    1,\n    2,\n]", "]").replace("[1, 2]", "[]"))
    with pytest.raises(CheckpointError, match=r"condition\.weight"):
        load_ctc(model)
    (model / "config.toml").write_text(text.replace("    2,\n]", "    3,\n]"))
    with pytest.raises(CheckpointError, match="conditioned_after must be a rising list of blocks from 1 to 2"):
        load_ctc(model)
    (model / "config.toml").write_text(text)
    with pytest.raises(CheckpointError, match="conditioned_after must be empty"):
        convert(model, tmp_path / "theirs", to="transformers")
    assert torch.equal(log_probs(model), told)


def test_intermediate_losses_alone_leave_no_trace_in_the_model(manifest, pretrained, tmp_path):
    tune(manifest, tmp_path / "run", init_from=pretrained, ctc={"intermediate_layers": [2]})
    model = tmp_path / "run" / "model"
    assert set(read_document(model)["ctc"]) == {"symbols", "text"}
    assert not [name for name in load_tensors(model / "model.safetensors") if name.startswith("condition")]
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "intermediate_loss" in rows


def test_rates_by_depth_move_the_bottom_less(manifest, pretrained, tmp_path):
    before = load_tensors(pretrained / "model.safetensors")
    tune(
        manifest, tmp_path / "run", init_from=pretrained, ctc={"layer_lr_decay": 0.1, "freeze_feature_encoder": False},
        run={"num_updates": 1},
    )  # fmt: skip
    after = load_tensors(tmp_path / "run" / "model" / "model.safetensors")
    names = [f"encoder.context_network.blocks.{i}.attention.value.weight" for i in range(3)]
    names.append("encoder.feature_projection.projection.weight")
    # The first step of Adam is as long as the rate, whatever the gradient: 1e-2 times 0.1, 0.01, 0.001 and 0.0001.
    steps = [(after[name] - before[name]).abs().max().item() for name in names]
    assert steps == pytest.approx([1e-5, 1e-4, 1e-3, 1e-6], rel=0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_frozen_blocks_stay_to_the_last_bit(manifest, pretrained, tmp_path, optimizer):
    before = load_tensors(pretrained / "model.safetensors")
    tune(
        manifest, tmp_path / "run", init_from=pretrained, ctc={"freeze_bottom_blocks": 2, "mask_prob": 0.5},
        optim={"lr": 1e-2, "optimizer": optimizer, "weight_decay": 0.1, "ema_decay": 0.5},
    )  # fmt: skip
    after = load_tensors(tmp_path / "run" / "model" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    above = {n for n in before if n.startswith(("encoder.context_network.blocks.2.", "encoder.context_network.norm."))}
    assert moved == above


def test_a_block_that_is_not_there_is_refused(manifest, pretrained, tmp_path):
    with pytest.raises(ConfigError, match=r"3 transformer blocks.*\n.*intermediate_layers must be below 3"):
        tune(manifest, tmp_path / "run", init_from=pretrained, ctc={"intermediate_layers": [3]})
