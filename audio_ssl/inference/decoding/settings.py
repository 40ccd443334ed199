"""What a decoder is asked for, and what it answers; also as a file, ``decoder.toml``. Knows no search."""

from __future__ import annotations

import math
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError

LogProbs = NDArray[np.float32]


@dataclass(frozen=True)
class Hypothesis:
    """One reading of an utterance.

    Attributes:
        text: its words, parted by single spaces.
        score: natural logarithm; log P(text | audio) of greedy decoding's best path, or the weighted sum that a beam
            search maximises (:class:`DecodeSettings`).
    """

    text: str
    score: float


class Decoder(Protocol):
    """Turns the log-probabilities of one utterance into text. May be called by several threads at once."""

    def __call__(self, log_probs: LogProbs) -> str:
        """(T, A) float32 to the text of the best hypothesis."""

    def nbest(self, log_probs: LogProbs, n: int) -> list[Hypothesis]:
        """(T, A) float32 to at most ``n`` hypotheses of different texts, best first."""


@dataclass(frozen=True)
class HotWord:
    """A word or phrase that is expected more than the language model thinks.

    Attributes:
        text: one or several words.
        boost: nats added for each of its words, once all of them are there in a row.
    """

    text: str
    boost: float = 5.0


@dataclass(frozen=True)
class DecodeSettings:
    """How text is found.

    A beam search maximises, over texts W,

    ``ln P(W | audio) + lm_weight ln P_lm(W) + word_score |W| + unknown_score |unknown words|
    + spelling_weight ln P(spellings of unknown words) + boosts of hot words``

    in natural logarithms, where P(W | audio) sums over all alignments of all labels that read W
    (Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using bi-directional RNNs").

    Attributes:
        name: ``greedy`` (the best symbol of each frame) or ``beam``.
        lexicon: words that may be recognised, one a line; None recognises any spelling.
        lm: word n-gram model, ARPA (also ``.gz``) or a binary file of KenLM; None scores the acoustics alone.
        hot_words: words and phrases to favour.
        lm_weight: factor on the language model's ln P. Weights published for fairseq, torchaudio and flashlight act
            on log10: divide them by ln 10 = 2.303.
        word_score: added for each word; more than 0 makes more and shorter words.
        unknown_score: added for each word that the language model does not know, where no lexicon forbids it.
        spelling_weight: factor on ln P of the symbols of such a word from where no known one goes on like it, each
            after the two before, as known words are spelled (:mod:`audio_ssl.inference.decoding.letters`). Without it
            an unknown word of a whole sentence costs no more than a short one.
        beam_size: hypotheses kept at each frame.
        beam_threshold: hypotheses this far behind the best are dropped.
        token_threshold: symbols of a smaller log-probability than this are not tried at a frame.
        engine: ``own``, or ``flashlight`` (torchaudio's, extra ``lm``), which knows lexicons and KenLM only.

    Raises:
        ConfigError: a value out of range, or a greedy decoder with what only a beam search uses.
    """

    name: Literal["greedy", "beam"] = "greedy"
    lexicon: Path | None = None
    lm: Path | None = None
    hot_words: tuple[HotWord, ...] = ()
    lm_weight: float = 1.0
    word_score: float = 0.0
    unknown_score: float = -5.0
    spelling_weight: float = 1.0
    beam_size: int = 50
    beam_threshold: float = 25.0
    token_threshold: float = -7.0
    engine: Literal["own", "flashlight"] = "own"

    def __post_init__(self) -> None:
        if self.name == "greedy" and (self.lexicon is not None or self.lm is not None or self.hot_words):
            raise ConfigError(
                "--lexicon, --lm and --hot-words must come with --decoder beam: the greedy decoder uses none of them"
            )
        faults = [
            f"{name} must be a finite number, got {value}"
            for name, value in (
                ("lm_weight", self.lm_weight), ("word_score", self.word_score), ("unknown_score", self.unknown_score),
                ("spelling_weight", self.spelling_weight),
            )
            if not math.isfinite(value)
        ]  # fmt: skip
        for name, value in (("lm_weight", self.lm_weight), ("spelling_weight", self.spelling_weight)):
            if value < 0:
                faults.append(f"{name} must be >= 0, got {value}")
        if self.beam_size < 1:
            faults.append(f"beam_size must be >= 1, got {self.beam_size}")
        if not self.beam_threshold > 0:
            faults.append(f"beam_threshold must be > 0, got {self.beam_threshold}")
        if not self.token_threshold < 0:
            faults.append(f"token_threshold must be < 0, got {self.token_threshold}")
        if faults:
            raise ConfigError("a decoder's settings must be in range: " + "; ".join(faults))

    def to_document(self, base: Path | None = None) -> dict[str, Any]:
        """Plain values for TOML and JSON: what is not at its default, and the name.

        Args:
            base: folder that files are written relative to; None leaves them as they are.
        """
        document: dict[str, Any] = {"name": self.name}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "name" or value == field.default:
                continue
            if isinstance(value, Path):
                value = str(value) if base is None else os.path.relpath(value.resolve(), base.resolve())
            elif field.name == "hot_words":
                value = [{"text": word.text, "boost": word.boost} for word in value]
            document[field.name] = value
        return document


def write_settings(path: Path, settings: DecodeSettings, *, comment: str = "") -> None:
    """Write ``decoder.toml``; its files are named relative to it.

    Args:
        path: of the file.
        settings: to write.
        comment: for its head, without ``#``.
    """
    import tomli_w

    from audio_ssl.inference.output import write_text

    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    write_text(path, head + tomli_w.dumps(settings.to_document(path.parent)))


def read_settings(path: Path) -> DecodeSettings:
    """Read ``decoder.toml``; relative names of files start at its folder.

    Raises:
        ConfigError: unreadable, unknown keys, or values that are none.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--decoder must be greedy, beam, or a TOML file of a decoder; {path}: {error}") from error
    known = {field.name: field for field in fields(DecodeSettings)}
    values: dict[str, Any] = {"name": "beam"}
    faults = [
        f"{key} is no setting of a decoder (there are {', '.join(known)})" for key in document if key not in known
    ]
    for key, value in document.items():
        if key in known:
            try:
                values[key] = _parsed(key, value, path.parent)
            except (TypeError, ValueError, KeyError) as error:
                faults.append(f"{key}: {error}")
    if faults:
        raise ConfigError(f"{path} must hold settings of a decoder: " + "; ".join(faults))
    try:
        return DecodeSettings(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


_CHOICES = {"name": ("greedy", "beam"), "engine": ("own", "flashlight")}


def _parsed(key: str, value: Any, base: Path) -> Any:
    if key in ("lexicon", "lm"):
        if not isinstance(value, str):
            raise TypeError(f"must be the name of a file, got {value!r}")
        return base / value
    if key == "hot_words":
        return tuple(HotWord(str(item["text"]), float(item.get("boost", HotWord("").boost))) for item in value)
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise ValueError(f"must be {' or '.join(_CHOICES[key])}, got {value!r}")
        return value
    is_count = key == "beam_size"
    if isinstance(value, bool) or not isinstance(value, int if is_count else (int, float)):
        raise TypeError(f"must be a {'whole ' if is_count else ''}number, got {value!r}")
    return value if is_count else float(value)
