"""Parity with transformers: frames, every layer, gradients, CTC loss, and directories both ways."""

from __future__ import annotations

import json

import pytest
import torch
from peers import (
    OBJECTIVE,
    SEEDS,
    SYMBOLS,
    assert_near,
    assert_same_frames,
    assert_same_gradients,
    batches,
    gradients,
    prefixed,
    probe,
    random_config,
    random_encoder,
    random_objective,
)

from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.interop import huggingface
from audio_ssl.model import files
from audio_ssl.model.ctc import CTCModel, ctc_loss_sum

transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def their_config(config: ModelConfig, **document):
    document = {"kind": "encoder", "model": config.model_dump(mode="json"), **document}
    values = huggingface.config_to_huggingface(document)
    return transformers.Wav2Vec2Config(**{k: v for k, v in values.items() if k != "model_type"})


def their_encoder(config, encoder):
    model = transformers.Wav2Vec2Model(their_config(config)).eval()
    model.load_state_dict(huggingface.to_huggingface(prefixed("encoder", encoder.state_dict())), strict=True)
    return model


def mask_for(waveforms, num_samples):
    return (torch.arange(waveforms.shape[1]) < num_samples[:, None]).long()


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_layers_and_gradients(seed):
    config = random_config(seed)
    encoder = random_encoder(config)
    theirs = their_encoder(config, encoder)
    last_block = []
    theirs.encoder.layers[-1].register_forward_hook(lambda _module, _inputs, outputs: last_block.append(outputs[0]))
    for waveforms, num_samples in batches(config):
        encoder.zero_grad()
        theirs.zero_grad()
        output = encoder(waveforms, num_samples, return_layers=True)
        expected = theirs(waveforms, attention_mask=mask_for(waveforms, num_samples), output_hidden_states=True)
        assert_same_frames(output.frames, expected.last_hidden_state, is_valid=output.is_valid)
        assert len(output.layers) == len(expected.hidden_states)
        # With pre-norm, transformers 4 gives the normed frames as the last layer, where 5 and we give the block's.
        num_alike = len(output.layers) - (config.norm_order == "pre")
        for ours, hidden in zip(output.layers[:num_alike], expected.hidden_states, strict=False):
            assert_same_frames(ours, hidden, is_valid=output.is_valid)
        assert_same_frames(output.layers[-1], last_block[-1], is_valid=output.is_valid)
        probe(output.frames, output.is_valid).backward()
        probe(expected.last_hidden_state, output.is_valid).backward()
        assert_same_gradients(huggingface.to_huggingface(prefixed("encoder", gradients(encoder))), gradients(theirs))


def test_whole_base_model():
    config = ModelConfig()
    encoder = random_encoder(config)
    theirs = their_encoder(config, encoder)
    waveforms = torch.randn(1, 8000)
    with torch.no_grad():
        output = encoder(waveforms, torch.tensor([8000]))
        assert_same_frames(output.frames, theirs(waveforms).last_hidden_state, is_valid=output.is_valid)


def test_latents_that_the_quantizer_sees():
    config = random_config(1)
    encoder = random_encoder(config)
    waveforms, num_samples = batches(config)[0]
    latents, num_frames = encoder.feature_encoder(waveforms, num_samples)
    expected = their_encoder(config, encoder)(waveforms).extract_features
    is_valid = torch.arange(latents.shape[1]) < num_frames[:, None]
    assert_same_frames(encoder.feature_projection(latents)[1], expected, is_valid=is_valid)


