"""fairseq's files, after its published layout: names, settings, dictionaries."""

from __future__ import annotations

import pytest
import torch
from checkpoints import save_ours
from peers import SYMBOLS, prefixed, random_config, random_encoder, random_objective

from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.fairseq import parse_conv_layers, to_fairseq
from audio_ssl.interop.source import load_ctc, read_any

# Names after fairseq's own modules (models/wav2vec/wav2vec2.py), written out apart from our table.
BASE_NAMES = {
    "mask_emb", "post_extract_proj.weight", "layer_norm.bias", "final_proj.weight", "project_q.bias",
    "feature_extractor.conv_layers.0.0.weight", "feature_extractor.conv_layers.0.2.weight",
    "feature_extractor.conv_layers.0.2.bias", "feature_extractor.conv_layers.1.0.weight",
    "quantizer.vars", "quantizer.weight_proj.weight", "quantizer.weight_proj.bias",
    "encoder.pos_conv.0.bias", "encoder.pos_conv.0.weight_g", "encoder.pos_conv.0.weight_v",
    "encoder.layer_norm.weight",
    "encoder.layers.0.self_attn.k_proj.weight", "encoder.layers.0.self_attn.v_proj.bias",
    "encoder.layers.0.self_attn.q_proj.bias", "encoder.layers.0.self_attn.out_proj.weight",
    "encoder.layers.0.self_attn_layer_norm.weight", "encoder.layers.0.final_layer_norm.bias",
    "encoder.layers.0.fc1.weight", "encoder.layers.0.fc2.bias",
}  # fmt: skip
LARGE_NAMES = {
    "feature_extractor.conv_layers.0.0.bias", "feature_extractor.conv_layers.0.2.1.weight",
    "feature_extractor.conv_layers.6.2.1.bias",
}  # fmt: skip


def _tensors(config):
    return prefixed("encoder", random_encoder(config).state_dict()) | prefixed(
        "objective", random_objective(config).state_dict()
    )


def test_names_are_the_published_ones():
    base = ModelConfig(**{**random_config(0).model_dump(), "conv_bias": False})
    large = ModelConfig(**{**random_config(3).model_dump(), "conv_bias": True})
    assert to_fairseq(_tensors(base)).keys() >= BASE_NAMES
    assert to_fairseq(_tensors(large)).keys() >= LARGE_NAMES
    assert not LARGE_NAMES & to_fairseq(_tensors(base)).keys()


def test_stacked_positional_convs_are_refused(tmp_path):
    theirs = {**to_fairseq(_tensors(random_config(1))), "encoder.pos_conv.1.0.weight": torch.zeros(1)}
    torch.save({"model": theirs}, tmp_path / "data2vec.pt")
    with pytest.raises(CheckpointError, match=r"1 unexpected:\n *- encoder\.pos_conv\.1\.0\.weight\n"):
        read_any(tmp_path / "data2vec.pt", {"num_heads": 1})


def test_without_settings_overrides_decide(tmp_path):
    config = random_config(1)  # layer norm in the convs but post-norm blocks: not what shapes suggest
    torch.save({"model": to_fairseq(_tensors(config))}, tmp_path / "bare.pt")
    overrides = {"num_heads": config.num_heads, "norm_order": "post", "normalize_waveform": False}
    settled = read_any(tmp_path / "bare.pt", overrides)
    model = settled.files.model
    assert (model.norm_order, model.num_heads, model.normalize_waveform) == ("post", config.num_heads, False)
    assert settled.report.guessed == ("conv_strides = (5, 2, 2, 2, 2, 2, 2)",)


def test_rows_of_a_head_follow_the_dictionary_beside(tmp_path):
    config = random_config(3)
    head = torch.nn.Linear(config.dim, 7)
    tensors = prefixed("encoder", random_encoder(config).state_dict()) | prefixed("head", head.state_dict())
    settings = {"model": {"w2v_args": {"model": {"encoder_attention_heads": config.num_heads}}}, "task": {}}
    torch.save({"model": to_fairseq(tensors), "cfg": settings}, tmp_path / "ctc.pt")
    with pytest.raises(CheckpointError, match=r"7 symbols.*dict\.ltr\.txt"):
        load_ctc(tmp_path / "ctc.pt")
    (tmp_path / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\n")  # after <s> <pad> </s> <unk>
    loaded, document = load_ctc(tmp_path / "ctc.pt")
    assert document["ctc"]["symbols"] == ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T"]
    assert document["ctc"]["text"]["case"] == "upper"
    assert torch.equal(loaded.head.weight, head.weight)  # the blank, <s> for fairseq, is row 0 for both


def test_our_rows_land_where_fairseq_looks(tmp_path):
    save_ours(tmp_path / "ours", random_config(3), "ctc")
    convert(tmp_path / "ours", tmp_path / "out" / "ctc.pt", to="fairseq")
    weight = torch.load(tmp_path / "out" / "ctc.pt", weights_only=True)["model"]["w2v_encoder.proj.weight"]
    head = load_ctc(tmp_path / "ours")[0].head.weight
    rows = range(len(SYMBOLS))  # <pad> <unk> | a b ' ü in ours; <s> <pad> </s> <unk> | a b ' ü in theirs
    assert torch.equal(weight[[0, 3, 4, 5, 6, 7, 8]], head[list(rows)])
    assert (tmp_path / "out" / "dict.ltr.txt").read_text().split() == ["|", "1", "a", "1", "b", "1", "'", "1", "ü", "1"]


def test_conv_layers_are_read_as_data():
    assert parse_conv_layers("[(512,10,5)] + [(512,3,2)]*2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    for text in ("__import__('os').getcwd()", "[(1, 2, 3)] * 999999999", "[(1, 2)]", "[(1, 2, 3)"):
        with pytest.raises(CheckpointError, match="conv_feature_layers"):
            parse_conv_layers(text)
