"""Waveform to latents: the strided conv stack f: X -> Z, in its group-norm and its layer-norm variant.

Knows nothing of masks, transformers or objectives.

Reference: wav2vec 2.0 (2006.11477) sections 2 and 4.2; fairseq ``ConvFeatureExtractionModel``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audio_ssl.geometry import ConvGeometry
from audio_ssl.model.conv import conv_over_time, prepared_conv
from audio_ssl.model.first_conv import TimeNormedConv, fit_time_normed_conv
from audio_ssl.model.kernels import Packing, gelu, is_traced, product_dtype
from audio_ssl.model.padding import fills_width
from audio_ssl.model.time_stats import TimeStats, TimeSums
from audio_ssl.tensors import is_valid_mask

_STRETCH_BYTES = 20 << 20  # of the widest activations that inference has at a time
_SHORTEST_STRETCH = 25  # frames: below that the products become small


class TimeNorm(nn.Module):
    """Normalise each channel over a row's valid frames (group norm with one channel a group).

    The encoder runs :class:`TimeNormedConv`, which gives the same numbers in one product; this is the plain form.

    Deviates from fairseq and transformers, which take padding into the mean: here a row's result does not depend on
    its batch mates. On a row without padding the three agree.

    Args:
        num_channels: C.
        eps: added to the variance.
    """

    def __init__(self, num_channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor, num_frames: Tensor | None) -> Tensor:
        """Normalise (B, T, C); ``num_frames`` (B,) or None when every frame is valid. Statistics are float32."""
        centred, variance = centre_over_time(x.float(), num_frames)
        return (centred * (torch.rsqrt(variance + self.eps) * self.weight) + self.bias).to(x.dtype)


def centre_over_time(x: Tensor, num_frames: Tensor | None) -> tuple[Tensor, Tensor]:
    """Take each channel's mean over a row's valid frames away.

    Args:
        x: (B, T, C) float32.
        num_frames: (B,) valid frames; None when all are.

    Returns:
        The centred values (B, T, C), zero beyond a row's frames where ``num_frames`` says so, and each channel's
        variance (B, 1, C).
    """
    if num_frames is None:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)  # (B, T, C) -> (B, 1, C)
        return x - mean, variance
    is_padding = ~is_valid_mask(num_frames, x.shape[1])[..., None]
    count = num_frames.clamp(min=1)[:, None, None]
    mean = x.masked_fill(is_padding, 0.0).sum(dim=1, keepdim=True) / count
    centred = (x - mean).masked_fill(is_padding, 0.0)
    return centred, centred.square().sum(dim=1, keepdim=True) / count


def require_a_frame(waveforms: Tensor, geometry: ConvGeometry) -> None:
    """Refuse a batch in which no row can have a frame.

    Raises:
        ValueError: it is narrower than one receptive field.
    """
    if waveforms.shape[1] < geometry.receptive_field_samples:
        raise ValueError(
            f"waveforms must be at least {geometry.receptive_field_samples} samples wide (one receptive "
            f"field) to give a frame, got {waveforms.shape[1]}; leave out utterances that are this short"
        )


class ConvLayer(nn.Module):
    """Conv, optional norm, GELU on (B, T, C).

    Args:
        in_dim: channels in.
        out_dim: channels out.
        kernel: width in input frames.
        stride: step in input frames.
        bias: whether the conv has a bias.
        norm: ``"group"`` (:class:`TimeNorm`, after one channel in only), ``"layer"`` (over channels) or None.
    """

    def __init__(
        self, in_dim: int, out_dim: int, *, kernel: int, stride: int, bias: bool, norm: Literal["group", "layer"] | None
    ) -> None:
        super().__init__()
        # Conv1d holds weight and bias under the names and shapes that every other system uses.
        self.conv = nn.Conv1d(in_dim, out_dim, kernel, stride=stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm: nn.Module | None = None
        if norm is not None:
            self.norm = TimeNorm(out_dim) if norm == "group" else nn.LayerNorm(out_dim)
        self.geometry = ConvGeometry((kernel,), (stride,))
        self._packing = Packing()

    def train(self, mode: bool = True) -> ConvLayer:
        """As of every module; what was laid out of weights that learn is forgotten.

        torch's fused optimizers change weights without counting it (``Tensor._version``). Our own loop counts for them
        (``step_if_finite``); in the loop of somebody else nothing else would tell that an earlier layout is outdated.
        """
        if mode and self.conv.weight.requires_grad:
            self._packing.clear()
        super().train(mode)
        return self

    def forward(self, x: Tensor, num_frames: Tensor | None, time_stats: TimeStats | None = None) -> Tensor:
        """(B, T, C) -> (B, T', C'); ``num_frames`` (B,) counts this layer's output, None when nothing is padded.

        ``time_stats`` is what a norm over time goes by; None to take each row's own. Other norms do not look at it.
        """
        if isinstance(self.norm, TimeNorm):
            return gelu(self._fit(x[..., 0], num_frames, time_stats)(x[..., 0], num_frames))
        x = conv_over_time(x, self.conv.weight, self.conv.bias, stride=self.geometry.strides[0])
        return gelu(x if self.norm is None else self.norm(x))

    def prepare(
        self, x: Tensor, num_frames: Tensor | None, time_stats: TimeStats | None = None
    ) -> Callable[[Tensor], Tensor]:
        """This layer for stretches of an input, in inference: what they share is computed once.

        Args:
            x: (B, T, C), the whole input of the first layer, or anything of the right number format for another.
            num_frames: as in :meth:`forward`.
            time_stats: as in :meth:`forward`.
        """
        if isinstance(self.norm, TimeNorm):
            normed_conv = self._fit(x[..., 0], num_frames, time_stats)
            return lambda part: gelu(normed_conv(part[..., 0]))
        conv = prepared_conv(self.conv, self._packing, dtype=product_dtype(x), has_gelu=self.norm is None)
        norm = self.norm
        return conv if norm is None else lambda part: gelu(norm(conv(part)))

    def _fit(self, waveforms: Tensor, num_frames: Tensor | None, time_stats: TimeStats | None) -> TimeNormedConv:
        assert isinstance(self.norm, TimeNorm)
        bias: Tensor = self.norm.bias
        if self.conv.bias is not None:  # taken away by the norm: its gradient is zero, but it has one
            bias = bias + (self.conv.bias - self.conv.bias)
        return fit_time_normed_conv(
            waveforms, self.conv.weight, stride=self.geometry.strides[0],
            norm_weight=self.norm.weight, norm_bias=bias, eps=self.norm.eps, num_frames=num_frames,
            stats=time_stats,
        )  # fmt: skip


class ScaleGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor on the way back (fairseq ``GradMultiply``)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        """Return ``x`` unchanged."""
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Scale the gradient."""
        return gradients[0] * ctx.scale, None


