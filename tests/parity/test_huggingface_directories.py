"""Directories for transformers: what its Auto classes and its pipeline make of ours, and every layout of its own."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from checkpoints import KINDS, PREPROCESSOR, TOKENIZER, VOCABULARY, save_ours, save_transformers
from peers import random_config

import audio_ssl
from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.huggingface import config_from_huggingface
from audio_ssl.interop.source import load_ctc, load_encoder, read_any
from audio_ssl.model.files import read_model_dir

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
AUTO = {"pretraining": "AutoModelForPreTraining", "ctc": "AutoModelForCTC", "encoder": "AutoModel"}


@pytest.fixture
def heard(caplog):
    """What transformers warns of while a test runs; its logger does not pass records on by itself."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_warning()
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    transformers.logging.set_verbosity(verbosity)
    logger.removeHandler(caplog.handler)


def exported(tmp_path, kind, seed=3, **settings):
    save_ours(tmp_path / "ours", random_config(seed).model_copy(update=settings), kind)
    return convert(tmp_path / "ours", tmp_path / "theirs", to="transformers", check=False).path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 3])
def test_auto_classes_open_without_a_warning(tmp_path, heard, kind, seed):
    path = exported(tmp_path, kind, seed)
    model, report = getattr(transformers, AUTO[kind]).from_pretrained(path, output_loading_info=True)
    assert not any(report.values())
    assert type(model).__name__ == json.loads((path / "config.json").read_text())["architectures"][0]
    transformers.AutoProcessor.from_pretrained(path)
    assert heard() == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_directory_is_complete(tmp_path, kind):
    names = {path.name for path in exported(tmp_path, kind).iterdir()}
    always = {"config.json", "model.safetensors", "preprocessor_config.json"}
    text = {"processor_config.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert names - {"audio_ssl.json"} == always | (text if kind == "ctc" else set())


@pytest.mark.parametrize(("seed", "with_mask"), [(0, False), (2, False), (1, True), (3, True)])
@pytest.mark.parametrize("normalize", [False, True])
def test_normalisation_and_attention_mask(tmp_path, seed, with_mask, normalize):
    path = exported(tmp_path, "encoder", seed, normalize_waveform=normalize)
    values = json.loads((path / "preprocessor_config.json").read_text())
    assert (values["do_normalize"], values["return_attention_mask"]) == (normalize, with_mask)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(path)
    waveforms = [np.array([3.0, 5.0, 7.0], dtype=np.float32), np.array([1.0, 2.0], dtype=np.float32)]
    # by hand: (3, 5, 7) has mean 5 and variance 8/3, (1, 2) mean 1.5 and variance 1/4; padding is 0 either way
    expected = [[-(1.5**0.5), 0, 1.5**0.5], [-1, 1, 0]] if normalize else [[3, 5, 7], [1, 2, 0]]
    if not with_mask:  # without one transformers takes padding into the mean: its rows are right alone
        waveforms, expected = waveforms[:1], expected[:1]
    batch = extractor(waveforms, sampling_rate=16000, padding=True)
    assert ("attention_mask" in batch) is with_mask
    np.testing.assert_allclose(np.stack(batch.input_values), expected, atol=1e-4)


@pytest.mark.parametrize(("seed", "normalize"), [(0, False), (3, True)])
def test_pipeline_recognises_as_we_do(tmp_path, heard, seed, normalize):
    path = exported(tmp_path, "ctc", seed, normalize_waveform=normalize)
    recogniser = transformers.pipeline("automatic-speech-recognition", model=str(path), device="cpu")
    waveforms = [3 * np.random.default_rng(i).standard_normal(n).astype(np.float32) for i, n in enumerate((9001, 7001))]
    theirs = [result["text"] for result in recogniser([w.copy() for w in waveforms], batch_size=1)]
    ours = audio_ssl.transcribe(tmp_path / "ours", waveforms, sample_rate_hz=16000)
    assert [text.replace("<unk>", "⁇") for text in theirs] == ours
    assert all(len(text) > 5 for text in ours)  # random weights babble: else equal texts would show nothing
    assert not [text for text in heard() if "eights" in text]


def test_processor_speaks_our_symbols(tmp_path):
    processor = transformers.AutoProcessor.from_pretrained(exported(tmp_path, "ctc"))
    assert processor.tokenizer("ab üx").input_ids == [3, 4, 2, 6, 1]
    assert processor.batch_decode(torch.tensor([[3, 3, 0, 3, 4, 2, 2, 0, 6]])) == ["aab ü"]


def test_rows_of_a_head_follow_their_symbols(tmp_path):
    model = save_transformers(tmp_path / "theirs", "large", "ctc")
    convert(tmp_path / "theirs", tmp_path / "ours", to="audio_ssl")
    loaded, document = load_ctc(tmp_path / "ours")
    assert document["ctc"]["symbols"] == ["<pad>", "<s>", "A", "|", "B", "<unk>", "Ü", "</s>"]
    rows = [3, 0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(loaded.head.weight, model.lm_head.weight[rows])
    assert torch.equal(loaded.head.bias, model.lm_head.bias[rows])
    assert document["ctc"]["text"]["case"] == "upper"
    assert document["model"]["sample_rate_hz"] == PREPROCESSOR["sampling_rate"]


@pytest.mark.parametrize("how", [{"max_shard_size": "10KB"}, {"safe_serialization": False},
                                 {"safe_serialization": False, "max_shard_size": "10KB"}])  # fmt: skip
def test_every_layout_of_weights_is_read(tmp_path, how):
    model = save_transformers(tmp_path / "theirs", "base", "encoder", **how)
    names = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert "model.safetensors" not in names
    assert any(name.endswith(".index.json") for name in names) is ("max_shard_size" in how)
    encoder = load_encoder(tmp_path / "theirs")
    weight = encoder.context_network.blocks[1].feed_forward.inner.weight
    assert torch.equal(weight, model.encoder.layers[1].feed_forward.intermediate_dense.weight)


def test_old_spelling_of_weight_norm_is_read(tmp_path):
    from safetensors.torch import load_file, save_file

    save_transformers(tmp_path / "theirs", "large", "encoder")
    path = tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(path)
    before = read_any(tmp_path / "theirs").files.tensors
    prefix = "encoder.pos_conv_embed.conv."
    for new, old in (
        ("parametrizations.weight.original0", "weight_g"),
        ("parametrizations.weight.original1", "weight_v"),
    ):
        tensors[prefix + old] = tensors.pop(prefix + new)
    save_file(tensors, path)
    after = read_any(tmp_path / "theirs").files.tensors
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    tensors[prefix + "weight"] = tensors.pop(prefix + "weight_g")
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match=rf"1 missing:\n.*{prefix}param.*original0\n.*1 unexpected:\n.*conv\.weight\n"
    ):
        read_any(tmp_path / "theirs")


def test_newer_processor_file_alone_is_read(tmp_path):
    save_transformers(tmp_path / "theirs", "base", "encoder")
    (tmp_path / "theirs" / "preprocessor_config.json").unlink()
    values = {"processor_class": "Wav2Vec2Processor", "feature_extractor": PREPROCESSOR}
    (tmp_path / "theirs" / "processor_config.json").write_text(json.dumps(values))
    model = read_any(tmp_path / "theirs").files.model
    assert (model.normalize_waveform, model.sample_rate_hz) == (True, 8000)


def test_tokens_added_later_are_read(tmp_path):
    save_transformers(tmp_path / "theirs", "base", "ctc")
    vocabulary = {symbol: row for symbol, row in VOCABULARY.items() if row < 6}
    (tmp_path / "theirs" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "theirs" / "added_tokens.json").write_text(json.dumps({"Ü": 6}))
    tokenizer = TOKENIZER | {"pad_token": {"content": "[PAD]"}, "added_tokens_decoder": {"7": {"content": "</s>"}}}
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert read_any(tmp_path / "theirs").files.document["ctc"]["symbols"][-2:] == ["Ü", "</s>"]


def test_a_published_recogniser_lacks_its_mask_embedding(tmp_path):
    from safetensors.torch import load_file, save_file

    save_transformers(tmp_path / "theirs", "base", "ctc")
    path = tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(path)
    del tensors["wav2vec2.masked_spec_embed"]
    save_file(tensors, path)
    result = convert(tmp_path / "theirs", tmp_path / "ours", to="audio_ssl")
    assert result.report.filled == ("encoder.mask_embedding",)
    assert not read_model_dir(tmp_path / "ours").tensors["encoder.mask_embedding"].any()


def test_a_model_that_never_masks_has_no_place_for_a_mask_embedding(tmp_path, heard):
    save_ours(tmp_path / "ours", random_config(3), "pretraining")
    text = (tmp_path / "ours" / "config.toml").read_text()
    (tmp_path / "ours" / "config.toml").write_text(text.replace("mask_prob = 0.65", "mask_prob = 0.0"))
    result = convert(tmp_path / "ours", tmp_path / "theirs", to="transformers")
    assert result.dropped == ("encoder.mask_embedding",)
    transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "theirs")
    assert heard() == []


def test_published_large_configuration_is_our_preset():
    config = transformers.Wav2Vec2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True, hidden_dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, layerdrop=0.0,
    ).to_dict()  # fmt: skip
    ours = config_from_huggingface(config).model_dump(exclude={"preset", "feature_grad_scale"})
    assert ours == ModelConfig(preset="wav2vec2_large").model_dump(exclude={"preset", "feature_grad_scale"})
