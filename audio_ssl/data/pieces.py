"""Vocabularies of parts of words, found and spelled by SentencePiece (Kudo & Richardson 2018; extra ``sentencepiece``).

A piece that starts a word starts with ``▁``; no symbol stands between words. Words are spelled one by one, so a text is
spelled as its words are.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from audio_ssl.config.text import TextRules
from audio_ssl.data.normalize import UNKNOWN_SHOWN
from audio_ssl.data.text import PAD, UNKNOWN, Vocabulary, count_characters, letters_of
from audio_ssl.errors import ConfigError, MissingExtraError

WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
_WORDS_KEPT = 1 << 17  # spellings remembered; a text's words repeat


@dataclass(frozen=True)
class PieceVocabulary(Vocabulary):
    """Pieces and their indices; made by :meth:`of_model`.

    Attributes:
        model: the SentencePiece model, as its file is.
    """

    model: bytes = b""

    @classmethod
    def of_model(cls, model: bytes, *, rules: TextRules, source: Path | str) -> PieceVocabulary:
        """The vocabulary of a SentencePiece model: ``<pad>`` at 0, ``<unk>``, then its pieces in their order.

        Args:
            model: content of a ``.model`` file. Its control symbols (``<s>`` ...) are left out.
            rules: what a text goes through before the model's own normalisation.
            source: of the model, for messages.

        Raises:
            ConfigError: no model, or one whose pieces are no parts of words.
            MissingExtraError: SentencePiece is not installed.
        """
        processor = _processor(model, source)
        pieces = [p for i, p in enumerate(_all_pieces(processor)) if _is_text(processor, i)]
        faults = [f"the piece {p!r} reaches over words" for p in pieces if WORD_START in p[1:]]
        if any(processor.is_byte(i) for i in range(processor.get_piece_size())):
            faults.append("it falls back to bytes, which are no text until others follow")
        if not processor.encode("a", out_type=str)[0].startswith(WORD_START):
            faults.append("words do not start with their mark (add_dummy_prefix, and no whitespace as suffix)")
        if faults:
            raise ConfigError(f"{source} must have pieces that are parts of words, but {'; '.join(faults[:5])}")
        return cls((PAD, UNKNOWN, *pieces), rules, model)

    @property
    def separator(self) -> int | None:
        """None: pieces tell themselves where words start."""
        return None

    def normalize(self, text: str) -> str:
        """The text by the model's rules, then by what its SentencePiece model does to it (often nothing)."""
        # its mark for word starts would become a space; it is unknown instead
        words = super().normalize(text).replace(WORD_START, UNKNOWN_SHOWN).split()
        return " ".join(filter(None, map(self._pieces.normalize, words)))

    def spell(self, word: str) -> tuple[int, ...]:
        """The pieces of one normalised word; each character that no piece has is one ``<unk>``."""
        return self._pieces.spell(word)

    def words_of(self, ids: Sequence[int]) -> list[slice]:
        """Which labels make each word of ``decode_ids(ids)``: from a piece that starts one up to the next such."""
        bounds = [0, *(i for i, label in enumerate(ids) if self._shown[label].startswith(" ")), len(ids)]
        groups = [slice(a, b) for a, b in pairwise(bounds)]
        return [group for group in groups if "".join(self._shown[label] for label in ids[group]).strip()]

    def grown(self, texts: Iterable[str], *, min_count: int = 1) -> Vocabulary:
        """This vocabulary, which cannot grow: its pieces were found together.

        Raises:
            ConfigError: the transcripts have characters that no piece has.
        """
        counts = count_characters(texts, rules=self.rules)
        new = [c for c in letters_of(counts, min_count=min_count) if self.lacks(c)]
        if new:
            raise ConfigError(
                f"the transcripts must be spelled with the model's {len(self)} pieces, which cannot grow, but they "
                f"have {' '.join(map(repr, new[:20]))}; set vocabulary.min_count above their number "
                'to let them be <unk>, or ctc.old_head = "new" for a head with pieces of its own'
            )
        return self

    def scores(self) -> list[float]:
        """What the model gives each piece, from index 2 on: log-probabilities (unigram) or ranks (BPE)."""
        return self._pieces.scores

    def lacks(self, character: str) -> bool:
        """Whether a character of a normalised text becomes ``<unk>`` (as far as it can tell without its neighbours)."""
        return self.index[UNKNOWN] in self.spell(character)

    @classmethod
    def _special(cls) -> tuple[str, ...]:
        return PAD, UNKNOWN

    @property
    def _pieces(self) -> _Pieces:
        return _pieces_of(self.model)  # not held here: a vocabulary goes to other processes, a processor does not

    @cached_property
    def _shown(self) -> tuple[str, ...]:
        return tuple(shown.replace(WORD_START, " ") for shown in super()._shown)


