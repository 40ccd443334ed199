"""A small probe of the encoder while it is being pre-trained: the curve of its usefulness beside that of its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from audio_ssl.config.section import Count, NonNegativeCount, Section


class OnlineProbeConfig(Section):
    """Which tasks the frozen encoder is measured on, how often and how thoroughly; see docs/probing.md."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Shipped tasks such as ``digits``, or TOML files; of any kind but ``recognise``."""
    corpora: Path | None = None
    """Folder that the tasks' data are named from; None: the environment variable AUDIO_SSL_CORPORA."""
    every: Count = 500
    """Updates between probes; there is one before the first update and one after the last, too."""
    max_items: Count = 600
    """Utterances of a task, taken evenly over its parts, labels and speakers."""
    layer: NonNegativeCount | Literal["all"] = "all"
    """``all``: a learned sum of all layers, or the one that is best on other items; or one by its number, which is
    cheaper: 0 is the input of block 1, n the output of block n."""
