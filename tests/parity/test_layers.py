"""What a layer's number means beside the peers: the table of docs/embeddings.md, "Layers"."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from checkpoints import VARIANTS, save_transformers
from models import FORMATS, write_all
from peers import OBJECTIVE, SEEDS, prefixed, random_config, random_encoder, random_objective

import audio_ssl
from audio_ssl import Embedder
from audio_ssl.data.waveform import normalize
from audio_ssl.interop.fairseq import to_fairseq

NUM_LAYERS = 2
WAVEFORM = (0.1 * np.random.default_rng(4).standard_normal(9_003)).astype(np.float32)


@pytest.fixture(scope="module", params=sorted(VARIANTS))  # base: post-LN, group norm; large: pre-LN, layer norm
def both(request, tmp_path_factory):
    """Ours, theirs, and the waveform as theirs wants it."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    path = tmp_path_factory.mktemp("layers") / request.param
    theirs = save_transformers(path, request.param, "pretraining")
    with torch.no_grad():  # a fresh norm of the network would be easy to miss
        norm = theirs.wav2vec2.encoder.layer_norm
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.normal_()
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5  # torchaudio knows no other
    theirs.config.layer_norm_eps = 1e-5
    theirs.save_pretrained(path)
    e = audio_ssl.load(path)
    assert (e.encoder.context_network.norm_order == "pre") == (request.param == "large")
    assert e.encoder.num_layers == NUM_LAYERS
    return e, theirs, torch.from_numpy(normalize(WAVEFORM) if e.encoder.normalize_waveform else WAVEFORM)[None]


def ours(e: Embedder, layers) -> np.ndarray:
    return e.extract(WAVEFORM, layers=layers).frames


def assert_near(own: np.ndarray, other: torch.Tensor) -> None:
    np.testing.assert_allclose(own, other[0].detach().numpy(), atol=1e-5 * float(other.abs().max()))


def differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() > 1e-2)


@torch.no_grad()
def test_transformers_counts_as_we_do_but_norms_its_last_layer(both):
    e, theirs, given = both
    output = theirs.wav2vec2(given, output_hidden_states=True)
    assert len(output.hidden_states) == NUM_LAYERS + 1
    for number in range(NUM_LAYERS):
        assert_near(ours(e, number), output.hidden_states[number])
    assert_near(ours(e, "last"), output.hidden_states[NUM_LAYERS])
    assert_near(ours(e, "last"), output.last_hidden_state)
    assert_near(ours(e, "conv"), output.extract_features)
    is_pre = e.encoder.context_network.norm_order == "pre"
    assert differ(ours(e, "last"), ours(e, NUM_LAYERS)) == is_pre  # in post-LN the two are one
    assert all(differ(a, b) for a, b in itertools.pairwise(ours(e, "all")))


@torch.no_grad()
def test_torchaudio_counts_one_less_and_norms_none(both):
    e, theirs, given = both
    utils = pytest.importorskip("torchaudio.models.wav2vec2.utils", reason="torchaudio is not installed")
    model = utils.import_huggingface_model(theirs.wav2vec2).eval()
    features, _ = model.extract_features(given)
    assert len(features) == NUM_LAYERS
    for number in range(1, NUM_LAYERS + 1):
        assert_near(ours(e, number), features[number - 1])
    assert_near(ours(e, "last"), model(given)[0])
    latents, _ = model.feature_extractor(given, None)
    assert_near(ours(e, "conv"), model.encoder.feature_projection.layer_norm(latents))
    assert differ(ours(e, "conv"), latents[0].numpy())


@torch.no_grad()
def test_codes_name_the_entries_that_transformers_takes(both):
    e, theirs, given = both
    vectors, _ = theirs.quantizer(theirs.wav2vec2(given).extract_features)
    codes = ours(e, "codes")
    num_groups, num_entries = theirs.quantizer.num_groups, theirs.quantizer.num_vars
    book = theirs.quantizer.codevectors.view(num_groups, num_entries, -1)
    expected = torch.cat([book[group, codes[:, group]] for group in range(num_groups)], dim=-1)
    assert torch.equal(expected, vectors[0])
    assert len(np.unique(codes)) > 1


def test_codes_are_the_same_from_every_format(tmp_path):
    models = write_all(tmp_path, "pretraining")
    codes = {name: ours(audio_ssl.load(path), "codes") for name, path in models.items()}
    assert set(codes) == set(FORMATS)  # torchaudio's model has no quantizer, but the file beside ours has
    for found in codes.values():
        np.testing.assert_array_equal(found, codes["audio_ssl"])


@pytest.mark.parametrize("seed", SEEDS)
@torch.no_grad()
def test_fairseq_counts_from_zero_and_norms_only_the_whole(seed):
    """In the copy of its wav2vec 2.0 that s3prl carries, as fairseq itself does not run on this Python."""
    for package in ("s3prl", "omegaconf"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from s3prl.upstream.wav2vec2 import wav2vec2_model as fairseq

    config = random_config(seed)
    encoder, objective = random_encoder(config), random_objective(config)
    tensors = to_fairseq({**prefixed("encoder", encoder.state_dict()), **prefixed("objective", objective.state_dict())})
    convs = zip(config.conv_dims, config.geometry.kernels, config.geometry.strides, strict=True)
    settings = fairseq.Wav2Vec2Config(
        extractor_mode="layer_norm" if config.feature_norm == "layer" else "default", conv_bias=config.conv_bias,
        conv_feature_layers=repr(list(convs)), conv_pos=config.pos_conv_kernel, conv_pos_groups=config.pos_conv_groups,
        encoder_layers=config.num_layers, encoder_embed_dim=config.dim, encoder_ffn_embed_dim=config.ffn_dim,
        encoder_attention_heads=config.num_heads, layer_norm_first=config.norm_order == "pre",
        quantize_targets=True, latent_groups=OBJECTIVE.num_groups, latent_vars=OBJECTIVE.num_entries,
        latent_dim=OBJECTIVE.code_dim, final_dim=OBJECTIVE.target_dim,
    )  # fmt: skip
    theirs = fairseq.Wav2Vec2Model(settings).eval()
    theirs.load_state_dict(tensors)
    e = Embedder(encoder, quantizer=objective.eval().quantizer)
    given = torch.from_numpy(normalize(WAVEFORM) if config.normalize_waveform else WAVEFORM)[None]
    whole = theirs.extract_features(given, None)
    assert len(whole["layer_results"]) == config.num_layers
    for number in range(1, config.num_layers + 1):
        assert_near(ours(e, number), whole["layer_results"][number - 1][0].transpose(0, 1))  # (T, B, D) there
        assert_near(ours(e, number), theirs.extract_features(given, None, layer=number - 1)["x"])
    assert_near(ours(e, "last"), whole["x"])
    assert_near(ours(e, "conv"), whole["features"])
    np.testing.assert_array_equal(ours(e, "codes"), theirs.quantize(given)[1][0].numpy())