@pytest.mark.parametrize("seed", [1, 3])
def test_ctc_loss(seed):
    config = random_config(seed)
    model = CTCModel(random_encoder(config), len(SYMBOLS)).eval()
    theirs = transformers.Wav2Vec2ForCTC(their_config(config, kind="ctc", ctc={"symbols": SYMBOLS})).eval()
    theirs.load_state_dict(huggingface.to_huggingface(model.state_dict()), strict=True)
    waveforms, num_samples = batches(config)[0]
    labels, num_labels = torch.tensor([[3, 4, 2, 5, 5], [6, 3, 0, 0, 0], [4, 0, 0, 0, 0]]), torch.tensor([5, 2, 1])
    log_probs, num_frames = model(waveforms, num_samples)
    padded = labels.masked_fill(torch.arange(5) >= num_labels[:, None], -100)
    expected = theirs(waveforms, attention_mask=mask_for(waveforms, num_samples), labels=padded)
    is_valid = torch.arange(log_probs.shape[1]) < num_frames[:, None]
    assert_same_frames(log_probs, expected.logits.log_softmax(-1), is_valid=is_valid)
    assert_near(ctc_loss_sum(log_probs, num_frames, labels, num_labels), expected.loss, rel=1e-5)


def _save(path, config, kind):
    encoder = random_encoder(config)
    if kind == "ctc":
        document = files.ctc_document(config, symbols=SYMBOLS, lowercase=True)
        modules = {"encoder": encoder, "head": torch.nn.Linear(config.dim, len(SYMBOLS))}
    elif kind == "pretraining":
        document = files.pretraining_document(config, OBJECTIVE)
        modules = {"encoder": encoder, "objective": random_objective(config)}
    else:
        document, modules = files.encoder_document(config), {"encoder": encoder}
    files.save_model_dir(path, document, modules)


def assert_same_model(a, b):
    a, b = files.read_model_dir(a), files.read_model_dir(b)
    assert a.kind == b.kind
    assert a.tensors.keys() == b.tensors.keys()
    assert all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
    same = {"preset", "feature_grad_scale"}  # what other systems have no place for
    assert a.model.model_dump(exclude=same) == b.model.model_dump(exclude=same)
    assert a.document.get("ctc") == b.document.get("ctc")


@pytest.mark.parametrize("kind", ["encoder", "pretraining", "ctc"])
@pytest.mark.parametrize("seed", [0, 3])
def test_directory_loads_in_transformers_and_comes_back(tmp_path, kind, seed):
    config = random_config(seed)
    _save(tmp_path / "ours", config, kind)
    result = huggingface.export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    assert (result.kind, result.dropped, result.filled) == (kind, (), ())
    name = json.loads((tmp_path / "theirs" / "config.json").read_text())["architectures"][0]
    loaded, report = getattr(transformers, name).from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not any(report.values())  # nothing missing, unexpected or misshapen
    waveforms, num_samples = batches(config)[0]
    expected = files.load_encoder(tmp_path / "ours")(waveforms, num_samples)
    base = loaded.eval() if kind == "encoder" else loaded.eval().wav2vec2
    frames = base(waveforms, attention_mask=mask_for(waveforms, num_samples)).last_hidden_state
    assert_same_frames(frames, expected.frames, is_valid=expected.is_valid)
    # what transformers itself saves is what people will bring
    loaded.save_pretrained(tmp_path / "resaved")
    for extra in ("preprocessor_config.json", "vocab.json", "tokenizer_config.json"):
        if (tmp_path / "theirs" / extra).exists():
            (tmp_path / "resaved" / extra).write_text((tmp_path / "theirs" / extra).read_text())
    huggingface.import_huggingface(tmp_path / "resaved", tmp_path / "back")
    assert_same_model(tmp_path / "ours", tmp_path / "back")


def test_exported_processor_speaks_our_symbols(tmp_path):
    _save(tmp_path / "ours", random_config(3).model_copy(update={"normalize_waveform": True}), "ctc")
    huggingface.export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    processor = transformers.Wav2Vec2Processor.from_pretrained(tmp_path / "theirs")
    assert processor.tokenizer("ab üx").input_ids == [3, 4, 2, 6, 1]
    assert processor.batch_decode(torch.tensor([[3, 3, 0, 3, 4, 2, 2, 0, 6]])) == ["aab ü"]
    waveform = processor.feature_extractor([3.0, 5.0, 7.0], sampling_rate=16000).input_values[0]
    assert waveform.mean() == pytest.approx(0, abs=1e-6)
    assert waveform.std() == pytest.approx(1, abs=1e-4)


