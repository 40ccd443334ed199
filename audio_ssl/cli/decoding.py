"""The options of decoding, which transcribe, evaluate and tune-decoder share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from audio_ssl.inference.decoding import DecodeSettings, HotWord

DecoderOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--decoder",
        metavar="greedy|beam|FILE.toml",
        help="How text is found; FILE.toml is what `audio-ssl tune-decoder` wrote. Options given beside it win.",
    ),
]
LexiconOption: TypeAlias = Annotated[
    Path | None, typer.Option("--lexicon", help="beam: words to recognise, one a line; without it any spelling.")
]
LmOption: TypeAlias = Annotated[
    Path | None, typer.Option("--lm", help="beam: n-gram model of words, ARPA (also .gz) or binary KenLM.")
]
HotWordsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--hot-words", help="beam: words and phrases to favour, one a line (tab, nats a word)."),
]
BeamSizeOption: TypeAlias = Annotated[int | None, typer.Option("--beam-size", min=1, help="beam: hypotheses kept.")]
LmWeightOption: TypeAlias = Annotated[
    float | None, typer.Option("--lm-weight", help="beam: factor on the language model's ln P.")
]
WordScoreOption: TypeAlias = Annotated[
    float | None, typer.Option("--word-score", help="beam: nats added for each word.")
]


def decode_settings(
    decoder: str = "greedy",
    *,
    lexicon: Path | None = None,
    lm: Path | None = None,
    hot_words: Path | None = None,
    beam_size: int | None = None,
    lm_weight: float | None = None,
    word_score: float | None = None,
) -> DecodeSettings:
    """The options as settings; what is None stays as the decoder's file or the default has it.

    Args:
        decoder: ``greedy``, ``beam``, or a file of :func:`audio_ssl.inference.decoding.write_settings`.
        lexicon: as in :class:`~audio_ssl.inference.decoding.DecodeSettings`.
        lm: the same.
        hot_words: a file of words.
        beam_size: the same.
        lm_weight: the same.
        word_score: the same.

    Raises:
        ConfigError: an unknown decoder, an unreadable file, values out of range, or options that greedy does not use.
    """
    from dataclasses import replace

    from audio_ssl.errors import ConfigError
    from audio_ssl.inference.decoding import DecodeSettings, read_settings

    given: dict[str, Any] = {
        "lexicon": lexicon, "lm": lm, "hot_words": None if hot_words is None else read_hot_words(hot_words),
        "beam_size": beam_size, "lm_weight": lm_weight, "word_score": word_score,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if decoder == "greedy":
        if given:
            names = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ConfigError(f"{names} must come with --decoder beam or FILE.toml: greedy has no use for it")
        return DecodeSettings()
    return replace(DecodeSettings("beam") if decoder == "beam" else read_settings(Path(decoder)), **given)


def read_hot_words(path: Path) -> tuple[HotWord, ...]:
    """Hot words of a UTF-8 file: one word or phrase a line, optionally a tab and its boost in nats a word.

    Raises:
        ConfigError: unreadable, empty, or with boosts that are no numbers; all in one message.
    """
    from audio_ssl.errors import ConfigError
    from audio_ssl.inference.decoding import HotWord

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--hot-words must be a UTF-8 text file with one word or phrase a line: {error}") from error
    words, faults = list[HotWord](), list[str]()
    for number, line in enumerate(lines, start=1):
        text, tab, boost = line.partition("\t")
        if not text.strip():
            continue
        try:
            words.append(HotWord(text.strip(), float(boost)) if tab else HotWord(text.strip()))
        except ValueError:
            faults.append(f"{path}:{number}: the boost must be a number of nats, got {boost.strip()!r}")
    if faults or not words:
        raise ConfigError("; ".join(faults) or f"--hot-words must hold a word, {path} is empty")
    return tuple(words)
