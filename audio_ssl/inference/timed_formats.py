"""Texts with times as CTM, TextGrid and JSON; subtitles are :mod:`audio_ssl.inference.subtitles`'.

CTM: ``file channel start duration token confidence``, one word a line. TextGrid (Praat): tiers ``words`` and, of
alignments, ``characters``, whose intervals tile the recording, gaps with empty text. JSON: one object a line with all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from audio_ssl.inference.align import Alignment, FrameClock, TimedToken


def to_ctm(utterance_id: str, words: Sequence[TimedToken]) -> str:
    """Words of an utterance; white space in its id becomes ``_``, since CTM parts its fields by spaces."""
    name = "_".join(utterance_id.split())
    return "".join(f"{name} 1 {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.text} {w.confidence:.3f}\n" for w in words)


def to_textgrid(duration_s: float, tiers: Mapping[str, Sequence[TimedToken]]) -> str:
    """Tiers of an utterance in Praat's long text format."""
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "",
        "xmin = 0", f"xmax = {_number(duration_s)}", "tiers? <exists>", f"size = {len(tiers)}", "item []:",
    ]  # fmt: skip
    for number, (name, tokens) in enumerate(tiers.items(), start=1):
        intervals = _tiled(tokens, duration_s)
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"',
            "        xmin = 0", f"        xmax = {_number(duration_s)}",
            f"        intervals: size = {len(intervals)}",
        ]  # fmt: skip
        for i, (start, end, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{i}]:", f"            xmin = {_number(start)}",
                f"            xmax = {_number(end)}", f'            text = "{quoted}"',
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def to_document(alignment: Alignment, clock: FrameClock) -> dict[str, Any]:
    """JSON-able values, times in seconds with the rule that made them; ``chunks`` as Hugging Face names words."""
    hop, rate = clock.geometry.hop_samples, clock.sample_rate_hz
    centre = clock.geometry.frame_centre_s(0, sample_rate_hz=rate)
    return {
        "id": alignment.id,
        "text": alignment.text,
        "duration_s": alignment.duration_s,
        "confidence": alignment.confidence,
        "chunks": [{"text": w.text, "timestamp": [w.start_s, w.end_s]} for w in alignment.words],
        "words": [asdict(word) for word in alignment.words],
        "characters": [asdict(character) for character in alignment.characters],
        "time_rule": f"frame t stands for {hop / rate:g} s around {centre:g} + {hop / rate:g} t seconds",
    }


def _tiled(tokens: Sequence[TimedToken], duration_s: float) -> list[tuple[float, float, str]]:
    """Intervals from 0 to the end without holes; a token without extent (cut off by the end) is left out."""
    intervals: list[tuple[float, float, str]] = []
    reached = 0.0
    for token in tokens:
        start = max(token.start_s, reached)
        if token.end_s <= start:
            continue
        if start > reached:
            intervals.append((reached, start, ""))
        intervals.append((start, token.end_s, token.text))
        reached = token.end_s
    if reached < duration_s or not intervals:
        intervals.append((reached, duration_s, ""))
    return intervals


def _number(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
