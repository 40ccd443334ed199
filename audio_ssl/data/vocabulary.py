"""Vocabularies of models: read from a model's ``[ctc]`` section, and made anew for a head that starts from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio_ssl.config import validate_config
from audio_ssl.config.text import TextRules, with_text_rules
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import CheckpointError


def vocabulary_in(section: Mapping[str, Any], *, source: Path | str) -> Vocabulary:
    """The vocabulary of a recogniser.

    Args:
        section: ``[ctc]`` of its document, as read from a model directory of any age.
        source: of the section, for messages.

    Raises:
        CheckpointError: no symbols, or no rules.
        ConfigError: symbols or rules that cannot be.
    """
    return Vocabulary(tuple(section["symbols"]), rules_in(section, source=source))


def rules_in(section: Mapping[str, Any], *, source: Path | str) -> TextRules:
    """The text rules of a ``[ctc]`` section.

    Raises:
        CheckpointError: neither is there, or something else stands there.
        ConfigError: rules that cannot be.
    """
    ctc = with_text_rules(section)
    if not isinstance(ctc.get("text"), Mapping):
        found = {key: ctc[key] for key in ("text", "lowercase") if key in ctc} or "neither"
        raise CheckpointError(
            f"{source} must have a section [ctc.text] with the text rules of its model (in older models ctc.lowercase, "
            f"true or false), got {found!r:.80}; copy it again"
        )
    return validate_config(TextRules, dict(ctc["text"]), source=f"{source} [ctc.text]")