class _Pieces:
    """A SentencePiece processor in our numbering of pieces.

    Args:
        model: content of its file.
    """

    def __init__(self, model: bytes) -> None:
        processor = _processor(model, "the model's SentencePiece file")
        kept = [i for i in range(processor.get_piece_size()) if _is_text(processor, i)]
        self._processor, self._unknown = processor, processor.unk_id()
        self.scores = [float(processor.get_score(i)) for i in kept]
        self._ours = {theirs: ours for ours, theirs in enumerate(kept, start=2)}
        self.spell = lru_cache(_WORDS_KEPT)(self._spell)
        self.normalize = lru_cache(_WORDS_KEPT)(self._normalize)

    def _spell(self, word: str) -> tuple[int, ...]:
        labels: list[int] = []
        pieces = self._processor.encode(word, out_type=str)
        for piece, theirs in zip(pieces, self._processor.encode(word, out_type=int), strict=True):
            # a run of unknown characters is one piece there
            num_unknown = max(1, len(piece.removeprefix(WORD_START)))
            labels += [1] * num_unknown if theirs == self._unknown else [self._ours[theirs]]
        return tuple(labels)

    def _normalize(self, word: str) -> str:
        parts = [self._processor.normalize(part) for part in word.split(UNKNOWN_SHOWN)]
        return UNKNOWN_SHOWN.join(part.replace(WORD_START, " ").strip() for part in parts)


@cache
def _pieces_of(model: bytes) -> _Pieces:
    return _Pieces(model)


def train_pieces(
    texts: Iterable[str], *, rules: TextRules, num_pieces: int, kind: Literal["unigram", "bpe"], min_count: int = 1
) -> bytes:
    """Train a SentencePiece model on transcripts; the same ones give the same model.

    Args:
        texts: transcripts, not yet normalised. All are heard, whatever their length.
        rules: what they go through.
        num_pieces: pieces wanted, ``<pad>`` and ``<unk>`` included.
        kind: how they are found.
        min_count: characters seen less often get no piece.

    Returns:
        What a ``.model`` file holds.

    Raises:
        ConfigError: the transcripts do not have that many pieces, or more characters than pieces.
        MissingExtraError: SentencePiece is not installed.
    """
    texts = list(texts)
    counts = count_characters(texts, rules=rules)
    known = {*letters_of(counts, min_count=min_count), " "} - {WORD_START}
    gone = dict.fromkeys(map(ord, counts.keys() - known), " ")
    vocabulary = Vocabulary((PAD, UNKNOWN, "|"), rules)
    sentences = [vocabulary.normalize(text).translate(gone) for text in texts]
    file = io.BytesIO()
    try:
        _package().SentencePieceTrainer.train(
            sentence_iterator=iter(sentences), model_writer=file, vocab_size=num_pieces, model_type=kind,
            normalization_rule_name="identity", character_coverage=1.0, num_threads=1, minloglevel=2,
            max_sentence_length=1 + max(len(s.encode()) for s in sentences),  # longer ones would be passed over
            pad_id=0, pad_piece=PAD, unk_id=1, unk_piece=UNKNOWN, bos_id=-1, eos_id=-1,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise ConfigError(
            f"vocabulary.num_pieces must suit the transcripts, which have {len(known) - 1} characters, got "
            f"{num_pieces}: SentencePiece says: {str(error).strip().rsplit('] ', 1)[-1]}"
        ) from error
    return file.getvalue()


def read_pieces(path: Path) -> bytes:
    """The content of a ``.model`` file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"vocabulary.pieces_from must be a SentencePiece .model file: {error}") from error


def _is_text(processor: Any, piece: int) -> bool:
    """Whether a piece is part of a text: neither padding nor unknown, control or unused."""
    return not (processor.is_control(piece) or processor.is_unknown(piece) or processor.is_unused(piece))


def _all_pieces(processor: Any) -> list[str]:
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size())]


def _processor(model: bytes, source: Path | str) -> Any:
    package = _package()
    try:
        return package.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{source} must be a SentencePiece model, it cannot be read as one ({error})") from error


def _package() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtraError(
            "a vocabulary of pieces must have SentencePiece: pip install 'audio_ssl[sentencepiece]'"
        ) from error
    return sentencepiece
