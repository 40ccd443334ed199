"""Relative positions by a wide grouped convolution over frames, added to the features.

Reference: wav2vec 2.0 (2006.11477) section 2; fairseq ``make_conv_pos``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from audio_ssl.model.conv import conv_over_time, prepared_conv
from audio_ssl.model.kernels import Packing, gelu, is_traced, product_dtype
from audio_ssl.model.padding import first_frames


class ConvPositionalEmbedding(nn.Module):
    """Grouped conv with weight norm, GELU: (B, T, D) -> (B, T, D), to be added to its input.

    The weight is ``v * g / ||v||`` with the norm over output and input channels: one length ``g`` for each of the K
    kernel positions (``weight_norm(dim=2)``), as in every published checkpoint.

    Args:
        dim: D.
        kernel: K, frames. With an even K the conv gives one frame too many; the last is dropped.
        groups: groups of channels.
        stride: frames a step, n: the result has ceil(T / n) frames (SEW, 2109.06870).
    """

    def __init__(self, dim: int, *, kernel: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, stride=stride, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, mean=0.0, std=math.sqrt(4 / (kernel * dim)))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = weight_norm(conv, dim=2)
        self._packing = Packing()

    def forward(self, features: Tensor) -> Tensor:
        """Embed positions; padding must already be zero, for the conv mixes neighbouring frames."""
        stride = self.conv.stride[0]
        num_frames = (features.shape[1] + stride - 1) // stride  # rounded up; ONNX rounds quotients below 0 towards 0
        is_plain = not torch.is_grad_enabled() and not parametrize.is_parametrized(self.conv) and not is_traced()
        if is_plain and features.device.type == "cpu":
            conv = prepared_conv(self.conv, self._packing, dtype=product_dtype(features), has_gelu=True)
            return conv(features)[:, :num_frames]
        # Of torch's own kernel for weight norm a GPU takes twenty times as long as its traffic needs.
        on_gpu = features.device.type != "cpu" and parametrize.is_parametrized(self.conv, "weight")
        x = conv_over_time(
            features, normed_weight(self.conv) if on_gpu else self.conv.weight, self.conv.bias,
            stride=self.conv.stride[0], padding=self.conv.padding[0], groups=self.conv.groups,
        )  # fmt: skip
        return gelu(first_frames(x, num_frames))  # (B, T + 1 - K % 2, D) -> (B, T, D) at stride 1


def normed_weight(conv: nn.Conv1d) -> Tensor:
    """What weight norm makes of a conv's length (1, 1, K) and direction (D, D / groups, K), by plain operations."""
    length, direction = conv.parametrizations.weight.parameters()  # type: ignore[union-attr]
    weight: Tensor = direction * (length / torch.linalg.vector_norm(direction, dim=(0, 1), keepdim=True))
    return weight


def fold_weight_norm(module: nn.Module) -> None:
    """Replace ``g`` and ``v`` by the weight that they give, in place, for inference: the same numbers, less work.

    A folded module does not train or save like the original; fold a copy, or load again.

    Args:
        module: an encoder, or anything that contains one.
    """
    for part in module.modules():
        if isinstance(part, ConvPositionalEmbedding) and parametrize.is_parametrized(part.conv, "weight"):
            part.conv = _plain_conv(part.conv)


def _plain_conv(conv: nn.Conv1d) -> nn.Conv1d:
    # Not parametrize.remove_parametrizations: it edits a class that deep copies share, and so breaks the original.
    plain = nn.Conv1d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0],
        stride=conv.stride[0], padding=conv.padding[0], groups=conv.groups,
    )  # fmt: skip
    plain.weight = nn.Parameter(conv.weight.detach().clone(), requires_grad=False)
    assert conv.bias is not None
    plain.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return plain
