"""What newer and fine-tuned files of fairseq keep inside: the dictionary of the head, and settings inside settings."""

from __future__ import annotations

import argparse

import pytest
import torch
from peers import random_config, random_encoder
from pickling import foreign

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.fairseq import to_fairseq
from audio_ssl.interop.source import load_ctc, read_any
from audio_ssl.model.ctc import CTCModel

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]


def save_ctc(path, *, dictionary=None, settings=None):
    """A fine-tuned model of 7 symbols; its Dictionary has the attributes given, if any."""
    config = random_config(3)
    model = CTCModel(random_encoder(config), len(SYMBOLS))
    with foreign("fairseq.data.dictionary.Dictionary") as (dictionary_class,):
        state = {} if dictionary is None else {"target_dictionary": dictionary_class(**dictionary)}
        cfg = {"model": {"w2v_args": {"model": {"encoder_attention_heads": config.num_heads}}}, "task": {}}
        torch.save({"model": to_fairseq(model.state_dict()), "cfg": cfg, "task_state": state, **(settings or {})}, path)
    return config, model


@pytest.mark.parametrize("kind", ["namespace", "omegaconf", "dictionary"])
def test_settings_of_the_encoder_win_over_those_of_fine_tuning(tmp_path, kind):
    inner = {"encoder_attention_heads": random_config(3).num_heads, "layer_norm_first": False, "dropout": None}
    task = {"normalize": False, "sample_rate": 8000}
    names = ("omegaconf.dictconfig.DictConfig", "omegaconf.nodes.AnyNode", "omegaconf.base.Metadata")
    with foreign(*names) as (config_class, node_class, metadata_class):

        def wrapped(value, parent=None):
            if not isinstance(value, dict):
                return node_class(_metadata=metadata_class(key=None), _parent=parent, _val=value)
            config = config_class(_metadata=metadata_class(key=None), _parent=parent)
            config._content = {k: wrapped(v, config) for k, v in value.items()}
            return config

        outer = {"encoder_embed_dim": 768, "conv_feature_layers": "[(512, 10, 5)] * 3", "feature_grad_mult": None}
        if kind == "namespace":
            settings = {"cfg": {}, "args": argparse.Namespace(w2v_args=argparse.Namespace(**inner, **task), **outer)}
        else:
            cfg = {"model": {**outer, "w2v_args": {"model": inner, "task": task}}, "task": {"normalize": "${x.y}"}}
            settings = {"cfg": wrapped(cfg) if kind == "omegaconf" else cfg}
        save_ctc(tmp_path / "a.pt", dictionary={"symbols": SYMBOLS}, settings=settings)
    model = read_any(tmp_path / "a.pt").files.model
    assert (model.num_heads, model.norm_order) == (inner["encoder_attention_heads"], "post")
    assert (model.normalize_waveform, model.sample_rate_hz, model.dim) == (False, 8000, random_config(3).dim)


@pytest.mark.parametrize("empty", [None, {}, argparse.Namespace()])
def test_without_settings_of_the_encoder_tensors_tell(tmp_path, empty):
    outer = {"encoder_embed_dim": 768, "encoder_attention_heads": 12, "w2v_args": empty, "normalize": False}
    config, _ = save_ctc(
        tmp_path / "a.pt", dictionary={"symbols": SYMBOLS}, settings={"cfg": None, "args": argparse.Namespace(**outer)}
    )
    model = read_any(tmp_path / "a.pt", {"num_heads": config.num_heads}).files.model
    assert (model.dim, model.num_heads, model.normalize_waveform) == (config.dim, config.num_heads, False)


def test_rows_of_a_head_follow_the_dictionary_inside(tmp_path):
    _, model = save_ctc(tmp_path / "a.pt", dictionary={"symbols": SYMBOLS, "count": [1] * 7})
    convert(tmp_path / "a.pt", tmp_path / "ours", to="audio_ssl")
    loaded, document = load_ctc(tmp_path / "ours")
    assert document["ctc"]["symbols"] == ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T"]
    assert torch.equal(loaded.head.weight, model.head.weight)
    (tmp_path / "dict.ltr.txt").write_text("| 3\nE 2\nT 1\n")  # the same: no word about it
    convert(tmp_path / "a.pt", tmp_path / "again", to="audio_ssl")
    (tmp_path / "dict.ltr.txt").write_text("| 3\nT 2\n")
    with pytest.raises(CheckpointError, match=r"it has 6 .* inside has 7, and row 5 is 'T' there and 'E' inside"):
        convert(tmp_path / "a.pt", tmp_path / "never", to="audio_ssl")


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (None, "list of symbols"), ([*SYMBOLS[:6], 7], "list of symbols"), (SYMBOLS[1:], "must start with <s>"),
        ([*SYMBOLS[:6], "E"], "stand twice"), (SYMBOLS[:6], "7 symbols of its head, got 6"),
    ],
)  # fmt: skip
def test_a_dictionary_that_is_none_is_refused(tmp_path, symbols, message):
    save_ctc(tmp_path / "a.pt", dictionary={"symbols": symbols})
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "a.pt", tmp_path / "ours", to="audio_ssl")
