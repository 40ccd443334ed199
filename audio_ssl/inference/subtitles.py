"""Words with times as subtitles: SRT and WebVTT, by rules that make them readable.

A cue has two short lines at most, does not stand for long, and stands long enough to be read where the speech leaves
time for that. Cues end at pauses and behind sentences rather than elsewhere, and the lines of a cue are of like length.
No word is left out: where speech is faster than reading, the cue is, too.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from audio_ssl.errors import ConfigError
from audio_ssl.inference.align import TimedToken

GAP_S = 0.08
"""Between cues that follow one another: two pictures of a film."""
MAX_PAUSE_S = 1.5
"""A longer pause ends a cue."""
_SENTENCE_ENDS = tuple(".?!…。？！؟।")
_CLAUSE_ENDS = tuple(",;:،、，；：")
_CLOSING = "\"'”’»)]"
_NO_WIDTH = ("Mn", "Me", "Cf")
_LONG_PAUSE_S = 0.6  # before which a cue may end as well as behind a sentence
_NO_CHOICE = 100.0  # the cost of a part that breaks the rules alone, such as a word of ten seconds


@dataclass(frozen=True)
class SubtitleSettings:
    """What a cue may be.

    Attributes:
        line_chars: most characters of a line; those that are twice as wide as others count twice.
        max_s: most seconds that a cue stands.
        min_s: fewest, where the next cue leaves room.
        chars_per_s: most characters a second, where the next cue leaves room.

    Raises:
        ConfigError: out of range.
    """

    line_chars: int = 42
    max_s: float = 7.0
    min_s: float = 1.0
    chars_per_s: float = 17.0

    def __post_init__(self) -> None:
        if self.line_chars < 8:
            raise ConfigError(f"--line-chars must be >= 8, got {self.line_chars}")
        if not self.max_s >= self.min_s:
            raise ConfigError(f"--cue-s must be >= {self.min_s:g} seconds, got {self.max_s:g}")
        if not self.chars_per_s > 0:
            raise ConfigError(f"--chars-per-s must be > 0, got {self.chars_per_s:g}")


@dataclass(frozen=True)
class Cue:
    """A subtitle.

    Attributes:
        start_s: when it appears; seconds from the recording's start.
        end_s: when it goes, before the next one appears.
        lines: its text.
    """

    start_s: float
    end_s: float
    lines: tuple[str, ...]


def to_srt(cues: Sequence[Cue]) -> str:
    """SubRip: a number, two times with a comma, the lines, an empty line."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n" + "\n".join(cue.lines) + "\n\n"
        for number, cue in enumerate(cues, start=1)
    )


