"""Every choice of layers: the numbers are the encoder's, nothing runs or is kept in vain, bad choices are refused."""

from __future__ import annotations

import json
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import typer
from typer.testing import CliRunner

import audio_ssl
from audio_ssl.cli.extract import extract
from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.errors import AudioSSLError, ConfigError
from audio_ssl.inference.layer_weights import LayerWeights, read_layer_weights
from audio_ssl.inference.layers import LayerForward, choose_layer, model_quantizer, open_layer
from audio_ssl.interop.source import read_model, weights_hash
from audio_ssl.model.encoder import Encoder, build_encoder
from audio_ssl.model.files import pretraining_document, save_model_dir
from audio_ssl.objective.registry import build_objective
from tests.unit.inference.conftest import CONFIG, noise, write_wav

LENGTHS = (5_003, 3_001)
NUM_FRAMES = (15, 9)  # (5003 - 400) // 320 + 1, (3001 - 400) // 320 + 1
OBJECTIVE = Wav2Vec2Config(num_groups=3, num_entries=5, code_dim=6, target_dim=7)
THIRDS = (0.25, 0.5, 0.25, 0.0)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    waveforms = torch.zeros(2, LENGTHS[0])
    for row, length in enumerate(LENGTHS):
        waveforms[row, :length] = torch.from_numpy(noise(length, seed=row))
    return waveforms, torch.tensor(LENGTHS)


@torch.inference_mode()
def chosen(encoder: Encoder, layer: Any, **options: Any) -> tuple[torch.Tensor, ...]:
    """Valid frames of each row of the batch."""
    choice = choose_layer(layer, num_layers=encoder.num_layers, **options)
    frames, num_frames = LayerForward(encoder, choice)(*batch(), is_full=False)
    assert num_frames.tolist() == list(NUM_FRAMES)
    return tuple(row[..., :count, :] for row, count in zip(frames, NUM_FRAMES, strict=True))


@torch.inference_mode()
def expected_layers(encoder: Encoder) -> list[torch.Tensor]:
    """Of each row, all layers: (L, T, D)."""
    output = encoder(*batch(), return_layers=True)
    assert output.layers is not None
    return [torch.stack(output.layers)[:, row, :count] for row, count in enumerate(NUM_FRAMES)]


@pytest.fixture(params=["post", "pre", "squeezed"])
def any_encoder(request) -> Encoder:
    torch.manual_seed(4)
    changes: dict[str, Any] = {"squeezed": {"context_stride": 2}}.get(request.param, {"norm_order": request.param})
    encoder = build_encoder(ModelConfig.model_validate({**CONFIG.model_dump(), **changes})).eval()
    encoder.context_network.blocks[2].feed_forward.output.bias.data.add_(0.5)  # the final norm shows
    return encoder


@pytest.fixture(scope="module")
def pretraining_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(6)
    path = tmp_path_factory.mktemp("models") / "pretraining"
    modules = {"encoder": build_encoder(CONFIG), "objective": build_objective(OBJECTIVE, latent_dim=8, dim=16)}
    save_model_dir(path, pretraining_document(CONFIG, OBJECTIVE), modules)
    return path


@pytest.mark.parametrize("layer", [0, 2, "3", "3,1", [0, 3], [2], range(1, 3), np.array([1, 2]), "all"])
def test_layers_are_the_encoders_in_the_order_asked_for(any_encoder: Encoder, layer: Any) -> None:
    numbers = {"3": 3, "3,1": [3, 1], "all": [0, 1, 2, 3]}.get(layer, layer) if isinstance(layer, str) else layer
    wanted = numbers if isinstance(numbers, int) else list(numbers)
    for found, expected in zip(chosen(any_encoder, layer), expected_layers(any_encoder), strict=True):
        torch.testing.assert_close(found, expected[wanted], rtol=0, atol=1e-6)


def test_last_is_the_networks_output(any_encoder: Encoder) -> None:
    with torch.inference_mode():
        output = any_encoder(*batch())
    for row, found in enumerate(chosen(any_encoder, None)):
        torch.testing.assert_close(found, output.frames[row, : NUM_FRAMES[row]], rtol=0, atol=1e-6)
    is_normed = not torch.allclose(chosen(any_encoder, "last")[0], chosen(any_encoder, 3)[0], atol=1e-2)
    assert is_normed == (any_encoder.context_stride > 1 or any_encoder.context_network.norm_order == "pre")


