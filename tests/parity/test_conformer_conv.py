"""The convolution of a block beside transformers' Conformer, with a layer norm in the place of its batch norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from audio_ssl.model.local_conv import LocalConv

conformer = pytest.importorskip("transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer")
DIM, KERNEL = 12, 5
NAMES = {"inner": "pointwise_conv1", "depthwise": "depthwise_conv", "norm": "batch_norm.norm",
         "output": "pointwise_conv2"}  # fmt: skip


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, D, T), where batch norm stands."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(DIM, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def theirs_like(ours: LocalConv) -> nn.Module:
    config = conformer.Wav2Vec2ConformerConfig(
        hidden_size=DIM, hidden_act="swish", conv_depthwise_kernel_size=KERNEL, conformer_conv_dropout=0.0
    )
    theirs = conformer.Wav2Vec2ConformerConvolutionModule(config)
    theirs.layer_norm, theirs.batch_norm = nn.Identity(), ChannelNorm()  # our first norm is the block's
    for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2"):  # theirs come without
        conv = getattr(theirs, name)
        conv.bias = nn.Parameter(torch.empty(conv.out_channels))
    tensors = {}
    for name, tensor in ours.state_dict().items():
        part, kind = name.split(".")
        is_matrix = kind == "weight" and part in ("inner", "output")  # theirs are convs of one frame
        tensors[f"{NAMES[part]}.{kind}"] = tensor[..., None] if is_matrix else tensor
    theirs.load_state_dict(tensors)
    return theirs


def test_numbers_and_gradients_are_conformers():
    torch.manual_seed(1)
    ours = LocalConv(DIM, kernel=KERNEL, layer_norm_eps=1e-4)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs = theirs_like(ours)
    found, expected = (torch.randn(3, 7, DIM, generator=torch.Generator().manual_seed(2)) for _ in range(2))
    weights = torch.randn(3, 7, DIM)
    outputs = []
    for module, x, arguments in ((ours, found, (None,)), (theirs, expected, ())):
        outputs.append(module(x.requires_grad_(), *arguments))
        (outputs[-1] * weights).sum().backward()
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in ours.named_parameters():
        part, kind = name.split(".")
        of_theirs = theirs.get_parameter(f"{NAMES[part]}.{kind}").grad
        torch.testing.assert_close(parameter.grad, of_theirs.view_as(parameter), rtol=1e-4, atol=1e-5)
