"""Which frames of an encoder are asked for, and the forward pass that gives them.

What the numbers mean beside fairseq, transformers, torchaudio and s3prl: ``docs/embeddings.md``, "Layers".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_ssl.checkpoint import load_strict, with_prefix
from audio_ssl.config import Wav2Vec2Config, validate_config
from audio_ssl.errors import ConfigError
from audio_ssl.inference.layer_weights import LayerWeights, read_layer_weights
from audio_ssl.interop.source import read_model, weights_hash
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.files import ModelFiles
from audio_ssl.model.time_stats import TimeStats
from audio_ssl.objective.quantizer import GumbelQuantizer

Layers: TypeAlias = int | str | Sequence[int | str] | LayerWeights | None
"""Everything that :func:`choose_layer` takes."""

_NAMES = ("last", "all", "conv", "codes")


@dataclass(frozen=True)
class LayerChoice:
    """A validated ``--layer``.

    Attributes:
        name: ``last``, ``all``, ``conv``, ``codes``, numbers as text (``6`` or ``6,9``), or ``weighted-`` and 8 hex
            digits that name the weights.
        numbers: the layers that are given one by one, in this order; none for the others.
        is_stacked: whether frames have an axis of layers in front, (L, T, D).
        weights: of a weighted sum.
        quantizer: of ``codes``, on the encoder's device.
    """

    name: str
    numbers: tuple[int, ...] = ()
    is_stacked: bool = False
    weights: LayerWeights | None = None
    quantizer: GumbelQuantizer | None = None

    @property
    def convention(self) -> str:
        """What the frames are, for whoever opens the files years later."""
        if self.weights is not None:
            return _weighted_convention(self.weights)
        if self.name == "last":
            return "output of the context network (after its final layer norm where it is pre-LN)"
        if self.name == "conv":
            return "latents: output of the feature encoder after the layer norm of the feature projection"
        if self.name == "codes":
            return "axis 1: the quantizer's groups; the number, from 0, of the entry with the highest logit"
        if self.name == "all":
            return "axis 0: 0 = input of block 1 (after the positional conv), n = output of block n"
        named = [_named(number) for number in self.numbers]
        return f"axis 0: {', '.join(named)}" if self.is_stacked else named[0]

    @property
    def deepest(self) -> int | None:
        """The last block that has to run; None for all of them and the network's own norm."""
        if self.weights is not None:
            return max(n for n, weight in enumerate(self.weights.values) if weight > 0)
        return max(self.numbers, default=None)

    def frame_size(self, encoder: Encoder) -> int:
        """Numbers that a frame has."""
        if self.quantizer is not None:
            return self.quantizer.num_groups
        return encoder.latent_dim if self.name == "conv" else encoder.dim * max(len(self.numbers), 1)

    @property
    def is_local(self) -> bool:
        """Whether a frame looks at its own samples alone, so that those of windows are those of the whole."""
        return self.name in ("conv", "codes")

    @property
    def is_repeated(self) -> bool:
        """Whether a squeezed network gives each of its blocks' frames several times in a row."""
        return self.weights is not None or bool(self.numbers)


def _named(number: int) -> str:
    return "input of block 1 (after the positional conv)" if number == 0 else f"output of block {number}"


def _weighted_convention(weights: LayerWeights) -> str:
    terms = " + ".join(f"{weight:g} * layer {n}" for n, weight in enumerate(weights.values) if weight > 0)
    normed = ", each layer normed over D before" if weights.layer_norm else ""
    return f"{terms}{normed}; layer 0 = input of block 1 (after the positional conv), n = output of block n"


def choose_layer(layer: Layers, *, num_layers: int, quantizer: GumbelQuantizer | None = None) -> LayerChoice:
    """Validate a layer, or several.

    Args:
        layer: None or ``last``; n from 0 to ``num_layers``, also as text; several as ``6,9`` or a list; ``all``,
            ``conv`` or ``codes``; or weights.
        num_layers: blocks of the encoder.
        quantizer: the model's, for ``codes``; see :func:`model_quantizer`.

    Raises:
        ConfigError: none of these, or codes of a model that has no quantizer.
    """
    if isinstance(layer, LayerWeights):
        layer.check(num_layers)
        return LayerChoice(f"weighted-{_digest(layer)}", weights=layer)
    word = "last" if layer is None else layer.strip().lower() if isinstance(layer, str) else ""
    if word == "codes":
        if quantizer is None:
            raise ConfigError(
                "--layer codes needs a model with its quantizer, and this one has none; give a checkpoint of "
                "pre-training (ours, fairseq's, fairseq2's, or transformers' ForPreTraining)"
            )
        return LayerChoice("codes", quantizer=quantizer)
    if word == "all":
        return LayerChoice("all", tuple(range(num_layers + 1)), is_stacked=True)
    if word in ("last", "conv"):
        return LayerChoice(word)
    is_list = isinstance(layer, Iterable) and not isinstance(layer, str)
    parts = list(layer) if is_list else (word or str(layer)).split(",")  # type: ignore[arg-type]
    texts = [str(part).strip() for part in parts]
    is_number = [text.isascii() and text.isdigit() and len(text) < 9 and int(text) <= num_layers for text in texts]
    numbers = tuple(map(int, texts)) if all(is_number) else ()
    if not numbers or len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"--layer must be 0 to {num_layers} (this model's blocks) or several of these, each once, as 6,9; or one "
            f"of {', '.join(_NAMES)}; got {layer!r}"
        )
    # A list stays a list, also of one: what has asked for three layers may ask for one next.
    return LayerChoice(",".join(map(str, numbers)), numbers, is_stacked=is_list or len(numbers) > 1)