def test_conv_is_the_latents_after_their_norm(any_encoder: Encoder) -> None:
    with torch.inference_mode():
        latents, _ = any_encoder.feature_encoder(*batch())
        norm = any_encoder.feature_projection.norm
        expected = F.layer_norm(latents, (8,), norm.weight, norm.bias, norm.eps)
    for row, found in enumerate(chosen(any_encoder, "conv")):
        torch.testing.assert_close(found, expected[row, : NUM_FRAMES[row]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("values", [THIRDS, (0.0, 0.1, 0.2, 0.7)])
def test_a_weighted_sum_is_that_of_s3prl(any_encoder: Encoder, values: tuple[float, ...], layer_norm: bool) -> None:
    """Its Featurizer: stack, normalise over D without weights, multiply, sum."""
    found = chosen(any_encoder, LayerWeights(values, layer_norm))
    for own, layers in zip(found, expected_layers(any_encoder), strict=True):
        stacked = layers.double()
        if layer_norm:
            mean, variance = stacked.mean(-1, keepdim=True), stacked.var(-1, keepdim=True, correction=0)
            stacked = (stacked - mean) / torch.sqrt(variance + 1e-5)
        expected = (torch.tensor(values, dtype=torch.float64)[:, None, None] * stacked).sum(0)
        torch.testing.assert_close(own.double(), expected, rtol=0, atol=1e-5)


def test_codes_are_the_quantizers_best_entries(pretraining_dir: Path) -> None:
    files = read_model(pretraining_dir)
    encoder, quantizer = build_encoder(files.model).eval(), model_quantizer(files)
    assert quantizer is not None
    codes = chosen(encoder, "codes", quantizer=quantizer)
    own = {name.removeprefix("objective.quantizer."): tensor for name, tensor in files.tensors.items()}
    for latents, found in zip(chosen(encoder, "conv"), codes, strict=True):
        logits = latents.double().numpy() @ own["logits.weight"].double().numpy().T + own["logits.bias"].numpy()
        np.testing.assert_array_equal(found.numpy(), logits.reshape(-1, 3, 5).argmax(-1))
    assert len(np.unique(codes[0].numpy())) > 1
    in_evaluation = quantizer(
        chosen(encoder, "conv")[0].clone(), is_counted=torch.ones(15, dtype=torch.bool), temperature=1.0,
        generator=torch.Generator(),
    )  # fmt: skip
    assert torch.equal(in_evaluation.code_idx, codes[0])


@pytest.mark.parametrize(
    ("layer", "num_blocks"),
    [("conv", 0), (0, 0), (1, 1), ("0,2", 2), ("2,0", 2), (3, 3), ("all", 3), ("last", 3),
     (LayerWeights(THIRDS), 2), (LayerWeights((1.0, 0.0, 0.0, 0.0)), 0)],
)  # fmt: skip
def test_nothing_runs_above_the_deepest_layer_asked_for(any_encoder: Encoder, layer: Any, num_blocks: int) -> None:
    ran = []
    for number, block in enumerate(any_encoder.context_network.blocks, start=1):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    if layer == "conv":
        any_encoder.context_network.register_forward_pre_hook(lambda *_: ran.append("network"))
        any_encoder.feature_projection.projection.register_forward_pre_hook(lambda *_: ran.append("projection"))
    chosen(any_encoder, layer)
    assert ran == list(range(1, num_blocks + 1))


def test_codes_run_no_block(pretraining_dir: Path) -> None:
    files = read_model(pretraining_dir)
    encoder, ran = build_encoder(files.model).eval(), []
    encoder.context_network.register_forward_pre_hook(lambda *_: ran.append("network"))
    chosen(encoder, "codes", quantizer=model_quantizer(files))
    assert not ran


@pytest.mark.parametrize("layer", [3, "last", [3, 1], LayerWeights((0.1, 0.2, 0.3, 0.4), layer_norm=True)])
def test_layers_that_nobody_asked_for_are_not_kept(encoder: Encoder, layer: Any) -> None:
    outputs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def note(_module: object, _args: object, output: torch.Tensor) -> None:
        outputs.append(weakref.ref(output))
        alive.append(sum(ref() is not None for ref in outputs))

    handles = [block.register_forward_hook(note) for block in encoder.context_network.blocks]
    forward = LayerForward(encoder, choose_layer(layer, num_layers=3))
    try:
        with torch.inference_mode():  # without padding, where a layer that is kept is no copy
            forward(torch.from_numpy(noise(5_003))[None], torch.tensor([5_003]), is_full=True)
    finally:
        for handle in handles:
            handle.remove()
    assert alive == [1, 2, 2]  # a block's output and its input, which is the output of the one before


@pytest.mark.parametrize(
    "layer", ["4", "-1", -1, "first", 4, "1,4", "1,", "", "1;2", "1,1", "1,01", "1,conv", True, 1.5, [], [-1],
              ["last"], "9" * 5000, "٣", [[1]]],
)  # fmt: skip
def test_layers_that_do_not_exist_are_refused(layer: Any) -> None:
    with pytest.raises(ConfigError, match="--layer must be 0 to 3"):
        choose_layer(layer, num_layers=3)


def test_names_and_conventions_say_what_was_asked_for() -> None:
    for asked, name, convention in (
        (None, "last", "final layer norm"),
        ("3, 1", "3,1", "axis 0: output of block 3, output of block 1"),
        ("02", "2", "output of block 2"),
        ([0], "0", r"axis 0: input of block 1"),
        ("CONV", "conv", "after the layer norm of the feature projection"),
        (LayerWeights(THIRDS, layer_norm=True), "weighted-", r"0.25 \* layer 0 \+ 0.5 \* layer 1 .*each layer normed"),
    ):
        choice = choose_layer(asked, num_layers=3)
        assert choice.name.startswith(name)
        assert re.search(convention, choice.convention), choice.convention
    names = {choose_layer(LayerWeights(v, n), num_layers=3).name for v in (THIRDS, THIRDS[::-1]) for n in (True, False)}
    assert len(names) == 4  # a folder made with other weights is another folder


def test_codes_need_a_quantizer(model_dir: Path, ctc_dir: Path, encoder: Encoder) -> None:
    for model in (model_dir, ctc_dir):
        assert model_quantizer(read_model(model)) is None
        with pytest.raises(ConfigError, match=r"needs a model with its quantizer.*give a checkpoint of pre-training"):
            open_layer(model, "codes", None, encoder=encoder)


def write_weights(path: Path, **document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"weights": [0.5, 0.5], "layer_norm": False}, "must be 4 numbers for this model"),
        ({"weights": [0.5, 0.5, 0.5, 0.5], "layer_norm": False}, "sum is 2; put them through a softmax"),
        ({"weights": [1.5, -0.5, 0, 0], "layer_norm": False}, "number 1 is -0.5"),
        ({"weights": [float("nan"), 1, 0, 0], "layer_norm": False}, "number 0 is nan"),
        ({"weights": "equal", "layer_norm": False}, "weights must be a list of numbers"),
        ({"weights": [True, 0, 0, 0], "layer_norm": False}, "weights must be a list of numbers"),
        ({"weights": [1, 0, 0, 0]}, "layer_norm must be true or false"),
        ({"weights": [1, 0, 0, 0], "layer_norm": False, "model_hash": 3}, "model_hash must be a text"),
        ({"weights": [1, 0, 0, 0], "layer_norm": False, "temperature": 3}, "temperature is no key"),
        ({"weights": [1, 0, 0, 0], "layer_norm": False, "model_hash": "00ff"}, "learned on another model"),
    ],
)
def test_files_of_weights_that_do_not_fit_are_refused(
    model_dir: Path, encoder: Encoder, tmp_path: Path, document: dict[str, Any], named: str
) -> None:
    path = write_weights(tmp_path / "w.json", **document)
    with pytest.raises(ConfigError, match=named) as refused:
        open_layer(model_dir, None, path, encoder=encoder)
    assert "w.json" in str(refused.value)


