"""Parity with fairseq2: frames, layers, gradients, the recogniser, and checkpoints both ways."""

from __future__ import annotations

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

from audio_ssl.interop.fairseq2 import export_fairseq2, from_fairseq2, import_fairseq2, to_fairseq2
from audio_ssl.model import files
from audio_ssl.model.ctc import CTCModel, ctc_loss_sum

pytestmark = pytest.mark.usefixtures("fairseq2")


def encoder_settings(config):
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2EncoderConfig

    return Wav2Vec2EncoderConfig(
        model_dim=config.dim,
        feature_dim=config.conv_dims[-1],
        layer_norm_features=config.norm_order == "post",
        feature_extractor_layer_descs=list(
            zip(config.conv_dims, config.conv_kernels, config.conv_strides, strict=True)
        ),
        feature_extractor_bias=config.conv_bias,
        feature_extractor_layer_norm_convs=config.feature_norm == "layer",
        feature_grad_scale=1.0,
        pos_conv_kernel_size=config.pos_conv_kernel,
        num_pos_conv_groups=config.pos_conv_groups,
        num_encoder_layers=config.num_layers,
        num_encoder_attn_heads=config.num_heads,
        ffn_inner_dim=config.ffn_dim,
        dropout_p=0.0,
        attn_dropout_p=0.0,
        layer_drop_p=0.0,
        norm_order=TransformerNormOrder.PRE if config.norm_order == "pre" else TransformerNormOrder.POST,
    )


def their_model(config):
    from fairseq2.models.wav2vec2 import Wav2Vec2Config, create_wav2vec2_model

    settings = Wav2Vec2Config(
        encoder_config=encoder_settings(config),
        final_dim=OBJECTIVE.target_dim,
        quantized_dim=OBJECTIVE.code_dim,
        num_codebooks=OBJECTIVE.num_groups,
        num_codebook_entries=OBJECTIVE.num_entries,
    )
    return create_wav2vec2_model(settings).eval()


def layout_of(waveforms, num_samples):
    from fairseq2.nn import BatchLayout

    return BatchLayout.of(waveforms, num_samples.tolist())


def their_frames(model, waveforms, num_samples):
    """Frames, and the output of every block."""
    layers = []
    hook = model.encoder.register_layer_hook(lambda _idx, output, _layout, _num: layers.append(output) or True)
    seqs, layout, _ = model.encoder_frontend.extract_features(waveforms, layout_of(waveforms, num_samples))
    seqs, _ = model.encoder_frontend.process_features(seqs, layout)
    frames = model.encoder(seqs, layout)
    hook.remove()
    return frames, layers


def pretraining_tensors(config):
    encoder, objective = random_encoder(config), random_objective(config)
    tensors = prefixed("encoder", encoder.state_dict()) | prefixed("objective", objective.state_dict())
    return encoder, objective, tensors


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_layers_and_gradients(seed):
    config = random_config(seed)
    encoder, _, tensors = pretraining_tensors(config)
    theirs = their_model(config)
    theirs.load_state_dict(to_fairseq2(tensors, norm_order=config.norm_order), strict=True)
    for waveforms, num_samples in batches(config):
        encoder.zero_grad()
        theirs.zero_grad()
        output = encoder(waveforms, num_samples, return_layers=True)
        frames, layers = their_frames(theirs, waveforms, num_samples)
        assert_same_frames(output.frames, frames, is_valid=output.is_valid)
        for ours, layer in zip(output.layers[1:], layers, strict=True):
            assert_same_frames(ours, layer, is_valid=output.is_valid)
        probe(output.frames, output.is_valid).backward()
        probe(frames, output.is_valid).backward()
        ours = to_fairseq2(prefixed("encoder", gradients(encoder)), norm_order=config.norm_order)
        assert_same_gradients(ours, gradients(theirs))


@pytest.mark.parametrize("seed", [1, 3])
def test_ctc_scores_and_loss(seed):
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model

    config = random_config(seed)
    model = CTCModel(random_encoder(config), len(SYMBOLS)).eval()
    settings = Wav2Vec2AsrConfig(encoder_config=encoder_settings(config), target_vocab_size=len(SYMBOLS))
    theirs = create_wav2vec2_asr_model(settings).eval()
    theirs.load_state_dict(to_fairseq2(model.state_dict(), norm_order=config.norm_order), strict=True)
    waveforms, num_samples = batches(config)[0]
    log_probs, num_frames = model(waveforms, num_samples)
    logits, _ = theirs(waveforms, layout_of(waveforms, num_samples))
    is_valid = torch.arange(log_probs.shape[1]) < num_frames[:, None]
    assert_same_frames(log_probs, logits.log_softmax(-1), is_valid=is_valid)
    labels, num_labels = torch.tensor([[3, 4, 2], [6, 3, 0], [4, 0, 0]]), torch.tensor([3, 2, 1])
    expected = theirs(waveforms, layout_of(waveforms, num_samples), labels, layout_of(labels, num_labels))
    assert_near(ctc_loss_sum(log_probs, num_frames, labels, num_labels), expected, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_their_fresh_model_is_read_whole(tmp_path, seed):
    config = random_config(seed)
    theirs = their_model(config)
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pt")
    overrides = {"num_heads": config.num_heads}  # shapes do not tell
    import_fairseq2(tmp_path / "theirs.pt", tmp_path / "ours", overrides=overrides)
    read = files.read_model_dir(tmp_path / "ours")
    for name in (
        "conv_dims",
        "conv_bias",
        "feature_norm",
        "norm_order",
        "dim",
        "num_layers",
        "ffn_dim",
        "pos_conv_groups",
    ):
        assert getattr(read.model, name) == getattr(config, name)
    assert read.document["objective"]["num_entries"] == OBJECTIVE.num_entries
    back = to_fairseq2(read.tensors, norm_order=config.norm_order)
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(back[k], v) for k, v in theirs.state_dict().items())


@pytest.mark.parametrize("seed", SEEDS)
def test_our_checkpoint_comes_back(tmp_path, seed):
    config = random_config(seed)
    encoder, objective, tensors = pretraining_tensors(config)
    document = files.pretraining_document(config, OBJECTIVE)
    files.save_model_dir(tmp_path / "ours", document, {"encoder": encoder, "objective": objective})
    export_fairseq2(tmp_path / "ours", tmp_path / "out.pt")
    their_model(config).load_state_dict(torch.load(tmp_path / "out.pt", weights_only=True)["model"], strict=True)
    import_fairseq2(tmp_path / "out.pt", tmp_path / "back")
    back = files.read_model_dir(tmp_path / "back")
    assert back.tensors.keys() == tensors.keys()
    assert all(torch.equal(back.tensors[k], v) for k, v in tensors.items())
    assert back.document == files.read_model_dir(tmp_path / "ours").document


def test_temperature_counter_is_added_and_dropped():
    _, _, tensors = pretraining_tensors(random_config(0))
    theirs = to_fairseq2(tensors, norm_order="post")
    assert theirs["quantizer.num_updates"].dtype == torch.int64
    assert from_fairseq2(theirs).keys() == tensors.keys()
