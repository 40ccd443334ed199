"""The report of an evaluation as one HTML page (``skeleton``): rates, comparison, groups, confusions, utterances."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from audio_ssl import __version__
from audio_ssl.evaluate.report.recognition_sections import compared, confused, grouped, measured, refused, summary
from audio_ssl.evaluate.report.sections import notes, when
from audio_ssl.evaluate.report.skeleton import whole
from audio_ssl.evaluate.report.utterances import Clips, worst
from audio_ssl.evaluate.session import Outcome


def build_recognition_page(
    about: Mapping[str, Any], outcome: Outcome, clips: Clips, *, now: datetime | None = None
) -> str:
    """The whole page.

    Args:
        about: the head of the JSON report: what was measured, and how.
        outcome: the figures.
        clips: sounds of the worst utterances.
        now: the time that stands in the page.
    """
    report = outcome.report
    system = str(about["model"] or about["hypotheses"])
    name = Path(system).name or system
    on = about["manifest"] or about["hypotheses"]
    header = (
        f'<header><h1>{escape(name)}</h1><div class="sub">recognition of {escape(str(on))}: '
        f"{report.overall.num_utterances:,} utterances</div></header>"
    )
    sections = [
        ("summary", "Summary", summary(report)),
        ("comparison", "Comparison", "" if outcome.comparison is None else compared(outcome.comparison, name)),
        ("speakers", "By speaker", grouped(report, "speakers")),
        ("languages", "By language", grouped(report, "languages")),
        ("durations", "By length", grouped(report, "durations") + grouped(report, "lengths")),
        ("confusions", "Frequent errors", confused(report)),
        ("utterances", "Worst utterances", worst(report.worst, clips)),
        ("measured", "How it was measured", measured(about, report)),
        ("refused", "Left out", refused(outcome)),
        ("notes", "Missing here", notes(clips.notes)),
    ]
    footer = (
        f"Written by audio_ssl {escape(__version__)} on {when(now or datetime.now(UTC))}. How to read it: "
        "docs/recognition.md."
    )
    return whole(f"{name}: recognition report", sections, header=header, footer=footer, styles=("recognition.css",))