@pytest.mark.parametrize("content", ["[1, 0]", "{", None])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "w.json").write_text(content)
    with pytest.raises(ConfigError, match=r"w\.json"):
        read_layer_weights(tmp_path / "w.json")


app = typer.Typer()
app.command()(extract)


def call(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_the_command_line_takes_each_choice(pretraining_dir: Path, tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "a.wav", noise(5_003))
    weights = write_weights(
        tmp_path / "w.json", weights=THIRDS, layer_norm=True, model_hash=weights_hash(pretraining_dir)
    )
    e, shapes = audio_ssl.load(pretraining_dir), {}
    for out, options in {
        "one": ("--layer", 2), "two": ("--layer", "3,1"), "conv": ("--layer", "conv"),
        "codes": ("--layer", "codes"), "sum": ("--layer-weights", weights),
    }.items():  # fmt: skip
        call(pretraining_dir, wav, tmp_path / out, *options)
        found = audio_ssl.open_embeddings(tmp_path / out)
        frames, name = found["a"], str(found.settings["layer"]).partition("-")[0]
        shapes[out] = (name, found.settings["layers"], frames.shape, str(frames.dtype))
        layers = LayerWeights(THIRDS, layer_norm=True) if out == "sum" else options[1]
        np.testing.assert_allclose(e.extract(wav, layers=layers).frames, frames, atol=1e-5)
    assert shapes == {
        "one": ("2", None, (15, 16), "float32"), "two": ("3,1", ["3", "1"], (2, 15, 16), "float32"),
        "conv": ("conv", None, (15, 8), "float32"), "codes": ("codes", None, (15, 3), "int32"),
        "sum": ("weighted", None, (15, 16), "float32"),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="--layer-weights asks for a sum of layers, --layer 2 for others"):
        call(pretraining_dir, wav, tmp_path / "both", "--layer", 2, "--layer-weights", weights)