class FeatureEncoder(nn.Module):
    """Conv stack from waveforms to latents.

    Args:
        conv_dims: channels of each layer.
        geometry: kernels and strides of the layers.
        bias: whether the convs have a bias.
        norm: ``"group"`` normalises after the first conv only, ``"layer"`` after every conv.
        grad_scale: factor on the gradient that reaches the stack; 0 runs it without a graph.

    Attributes:
        grad_scale: as above; may be changed at any time.
    """

    def __init__(
        self,
        conv_dims: Sequence[int],
        *,
        geometry: ConvGeometry,
        bias: bool,
        norm: Literal["group", "layer"],
        grad_scale: float = 1.0,
    ) -> None:
        super().__init__()
        in_dims = (1, *conv_dims[:-1])
        self.layers = nn.ModuleList(
            ConvLayer(
                in_dim,
                out_dim,
                kernel=kernel,
                stride=stride,
                bias=bias,
                norm=norm if norm == "layer" or i == 0 else None,
            )
            for i, (in_dim, out_dim, kernel, stride) in enumerate(
                zip(in_dims, conv_dims, geometry.kernels, geometry.strides, strict=True)
            )
        )
        self.geometry = geometry
        self.grad_scale = grad_scale

    def activation_bytes(self, rows: int, num_samples: int, *, item_bytes: int, device_type: str) -> int:
        """About the most that inference on (rows, num_samples) has beside waveforms and latents.

        Args:
            rows: of the batch.
            num_samples: its width.
            item_bytes: of a number in products.
            device_type: a CPU goes by stretches of time.
        """
        hop, widths = self.geometry.hop_samples, [0]  # numbers a frame of latents in each layer's output
        for layer in self.layers:
            assert isinstance(layer, ConvLayer)
            hop //= layer.geometry.hop_samples
            widths.append(hop * layer.conv.out_channels)
        copies = 2 if isinstance(self.layers[-1].norm, nn.LayerNorm) else 1  # the output, and the output normed
        layer_numbers = max(before + copies * own for before, own in pairwise(widths))
        frames = num_samples // self.geometry.hop_samples
        if device_type == "cpu":
            in_budget = _STRETCH_BYTES // (max(widths) * rows * item_bytes)
            frames = min(frames, max(_SHORTEST_STRETCH, in_budget))
        kernel_samples = 0
        if isinstance(self.layers[0].norm, TimeNorm):  # float64, as they are and centred, for their covariance
            kernel_samples = 3 * 8 * rows * num_samples * self.geometry.kernels[0] // self.geometry.strides[0]
        return max(rows * frames * layer_numbers * item_bytes, kernel_samples)

    def time_sums(self) -> TimeSums | None:
        """What to add an utterance's samples to so that stretches of it can be encoded; None: none is needed."""
        first: ConvLayer = self.layers[0]  # type: ignore[assignment]
        if not isinstance(first.norm, TimeNorm):
            return None
        kernel, stride = first.geometry.kernels[0], first.geometry.strides[0]
        return TimeSums(first.geometry, lambda samples: samples.unfold(0, kernel, stride), is_linear=True)

    def forward(
        self,
        waveforms: Tensor,
        num_samples: Tensor,
        *,
        is_full: bool | None = None,
        time_stats: TimeStats | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveforms: (B, S) float32 at the model's rate; what lies beyond a row's samples is not looked at by
                any valid frame.
            num_samples: (B,) int64. Rows shorter than the receptive field have no frames.
            is_full: True when no row is padded; None to look (free on the CPU only).
            time_stats: from :meth:`time_sums`, of the one utterance that all rows are stretches of; None where each
                row is an utterance. Without a norm over time it has no effect.

        Returns:
            Latents (B, T, C), zero beyond each row's frames, and num_frames (B,) int64.

        Raises:
            ValueError: the batch is narrower than one receptive field, so that no row can have a frame.
        """
        require_a_frame(waveforms, self.geometry)
        is_full = fills_width(num_samples, waveforms.shape[1], is_full=is_full)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.grad_scale > 0):
            latents = self._encode(waveforms, None if is_full else num_samples, time_stats)
        if self.grad_scale not in (0.0, 1.0) and latents.requires_grad:
            latents = ScaleGradient.apply(latents, self.grad_scale)  # type: ignore[no-untyped-call]
        num_frames = self.geometry.num_frames(num_samples)
        if not is_full:
            is_padding = ~is_valid_mask(num_frames, latents.shape[1])
            latents = latents.masked_fill(is_padding[..., None], 0.0)
        return latents, num_frames

    def _encode(self, waveforms: Tensor, num_samples: Tensor | None, time_stats: TimeStats | None) -> Tensor:
        x = waveforms[..., None]  # (B, S) -> (B, S, 1)
        if waveforms.device.type == "cpu" and not torch.is_grad_enabled() and not is_traced():
            return self._encode_by_stretches(x, num_samples, time_stats)
        num_frames = num_samples
        for layer in self.layers:
            assert isinstance(layer, ConvLayer)
            if num_frames is not None:
                num_frames = layer.geometry.num_frames(num_frames)
            x = layer(x, num_frames, time_stats)
        return x

    def _encode_by_stretches(self, x: Tensor, num_samples: Tensor | None, time_stats: TimeStats | None) -> Tensor:
        """The same for inference, a stretch of time after the other.

        Activations of the convs stay in the cache, and take the same memory for a minute and for an hour: base,
        2 x 15 s, 2 threads, bf16 192 ms against 270 ms at once, fp32 420 against 555. Stretches are equally long, for
        every shape costs a kernel: the last one goes back over frames that are there already.
        """
        first: ConvLayer = self.layers[0]  # type: ignore[assignment]
        num_frames = None if num_samples is None else first.geometry.num_frames(num_samples)
        layers = [layer.prepare(x, num_frames, time_stats) for layer in self.layers]  # type: ignore[operator]
        total, hop = self.geometry.num_frames(x.shape[1]), self.geometry.hop_samples
        length = min(total, self._stretch_frames(x))
        parts: list[Tensor] = []
        done = 0  # frames so far
        for start in [*range(0, total - length, length), total - length]:
            part = x[:, start * hop : start * hop + self.geometry.samples_for_frames(length)]
            for layer in layers:
                part = layer(part)
            parts.append(part[:, done - start :])
            done = start + length
        return torch.cat(parts, dim=1)

    def _stretch_frames(self, x: Tensor) -> int:
        """Frames of a stretch whose widest activations take :data:`_STRETCH_BYTES`."""
        hop, widest = self.geometry.hop_samples, 0
        for layer in self.layers:
            assert isinstance(layer, ConvLayer)
            hop //= layer.geometry.hop_samples
            widest = max(widest, hop * layer.conv.out_channels)
        return max(_SHORTEST_STRETCH, _STRETCH_BYTES // (widest * x.shape[0] * product_dtype(x).itemsize))
