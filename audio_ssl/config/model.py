"""Settings of the encoder: feature encoder and transformer context network, with the named presets.

Reference: wav2vec 2.0 (2006.11477) section 4.2 and fairseq's published configurations for base and large.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from audio_ssl.config.section import Count, NonNegative, NonNegativeCount, Positive, Rate, Section
from audio_ssl.geometry import ConvGeometry, count_empty_mel_bands, fft_samples

# Settings that say something under one value of `front_end` only.
OF_FRONT_END: dict[str, tuple[str, ...]] = {
    "conv": ("conv_dims", "conv_kernels", "conv_strides", "conv_bias", "feature_norm", "feature_grad_scale"),
    "mel": ("mel_bands", "mel_window_ms", "mel_hop_ms", "mel_stack", "mel_min_hz", "mel_max_hz"),
}

# Settings that are left out of what is saved where they have this value.
_PLAIN: dict[str, Any] = {"front_end": "conv", "context_stride": 1, "block_conv_kernel": 0, "adapter_dim": 0}

PRESETS: dict[str, dict[str, Any]] = {
    # The paper's BASE: group norm in the first conv layer, post-LN blocks, waveform as it is.
    "wav2vec2_base": {},
    # The paper's LARGE as released for LV-60k/XLSR: layer norm everywhere, pre-LN, conv bias, normalised waveform.
    "wav2vec2_large": {
        "conv_bias": True, "feature_norm": "layer", "norm_order": "pre", "normalize_waveform": True,
        "dim": 1024, "num_layers": 24, "num_heads": 16, "ffn_dim": 4096, "feature_grad_scale": 1.0,
        "dropout": 0.0, "attention_dropout": 0.0, "feature_dropout": 0.0, "layer_drop": 0.0,
    },
    # Layer norm after a convolution without bias takes the loudness away, and silence looks like noise: with a bias
    # the loss leaves chance within a hundred small updates, without one not in fifteen hundred (docs/decisions/0007).
    # About 12 M parameters: for one GPU or a patient CPU.
    "small": {
        "conv_bias": True, "conv_dims": (128, 256, 256, 256, 384, 384, 384), "feature_norm": "layer",
        "norm_order": "pre", "normalize_waveform": True, "dim": 384, "num_layers": 6, "num_heads": 6, "ffn_dim": 1536,
        "pos_conv_kernel": 64, "feature_grad_scale": 1.0, "dropout": 0.05, "attention_dropout": 0.05,
        "feature_dropout": 0.05, "layer_drop": 0.0,
    },
    # Conv channels widen as the rate falls, so that no layer dominates: hours of speech in minutes on two cores.
    "tiny_cpu": {
        "conv_bias": True, "conv_dims": (32, 64, 96, 128, 192, 256, 256), "feature_norm": "layer", "norm_order": "pre",
        "normalize_waveform": True, "dim": 256, "num_layers": 4, "num_heads": 4, "ffn_dim": 1024,
        "pos_conv_kernel": 32, "feature_grad_scale": 1.0, "dropout": 0.0, "attention_dropout": 0.0,
        "feature_dropout": 0.0, "layer_drop": 0.0,
    },
}  # fmt: skip


class ModelConfig(Section):
    """The encoder that is kept after pre-training. Defaults are the paper's BASE.

    ``preset`` fills every key that is not given; the resolved values are what is saved beside the weights.
    """

    preset: Literal["wav2vec2_base", "wav2vec2_large", "small", "tiny_cpu"] = "wav2vec2_base"
    sample_rate_hz: Count = 16_000
    normalize_waveform: bool = False
    """Zero mean and unit variance per utterance, over its real samples."""

    front_end: Literal["conv", "mel"] = "conv"
    """What makes latents of a waveform: the paper's conv stack, which learns, or log-mel energies, which cost a few
    percent of it (docs/decisions/0012). ``mel`` knows no ``conv_*``, ``feature_norm`` and ``feature_grad_scale``."""
    mel_bands: Annotated[int, Field(ge=1, le=512)] = 80
    mel_window_ms: Annotated[float, Field(ge=1, le=200)] = 25.0
    mel_hop_ms: Annotated[float, Field(ge=1, le=100)] = 10.0
    """Between the starts of windows; at most ``mel_window_ms``."""
    mel_stack: Annotated[int, Field(ge=1, le=8)] = 2
    """Windows a frame: 2 of 10 ms give 50 frames a second."""
    mel_min_hz: NonNegative = 0.0
    """Lower edge of the first band."""
    mel_max_hz: Positive = 8000.0
    """Upper edge of the last band; at most half of ``sample_rate_hz``."""

    conv_dims: tuple[Count, ...] = (512,) * 7
    conv_kernels: tuple[Count, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[Count, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    feature_norm: Literal["group", "layer"] = "group"
    feature_grad_scale: NonNegative = 0.1
    """Factor on the gradient that reaches the feature encoder."""
    feature_dropout: Rate = 0.1
    """Dropout on the projected features, before masks meet the transformer (fairseq: dropout_input)."""

    context_stride: Annotated[int, Field(ge=1, le=16)] = 1
    """Frames that the transformer blocks see as one: 2 runs them at 25 Hz where frames come at 50
    (docs/decisions/0012). The encoder gives frames at the full rate whatever this is."""
    dim: Count = 768
    num_layers: Count = 12
    num_heads: Count = 12
    ffn_dim: Count = 3072
    block_conv_kernel: NonNegativeCount = 0
    """Frames, of those that the blocks see, over which each block mixes neighbours before its attention; an odd number
    (9 are 360 ms at 25 Hz), or 0: blocks without that part (docs/decisions/0053)."""
    norm_order: Literal["pre", "post"] = "post"
    pos_conv_kernel: Count = 128
    pos_conv_groups: Count = 16
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation_dropout: Rate = 0.0
    layer_drop: Rate = Field(default=0.05)
    layer_norm_eps: float = Field(default=1e-5, gt=0, le=1e-2)
    adapter_dim: NonNegativeCount = 0
    """Width of a bottleneck after each block, which `finetune` puts there (``adapt.adapter_dim``); 0: none."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict):
            front_end = values.get("front_end", "conv")
            idle = [key for kind, keys in OF_FRONT_END.items() if kind != front_end for key in keys if key in values]
            if idle and front_end in tuple(OF_FRONT_END):
                raise ValueError(
                    f"{', '.join(idle)} must not be given where front_end is {front_end!r}: it has no such part"
                )
            return {**PRESETS.get(str(values.get("preset")), {}), **values}
        return values

    @model_serializer(mode="wrap")
    def _leave_out_idle(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is saved: all settings but those of parts that the model does not have.

        So a model of the paper's parts is saved as it was before there were others, and a run of then can be resumed.
        """
        idle = {key for kind, keys in OF_FRONT_END.items() if kind != self.front_end for key in keys}
        idle |= {key for key, plain in _PLAIN.items() if getattr(self, key) == plain}
        return {key: value for key, value in serialize(self).items() if key not in idle}

    @model_validator(mode="after")
    def _check_shapes(self) -> ModelConfig:
        lengths = {len(self.conv_dims), len(self.conv_kernels), len(self.conv_strides)}
        faults = []
        if len(lengths) > 1:
            faults.append(
                "conv_dims, conv_kernels and conv_strides must have one value a layer, got "
                f"{len(self.conv_dims)}, {len(self.conv_kernels)} and {len(self.conv_strides)} values"
            )
        for key in ("num_heads", "pos_conv_groups"):
            if self.dim % getattr(self, key):
                faults.append(f"dim must be a multiple of {key}, got {self.dim} and {getattr(self, key)}")
        if self.block_conv_kernel and self.block_conv_kernel % 2 == 0:
            faults.append(
                "block_conv_kernel must be odd, for as many frames on either side, or 0 for none, got "
                f"{self.block_conv_kernel}"
            )
        if self.front_end == "mel":
            faults += self._mel_faults()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _mel_faults(self) -> list[str]:
        faults = []
        if self.mel_window_samples < self.mel_hop_samples:
            faults.append(f"mel_hop_ms must be <= mel_window_ms ({self.mel_window_ms:g}), got {self.mel_hop_ms:g}")
        if not self.mel_min_hz < self.mel_max_hz <= self.sample_rate_hz / 2:
            faults.append(
                f"mel_min_hz < mel_max_hz <= sample_rate_hz / 2 must hold, got {self.mel_min_hz:g}, "
                f"{self.mel_max_hz:g} and {self.sample_rate_hz / 2:g}"
            )
        elif self.mel_window_samples < 2 or self.mel_hop_samples < 1:
            faults.append(f"mel_window_ms and mel_hop_ms must span samples at sample_rate_hz {self.sample_rate_hz}")
        else:
            bin_hz = self.sample_rate_hz / fft_samples(self.mel_window_samples)
            empty = count_empty_mel_bands(self.mel_bands, (self.mel_min_hz, self.mel_max_hz), bin_hz=bin_hz)
            if empty:
                faults.append(
                    f"mel_bands must be few enough for a window of {self.mel_window_ms:g} ms: {empty} of "
                    f"{self.mel_bands} lie between two bins of {bin_hz:g} Hz; take fewer, or a longer window"
                )
        return faults

    @property
    def mel_window_samples(self) -> int:
        """Samples of a spectrum's window."""
        return round(self.mel_window_ms * self.sample_rate_hz / 1000)

    @property
    def mel_hop_samples(self) -> int:
        """Samples between the starts of neighbouring windows."""
        return round(self.mel_hop_ms * self.sample_rate_hz / 1000)

    @property
    def geometry(self) -> ConvGeometry:
        """The samples-to-frames arithmetic of the front end."""
        if self.front_end == "mel":
            return ConvGeometry.of_stacked_windows(self.mel_window_samples, self.mel_hop_samples, stack=self.mel_stack)
        return ConvGeometry(self.conv_kernels, self.conv_strides)

    @property
    def latent_dim(self) -> int:
        """C, width of the latents that the front end gives."""
        return self.mel_bands * self.mel_stack if self.front_end == "mel" else self.conv_dims[-1]
