"""Settings of augmentation on the fly, shared by pre-training and fine-tuning; everything is off by default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from audio_ssl.config.section import Probability, Section

MIN_SPEED, MAX_SPEED = 0.5, 2.0
Codec = Literal["ulaw", "alaw", "gsm", "opus"]
CutOff = Annotated[int, Field(ge=100)]


class AugmentConfig(Section):
    """Changes to training waveforms, in the order in which they are made (``docs/augmentation.md``).

    Each is drawn for (``run.seed``, epoch, row, copy) from a generator of its own; validation never sees any.
    """

    speed: tuple[float, ...] = ()
    """Factors, one of which is drawn for each row: 1.1 is faster and higher; 0.5 to 2, in hundredths."""
    reverb: tuple[Path, ...] = ()
    """Manifests of room impulse responses."""
    reverb_prob: Probability = 0.0
    mix_prob: Probability = 0.0
    """Share of the rows that get a stretch of another training row, over half of their length at most."""
    mix_snr_db: tuple[float, float] = (-5.0, 5.0)
    """Level of the row over that of the stretch: drawn evenly between the two."""
    noise: tuple[Path, ...] = ()
    """Manifests of noise."""
    noise_prob: Probability = 0.0
    noise_snr_db: tuple[float, float] = (-5.0, 20.0)
    """Level of the row over that of the noise: drawn evenly between the two."""
    gain_db: tuple[float, float] = (0.0, 0.0)
    """Change of level: drawn evenly between the two."""
    band_limit_hz: tuple[CutOff, ...] = ()
    """Cut-off frequencies of a low-pass, one of which is drawn."""
    band_limit_prob: Probability = 0.0
    codecs: tuple[Codec, ...] = ()
    """Telephone codecs at 8 kHz, one of which is drawn."""
    codec_prob: Probability = 0.0

    @property
    def has_gain(self) -> bool:
        """Whether levels change."""
        return self.gain_db != (0.0, 0.0)

    @property
    def is_on(self) -> bool:
        """Whether anything is."""
        probs = (self.reverb_prob, self.mix_prob, self.noise_prob, self.band_limit_prob, self.codec_prob)
        return bool(self.speed) or self.has_gain or any(probs)

    @model_validator(mode="after")
    def _check(self) -> AugmentConfig:
        faults = []
        for name in ("mix_snr_db", "noise_snr_db", "gain_db"):
            low, high = getattr(self, name)
            if low > high:
                faults.append(f"{name} must be (lowest, highest), got {low:g} and {high:g}")
        for prob, name, what in (
            ("reverb_prob", "reverb", "manifests of impulse responses"),
            ("noise_prob", "noise", "manifests of noise"),
            ("band_limit_prob", "band_limit_hz", "cut-off frequencies"),
            ("codec_prob", "codecs", "codecs"),
        ):
            if getattr(self, prob) > 0 and not getattr(self, name):
                faults.append(f"{name} must list {what} where {prob} is > 0, got none")
        odd = [s for s in self.speed if not MIN_SPEED <= s <= MAX_SPEED or abs(s * 100 - round(s * 100)) > 1e-6]
        if odd:
            faults.append(
                f"speed must hold factors from {MIN_SPEED:g} to {MAX_SPEED:g} in hundredths, got "
                f"{', '.join(f'{s:g}' for s in odd)}"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self
