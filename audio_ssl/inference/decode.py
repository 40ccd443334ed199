"""Log-probabilities to text: greedy, or a beam search with a lexicon and a language model (flashlight, KenLM)."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.text import BLANK, PAD, UNKNOWN, WORD_SEPARATOR, Vocabulary, collapse
from audio_ssl.errors import ConfigError, MissingExtraError

LogProbs = NDArray[np.float32]
MAX_PASSAGE_FRAMES = 6000
"""Longer utterances are decoded in passages; two minutes at the usual hop."""


class Decoder(Protocol):
    """Turns the log-probabilities of one utterance into text."""

    def __call__(self, log_probs: LogProbs) -> str:
        """(T, A) float32 to text."""


@dataclass(frozen=True)
class GreedyDecoder:
    """The best symbol of each frame, collapsed.

    Attributes:
        vocabulary: names the columns.
    """

    vocabulary: Vocabulary

    def __call__(self, log_probs: LogProbs) -> str:
        """(T, A) float32 to text."""
        return self.vocabulary.decode_ids(collapse(log_probs.argmax(axis=-1).tolist(), blank=BLANK))


@dataclass(frozen=True)
class BeamSettings:
    """Weights of the beam search, in nats.

    Attributes:
        lexicon: words that may be recognised, one a line; spelled by their letters, or by what follows a tab
            (symbols parted by spaces). None recognises any spelling.
        lm: KenLM file (``.arpa`` or binary) over words; None scores the acoustics alone.
        beam_size: hypotheses kept at each frame.
        lm_weight: factor on the language model's score.
        word_score: added for each word; a positive value makes more, shorter words.
        beam_threshold: hypotheses this far behind the best are dropped.
    """

    lexicon: Path | None = None
    lm: Path | None = None
    beam_size: int = 50
    lm_weight: float = 2.0
    word_score: float = 0.0
    beam_threshold: float = 50.0


class BeamDecoder:
    """Beam search of flashlight-text through torchaudio.

    Args:
        vocabulary: names the columns.
        settings: lexicon, language model and weights.

    Raises:
        MissingExtraError: flashlight-text (or, with a language model, kenlm) is not installed.
        ConfigError: a file cannot be read, a word cannot be spelled, or a language model came without a lexicon.
    """

    def __init__(self, vocabulary: Vocabulary, settings: BeamSettings) -> None:
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
        import torch

        if self._has_lexicon:
            log_probs = np.concatenate([log_probs, self._closing_frame()])
        emissions = torch.from_numpy(np.ascontiguousarray(log_probs, dtype=np.float32))[None]  # (T, A) -> (1, T, A)
        hypotheses = self._decoder(emissions)[0]
        if not hypotheses:
            return ""
        if self._has_lexicon:
            return " ".join(hypotheses[0].words)
        return self._vocabulary.decode_ids(hypotheses[0].tokens.tolist())

    def _closing_frame(self) -> LogProbs:
        """A frame that ends the last word: transcripts have no separator at their end, lexicon words do.

        The other symbols stay possible (e^-30), as a way out where no hypothesis stands at the end of a word.
        """
        frame = np.full((1, len(self._vocabulary)), -30.0, dtype=np.float32)
        frame[0, self._vocabulary.index[WORD_SEPARATOR]] = 0.0
        return frame


def build_decoder(name: Literal["greedy", "beam"], vocabulary: Vocabulary, settings: BeamSettings) -> Decoder:
    """The decoder of that name.

    Raises:
        ConfigError: files were given to the greedy decoder, or as :class:`BeamDecoder`.
        MissingExtraError: as :class:`BeamDecoder`.
    """
    if name == "beam":
        return BeamDecoder(vocabulary, settings)
    if settings.lexicon is not None or settings.lm is not None:
        raise ConfigError("--lexicon and --lm must come with --decoder beam: the greedy decoder uses neither")
    return GreedyDecoder(vocabulary)


def passages(log_probs: LogProbs, vocabulary: Vocabulary, *, max_frames: int = MAX_PASSAGE_FRAMES) -> list[slice]:
    """Cut a long utterance between words, so that beam search and alignment stay bounded.

    Each cut is where the word separator is most probable in the second half of a longest passage.

    Args:
        log_probs: (T, A) float32.
        vocabulary: names the columns.
        max_frames: of a passage.

    Returns:
        Ranges of frames, one after another; a single one for an utterance that is short enough.
    """
    separator, start, ranges = vocabulary.index[WORD_SEPARATOR], 0, []
    while len(log_probs) - start > max_frames:
        earliest = start + max(max_frames // 2, 1)
        stop = earliest + int(log_probs[earliest : start + max_frames, separator].argmax())
        ranges.append(slice(start, stop))
        start = stop
    return [*ranges, slice(start, len(log_probs))]


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


def _build(vocabulary: Vocabulary, settings: BeamSettings, *, lexicon: Path | None) -> Any:
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
            lm_weight=settings.lm_weight,
            word_score=settings.word_score,
            blank_token=PAD,
            sil_token=WORD_SEPARATOR,
            unk_word=UNKNOWN,
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if "KenLM is not installed" in str(error):
            raise MissingExtraError("--lm must have kenlm: pip install 'audio_ssl[lm]'") from error
        raise ConfigError(f"the beam search must be able to use these files: {error}") from error