def test_rows_of_a_head_follow_their_symbols(tmp_path):
    # the order of the published 960 h models: blank, <s>, </s>, <unk>, |, letters; here the blank is not even first
    config = random_config(1)
    model = CTCModel(random_encoder(config), 6)
    theirs = transformers.Wav2Vec2ForCTC(their_config(config, kind="ctc", ctc={"symbols": range(6)}))
    theirs.load_state_dict(huggingface.to_huggingface(model.state_dict()), strict=True)
    theirs.save_pretrained(tmp_path / "theirs", safe_serialization=False)  # the older file, too
    vocabulary = {"<s>": 0, "[PAD]": 1, "A": 2, "/": 3, "[UNK]": 4, "B": 5}
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": "/"}
    (tmp_path / "theirs" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(names))
    huggingface.import_huggingface(tmp_path / "theirs", tmp_path / "ours")
    loaded, document = files.load_ctc(tmp_path / "ours")
    assert document["ctc"] == {"symbols": ["<pad>", "<s>", "A", "|", "<unk>", "B"], "lowercase": False}
    assert torch.equal(loaded.head.weight, model.head.weight[[1, 0, 2, 3, 4, 5]])
    assert torch.equal(loaded.head.bias, model.head.bias[[1, 0, 2, 3, 4, 5]])


def test_either_spelling_of_weight_norm_is_read_and_none_is_an_error():
    tensors = prefixed("encoder", random_encoder(random_config(0)).state_dict())
    theirs = huggingface.to_huggingface(tensors)
    new = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    old = {
        k.replace(new + "0", "encoder.pos_conv_embed.conv.weight_g").replace(
            new + "1", "encoder.pos_conv_embed.conv.weight_v"
        ): v
        for k, v in theirs.items()
    }
    assert old.keys() != theirs.keys()
    for spelling in (theirs, old):
        back = huggingface.from_huggingface(spelling)
        assert back.keys() == tensors.keys()
        assert all(back[k] is tensors[k] for k in back)
    with pytest.raises(CheckpointError, match="twice"):
        huggingface.from_huggingface({**old, **theirs})
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.pos_conv_embed\.conv\.weight$"):
        huggingface.from_huggingface({**theirs, "encoder.pos_conv_embed.conv.weight": torch.zeros(1)})


def test_what_is_missing_is_named(tmp_path):
    _save(tmp_path / "ours", random_config(1), "encoder")
    huggingface.export_huggingface(tmp_path / "ours", tmp_path / "theirs")
    from audio_ssl.checkpoint import load_tensors, save_tensors

    path = tmp_path / "theirs" / "model.safetensors"
    tensors = load_tensors(path)
    del tensors["encoder.layers.1.final_layer_norm.bias"]
    save_tensors(path, tensors)
    with pytest.raises(CheckpointError, match=r"missing: encoder\.context_network\.blocks\.1\.feed_forward_norm\.bias"):
        huggingface.import_huggingface(tmp_path / "theirs", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_another_architecture_is_refused():
    with pytest.raises(CheckpointError, match="hubert"):
        huggingface.config_from_huggingface({"model_type": "hubert"})
    with pytest.raises(CheckpointError, match="hidden_act"):
        huggingface.config_from_huggingface({"model_type": "wav2vec2", "hidden_act": "relu"})


def test_published_large_configuration_is_our_preset():
    config = transformers.Wav2Vec2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True, hidden_dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, layerdrop=0.0,
    ).to_dict()  # fmt: skip
    ours = huggingface.config_from_huggingface(config).model_dump(exclude={"preset", "feature_grad_scale"})
    assert ours == ModelConfig(preset="wav2vec2_large").model_dump(exclude={"preset", "feature_grad_scale"})
