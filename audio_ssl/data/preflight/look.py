"""All that is looked at before a recogniser is trained, in one report; what refuses, warns or is only told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.config.preflight import PreflightConfig
from audio_ssl.data.preflight.alphabet import rare_characters, unknown_characters, vocabulary_size
from audio_ssl.data.preflight.notices import Level, Notice, Split, limit_of, passed, shown_text
from audio_ssl.data.preflight.oddities import KINDS, count_scripts, find_oddities
from audio_ssl.data.preflight.overlap import SameAudio, same_audio, same_speakers, same_texts
from audio_ssl.data.preflight.rates import USUAL_MEDIAN, speech_rates
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError

FORMAT_VERSION = 1
_ORDER: Sequence[Level] = ("refuse", "warn", "tell")


@dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
        notices: the gravest first.
        figures: of the splits and the vocabulary, for machines.
    """

    notices: tuple[Notice, ...]
    figures: dict[str, Any]

    def of_level(self, level: Level) -> list[Notice]:
        """Notices of a level."""
        return [notice for notice in self.notices if notice.level == level]

    def lines(self, *, num_rows: int) -> list[str]:
        """For people: one line a notice with its first rows, after a line that counts them.

        What refuses is only counted: :meth:`refuse` says it.
        """
        found = [f"{n} {word}{'s' * (n > 1)}" for word, level in
                 (("reason not to start", "refuse"), ("warning", "warn"), ("note", "tell"))
                 if (n := len(self.of_level(level)))]  # type: ignore[arg-type]  # fmt: skip
        head = f"before training: {', '.join(found) or 'nothing odd was found'}"
        return [head, *(notice.line(num_rows=num_rows) for notice in self.notices if notice.level != "refuse")]

    def document(self) -> dict[str, Any]:
        """For machines: everything, every row by place and id."""
        return {
            "format_version": FORMAT_VERSION,
            "counts": {level: len(self.of_level(level)) for level in _ORDER},
            **self.figures,
            "notices": [notice.document() for notice in self.notices],
        }

    def refuse(self, *, written: Path | None, num_rows: int) -> None:
        """Stop where something is over a limit that refuses.

        Args:
            written: the file with every row; None where there is none.
            num_rows: to be named for each reason.

        Raises:
            ManifestError: naming what was found, the limit, the first rows and what to do.
        """
        reasons = [notice.line(num_rows=num_rows).removeprefix("refused: ") for notice in self.of_level("refuse")]
        if not reasons:
            return
        where = f"\nevery row is in {written}" if written is not None else ""
        raise ManifestError(
            "the data must be mended before a recogniser is trained on them, or the limit raised where it is meant so:"
            + "".join(f"\n  - {reason}" for reason in reasons)
            + where
        )


def look(train: Split, valid: Split | None, vocabulary: Vocabulary, limits: PreflightConfig) -> Preflight:
    """Look at everything.

    Args:
        train: with its fit.
        valid: with its fit, if there is any.
        vocabulary: of the model to be trained.
        limits: what refuses and what warns.
    """
    splits = [train] if valid is None else [train, valid]
    notices: list[Notice] = []
    figures: dict[str, Any] = {}
    for split in splits:
        notices += _unusable(split, limits)
        notices += _odd(split, limits)
        notices += unknown_characters(split, vocabulary, limits)
        figures[split.name] = _figures(split)
        notices += _rates(split, limits, figures[split.name])
    notices += rare_characters(train)
    notices += vocabulary_size(train, vocabulary, limits)
    figures["vocabulary"] = {"num_symbols": len(vocabulary), "symbols": list(vocabulary.symbols)}
    if valid is not None:
        notices += _shared(train, valid, limits)
    return Preflight(tuple(sorted(notices, key=lambda notice: _ORDER.index(notice.level))), figures)


def _unusable(split: Split, limits: PreflightConfig) -> Iterator[Notice]:
    """Rows that CTC cannot learn from; of validation the long ones stay in, for the model must answer for them."""
    is_train, num_rows = split.name == "train", len(split.manifest)
    empty, long = _empty(split), _too_long(split)
    num_out = len(empty) + (len(long) if is_train else 0)
    refused = passed(num_out / num_rows, limit_of(limits, "refuse_unusable_share"))
    odd = limit_of(limits, "warn_odd_share")
    if empty:
        message = f"{len(empty)} of {num_rows} rows have no transcript, and are left out"
        advice = "Fill them in, or take the rows out of the manifest"
        limit = refused or passed(len(empty) / num_rows, odd)
        yield Notice("empty", split.name, message, advice, empty, split.manifest, limit)
    if long:
        fate = "are left out" if is_train else "stay in, although no answer of the model can be right"
        message = (
            f"{len(long)} of {num_rows} rows have a transcript that needs more frames than their audio has; they {fate}"
        )
        advice = "Look whether the transcripts belong to other rows, or whether the audio was cut"
        limit = (refused if is_train else None) or passed(len(long) / num_rows, odd)
        yield Notice("too_long", split.name, message, advice, long, split.manifest, limit)


def _empty(split: Split) -> dict[int, str]:
    nothing_left = "nothing is left of {} by the rules of [text]"
    return {
        row: nothing_left.format(shown_text(split.raw[row])) if split.raw[row].strip() else ""
        for row, text in enumerate(split.texts)
        if not text
    }