def _digest(weights: LayerWeights) -> str:
    return hashlib.blake2b(repr((weights.values, weights.layer_norm)).encode(), digest_size=4).hexdigest()


def open_layer(model: str | Path, layer: str | None, weights: Path | None, *, encoder: Encoder) -> LayerChoice:
    """The choice of a command line: ``--layer`` or ``--layer-weights``.

    Args:
        model: where ``encoder`` came from.
        layer: as in :func:`choose_layer`.
        weights: the file of a learned weighted sum.
        encoder: on its device.

    Raises:
        ConfigError: both are given, or as :func:`choose_layer`, or the file is wrong or belongs to another model.
    """
    if weights is None:
        is_codes = layer is not None and layer.strip().lower() == "codes"
        quantizer = model_quantizer(read_model(model)) if is_codes else None
        if quantizer is not None:
            quantizer.to(encoder.mask_embedding.device)
        return choose_layer(layer, num_layers=encoder.num_layers, quantizer=quantizer)
    if layer is not None:
        raise ConfigError(f"--layer-weights asks for a sum of layers, --layer {layer} for others; give one of the two")
    read = read_layer_weights(weights)
    read.check_model(weights_hash(model))
    return choose_layer(read, num_layers=encoder.num_layers)


def model_quantizer(files: ModelFiles) -> GumbelQuantizer | None:
    """The quantizer of a pre-training model, in eval mode on the CPU; None where a model holds none.

    Raises:
        CheckpointError: tensors are missing, left over or misshapen.
    """
    own = with_prefix(files.tensors, "objective.quantizer.")
    if not own:
        return None
    config = validate_config(Wav2Vec2Config, files.document["objective"], source=f"{files.path} [objective]")
    quantizer = GumbelQuantizer(
        latent_dim=files.model.latent_dim, code_dim=config.code_dim,
        num_groups=config.num_groups, num_entries=config.num_entries,
    )  # fmt: skip
    load_strict(quantizer, own, source=files.path)
    return quantizer.eval()


@dataclass(frozen=True)
class LayerForward:
    """An encoder that gives the chosen frames.

    What they do not need does not run, and of what runs nothing is kept that was not asked for.

    Attributes:
        encoder: in eval mode.
        choice: which layers.
    """

    encoder: Encoder
    choice: LayerChoice

    def __call__(
        self, waveforms: Tensor, num_samples: Tensor, *, is_full: bool, time_stats: TimeStats | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode a batch.

        Args:
            waveforms: (B, S) float32.
            num_samples: (B,) int64.
            is_full: whether no row is padded.
            time_stats: as :meth:`Encoder.forward`.

        Returns:
            (B, T, D) frames, (B, L, T, D) for several layers, (B, T, C) latents or (B, T, G) codes; beyond a row's
            frames they hold anything. And (B,) frame counts.
        """
        latents, num_frames = self.encoder.feature_encoder(
            waveforms, num_samples, is_full=is_full, time_stats=time_stats
        )
        if self.choice.name == "conv":
            return self.encoder.feature_projection.norm(latents), num_frames
        if self.choice.quantizer is not None:
            return self.choice.quantizer.best_codes(self.encoder.feature_projection.norm(latents)), num_frames
        features, _ = self.encoder.feature_projection(latents)
        return self._contextualize(features, num_frames, is_full=is_full), num_frames

    def _contextualize(self, features: Tensor, num_frames: Tensor, *, is_full: bool) -> Tensor:
        choice, network = self.choice, self.encoder.context_network
        if choice.name == "last":
            return network(features, num_frames, is_full=is_full).frames  # type: ignore[no-any-return]
        taken = _Summed(choice.weights) if choice.weights is not None else _Picked(choice.numbers)
        network(features, num_frames, max_layer=choice.deepest, is_full=is_full, on_layer=taken.take)
        return taken.frames if choice.is_stacked or choice.weights is not None else taken.frames[:, 0]


class _Picked:
    """Some layers, side by side: each is copied to its places as soon as it is there."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self.frames: Tensor = torch.empty(0)

    def take(self, number: int, layer: Tensor) -> None:
        """Layer ``number``, (B, T, D)."""
        if number == 0:
            rows, width, dim = layer.shape
            self.frames = layer.new_empty((rows, len(self._numbers), width, dim), dtype=torch.float32)
        for place, wanted in enumerate(self._numbers):
            if wanted == number:
                self.frames[:, place] = layer  # (B, T, D) -> (B, L, T, D)


class _Summed:
    """The weighted sum of layers so far, in float32."""

    def __init__(self, weights: LayerWeights) -> None:
        self._weights = weights
        self.frames: Tensor = torch.empty(0)

    def take(self, number: int, layer: Tensor) -> None:
        """Layer ``number``, (B, T, D)."""
        if number == 0:
            self.frames = torch.zeros_like(layer, dtype=torch.float32)
        if self._weights.values[number] > 0:
            term = layer.float()
            if self._weights.layer_norm:
                term = F.layer_norm(term, term.shape[-1:])
            self.frames.add_(term, alpha=self._weights.values[number])
