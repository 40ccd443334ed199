"""A checkpoint that cannot be used: one clear message, status 2, and every folder exactly as before."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import SYSTEMS
from models import FORMATS, Break, edit_tensors, keep, remove, weights_of

from audio_ssl.checkpoint import load_tensors, save_tensors
from audio_ssl.errors import AudioSSLError
from audio_ssl.interop.source import read_any

PT = ("torchaudio", "fairseq", "fairseq2")


def edit_pt(edit: Callable[[dict], object], model: Path) -> None:
    content = torch.load(model, weights_only=True)
    edit(content)
    torch.save(content, model)


def to_bin(change: Break, model: Path) -> None:
    torch.save(load_tensors(model / "model.safetensors"), model / "pytorch_model.bin")
    remove("model.safetensors", model)
    change(model / "pytorch_model.bin")


class Code:
    """What a pickle runs when it is opened as Python objects."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def flip(offsets: range, path: Path) -> None:
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 0xFF
    path.write_bytes(data)


def zip_of_something_else(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")


DAMAGE: dict[str, Break] = {
    "empty": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"\x80"),
    "tenth": partial(keep, 0.1),
    "half": partial(keep, 0.5),
    "all but the end": partial(keep, 0.999),
    "header": partial(flip, range(16)),
    "text": lambda path: path.write_text("hello, this is no model\n" * 9),
    "page": lambda path: path.write_text("<!DOCTYPE html><title>Please log in</title>"),
    "pointer": lambda path: path.write_text("version 1\noid sha256:4d7a\nsize 377667514\n"),
    "zip": zip_of_something_else,
}


