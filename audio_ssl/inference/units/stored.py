"""One layer of an embedding folder as frames: what they are, how many there are, and any stretch of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.geometry import ConvGeometry
from audio_ssl.inference.embeddings import open_embeddings
from audio_ssl.inference.folder import ERRORS_FILE
from audio_ssl.inference.layers import choose_layer
from audio_ssl.inference.source import Refusal

ORIGIN = ("model_hash", "layer", "normalized", "model_rate_hz", "hop_s", "first_centre_s")
"""Keys that say which frames these are: units of some serve others only where all of them are equal."""
NOTES = ("layer_convention", "frame_rule", "precision", "dtype")


class StoredFrames:
    """The frames of a folder.

    Args:
        folder: written by ``extract``, in any of its formats.
        layer: which of several layers; None where there is one, which then is the one.

    Attributes:
        lines: of the index, one an utterance.
        ids: of the utterances.
        num_frames: (N,) int64.
        dim: D.
        origin: the values of :data:`ORIGIN` for this layer.
        notes: those of :data:`NOTES`.
        errors: utterances that have no embeddings.

    Raises:
        ManifestError: no such folder, one that is not complete, or no frames in it to cluster.
        ConfigError: the layer is not there.
    """

    def __init__(self, folder: Path, *, layer: str | None = None) -> None:
        self.folder = folder
        self._embeddings = open_embeddings(folder)
        self.lines, self.ids = self._embeddings.lines, self._embeddings.ids
        settings = self._embeddings.settings
        self._refuse_other_kinds(settings)
        self.num_frames: NDArray[np.int64] = np.array([line["num_frames"] for line in self.lines], dtype=np.int64)
        self.dim = int(self.lines[0]["dim"])
        name, self._axis = _choose(settings, layer, whose=folder)
        convention = settings["layer_convention"]
        if self._axis is not None:
            convention = choose_layer(int(name), num_layers=int(name)).convention
        self.origin: dict[str, Any] = {key: settings[key] for key in ORIGIN} | {"layer": name}
        self.notes: dict[str, Any] = {key: settings.get(key) for key in NOTES} | {"layer_convention": convention}
        self.errors = _errors(folder)

    @property
    def hop_s(self) -> float:
        """Seconds between neighbouring frames."""
        return float(self.origin["hop_s"])

    def read(self, row: int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Frames ``start`` to ``stop`` of an utterance: (n, D) float32.

        Raises:
            ManifestError: the file cannot be read, is not what the index says, or holds NaN or infinity.
        """
        name = self._embeddings.ids[row]
        array = self._embeddings[name]
        stacked = array if self._axis is None else array[self._axis]
        if stacked.shape != (self.num_frames[row], self.dim):
            raise ManifestError(
                f"{self.folder}: {name!r} must have {self.num_frames[row]} frames of {self.dim} numbers as its index "
                f"says, its file has shape {stacked.shape}"
            )
        frames = np.array(stacked[start:stop], dtype=np.float32, order="C")
        if not np.isfinite(frames).all():
            raise ManifestError(f"{self.folder}: {name!r} must have finite frames, it has NaN or infinity")
        return frames

    def _refuse_other_kinds(self, settings: Mapping[str, Any]) -> None:
        if not self.lines:
            raise ManifestError(f"{self.folder} must hold embeddings, its index has no utterance")
        if settings["layer"] == "codes":
            raise ManifestError(
                f"{self.folder} must hold frames of a layer, it holds the quantizer's codes, which are units already"
            )
        if settings.get("pool") is not None:
            raise ManifestError(
                f"{self.folder} must hold frames, it holds one pooled vector an utterance (--pool {settings['pool']}); "
                "extract without --pool"
            )
        missing = [key for key in ORIGIN if key not in settings]
        if missing:
            raise ManifestError(
                f"{self.folder} must say {', '.join(missing)} of its frames, it does not: it was written by another "
                "version; extract again"
            )


def frames_of_length(num_samples: int, *, rate_hz: int, origin: Mapping[str, Any]) -> int:
    """Frames that an utterance must have.

    Args:
        num_samples: at its own rate.
        rate_hz: its own rate.
        origin: the values of :data:`ORIGIN`.
    """
    to_hz = int(origin["model_rate_hz"])
    hop, field = (round(origin[key] * to_hz * factor) for key, factor in (("hop_s", 1), ("first_centre_s", 2)))
    return ConvGeometry((field,), (hop,)).num_frames(-(-num_samples * to_hz // rate_hz))


def _choose(settings: Mapping[str, Any], wanted: str | None, *, whose: Path) -> tuple[str, int | None]:
    """The layer's name, and its place on the axis of layers where there is one."""
    stored, names = str(settings["layer"]), settings.get("layers")
    wanted = None if wanted is None else wanted.strip().lower()
    if not names:
        if wanted not in (None, stored):
            raise ConfigError(f"{whose} must hold layer {wanted}, it holds layer {stored}")
        return stored, None
    if wanted is None and len(names) > 1:
        raise ConfigError(f"--layer must say which of the layers in {whose}: {', '.join(names)}")
    wanted = wanted or names[0]
    if wanted not in names:
        raise ConfigError(f"{whose} must hold layer {wanted}, it holds layers {', '.join(names)}")
    return wanted, list(names).index(wanted)


def _errors(folder: Path) -> tuple[Refusal, ...]:
    path = folder / ERRORS_FILE
    if not path.is_file():
        return ()
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return tuple(Refusal(str(line["id"]), str(line["path"]), str(line["reason"])) for line in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path} must be as `audio-ssl extract` wrote it, it is not ({error!r})") from error
