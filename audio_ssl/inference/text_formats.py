"""The formats that texts are written in, by name: what each needs, and one utterance in each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from audio_ssl.errors import ConfigError
from audio_ssl.inference.align import TimedToken
from audio_ssl.inference.subtitles import SubtitleSettings, cues_of, to_srt, to_vtt
from audio_ssl.inference.timed_formats import to_ctm, to_textgrid


class TimedText(Protocol):
    """A transcript or an alignment."""

    @property
    def id(self) -> str:
        """Of the utterance."""

    @property
    def duration_s(self) -> float:
        """Of its audio."""

    @property
    def text(self) -> str:
        """All of it."""

    @property
    def words(self) -> Sequence[TimedToken] | None:
        """With times; None where there are none."""


@dataclass(frozen=True)
class TextFormat:
    """How texts are written.

    Attributes:
        name: on the command line.
        suffix: of a file that holds one utterance.
        has_times: whether it can only hold words with times.
        is_single: whether a file holds one utterance and no more.
    """

    name: str
    suffix: str
    has_times: bool
    is_single: bool


FORMATS: Mapping[str, TextFormat] = {
    form.name: form
    for form in (
        TextFormat("text", ".txt", has_times=False, is_single=False),
        TextFormat("jsonl", ".json", has_times=False, is_single=False),
        TextFormat("ctm", ".ctm", has_times=True, is_single=False),
        TextFormat("textgrid", ".TextGrid", has_times=True, is_single=True),
        TextFormat("srt", ".srt", has_times=True, is_single=True),
        TextFormat("vtt", ".vtt", has_times=True, is_single=True),
    )
}


@dataclass(frozen=True)
class Writer:
    """Utterances in a format.

    Attributes:
        form: which.
        subtitles: what cues may be.
        document: an utterance as JSON-able values, for ``jsonl``.
        is_alone: whether each utterance has a file of its own, whose name says which it is.
    """

    form: TextFormat
    document: Callable[[Any], Mapping[str, Any]]
    subtitles: SubtitleSettings = field(default_factory=SubtitleSettings)
    is_alone: bool = False

    def __call__(self, utterance: TimedText) -> str:
        """One utterance, with the end of its last line.

        Raises:
            ConfigError: the format needs times, and it has none.
        """
        if self.form.name == "jsonl":
            return json.dumps(self.document(utterance), ensure_ascii=False) + "\n"
        if self.form.name == "text":
            return f"{utterance.text}\n" if self.is_alone else f"{utterance.id}\t{utterance.text}\n"
        words = utterance.words
        if words is None:
            raise ConfigError(f"{utterance.id} must have times to be written as {self.form.name}")
        if self.form.name == "ctm":
            return to_ctm(utterance.id, words)
        if self.form.name == "textgrid":
            return to_textgrid(utterance.duration_s, _tiers(utterance, words))
        cues = cues_of(words, self.subtitles)
        return to_srt(cues) if self.form.name == "srt" else to_vtt(cues)


def _tiers(utterance: TimedText, words: Sequence[TimedToken]) -> dict[str, Sequence[TimedToken]]:
    characters: Sequence[TimedToken] | None = getattr(utterance, "characters", None)
    return {"words": words} if characters is None else {"words": words, "characters": characters}
