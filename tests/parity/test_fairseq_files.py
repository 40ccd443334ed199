"""fairseq's files, after its published layout: names, settings in either place, dictionaries, and no code run."""

from __future__ import annotations

import argparse

import pytest
import torch
from peers import OBJECTIVE, SYMBOLS, prefixed, random_config, random_encoder, random_objective

from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.convert import convert, detect_format
from audio_ssl.interop.fairseq import export_fairseq, from_fairseq, import_fairseq, parse_conv_layers, to_fairseq
from audio_ssl.model import files
from audio_ssl.model.ctc import CTCModel

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


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_names_go_there_and_back(seed):
    tensors = _tensors(random_config(seed))
    back = from_fairseq(to_fairseq(tensors))
    assert back.keys() == tensors.keys()
    assert all(back[k] is tensors[k] for k in tensors)


def test_stacked_positional_convs_are_refused():
    theirs = to_fairseq(_tensors(random_config(1)))
    with pytest.raises(CheckpointError, match=r"encoder\.pos_conv\.1\.0\.weight"):
        from_fairseq({**theirs, "encoder.pos_conv.1.0.weight": torch.zeros(1)})


@pytest.mark.parametrize("seed", [0, 3])
def test_pretraining_model_goes_there_and_back(tmp_path, seed):
    config = random_config(seed)
    modules = {"encoder": random_encoder(config), "objective": random_objective(config)}
    files.save_model_dir(tmp_path / "ours", files.pretraining_document(config, OBJECTIVE), modules)
    export_fairseq(tmp_path / "ours", tmp_path / "out.pt")
    assert detect_format(tmp_path / "out.pt") == "fairseq"
    import_fairseq(tmp_path / "out.pt", tmp_path / "back")
    ours, back = files.read_model_dir(tmp_path / "ours"), files.read_model_dir(tmp_path / "back")
    assert all(torch.equal(back.tensors[k], v) for k, v in ours.tensors.items())
    assert back.model == ModelConfig(**{**config.model_dump(), "layer_norm_eps": 1e-5})
    assert back.document["objective"]["num_entries"] == OBJECTIVE.num_entries


def test_old_settings_in_a_namespace_are_read(tmp_path):
    config = random_config(2)
    arguments = argparse.Namespace(
        extractor_mode="default", layer_norm_first=True, encoder_attention_heads=config.num_heads, normalize=True,
        conv_feature_layers="[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", dropout=0.25,
    )  # fmt: skip
    torch.save({"model": to_fairseq(_tensors(config)), "args": arguments}, tmp_path / "old.pt")
    import_fairseq(tmp_path / "old.pt", tmp_path / "ours")
    model = files.read_model_dir(tmp_path / "ours").model
    assert (model.norm_order, model.num_heads, model.normalize_waveform) == ("pre", config.num_heads, True)
    assert (model.dropout, model.conv_strides) == (0.25, (5, 2, 2, 2, 2, 2, 2))


def test_without_settings_overrides_decide(tmp_path):
    config = random_config(1)  # layer norm in the convs but post-norm blocks: not what shapes suggest
    torch.save({"model": to_fairseq(_tensors(config))}, tmp_path / "bare.pt")
    overrides = {"num_heads": config.num_heads, "norm_order": "post", "normalize_waveform": False}
    import_fairseq(tmp_path / "bare.pt", tmp_path / "ours", overrides=overrides)
    model = files.read_model_dir(tmp_path / "ours").model
    assert (model.norm_order, model.num_heads, model.normalize_waveform) == ("post", config.num_heads, False)


def test_rows_of_a_head_follow_the_dictionary(tmp_path):
    config = random_config(3)
    model = CTCModel(random_encoder(config), 7)
    theirs = to_fairseq(model.state_dict())
    settings = {"model": {"w2v_args": {"model": {"encoder_attention_heads": config.num_heads}}}, "task": {}}
    torch.save({"model": theirs, "cfg": settings}, tmp_path / "ctc.pt")
    with pytest.raises(CheckpointError, match=r"7 symbols.*dict\.ltr\.txt"):
        import_fairseq(tmp_path / "ctc.pt", tmp_path / "ours")
    (tmp_path / "dict.ltr.txt").write_text("| 94802\nE 51860\nT 38431\n")  # after <s> <pad> </s> <unk>
    import_fairseq(tmp_path / "ctc.pt", tmp_path / "ours")
    loaded, document = files.load_ctc(tmp_path / "ours")
    assert document["ctc"] == {"symbols": ["<pad>", "<s>", "</s>", "<unk>", "|", "E", "T"], "lowercase": False}
    assert torch.equal(loaded.head.weight, model.head.weight)  # the blank, <s> for fairseq, is row 0 for both


def test_our_rows_land_where_fairseq_looks(tmp_path):
    config = random_config(3)
    model = CTCModel(random_encoder(config), len(SYMBOLS)).eval()
    document = files.ctc_document(config, symbols=SYMBOLS, lowercase=True)
    files.save_model_dir(tmp_path / "ours", document, {"encoder": model.encoder, "head": model.head})
    convert(tmp_path / "ours", tmp_path / "out" / "ctc.pt", to="fairseq")
    weight = torch.load(tmp_path / "out" / "ctc.pt", weights_only=True)["model"]["w2v_encoder.proj.weight"]
    rows = [0, 1, 2, 3, 4, 5, 6]  # <pad> <unk> | a b ' ü in ours; <s> <pad> </s> <unk> | a b ' ü in theirs
    assert torch.equal(weight[[0, 3, 4, 5, 6, 7, 8]], model.head.weight[rows])
    assert (tmp_path / "out" / "dict.ltr.txt").read_text().split() == ["|", "1", "a", "1", "b", "1", "'", "1", "ü", "1"]
    convert(tmp_path / "out" / "ctc.pt", tmp_path / "back", to="audio_ssl")
    back, document = files.load_ctc(tmp_path / "back")
    waveforms, num_samples = torch.randn(1, 3000), torch.tensor([3000])
    columns = [document["ctc"]["symbols"].index(s) for s in SYMBOLS]
    expected = model(waveforms, num_samples)[0]
    torch.testing.assert_close(back(waveforms, num_samples)[0][..., columns], expected, rtol=1e-5, atol=1e-6)


def test_a_file_with_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": {"mask_emb": Trap()}}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match="run its code"):
        convert(tmp_path / "trap.pt", tmp_path / "ours", to="audio_ssl")
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 not a torch file")
    with pytest.raises(CheckpointError, match="whole torch file"):
        convert(tmp_path / "half.pt", tmp_path / "ours", to="audio_ssl")


def test_conv_layers_are_read_as_data():
    assert parse_conv_layers("[(512,10,5)] + [(512,3,2)]*2") == [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    for text in ("__import__('os').getcwd()", "[(1, 2, 3)] * 999999999", "[(1, 2)]", "[(1, 2, 3)"):
        with pytest.raises(CheckpointError, match="conv_feature_layers"):
            parse_conv_layers(text)
