"""Compiled blocks: few programs whatever the batches are, and the same numbers."""

import copy
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from audio_ssl.config import ModelConfig, RunConfig
from audio_ssl.model import compiling
from audio_ssl.model.compiling import compile_blocks
from audio_ssl.model.encoder import build_encoder
from audio_ssl.train.compiling import prepare_blocks

SHAPE = {"conv_dims": (8,) * 7, "dim": 24, "num_heads": 3, "num_layers": 7, "ffn_dim": 31, "pos_conv_groups": 4}
SIZES = ((4, 199), (4, 299), (3, 299), (7, 149), (1, 774), (2, 311))


@pytest.fixture
def programs(monkeypatch):
    """Counts what torch would compile, and runs it as it is."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    yield counter
    torch._dynamo.reset()


@pytest.mark.parametrize(("layer_drop", "recomputes"), [(0.0, False), (0.3, True)])
def test_seven_blocks_of_many_sizes_are_four_programs(programs, layer_drop, recomputes):
    model = ModelConfig(preset="tiny_cpu", **SHAPE, layer_drop=layer_drop, dropout=0.1, attention_dropout=0.1)
    torch.manual_seed(5)
    with torch.device("meta"):  # the path that a GPU takes; dropout on a CPU draws outside of torch
        encoder = build_encoder(model).train()
    prepare_blocks(encoder, RunConfig(dir=Path("unused"), compile=True, checkpoint_activations=recomputes))
    for rows, frames in SIZES:
        for is_full in (True, False):
            features = torch.ones(rows, frames, 24, device="meta", requires_grad=True)
            num_frames = torch.full((rows,), frames, device="meta")
            encoder.context_network(features, num_frames, is_full=is_full).frames.sum().backward()
    assert programs.frame_count == 4
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_compiled_encoder_gives_the_same_frames_under_the_same_names(programs):
    torch.manual_seed(3)
    plain = build_encoder(ModelConfig(preset="tiny_cpu", **SHAPE)).eval()
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    waveforms, num_samples = torch.randn(2, 8000), torch.tensor([8000, 5003])
    torch.testing.assert_close(compiled(waveforms, num_samples).frames, plain(waveforms, num_samples).frames)
    assert programs.frame_count
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_compiled_blocks_that_are_recomputed_give_the_same_gradients(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    # The path that a GPU takes: attention of torch's own, which compiles in one piece.
    monkeypatch.setattr("audio_ssl.model.attention.attend_on_cpu", attend_as_elsewhere)
    features, gradients = torch.randn(3, 19, 24), []
    for recomputes in (False, True):
        torch.manual_seed(3)
        encoder = build_encoder(ModelConfig(preset="tiny_cpu", **SHAPE, layer_drop=0.3)).train()
        prepare_blocks(encoder, RunConfig(dir=Path("unused"), compile=True, checkpoint_activations=recomputes))
        torch.manual_seed(5)
        encoder.context_network(features, torch.tensor([19, 13, 7])).frames.square().sum().backward()
        gradients.append([p.grad for p in encoder.context_network.blocks.parameters()])
    assert sum(gradient is not None for gradient in gradients[0]) > 20
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    torch._dynamo.reset()


def attend_as_elsewhere(query, key, value, *, attends, rate):
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attends, dropout_p=rate)


@pytest.mark.usefixtures("programs")
def test_a_limit_on_programs_is_told_once_in_our_words(monkeypatch, caplog):
    monkeypatch.setattr(compiling, "_MOST_PROGRAMS", 2)
    compiling._tell_limit_once.cache_clear()
    with torch.device("meta"):
        encoder = build_encoder(ModelConfig(preset="tiny_cpu", **{**SHAPE, "num_layers": 1})).eval()
    told = []
    with torch._dynamo.config.patch(recompile_limit=2), caplog.at_level(logging.WARNING, logger="audio_ssl"):
        compile_blocks(encoder)
        for rows, is_full in ((4, True), (4, False), (1, True), (1, False)):  # four programs where two are kept
            num_frames = torch.full((rows,), 19, device="meta")
            encoder.context_network(torch.ones(rows, 19, 24, device="meta"), num_frames, is_full=is_full)
            told.append([record.message for record in caplog.records if "transformer blocks" in record.message])
    assert [len(messages) for messages in told] == [0, 0, 1, 1]
    assert "than the 2 programs that are kept" in told[-1][0]
