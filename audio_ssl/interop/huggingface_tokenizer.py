"""Tokenizers for transformers, which turn its greedy output into our text: of characters, and of pieces.

Neither normalises: a transcript is given to them as :meth:`audio_ssl.data.text.Vocabulary.normalize` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audio_ssl.data.normalize import UNKNOWN_SHOWN
from audio_ssl.data.pieces import WORD_START, PieceVocabulary
from audio_ssl.data.text import Vocabulary
from audio_ssl.interop.symbols import BLANK, SEPARATOR, UNKNOWN

VOCABULARY, TOKENIZER, FAST = "vocab.json", "tokenizer_config.json", "tokenizer.json"
SPECIAL = "special_tokens_map.json"


def tokenizer_files(vocabulary: Vocabulary) -> dict[str, Any]:
    """Name and content of the JSON files that make a recogniser's tokenizer.

    Characters become a ``Wav2Vec2CTCTokenizer``, which also gives times. It has no parts of words, so pieces become a
    ``PreTrainedTokenizerFast`` with a CTC decoder, which gives text alone.
    """
    symbols = _their_symbols(vocabulary.symbols)
    specials = {"pad_token": BLANK, "unk_token": symbols[vocabulary.index[UNKNOWN]]}
    common = {**specials, "processor_class": "Wav2Vec2Processor", "clean_up_tokenization_spaces": False}
    if isinstance(vocabulary, PieceVocabulary):
        tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", **common}
        return {FAST: _fast_tokenizer(vocabulary, symbols), TOKENIZER: tokenizer, SPECIAL: specials}
    tokenizer = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer", **common,
        "bos_token": "<s>" if "<s>" in symbols else None, "eos_token": "</s>" if "</s>" in symbols else None,
        "word_delimiter_token": SEPARATOR, "replace_word_delimiter_char": " ",
        # transformers' flag of this name turns text to upper case, and back to lower case what it decodes
        "do_lower_case": False,
    }  # fmt: skip
    return {VOCABULARY: {symbol: row for row, symbol in enumerate(symbols)}, TOKENIZER: tokenizer, SPECIAL: specials}


def _their_symbols(symbols: Sequence[str]) -> list[str]:
    """Unknown under the name that we show, so that transformers shows the same."""
    is_free = UNKNOWN_SHOWN not in symbols
    return [UNKNOWN_SHOWN if symbol == UNKNOWN and is_free else symbol for symbol in symbols]


def _fast_tokenizer(vocabulary: PieceVocabulary, symbols: Sequence[str]) -> dict[str, Any]:
    """A ``tokenizer.json``: SentencePiece's own segmentation forwards, CTC's collapse backwards."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": row, "content": symbols[row], **flags} for row in (0, 1)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always", "split": True,
        },
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "CTC", "pad_token": BLANK, "word_delimiter_token": WORD_START, "cleanup": False},
            {"type": "Replace", "pattern": {"String": WORD_START}, "content": " "},
            {"type": "Fuse"},
            {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "},
            {"type": "Strip", "content": " ", "start": 1, "stop": 1},
        ]},
        "model": _segmentation(vocabulary.scores(), symbols),
    }  # fmt: skip


def _segmentation(scores: Sequence[float], symbols: Sequence[str]) -> dict[str, Any]:
    """SentencePiece's two models: a score a piece is a log-probability (unigram), or its rank (BPE: 0, -1, -2 ...)."""
    if list(scores) != [-float(rank) for rank in range(len(scores))]:
        vocab = [[symbol, score] for symbol, score in zip(symbols, [0.0, 0.0, *scores], strict=True)]
        return {"type": "Unigram", "unk_id": 1, "vocab": vocab, "byte_fallback": False}
    index = {symbol: row for row, symbol in enumerate(symbols)}
    # Each piece is where two others were joined; which two was best there, their ranks tell.
    merges = [
        (max(index[a], index[b]), index[piece], a, b)
        for piece in symbols[2:]
        for a, b in ((piece[:i], piece[i:]) for i in range(1, len(piece)))
        if a in index and b in index
    ]
    ordered = sorted(merges, key=lambda merge: (merge[1], merge[0]))
    return {
        "type": "BPE", "dropout": None, "unk_token": symbols[1], "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": index, "merges": [[a, b] for _, _, a, b in ordered],
    }  # fmt: skip
