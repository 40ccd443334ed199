"""Protocols of fine-tuning, from settings to a model directory in use: what is saved is what was trained."""

import io
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile as sf
import torch
from pydantic import ValidationError
from rich.console import Console

from audio_ssl.checkpoint import load_tensors, read_document
from audio_ssl.config import FinetuneConfig, ModelConfig
from audio_ssl.config.adapt import AdaptConfig
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.source import load_ctc
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from audio_ssl.model.lora import LAYERS, LoRALinear
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


@pytest.mark.parametrize("system", ["transformers", "fairseq", "fairseq2", "torchaudio"])
def test_a_checkpoint_of_another_system_starts_the_same_run(manifest, pretrained, tmp_path, system):
    theirs = tmp_path / ("theirs" if system == "transformers" else "theirs.pt")
    convert(pretrained, theirs, to=system, check=False)
    for name, source in (("ours", pretrained), ("from_theirs", theirs)):
        tune(manifest, tmp_path / name, init_from=source, ctc={"mask_prob": 0.3}, run={"num_updates": 2})
    ours, same = (load_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("ours", "from_theirs"))
    assert ours.keys() == same.keys()
    assert not [name for name in ours if not torch.equal(ours[name], same[name])]


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


LORA = {"lora_rank": 3, "lora_alpha": 6.0, "lora_targets": ["query", "output", "feed_forward"]}
ADDED = ("attention.query", "attention.output", "feed_forward.inner", "feed_forward.output")


def test_a_low_rank_addition_begins_as_nothing_and_counts_alpha_over_rank_times():
    torch.manual_seed(1)
    plain = torch.nn.Linear(7, 5)
    layer, x = LoRALinear(plain, rank=2, scale=1.5), torch.randn(3, 7)
    assert torch.equal(layer(x), plain(x))
    torch.nn.init.normal_(layer.lora_up)
    expected = x @ (plain.weight + 1.5 * layer.lora_up @ layer.lora_down).T + plain.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_model_with_low_rank_additions_is_left_as_a_plain_one(manifest, pretrained, tmp_path, ema):
    said = tune(
        manifest, tmp_path / "run", init_from=pretrained, adapt=LORA, ctc={"layer_lr_decay": 0.9},
        optim={"lr": 1e-2, "ema_decay": ema},
    )  # fmt: skip
    model, checkpoint = tmp_path / "run" / "model", tmp_path / "run" / "checkpoints" / "step_00000004"
    before, plain = load_tensors(pretrained / "model.safetensors"), load_tensors(model / "model.safetensors")
    raw = load_tensors(checkpoint / "model.safetensors")
    assert all(torch.equal(before[name], raw[name]) for name in before)  # the encoder itself is frozen
    assert set(plain) == {*before, "head.weight", "head.bias"}
    assert "lora" not in read_document(model)
    moved = {name for name in before if not torch.equal(before[name], plain[name])}
    assert moved == {f"encoder.context_network.blocks.{i}.{layer}.weight" for i in range(3) for layer in ADDED}
    # 3 blocks x (2 x (24 + 24) + 2 x (24 + 31)) x rank 3, and a head of 5 symbols on 24
    assert f"{(3 * (96 + 110) * 3 + 5 * 25) / 1e6:.2f} M of" in said
    # A checkpoint is a model as well, and what trained is what is left.
    if not ema:
        assert torch.equal(log_probs(checkpoint), log_probs(model))
        layer = "encoder.context_network.blocks.1.feed_forward.inner"
        addition = 2.0 * raw[f"{layer}.lora_up"] @ raw[f"{layer}.lora_down"]
        torch.testing.assert_close(plain[f"{layer}.weight"], before[f"{layer}.weight"] + addition)
    else:
        assert not torch.equal(log_probs(checkpoint), log_probs(model))  # the average of the halves, merged


