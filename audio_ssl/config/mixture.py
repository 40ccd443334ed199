"""Settings of mixtures: how much of an epoch each source of training audio is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from audio_ssl.config.section import Positive, Section


class MixtureConfig(Section):
    """Shares of the audio that an epoch holds, by source (``docs/mixtures.md``); exactly one rule is given.

    Validation data are never mixed.
    """

    by: Literal["manifest", "language"] = "manifest"
    """What a source is: a manifest of ``data.train``, named after its file (``sv`` for ``corpora/sv.arrow``), or a
    language; rows of no known language are the source ``unknown``."""
    weights: Mapping[str, Positive] | None = None
    """Source to its share relative to the others; every source must be named."""
    temperature: float | None = None
    """Shares follow hours^(1 / temperature): 1 leaves them as they are, larger values make them more even."""

    @model_validator(mode="after")
    def _one_rule(self) -> MixtureConfig:
        if (self.weights is None) == (self.temperature is None):
            both = "neither is" if self.weights is None else "both are"
            raise ValueError(f"one of weights and temperature must be given, {both}")
        if self.temperature is not None and self.temperature < 1:
            raise ValueError(
                f"temperature must be >= 1, got {self.temperature:g}: for an exponent of the hours, as alpha = 0.5 in "
                "papers, give 1 / alpha = 2"
            )
        return self