@pytest.mark.parametrize("system", [*FORMATS, "pytorch_model.bin"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file(told, system, damage):
    def break_it(model: Path) -> None:
        to_bin(DAMAGE[damage], model) if system == "pytorch_model.bin" else DAMAGE[damage](weights_of(model))

    said = told("transformers" if system == "pytorch_model.bin" else system, break_it)
    sort = "safetensors" if system in ("audio_ssl", "transformers") else "torch"
    name = {"safetensors": "model.safetensors", "torch": "model.pt"}[sort] if system in FORMATS else system
    assert f"{name} must be a whole {sort} file, but it cannot be read as one (" in said
    assert "copy or download it again" in said


@pytest.mark.parametrize("system", FORMATS)
@pytest.mark.parametrize("is_old", [False, True], ids=["zip", "older torch"])
def test_no_byte_that_flips_ends_in_a_traceback(whole, tmp_path, system, is_old):
    shutil.copytree(whole["ctc"][system].parent, tmp_path / "m")
    path = weights_of(tmp_path / "m" / whole["ctc"][system].name)
    if is_old and path.suffix == ".pt":
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    data, draw = path.read_bytes(), random.Random(system)
    num_refused = 0
    for _ in range(40):
        offset = draw.choice([draw.randrange(4000), len(data) - 1 - draw.randrange(4000)])
        path.write_bytes(data[:offset] + bytes([data[offset] ^ draw.randrange(1, 256)]) + data[offset + 1 :])
        try:
            read_any(path if path.suffix == ".pt" else path.parent)
        except AudioSSLError:
            num_refused += 1
    assert num_refused > 3  # what flips in a weight cannot be seen


@pytest.mark.parametrize("system", [*PT, "pytorch_model.bin"])
def test_a_pickle_with_code_is_not_run(told, system, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trap: Break = lambda path: torch.save({"model": {"mask_emb": Code()}}, path)  # noqa: E731
    said = told(system, trap) if system in PT else told("transformers", partial(to_bin, trap))
    assert "but it wants posix.mkdir, which would run its code, so it is not read" in said
    assert not (tmp_path / "sprung").exists()


NAMES = {  # in every system: a block's bias, a matrix, a norm, and how the message calls the model
    "audio_ssl": ("encoder.context_network.blocks.1.attention.key.bias", "encoder.feature_projection.projection.weight",
                  "encoder.feature_encoder.layers.6.norm.weight"),
    "transformers": ("wav2vec2.encoder.layers.1.attention.k_proj.bias", "wav2vec2.feature_projection.projection.weight",
                     "wav2vec2.feature_extractor.conv_layers.6.layer_norm.weight"),
    "torchaudio": ("encoder.transformer.layers.1.attention.k_proj.bias", "encoder.feature_projection.projection.weight",
                   "feature_extractor.conv_layers.6.layer_norm.weight"),
    "fairseq": ("w2v_encoder.w2v_model.encoder.layers.1.self_attn.k_proj.bias",
                "w2v_encoder.w2v_model.post_extract_proj.weight",
                "w2v_encoder.w2v_model.feature_extractor.conv_layers.6.2.1.weight"),
    "fairseq2": ("encoder.layers.1.self_attn.k_proj.bias", "encoder_frontend.model_dim_proj.weight",
                 "encoder_frontend.feature_extractor.layers.6.layer_norm.weight"),
}  # fmt: skip


@pytest.mark.parametrize("system", FORMATS)
def test_every_tensor_that_does_not_fit_is_named_in_one_message(told, system):
    missing, misshapen, integer = NAMES[system]
    far = missing.replace(".1.", ".999999999.")

    def edit(tensors):
        tensors[far] = tensors.pop(missing)
        tensors[misshapen] = tensors[misshapen].T
        tensors[integer] = tensors[integer].int()
        tensors["classifier.weight"] = torch.zeros(3)

    said = told(system, lambda model: edit_tensors(model, edit))
    assert f"missing:\n    - {missing}\n" in said
    assert "- classifier.weight\n" in said
    assert f"- {far}" in said
    assert f"- {misshapen} must be (" in said
    assert f"- {integer} must be floating point, got torch.int32" in said
    assert "85 tensors fit" in said


@pytest.mark.parametrize("system", PT)
def test_without_settings_the_shapes_alone_are_told_too(told, system):
    missing = NAMES[system][1]
    change = lambda model: (  # noqa: E731
        model.with_suffix(".toml").unlink(missing_ok=True),
        edit_pt(lambda content: (content.pop("audio_ssl", None), content.pop("cfg", None)), model),
        edit_tensors(model, lambda tensors: tensors.pop(missing)),
    )
    assert f"1 missing:\n    - {missing}\n" in told(system, change)


def test_with_settings_every_missing_tensor_is_named_also_where_shapes_would_tell_a_width(told):
    names = [f"encoder.feature_projection.projection.{leaf}" for leaf in ("bias", "weight")]
    said = told("torchaudio", lambda model: edit_tensors(model, lambda tensors: [tensors.pop(name) for name in names]))
    assert "2 missing:\n" in said
    assert all(f"- {name}\n" in said for name in names)


@pytest.mark.parametrize("system", FORMATS)
def test_another_network_or_none(told, system, tmp_path):
    for num, tensors in enumerate(({"layer1.0.conv1.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3)}, {})):
        change = lambda all_, new=tensors: (all_.clear(), all_.update(new))  # noqa: E731
        said = told(system, lambda model, edit=change: edit_tensors(model, edit))
        assert "wav2vec 2.0 or HuBERT" in said or "7 conv layers and 3 blocks" in said or "its head" in said
        assert num or "layer1.0.conv1.weight" in said
        shutil.rmtree(tmp_path / "model folder")


@pytest.mark.parametrize("system", FORMATS)
def test_weights_that_are_no_numbers_are_not_converted(told, system):
    name = NAMES[system][1]
    said = told(system, lambda model: edit_tensors(model, lambda tensors: tensors[name][0].fill_(torch.nan)))
    assert f"must hold finite numbers, but NaN or infinity stands in 1 tensors: {name}; nothing is written" in said


@pytest.mark.parametrize("system", SYSTEMS)
def test_weight_norm_in_both_spellings(told, system):
    def edit(tensors):
        old, new = ("weight_g", "parametrizations.weight.original0")
        name = next(name for name in tensors if name.endswith((old, new)))
        other = name.replace(old, new) if name.endswith(old) else name.replace(new, old)
        tensors[other] = tensors[name].clone()

    assert "(there twice, in two spellings)" in told(system, lambda model: edit_tensors(model, edit))


@pytest.mark.parametrize("system", PT)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "must hold a dictionary of tensors, got Tensor"),
        ([torch.zeros(3)], "must hold a dictionary of tensors, got list"),
        ({"model": 3, "encoder_frontend.a": torch.zeros(1)}, "must hold tensors by name"),
        ({"encoder.transformer.a": torch.zeros(1), 7: torch.zeros(1)}, "these are none: 7"),
        ({"encoder.transformer.a": torch.zeros(1), "lr": 0.1}, "these are none: lr"),
    ],
)
def test_a_torch_file_with_something_else(told, system, content, message):
    assert message in told(system, partial(torch.save, content))


def test_what_stands_beside_a_state_dict(told, tmp_path):
    for change, message in (
        (lambda m: keep(0.5, m.with_suffix(".rest.safetensors")), "model.rest.safetensors must be a whole safetensors"),
        (
            lambda m: save_tensors(m.with_suffix(".rest.safetensors"), {"odd": torch.zeros(3)}),
            "- odd must not be there",
        ),
    ):
        assert message in told("torchaudio", change, kind="pretraining")
        shutil.rmtree(tmp_path / "model folder")