@pytest.mark.parametrize("adapt", [LORA, {"adapter_dim": 5}], ids=["lora", "adapters"])
def test_a_resumed_run_ends_where_one_in_a_piece_does(manifest, pretrained, tmp_path, adapt):
    for name, lengths in {"whole": (4,), "parts": (2, 4)}.items():
        for num_updates in lengths:
            tune(manifest, tmp_path / name, init_from=pretrained, adapt=adapt, resume="auto",
                 run={"num_updates": num_updates})  # fmt: skip
    whole, parts = (load_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_another_rank_is_another_model(manifest, pretrained, tmp_path):
    tune(manifest, tmp_path / "run", init_from=pretrained, adapt=LORA, run={"num_updates": 2})
    with pytest.raises(CheckpointError, match=r"lora\.rank \(checkpoint: 3, now: 2\)"):
        tune(manifest, tmp_path / "run", init_from=pretrained, adapt={**LORA, "lora_rank": 2}, resume="auto")
    config = tmp_path / "run" / "checkpoints" / "step_00000002" / "config.toml"
    config.write_text(config.read_text().replace("rank = 3", "rank = 0"))
    with pytest.raises(CheckpointError, match="rank and alpha"):
        load_ctc(config.parent)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_adapters_alone_learn_and_stay_a_part_of_the_model(manifest, pretrained, tmp_path, optimizer):
    said = tune(
        manifest, tmp_path / "run", init_from=pretrained, adapt={"adapter_dim": 5},
        optim={"lr": 1e-2, "optimizer": optimizer, "weight_decay": 0.1},
    )  # fmt: skip
    model = tmp_path / "run" / "model"
    before, after = (load_tensors(place / "model.safetensors") for place in (pretrained, model))
    assert all(torch.equal(before[name], after[name]) for name in before)
    added = {name: tensor for name, tensor in after.items() if ".adapter." in name}
    assert len(added) == 3 * 6
    assert all(added[f"encoder.context_network.blocks.{i}.adapter.up.weight"].any() for i in range(3))
    assert read_document(model)["model"]["adapter_dim"] == 5
    assert f"{(3 * (48 + 24 * 5 + 5 + 5 * 24 + 24) + 5 * 25) / 1e6:.2f} M of" in said
    with pytest.raises(CheckpointError, match="adapter_dim must be 0, got 5"):
        convert(model, tmp_path / "theirs.pt", to="torchaudio")
    # It goes on from there, or as a model like any other, but not with adapters of another width.
    tune(manifest, tmp_path / "on", init_from=model, adapt={"adapter_dim": 5}, run={"num_updates": 2})
    tune(manifest, tmp_path / "all", init_from=model, run={"num_updates": 2})
    of_all = load_tensors(tmp_path / "all" / "model" / "model.safetensors")
    query = "encoder.context_network.blocks.0.attention.query.weight"
    assert not torch.equal(of_all[query], after[query])
    with pytest.raises(ConfigError, match=r"adapt\.adapter_dim must be 5, got 4"):
        tune(manifest, tmp_path / "other", init_from=model, adapt={"adapter_dim": 4})


def test_fresh_adapters_change_no_number(pretrained):
    files = load_tensors(pretrained / "model.safetensors")
    plain, adapted = (build_encoder(ModelConfig(**MODEL, adapter_dim=n)).eval() for n in (0, 5))
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in files.items()}
    plain.load_state_dict(tensors)
    adapted.load_state_dict(tensors, strict=False)
    waveforms, num_samples = torch.randn(2, 6001), torch.tensor([6001, 5003])
    assert torch.equal(adapted(waveforms, num_samples).frames, plain(waveforms, num_samples).frames)
    adapter = adapted.context_network.blocks[1].adapter
    torch.nn.init.normal_(adapter.up.weight)
    x = torch.randn(1, 4, 24)
    block = adapted.context_network.blocks[1]
    normed = torch.nn.functional.layer_norm(plain.context_network.blocks[1](x, None), (24,))
    inner = (normed @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    expected = plain.context_network.blocks[1](x, None) + inner @ adapter.up.weight.T
    torch.testing.assert_close(block(x, None), expected)


@pytest.mark.parametrize(
    ("sections", "fault"),
    [
        ({"adapt": {"lora_rank": 4}, "model": MODEL}, "init_from must be given with adapt"),
        ({"adapt": {"adapter_dim": 4}, "init_from": "m", "ctc": {"freeze_feature_encoder": False}}, "must be true"),
        ({"adapt": {"adapter_dim": 4}, "init_from": "m", "ctc": {"freeze_bottom_blocks": 1}}, "freeze_bottom_blocks 0"),
        ({"adapt": {"lora_alpha": 4.0}, "init_from": "m"}, "lora_alpha must be left out where lora_rank is 0"),
        ({"adapt": {"lora_rank": 4, "lora_targets": []}, "init_from": "m"}, "lora_targets must name layers"),
        ({"adapt": {"lora_rank": 4, "lora_targets": ["keys"]}, "init_from": "m"}, "lora_targets"),
    ],
)
def test_adaptations_that_contradict_each_other_are_refused(sections, fault):
    with pytest.raises(ValidationError, match=fault):
        FinetuneConfig(data={"train": ["a"]}, run={"dir": "r"}, **sections)


def test_every_target_of_the_settings_is_a_layer():
    (of_settings,) = {get_args(a) for a in get_args(AdaptConfig.model_fields["lora_targets"].annotation)} - {()}
    assert set(of_settings) == set(LAYERS)
