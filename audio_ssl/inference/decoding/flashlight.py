"""Beam search of flashlight-text through torchaudio, for comparison: our search does what this one does, and more.

Weights mean what they mean in ours. With a lexicon both add up the same alignments (``log_add``, and a closing frame
that makes one of the texts that end with and without a separator): unpruned, they give the same scores. Without a
lexicon a separator at the end, or a second one, makes another sequence with the same text, and their probabilities are
not added.
"""

from __future__ import annotations

import math
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.data.text import PAD, UNKNOWN, WORD_SEPARATOR, Vocabulary
from audio_ssl.errors import ConfigError, MissingExtraError
from audio_ssl.inference.decoding.settings import DecodeSettings, Hypothesis, LogProbs
from audio_ssl.inference.decoding.spelling import read_lexicon


class FlashlightDecoder:
    """Beam search of flashlight-text.

    Args:
        vocabulary: names the columns; with a word separator.
        settings: lexicon, language model and weights.

    Raises:
        MissingExtraError: flashlight-text (or, with a language model, kenlm) is not installed.
        ConfigError: a file cannot be read, a word cannot be spelled, or something is asked that this engine lacks.
    """

    def __init__(self, vocabulary: Vocabulary, settings: DecodeSettings) -> None:
        _refuse_the_impossible(vocabulary, settings)
        self._vocabulary, self._has_lexicon = vocabulary, settings.lexicon is not None
        self._lock = threading.Lock()  # the library's decoder keeps its hypotheses in itself
        self._beam_size = settings.beam_size
        if settings.lexicon is None:
            self._decoder = _build(vocabulary, settings, lexicon=None)
            return
        entries = read_lexicon(settings.lexicon, vocabulary)
        lines = [f"{entry.word} {' '.join(entry.symbols)} {WORD_SEPARATOR}\n" for entry in entries]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "lexicon.txt"
            file.write_text("".join(lines), encoding="utf-8")
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
        with self._lock:
            self._decoder.nbest = 1 if n == 1 else self._beam_size  # several of them may be one text
            hypotheses = self._decoder(emissions)[0]
        found = dict[str, float]()
        for hypothesis in hypotheses:
            if self._has_lexicon:
                text = " ".join(hypothesis.words)
            else:
                text = self._vocabulary.decode_ids(hypothesis.tokens.tolist())
            found.setdefault(text, float(hypothesis.score))
        return [Hypothesis(text, score) for text, score in found.items()][:n]

    def _closing_frame(self) -> LogProbs:
        """A frame that ends the last word: transcripts have no separator at their end, lexicon words do.

        The other symbols stay possible (e^-30), as a way out where no hypothesis stands at the end of a word.
        """
        frame = np.full((1, len(self._vocabulary)), -30.0, dtype=np.float32)
        frame[0, self._vocabulary.index[WORD_SEPARATOR]] = 0.0
        return frame


def _refuse_the_impossible(vocabulary: Vocabulary, settings: DecodeSettings) -> None:
    faults = []
    if vocabulary.separator is None:
        faults.append("has no place for pieces of words")
    if settings.hot_words:
        faults.append("knows no hot words")
    if settings.lexicon is None and (settings.lm is not None or settings.word_score):
        faults.append("scores words of a lexicon alone (--lexicon)")
    if faults:
        raise ConfigError(f'engine = "flashlight" {" and ".join(faults)}; engine = "own" does this')
    if settings.lm is not None and not settings.lm.is_file():
        raise ConfigError(f"--lm must be an ARPA file or a binary file of KenLM, there is no {settings.lm}")


def _build(vocabulary: Vocabulary, settings: DecodeSettings, *, lexicon: Path | None) -> Any:
    try:
        from torchaudio.models.decoder import ctc_decoder
    except (ImportError, RuntimeError) as error:  # torchaudio turns the missing package into a RuntimeError
        raise MissingExtraError(
            "engine = \"flashlight\" must have flashlight-text (and kenlm for --lm): pip install 'audio_ssl[lm]', "
            'or leave it at "own"'
        ) from error
    try:
        return ctc_decoder(
            lexicon=None if lexicon is None else str(lexicon),
            tokens=list(vocabulary.symbols),
            lm=None if settings.lm is None else str(settings.lm),
            beam_size=settings.beam_size,
            beam_threshold=settings.beam_threshold,
            lm_weight=settings.lm_weight * math.log(10),  # it multiplies KenLM's log10 P
            word_score=settings.word_score,
            log_add=True,  # a sum over alignments, not the best of them
            blank_token=PAD,
            sil_token=WORD_SEPARATOR,
            unk_word=UNKNOWN,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if "KenLM is not installed" in str(error):
            raise MissingExtraError("--lm must have kenlm: pip install 'audio_ssl[lm]'") from error
        raise ConfigError(f"the beam search must be able to use these files: {error}") from error
