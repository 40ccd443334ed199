"""A 1-d convolution over frames of (B, T, C) activations, without transposed copies.

The convolution runs as one over a 1-row image in channels-last memory, which is how (B, T, C) already lies. Measured on
2 CPU threads, 4 x 10 s, the whole stack of 7 layers with layer norm, forward + backward, against ``Conv1d`` on
(B, C, T) with transposes around the norm: channels 32..256 fp32 0.49 s against 0.98 s, bf16 0.21 against 0.65;
512 channels bf16 2.9 s against 9.2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_ssl.model.grouped_conv import grouped_conv, grouped_weight_gradient
from audio_ssl.model.kernels import Packing, gelu, has_onednn, product_dtype

_WIDE = 512  # channels from which bf16 gains by the backward below


def conv_over_time(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> Tensor:
    """What ``Conv1d`` with these settings gives, on the last axis but one.

    Args:
        x: (B, T, C).
        weight: (C', C / groups, K), as ``Conv1d`` holds it.
        bias: (C',) or None.
        stride: frames a step.
        padding: zero frames at both ends.
        groups: groups of channels.

    Returns:
        (B, T', C').
    """
    dtype = product_dtype(x)
    if x.device.type != "cpu" and groups > 1:
        return grouped_conv(x, weight, bias, stride=stride, padding=padding, groups=groups)
    if groups > 1:
        gains = dtype == torch.bfloat16 and stride == 1
    else:
        gains = padding == 0 and (dtype != torch.bfloat16 or weight.shape[0] >= _WIDE)
    if x.device.type != "cpu" or not gains or not torch.is_grad_enabled():
        return _convolve(x, weight, bias, stride=stride, padding=padding, groups=groups)
    # Autocast does not reach into a Function's backward.
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    result: Tensor = _ConvOverTime.apply(x, weight, bias, stride, padding, groups)  # type: ignore[no-untyped-call]
    return result


def depthwise_over_time(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Each channel over its own neighbouring frames, as many as before: what ``Conv1d`` with C groups gives.

    Measured on one CPU thread, 8 x 150 frames, 256 channels, K = 9, forward and backward, against ``Conv1d`` between
    transposes: fp32 4.8 ms against 8.0, bf16 4.8 against 5.1; without gradients fp32 0.2 against 0.9.

    Args:
        x: (B, T, C), zero where there is no frame.
        weight: (C, 1, K), K odd.
        bias: (C,) or None.

    Returns:
        (B, T, C).
    """
    return _convolve(x, weight, bias, stride=1, padding=weight.shape[2] // 2, groups=weight.shape[0])


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, padding: int = 0, groups: int = 1
) -> Tensor:
    y = F.conv2d(_image(x), _image_kernel(weight), bias, stride=(1, stride), padding=(0, padding), groups=groups)
    return _frames(y)


def _image(x: Tensor) -> Tensor:
    return x[:, None].permute(0, 3, 1, 2)  # (B, T, C) -> (B, C, 1, T), channels-last in memory


def _frames(image: Tensor) -> Tensor:
    return image.squeeze(2).transpose(1, 2)  # (B, C, 1, T) -> (B, T, C)


def _image_kernel(weight: Tensor) -> Tensor:
    return weight[:, :, None].contiguous(memory_format=torch.channels_last)  # (C', C, K) -> (C', C, 1, K)


def prepared_conv(
    conv: nn.Conv1d, packing: Packing, *, dtype: torch.dtype, has_gelu: bool
) -> Callable[[Tensor], Tensor]:
    """:func:`conv_over_time` for inference on a CPU: the kernel is laid out once, and GELU is in the same pass.

    Measured on 2 threads, 512 channels, 2 x 3.2 s, bf16, against the plain conv and GELU in place: 18.3 ms against 19.1
    for the longest layer, 2.3 against 2.6 for one of 1281 frames; the positional conv of base 17.8 against 22.1.

    Args:
        conv: whose weight is a parameter, not computed from others.
        packing: kept beside it.
        dtype: of the product.
        has_gelu: whether GELU comes after it.
    """
    stride, padding, groups = [1, conv.stride[0]], int(conv.padding[0]), conv.groups
    if not has_onednn(dtype):
        weight, bias = conv.weight.to(dtype), None if conv.bias is None else conv.bias.to(dtype)
        plain = partial(_convolve, weight=weight, bias=bias, stride=stride[1], padding=padding, groups=groups)
        return lambda x: gelu(plain(x.to(dtype))) if has_gelu else plain(x.to(dtype))
    ops, settings = torch.ops.mkldnn, ([0, 0], stride, [1, 1], groups)
    packed = packing.take(
        dtype, conv.weight, conv.bias,
        lambda w: ops._reorder_convolution_weight(_image_kernel(w.to(dtype)), *settings, None),
    )  # fmt: skip
    after: tuple[str, list[Any], str] = ("gelu", [], "none") if has_gelu else ("none", [], "")

    def on_packed(x: Tensor) -> Tensor:
        # oneDNN's own padding costs more (it seems to make kernels for frames near the ends): 128 taps, 4 x 650 frames,
        # bf16, 132 ms against 117, and 40 against 4 to prepare for frames of another number.
        padded = F.pad(x.to(dtype), (0, 0, padding, padding)) if padding else x.to(dtype)
        y = ops._convolution_pointwise(_image(padded), packed.weight, packed.bias, *settings, *after)
        return _frames(y)

    return on_packed


class _ConvOverTime(torch.autograd.Function):
    """The conv with the weight's gradient by products of frames: one for each kernel position, or as grouped convs do.

    Against oneDNN's own (2 threads, 3 taps, stride 2): fp32 512 channels 133 ms against 466, 256 channels 70 against
    273, 128 channels 19 against 29; bf16 512 channels 36 against 42, below that no difference. Of grouped convs see
    :func:`~audio_ssl.model.grouped_conv.grouped_weight_gradient`.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes by position
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
    ) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.groups, ctx.has_bias = stride, padding, groups, bias is not None
        return _convolve(x, weight, bias, stride=stride, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of frames, weight and bias."""
        grad, (x, weight) = gradients[0], ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            settings = ([1, ctx.stride], [0, ctx.padding], [1, 1], False, [0, 0], ctx.groups, [True, False, False])
            image = torch.ops.aten.convolution_backward(
                _image(grad), _image(x), _image_kernel(weight), None, *settings
            )[0]
            grad_x = _frames(image)
        if ctx.needs_input_grad[1]:
            kernel = weight.shape[2]
            if ctx.groups > 1:
                grad_weight = grouped_weight_gradient(grad, x, kernel=kernel, padding=ctx.padding, groups=ctx.groups)
            else:
                grad_weight = _weight_gradient(grad, x, kernel=kernel, stride=ctx.stride).to(weight.dtype)
        return grad_x, grad_weight, grad.sum((0, 1)) if ctx.has_bias else None, None, None, None


def _weight_gradient(grad: Tensor, x: Tensor, *, kernel: int, stride: int) -> Tensor:
    """(B, T', C') and (B, T, C) -> (C', C, K) float32."""
    end = stride * grad.shape[1]
    turned = grad.transpose(1, 2)
    taps = [(turned @ x[:, k : k + end : stride]).float().sum(0) for k in range(kernel)]  # (B, C', C) -> (C', C)
    return torch.stack(taps, dim=-1)
