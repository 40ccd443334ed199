"""Compiled blocks: few programs whatever the batches are, and the same numbers."""

import copy
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from audio_ssl.config import ModelConfig
from audio_ssl.model.encoder import build_encoder
from audio_ssl.train.compiling import compile_blocks

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


@pytest.mark.parametrize("layer_drop", [0.0, 0.3])
def test_seven_blocks_of_many_sizes_are_four_programs(programs, layer_drop):
    model = ModelConfig(preset="tiny_cpu", **SHAPE, layer_drop=layer_drop, dropout=0.1, attention_dropout=0.1)
    torch.manual_seed(5)
    with torch.device("meta"):  # the path that a GPU takes; dropout on a CPU draws outside of torch
        encoder = build_encoder(model).train()
    compile_blocks(encoder)
    for rows, frames in SIZES:
        for is_full in (True, False):
            features = torch.ones(rows, frames, 24, device="meta", requires_grad=True)
            num_frames = torch.full((rows,), frames, device="meta")
            encoder.context_network(features, num_frames, is_full=is_full)
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
