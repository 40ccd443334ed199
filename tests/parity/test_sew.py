"""The squeezed context network beside transformers' SEW, whose way down and up it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audio_ssl.config import ModelConfig
from audio_ssl.model.encoder import build_encoder

sew = pytest.importorskip("transformers.models.sew.modeling_sew")
BLOCK = {
    "attention.query": "attention.q_proj", "attention.key": "attention.k_proj", "attention.value": "attention.v_proj",
    "attention.output": "attention.out_proj", "attention_norm": "layer_norm",
    "feed_forward.inner": "feed_forward.intermediate_dense", "feed_forward.output": "feed_forward.output_dense",
    "feed_forward_norm": "final_layer_norm",
}  # fmt: skip


def their_name(ours: str) -> str:
    if ours.startswith("network.blocks."):
        _, _, number, rest = ours.split(".", 3)
        part, kind = rest.rsplit(".", 1)
        return f"layers.{number}.{BLOCK[part]}.{kind}"
    for prefix, theirs in (("positional", "pos_conv_embed"), ("network.norm", "layer_norm")):
        if ours.startswith(prefix):
            return ours.replace(prefix, theirs, 1)
    return ours.replace("upsample", "upsample.projection")


@pytest.mark.parametrize(("stride", "kernel"), [(2, 8), (3, 5)])
def test_what_comes_up_is_sews(stride, kernel):
    torch.manual_seed(1)
    config = ModelConfig(
        dim=24, num_layers=2, num_heads=3, ffn_dim=31, pos_conv_kernel=kernel, pos_conv_groups=4, context_stride=stride
    )
    context = build_encoder(config).context_network.eval()
    theirs = sew.SEWEncoder(
        sew.SEWConfig(
            hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=31,
            num_conv_pos_embeddings=kernel, num_conv_pos_embedding_groups=4, squeeze_factor=stride,
            attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    tensors = {their_name(k): v for k, v in context.state_dict().items() if not k.startswith("norm.")}
    theirs.load_state_dict(tensors)
    theirs.upsample.activation = nn.Identity()  # the GELU that ours leaves out
    context.norm = nn.Identity()
    features, num_frames = torch.randn(3, 4 * stride, 24), torch.tensor([4 * stride, 2 * stride, stride])
    is_valid = torch.arange(4 * stride) < num_frames[:, None]
    with torch.no_grad():
        ours = context(features, num_frames).frames
        expected = features + theirs(features.clone(), attention_mask=is_valid).last_hidden_state
    torch.testing.assert_close(ours[is_valid], expected[is_valid], rtol=1e-5, atol=1e-5)
