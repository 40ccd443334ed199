"""The file of a learned weighted sum of layers, as a probe writes it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audio_ssl.errors import ConfigError

_SUM_TOLERANCE = 1e-4  # a softmax in float32, written with six digits
_KEYS = ("weights", "layer_norm", "model_hash")


@dataclass(frozen=True)
class LayerWeights:
    """How much of each layer goes into a weighted sum (ELMo, 1802.05365, eq. 1, after its softmax; gamma is 1).

    Attributes:
        values: num_layers + 1 numbers >= 0 that sum to 1, from layer 0 (the input of block 1) on.
        layer_norm: whether each layer is brought to zero mean and unit variance over D before (s3prl: ``normalize``).
        model_hash: names the weights of the model that they were learned on; None where nobody said.
        source: file, for messages.
    """

    values: tuple[float, ...]
    layer_norm: bool = False
    model_hash: str | None = None
    source: str = "layer weights"

    def __post_init__(self) -> None:
        faults = [f"number {n} is {v!r}" for n, v in enumerate(self.values) if not (math.isfinite(v) and v >= 0)]
        if not faults and abs(math.fsum(self.values) - 1) > _SUM_TOLERANCE:
            faults = [f"their sum is {math.fsum(self.values):g}; put them through a softmax first"]
        if faults:
            raise ConfigError(f"{self.source}: weights must be numbers >= 0 that sum to 1, but {'; '.join(faults[:5])}")

    def check(self, num_layers: int) -> None:
        """Refuse weights of a model of another depth.

        Raises:
            ConfigError: there are not ``num_layers + 1`` of them.
        """
        if len(self.values) != num_layers + 1:
            raise ConfigError(
                f"{self.source}: weights must be {num_layers + 1} numbers for this model (the input of block 1 and "
                f"{num_layers} blocks), got {len(self.values)}; they were learned on another model"
            )

    def check_model(self, model_hash: str) -> None:
        """Refuse weights that were learned on another model, where they name theirs.

        Raises:
            ConfigError: they do.
        """
        if self.model_hash not in (None, model_hash):
            raise ConfigError(
                f"{self.source}: model_hash must be that of MODEL, {model_hash}, got {self.model_hash}: the weights "
                "were learned on another model. Give that model, or leave model_hash out of the file to use them anyway"
            )


def read_layer_weights(path: Path | str) -> LayerWeights:
    """Read ``{"weights": [...], "layer_norm": false, "model_hash": "..."}``; the last may be left out.

    Raises:
        ConfigError: not such a file.
    """
    try:
        document: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} must be a JSON file of layer weights: {error}") from error
    document = document if isinstance(document, dict) else {}
    unknown = sorted(set(document) - set(_KEYS))
    if unknown:
        raise ConfigError(f"{path}: {', '.join(unknown)} is no key of layer weights ({', '.join(_KEYS)})")
    values, layer_norm, model_hash = (document.get(key) for key in _KEYS)
    is_list = isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    for is_right, rule in (
        (is_list, "weights must be a list of numbers"),
        (isinstance(layer_norm, bool), "layer_norm must be true or false"),
        (model_hash is None or isinstance(model_hash, str), "model_hash must be a text of hex digits, or left out"),
    ):
        if not is_right:
            raise ConfigError(f'{path}: {rule}, as in {{"weights": [0.25, 0.75], "layer_norm": false}}')
    return LayerWeights(tuple(map(float, values)), layer_norm, model_hash, str(path))
