"""Vocabularies of models: read from a model's ``[ctc]`` section, and made anew for a head that starts from nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypedDict

from audio_ssl.config import VocabularyConfig, validate_config
from audio_ssl.config.text import TextRules, with_text_rules
from audio_ssl.data.pieces import PieceVocabulary, read_pieces, train_pieces
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import CheckpointError


class VocabularyParts(TypedDict):
    """A vocabulary as a model's document keeps it.

    Attributes:
        symbols: of the rows of its head.
        rules: what a text goes through.
        sentencepiece: the model of pieces; None where symbols are characters.
    """

    symbols: tuple[str, ...]
    rules: TextRules
    sentencepiece: bytes | None


def vocabulary_in(section: Mapping[str, Any], *, source: Path | str) -> Vocabulary:
    """The vocabulary of a recogniser.

    Args:
        section: ``[ctc]`` of its document, as read from a model directory of any age.
        source: of the section, for messages.

    Raises:
        CheckpointError: no rules, or symbols that are not those of the SentencePiece model.
        ConfigError: symbols, rules or a SentencePiece model that cannot be.
        MissingExtraError: it has pieces, and SentencePiece is not installed.
    """
    symbols, rules = tuple(section["symbols"]), rules_in(section, source=source)
    model = section.get("sentencepiece")
    if model is None:
        return Vocabulary(symbols, rules)
    if not isinstance(model, bytes):
        raise CheckpointError(
            f"{source}: ctc.sentencepiece must name a file and its sha256, got {model!r:.80}; copy the model again"
        )
    pieces = PieceVocabulary.of_model(model, rules=rules, source=source)
    if pieces.symbols != symbols:
        odd = next((a, b) for a, b in zip_longest(symbols, pieces.symbols) if a != b)
        raise CheckpointError(
            f"{source}: symbols must be the pieces of the SentencePiece model beside it, but they have {odd[0]!r} "
            f"where the model has {odd[1]!r}; copy both again"
        )
    return pieces


def build_vocabulary(texts: Sequence[str], rules: TextRules, config: VocabularyConfig) -> Vocabulary:
    """The vocabulary of a fresh head.

    Args:
        texts: transcripts, not yet normalised.
        rules: what they go through.
        config: characters or pieces, and how many.

    Raises:
        ConfigError: pieces cannot be found in these transcripts, or the file of pieces is none.
        MissingExtraError: pieces are asked for, and SentencePiece is not installed.
    """
    if config.units == "characters":
        return Vocabulary.from_texts(texts, rules=rules, min_count=config.min_count)
    if config.pieces_from is not None:
        model = read_pieces(config.pieces_from)
    else:
        assert config.num_pieces is not None  # VocabularyConfig checks that one of the two is given
        model = train_pieces(
            texts, rules=rules, num_pieces=config.num_pieces, kind=config.piece_model, min_count=config.min_count
        )
    return PieceVocabulary.of_model(model, rules=rules, source=config.pieces_from or "the model trained here")


def parts_of(vocabulary: Vocabulary) -> VocabularyParts:
    """What a model's document keeps of a vocabulary (:func:`audio_ssl.model.files.ctc_document`)."""
    model = vocabulary.model if isinstance(vocabulary, PieceVocabulary) else None
    return {"symbols": vocabulary.symbols, "rules": vocabulary.rules, "sentencepiece": model}


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
