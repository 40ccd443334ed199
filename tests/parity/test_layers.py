"""What a layer's number means beside the peers: the table of docs/embeddings.md, "Layers"."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from checkpoints import VARIANTS, save_transformers
from models import FORMATS, write_all

import audio_ssl
from audio_ssl import Embedder
from audio_ssl.data.waveform import normalize

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
