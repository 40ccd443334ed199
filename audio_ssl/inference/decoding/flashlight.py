"""Beam search of flashlight-text through torchaudio, with the same meaning of weights as ours."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.data.text import PAD, UNKNOWN, WORD_SEPARATOR, Vocabulary
from audio_ssl.errors import ConfigError, MissingExtraError
from audio_ssl.inference.decoding.settings import DecodeSettings, Hypothesis, LogProbs


class FlashlightDecoder:
    """Beam search of flashlight-text through torchaudio.

    Args:
        vocabulary: names the columns.
        settings: lexicon, language model and weights.

    Raises:
        MissingExtraError: flashlight-text (or, with a language model, kenlm) is not installed.
        ConfigError: a file cannot be read, a word cannot be spelled, or a language model came without a lexicon.
    """

    def __init__(self, vocabulary: Vocabulary, settings: DecodeSettings) -> None:
        if settings.lm is not None and settings.lexicon is None:
            raise ConfigError("--lm must come with --lexicon: the language model scores words, a lexicon says which")
        if settings.lm is not None and not settings.lm.is_file():
            raise ConfigError(f"--lm must be a KenLM file (.arpa or binary), there is no {settings.lm}")
        self._vocabulary, self._has_lexicon = vocabulary, settings.lexicon is not None
        if settings.lexicon is None:
            self._decoder = _build(vocabulary, settings, lexicon=None)
            return
        entries = read_lexicon(settings.lexicon, vocabulary)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lexicon.txt"
            file.write_text("".join(f"{word} {' '.join(symbols)}\n" for word, symbols in entries), encoding="utf-8")
            self._decoder = _build(vocabulary, settings, lexicon=file)

    def __call__(self, log_probs: LogProbs) -> str:
        """(T, A) float32 to text: the best hypothesis."""
        return next((hypothesis.text for hypothesis in self.nbest(log_probs, 1)), "")

    def nbest(self, log_probs: LogProbs, n: int) -> list[Hypothesis]:
        """(T, A) float32 to at most ``n`` hypotheses of different texts, best first."""
        import torch

        if self._has_lexicon:
            log_probs = np.concatenate([log_probs, self._closing_frame()])
        emissions = torch.from_numpy(np.ascontiguousarray(log_probs, dtype=np.float32))[None]  # (T, A) -> (1, T, A)
        found = dict[str, float]()
        for hypothesis in self._decoder(emissions)[0]:
            text = (
                " ".join(hypothesis.words)
                if self._has_lexicon
                else self._vocabulary.decode_ids(hypothesis.tokens.tolist())
            )
            found.setdefault(text, float(hypothesis.score))
        return [Hypothesis(text, score) for text, score in found.items()][:n]

    def _closing_frame(self) -> LogProbs:
        """A frame that ends the last word: transcripts have no separator at their end, lexicon words do.

        The other symbols stay possible (e^-30), as a way out where no hypothesis stands at the end of a word.
        """
        frame = np.full((1, len(self._vocabulary)), -30.0, dtype=np.float32)
        frame[0, self._vocabulary.index[WORD_SEPARATOR]] = 0.0
        return frame


def read_lexicon(path: Path, vocabulary: Vocabulary) -> list[tuple[str, tuple[str, ...]]]:
    """Words with their spellings, each ending with the word separator.

    Args:
        path: UTF-8 text, one word a line, optionally a tab and its symbols parted by spaces.
        vocabulary: the symbols that may be used.

    Raises:
        ConfigError: unreadable, empty, or with words that the vocabulary cannot spell; all in one message.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--lexicon must be a UTF-8 text file with one word a line: {error}") from error
    entries, faults = dict[tuple[str, tuple[str, ...]], None](), []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, tab, spelling = line.partition("\t")
        word = vocabulary.normalize(word)
        symbols = tuple(s for s in spelling.split() if s != WORD_SEPARATOR) if tab else tuple(word)
        odd = sorted({s for s in symbols if s not in vocabulary.symbols or s in (PAD, UNKNOWN, WORD_SEPARATOR)})
        if odd or not symbols or " " in word:
            faults.append(
                f"{path}:{number}: {line.strip()!r} cannot be spelled" + (f" ({' '.join(odd)})" if odd else "")
            )
        entries[word, (*symbols, WORD_SEPARATOR)] = None
    if faults or not entries:
        shown = "\n".join(f"  - {fault}" for fault in faults[:10]) or "  - it holds no word"
        more = f"\n  - and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise ConfigError(f"--lexicon must hold words that this model's symbols can spell:\n{shown}{more}")
    return list(entries)


def _build(vocabulary: Vocabulary, settings: DecodeSettings, *, lexicon: Path | None) -> Any:
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:  # torchaudio turns the missing package into a RuntimeError
        raise MissingExtraError(
            "--decoder beam must have flashlight-text (and kenlm for --lm): pip install 'audio_ssl[lm]', "
            "or use --decoder greedy"
        ) from error
    try:
        return ctc_decoder(
            lexicon=None if lexicon is None else str(lexicon),
            tokens=list(vocabulary.symbols),
            lm=None if settings.lm is None else str(settings.lm),
            beam_size=settings.beam_size,
            beam_threshold=settings.beam_threshold,
            nbest=settings.beam_size,
            lm_weight=settings.lm_weight * math.log(10),  # flashlight multiplies KenLM's log10 P
            word_score=settings.word_score,
            blank_token=PAD,
            sil_token=WORD_SEPARATOR,
            unk_word=UNKNOWN,
            log_add=True,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if "KenLM is not installed" in str(error):
            raise MissingExtraError("--lm must have kenlm: pip install 'audio_ssl[lm]'") from error
        raise ConfigError(f"the beam search must be able to use these files: {error}") from error