def _too_long(split: Split) -> dict[int, str]:
    if split.fit is None:
        return {}
    needs, has = split.fit.needs_frames, split.fit.num_frames
    return {
        row: f"needs {needs[row]} frames, has {has[row]}: {shown_text(split.raw[row])}"
        for row in np.flatnonzero(needs > has).tolist()
        if split.texts[row]
    }


def _odd(split: Split, limits: PreflightConfig) -> Iterator[Notice]:
    damaged = limit_of(limits, "refuse_damaged_share")
    odd = limit_of(limits, "warn_odd_share")
    for check, rows in find_oddities(split).items():
        what, advice = KINDS[check]
        share = len(rows) / split.num_texts
        limit = passed(share, damaged, odd) if check == "damaged" else passed(share, odd)
        message = f"{len(rows)} of {split.num_texts} transcripts {what}"
        yield Notice(check, split.name, message, advice, rows, split.manifest, limit)


def _rates(split: Split, limits: PreflightConfig, figures: dict[str, Any]) -> Iterator[Notice]:
    found = speech_rates(split, deviations=limits.rate_deviations)
    figures["characters_a_second"] = found.median
    figures["rows_of_languages_too_small_to_judge_rates"] = found.num_unjudged
    odd = limit_of(limits, "warn_odd_share")
    advice = "Listen to them: transcripts may have slipped to other rows or been cut, or the audio is mostly silence"
    if found.odd:
        what = "are spoken far too fast or too slowly for their language"
        message = f"{len(found.odd)} of {split.num_texts} transcripts {what}"
        limit = passed(len(found.odd) / split.num_texts, odd)
        yield Notice("speech_rate", split.name, message, advice, found.odd, split.manifest, limit)
    for language, median in found.median.items():
        if not USUAL_MEDIAN[0] <= median <= USUAL_MEDIAN[1]:
            of = f" of language {language}" if language else ""
            less = "less" if median < USUAL_MEDIAN[0] else "more"
            message = f"half of the rows{of} have {less} than {median:.3g} characters a second"
            yield Notice("median_rate", split.name, message, advice, {}, split.manifest, passed(1.0, odd))


def _figures(split: Split) -> dict[str, Any]:
    return {
        "rows": len(split.manifest),
        "rows_with_text": split.num_texts,
        "hours": float(split.manifest.durations_s().sum()) / 3600,
        "labels": None if split.fit is None else int(split.fit.num_labels.sum()),
        "letters_by_language_and_script": {
            language: dict(scripts.most_common()) for language, scripts in count_scripts(split).items()
        },
    }


def _shared(train: Split, valid: Split, limits: PreflightConfig) -> Iterator[Notice]:
    """What validation shares with training: its error rate then tells less of speech that is new, or nothing at all."""
    num_rows, manifest = len(valid.manifest), valid.manifest
    audio = same_audio(train.manifest, manifest, most_files=limits.compared_files)
    if audio.rows:
        message = f"{len(audio.rows)} of {num_rows} rows have audio that is in data.train, too"
        advice = (
            "The error rate would be of what was learned by heart. Split anew (`audio-ssl manifest split`), or look "
            "for copies (`audio-ssl manifest dedupe`)"
        )
        rows = {row: f"is {train.manifest.origin(twin)}" for row, twin in audio.rows.items()}
        limit = passed(len(rows) / num_rows, limit_of(limits, "refuse_same_audio_share"))
        yield Notice("same_audio", "valid", message, advice, rows, manifest, limit)
    if speakers := same_speakers(train, valid):
        message = f"{len(speakers)} of {num_rows} rows have a speaker who is in data.train, too"
        advice = "The error rate is of known voices; split by speaker (`audio-ssl manifest split --by speaker`)"
        limit = passed(len(speakers) / num_rows, limit_of(limits, "warn_same_speaker_share"))
        yield Notice("same_speaker", "valid", message, advice, speakers, manifest, limit)
    if texts := same_texts(train, valid):
        message = f"{len(texts)} of {valid.num_texts} transcripts are in data.train, too, word for word"
        advice = "The error rate is of known sentences: that is right for commands and digits, and flatters elsewhere"
        limit = passed(len(texts) / valid.num_texts, limit_of(limits, "warn_same_text_share"))
        yield Notice("same_text", "valid", message, advice, texts, manifest, limit)
    yield from _not_looked_at(train, valid, audio)


def _not_looked_at(train: Split, valid: Split, audio: SameAudio) -> Iterator[Notice]:
    """What could not be compared is told, too."""
    silent = [f"data.{split.name}" for split in (train, valid) if not any(split.manifest.column("speaker"))]
    if silent:
        message = f"{' and '.join(silent)} {'name' if len(silent) > 1 else 'names'} no speaker"
        advice = "So nobody can tell whether a voice is in both; fill in the column `speaker`"
        yield Notice("no_speakers", "valid", message, advice, {}, valid.manifest)
    reasons = {
        "lie elsewhere": audio.num_elsewhere,
        "could not be read": audio.num_unreadable,
        "are beyond preflight.compared_files": audio.num_left,
    }
    told = [f"{count} that {why}" for why, count in reasons.items() if count]
    if told:
        message = f"files of either split that were not compared byte by byte: {', '.join(told)}"
        advice = "A copy of one of them in the other split would not be seen"
        yield Notice("not_compared", "valid", message, advice, {}, valid.manifest)