def to_vtt(cues: Sequence[Cue]) -> str:
    """WebVTT, with ``&``, ``<`` and ``>`` of the text escaped as it demands."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        + "\n".join(html.escape(line, quote=False) for line in cue.lines)
        + "\n\n"
        for cue in cues
    )


def cues_of(words: Sequence[TimedToken], settings: SubtitleSettings) -> list[Cue]:
    """Divide the words of a recording into cues: of all ways, the one that costs least.

    Args:
        words: in order, with times that do not overlap.
        settings: what a cue may be.
    """
    parts = [part for word in words for part in _short_enough(word, settings.line_chars)]
    return _Division(parts, settings).cues() if parts else []


def width_of(text: str) -> int:
    """Width in characters: wide ones count two, marks that stand on others none."""
    return sum(
        0 if unicodedata.category(c) in _NO_WIDTH else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


@dataclass(frozen=True)
class _Part:
    """A word, or a piece of one that is too long for a line."""

    text: str
    start_s: float
    end_s: float
    is_word_start: bool


def _short_enough(word: TimedToken, line_chars: int) -> list[_Part]:
    """The word; in pieces where it is wider than a line, such as a sentence of a script without spaces."""
    pieces = [""]
    for character in word.text:
        is_mark = unicodedata.category(character) in (*_NO_WIDTH, "Mc")
        if pieces[-1] and not is_mark and width_of(pieces[-1] + character) > line_chars:
            pieces.append("")
        pieces[-1] += character
    ends = list(accumulate(map(len, pieces)))
    edges = [word.start_s + (word.end_s - word.start_s) * end / max(ends[-1], 1) for end in [0, *ends]]
    return [
        _Part(piece, start, end, number == 0)
        for number, (piece, (start, end)) in enumerate(zip(pieces, pairwise(edges), strict=True))
    ]


class _Division:
    """Parts and what their cues would cost.

    Args:
        parts: one or more, in order.
        settings: what a cue may be.
    """

    def __init__(self, parts: Sequence[_Part], settings: SubtitleSettings) -> None:
        self._parts, self._settings = parts, settings
        own = [width_of(part.text) + part.is_word_start for part in parts]
        self._widths = [0, *accumulate(own)]

    def cues(self) -> list[Cue]:
        """The cheapest ones (shortest path over the bounds between parts)."""
        total = len(self._parts)
        best, came_from = [0.0] + [float("inf")] * total, [0] * (total + 1)
        for first in range(total):
            for stop in range(first + 1, total + 1):
                cost = self._cost(first, stop)
                if cost is None and stop > first + 1:
                    break  # with more parts it will not be a cue either
                whole = best[first] + (_NO_CHOICE if cost is None else cost)
                if whole < best[stop]:
                    best[stop], came_from[stop] = whole, first
        bounds = [total]
        while bounds[-1]:
            bounds.append(came_from[bounds[-1]])
        return [self._cue(first, stop) for first, stop in pairwise(bounds[::-1])]

    def _cost(self, first: int, stop: int) -> float | None:
        """What is bad about a cue, and that it is one more; None where it must not be."""
        settings, last = self._settings, self._parts[stop - 1]
        is_late = stop - first > 1 and last.start_s - self._parts[stop - 2].end_s > MAX_PAUSE_S
        split = self._split(first, stop)
        if split is None or is_late or last.end_s - self._parts[first].start_s > settings.max_s:
            return None
        start, end = self._times(first, stop)
        widths = [self._width(first, split), self._width(split, stop)] if split < stop else [0, 0]
        too_fast = max(self._width(first, stop) / settings.chars_per_s - (end - start), 0.0)
        too_short = max(settings.min_s - (end - start), 0.0)
        uneven = abs(widths[0] - widths[1]) / settings.line_chars
        return 1.0 + 2.0 * too_fast + 2.0 * too_short + 0.3 * uneven + self._cost_of_end(stop)

    def _cost_of_end(self, stop: int) -> float:
        """A cue ends best behind a sentence or before a pause, then behind a clause, and worst inside a word."""
        if stop == len(self._parts):
            return 0.0
        if not self._parts[stop].is_word_start:
            return 3.0
        text = self._parts[stop - 1].text.rstrip(_CLOSING)
        mark = 0.0 if text.endswith(_SENTENCE_ENDS) else 0.5 if text.endswith(_CLAUSE_ENDS) else 1.0
        pause = self._parts[stop].start_s - self._parts[stop - 1].end_s
        return mark * (1.0 - min(max(pause, 0.0) / _LONG_PAUSE_S, 1.0))

    def _split(self, first: int, stop: int) -> int | None:
        """Where the second line begins, ``stop`` for a single one; None where two lines are too short."""
        limit = self._settings.line_chars
        if self._width(first, stop) <= limit:
            return stop
        ways = (
            (max(upper, lower), upper > lower, split)
            for split in range(first + 1, stop)
            if (upper := self._width(first, split)) <= limit and (lower := self._width(split, stop)) <= limit
        )
        return min(ways, default=(0, False, None))[2]

    def _width(self, first: int, stop: int) -> int:
        return self._widths[stop] - self._widths[first] - self._parts[first].is_word_start

    def _times(self, first: int, stop: int) -> tuple[float, float]:
        """From the first word to the last one's end; or longer, where it takes longer to read and there is room."""
        settings, start = self._settings, self._parts[first].start_s
        reading_s = max(settings.min_s, self._width(first, stop) / settings.chars_per_s)
        end = min(max(self._parts[stop - 1].end_s, start + reading_s), start + settings.max_s)
        if stop < len(self._parts):
            until = self._parts[stop].start_s
            end = min(end, max(until - GAP_S, (start + until) / 2))
        return start, end

    def _cue(self, first: int, stop: int) -> Cue:
        start, end = self._times(first, stop)
        split = self._split(first, stop) or stop
        lines = tuple(self._text(a, b) for a, b in ((first, split), (split, stop)) if a < b)
        return Cue(start, end, lines)

    def _text(self, first: int, stop: int) -> str:
        own = self._parts[first:stop]
        return "".join(f" {part.text}" if part.is_word_start else part.text for part in own).strip()


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
