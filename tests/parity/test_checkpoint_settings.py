"""Settings and vocabularies beside the weights that cannot be used: one clear message, and every folder as before."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from models import Break, beside, edit_json, edit_tensors, edit_text, keep, remove, write

SHARD = "model-00001-of-00001.safetensors"


def set_shards(index: object, model: Path) -> None:
    (model / "model.safetensors").rename(model / SHARD)
    write("model.safetensors.index.json", index if isinstance(index, str) else json.dumps(index), model)


def to(name: str, **values: object) -> Break:
    return lambda model: edit_json(name, model, **values)


def as_folder(name: str, model: Path) -> None:
    beside(model, name).unlink(missing_ok=True)
    beside(model, name).mkdir()


PAIRS = {"conv_feature_layers": "[(1,2)]"}
BOMB = {"conv_feature_layers": "[(1,1,1)]*99*99"}


def set_cfg(cfg: object, model: Path) -> None:
    content = torch.load(model, weights_only=True)
    del content["audio_ssl"]
    torch.save({**content, "cfg": cfg}, model)


CONFIG = {  # what config.json says -> what the message must say
    "bert": ({"model_type": "bert"}, "model_type must be wav2vec2 or hubert, got 'bert'"),
    "wavlm": ({"model_type": "wavlm"}, "model_type must be wav2vec2 or hubert, got 'wavlm'"),
    "data2vec": ({"model_type": "data2vec-audio"}, "got 'data2vec-audio'; no other architecture can be read"),
    "adapters": ({"adapter_attn_dim": 16}, "adapter_attn_dim must be None, got 16"),
    "type is a list": ({"model_type": ["wav2vec2"]}, "got ['wav2vec2']"),
    "deep": ({"num_hidden_layers": 10**9}, "of 7 conv layers and 1000000000 blocks, as its settings say"),
    "half a layer": ({"num_hidden_layers": 2.5}, "num_layers is num_hidden_layers there"),
    "negative": ({"hidden_size": -1}, "dim is hidden_size there"),
    "text": ({"hidden_size": "768"}, "lm_head.weight must be (7, 768), got (7, 24)"),
    "no number": ({"hidden_size": "wide"}, "got 'wide'"),
    "wide": ({"hidden_size": 6 * 10**17}, "must describe a model that fits into memory"),
    "none": ({"hidden_size": None}, "`dim` must be a valid integer, got None"),
    "short": ({"conv_dim": [5, 5]}, "must have one value a layer, got 2, 7 and 7 values"),
    "no list": ({"conv_dim": 5}, "conv_dims is conv_dim there"),
    "long frames": ({"conv_stride": [10**6] * 7}, "a frame must see at most 1000000 samples"),
    "heads": ({"num_attention_heads": 5}, "dim must be a multiple of num_heads, got 24 and 5"),
    "infinite": ({"layer_norm_eps": float("inf")}, "must be a finite number, got inf"),
    "another norm": ({"feat_extract_norm": "batch"}, "feature_norm is feat_extract_norm there"),
    "pad": ({"pad_token_id": 3}, "pad_token_id must be the row of the blank, but 3 is 'a' in vocab.json; correct"),
    "pad text": ({"pad_token_id": "x"}, "pad_token_id must be the row of the blank, but 'x' is no number"),
    "pad list": ({"pad_token_id": [0]}, "pad_token_id must be the row of the blank"),
    "vocab_size": ({"vocab_size": 99}, "must load in transformers"),
    "odd mask": ({"mask_time_prob": "x"}, "give --no-check to do without this comparison"),
}


@pytest.mark.parametrize("case", CONFIG)
def test_config_json(told, case):
    values, message = CONFIG[case]
    assert message in told("transformers", to("config.json", **values))


FILES = ("config.json", "vocab.json", "tokenizer_config.json", "preprocessor_config.json", "audio_ssl.json",
         "special_tokens_map.json", "added_tokens.json", "processor_config.json")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "must be a readable JSON file"), ("[]", "must hold a JSON object, got list"), ("\x00", "readable JSON")],
)
def test_files_of_transformers_that_are_no_objects(told, name, text, message):
    said = told("transformers", partial(write, name, text))
    assert name in said
    assert message in said


INDEX = {
    "missing shard": ({"weight_map": {"a": "model-00002-of-00002.safetensors"}}, "download every shard"),
    "above": ({"weight_map": {"a": "../x.safetensors"}}, "files of its own directory, got '../x.safetensors'"),
    "elsewhere": ({"weight_map": {"a": "/srv/x.safetensors"}}, "must name files of its own directory"),
    "parent": ({"weight_map": {"a": ".."}}, "names .., which must be beside it but is not"),
    "no JSON": ("{", "must be a readable JSON file"),
    "list": ("[]", "must hold a JSON object, got list"),
    "no map": ({"weight_map": ["a"]}, "must hold a weight_map from tensors to files"),
    "no weights": ({"weight_map": {"a": "config.json"}}, "config.json must be a whole torch file"),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEX)
def test_index_of_shards(told, case):
    index, message = INDEX[case]
    assert message in told("transformers", partial(set_shards, index))


def test_a_truncated_shard(told):
    def change(model: Path) -> None:
        set_shards({"weight_map": {"a": SHARD}}, model)
        keep(0.4, model / SHARD)

    assert f"{SHARD} must be a whole safetensors file" in told("transformers", change)


@pytest.mark.parametrize(
    ("system", "name", "message"),
    [
        ("transformers", "model.safetensors", "must hold the weights of its config.json: model.safetensors or"),
        ("transformers", "config.json", "it holds model.safetensors without the settings of its model; copy them too"),
        ("audio_ssl", "model.safetensors", "it holds config.toml without its weights; copy them too"),
        ("audio_ssl", "config.toml", "it holds model.safetensors without the settings of its model"),
    ],
)
def test_half_of_a_directory(told, system, name, message):
    assert message in told(system, partial(remove, name))
    # a folder of that name is no file


@pytest.mark.parametrize(("system", "name"), [("transformers", "config.json"), ("audio_ssl", "model.safetensors")])
def test_a_folder_where_a_file_must_be(told, system, name):
    assert "must be a model directory" in told(system, partial(as_folder, name))


VOCABULARY = {
    "transformers": ("vocab.json", '{"<pad>": 0, "a": 1}', "7 symbols of its head, got 2"),
    "fairseq": ("dict.ltr.txt", "a 1\nb 1\n", "9 symbols of its head, got 6"),
    "torchaudio": ("model.toml", "[ctc]\nsymbols = ['<pad>', 'a']\n", "7 symbols of its head, got 2"),
    "fairseq2": ("model.toml", "[ctc]\nsymbols = ['<pad>', 'a']\n", "7 symbols of its head, got 2"),
    "audio_ssl": ("config.toml", "symbols = ['<pad>', 'a']\n\n[ctc.text]", "head.weight must be (2, 24), got (7, 24)"),
}


@pytest.mark.parametrize("system", VOCABULARY)
def test_a_vocabulary_of_another_size_or_none(told, system, tmp_path):
    name, text, message = VOCABULARY[system]
    if system == "audio_ssl":
        shorten = lambda model: (  # noqa: E731
            edit_text(name, "symbols = [", "gone = [", model), edit_text(name, "[ctc.text]", text, model),
        )  # fmt: skip
        absent = partial(edit_text, name, "symbols = [", "gone = [")
    else:
        shorten, absent = partial(write, name, text), partial(remove, name)
    assert message in told(system, shorten)
    shutil.rmtree(tmp_path / "model folder")
    said = told(system, absent)
    assert "must have a [ctc] section" in said or "symbols of its head, got none; put its vocabulary beside it" in said


BESIDE = {  # system, what happens to a file beside the weights, what the message must say
    "broken sidecar": ("torchaudio", partial(write, "model.toml", "[model\n"), "model.toml must be a readable TOML"),
    "binary sidecar": ("fairseq2", partial(write, "model.toml", b"\xff\xfe\x00"), "model.toml must be a readable TOML"),
    "folder for sidecar": ("fairseq2", partial(as_folder, "model.toml"), "must be a readable TOML file, or not"),
    "section": ("fairseq2", partial(write, "model.toml", "model = 3"), "model must be a section of settings, got 3"),
    "value": ("torchaudio", partial(write, "model.toml", "[model]\nnum_heads='many'"), "got 'many'"),
    "symbols": ("torchaudio", partial(write, "model.toml", "[ctc]\nsymbols = 'abcdefg'"), "must be a list of strings"),
    "rows": ("fairseq2", partial(write, "model.toml", "[ctc]\nsymbols = [1,2,3,4,5,6,7]"), "must be a list of strings"),
    "case": ("torchaudio", partial(edit_text, "model.toml", 'case = "lower"', "case = 'no'"), "`case` must be 'lower'"),
    "twice": ("fairseq", partial(edit_text, "dict.ltr.txt", "a 1", "b 1"), "but ['b'] stand twice"),
    "binary dictionary": ("fairseq", partial(write, "dict.ltr.txt", b"\xff\xfe"), "must be a readable fairseq dict"),
    "rows of vocab": ("transformers", partial(write, "vocab.json", '{"a": "x"}'), "must give a row, a number, to each"),
    "added tokens": ("transformers", to("tokenizer_config.json", added_tokens_decoder=[1]), "must give a row"),
    "our section": ("transformers", to("audio_ssl.json", ctc=[]), "ctc must be a section of settings, got []"),
    "our symbols": ("transformers", to("audio_ssl.json", ctc={"symbols": [[1]]}), "must be a list of strings"),
    "rate": ("transformers", to("preprocessor_config.json", sampling_rate="fast"), "`sample_rate_hz`"),
    "args": ("fairseq", partial(set_cfg, {"model": 3}), "model must be a section of settings, got 3"),
    "inner args": ("fairseq", partial(set_cfg, {"model": {"w2v_args": [1]}}), "w2v_args must be a section"),
    "layers": ("fairseq", partial(set_cfg, {"model": {"w2v_args": {"encoder_layers": 10**9}}}), "1000000000 blocks"),
    "convs": ("fairseq", partial(set_cfg, {"model": {"w2v_args": PAIRS}}), "model.pt: conv_feature"),
    "bomb": ("fairseq", partial(set_cfg, {"model": {"w2v_args": BOMB}}), "must be a"),
    "kind": ("audio_ssl", partial(edit_text, "config.toml", '"ctc"', '"odd"'), "got kind 'odd'"),
    "version": ("audio_ssl", partial(edit_text, "config.toml", "version = 1", "version = 9"), "must be 1, got 9"),
    "own layers": ("audio_ssl", partial(edit_text, "config.toml", "num_layers = ", "num_layers = 100000000"), "blocks"),
    "own value": ("audio_ssl", partial(edit_text, "config.toml", "\ndim = ", "\ndim = -"), "`dim` must be greater"),
    "own text": ("audio_ssl", partial(write, "config.toml", "format_version=1\nkind='ctc'\nmodel=3"), "model must be"),
    "origin": ("audio_ssl", partial(write, "origin/settings.json", "{"), "remove the folder"),
    "origin's types": ("audio_ssl", partial(write, "origin/settings.json", json.dumps(
        {"system": "transformers", "family": 3, "symbols": None, "settings": {"config.json": 3}})), "remove the"),
    "origin's symbols": ("audio_ssl", partial(write, "origin/settings.json", json.dumps(
        {"system": "transformers", "family": 3, "symbols": 5, "settings": {}})), "origin/settings.json must be what"),
}  # fmt: skip


@pytest.mark.parametrize("case", BESIDE)
def test_what_stands_beside_the_weights(told, case):
    system, change, message = BESIDE[case]
    assert message in told(system, change)


@pytest.mark.parametrize("system", ["transformers", "torchaudio", "fairseq", "fairseq2"])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_a_head_without_its_half(told, system, leaf):
    name = {"transformers": "lm_head", "torchaudio": "aux", "fairseq": "w2v_encoder.proj", "fairseq2": "final_proj"}[
        system
    ]
    said = told(system, lambda model: edit_tensors(model, lambda tensors: tensors.pop(f"{name}.{leaf}")))
    assert f"{name}." in said
