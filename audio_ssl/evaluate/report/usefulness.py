"""What the encoder was worth on tasks while it learned: rows of ``split`` "probe" as charts beside the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audio_ssl.evaluate.report.panels import Panel, is_number

SPLIT = "probe"


def task_panels(rows: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """A panel a task, with log-mel on the same items as a line; tasks of the newest row come first."""
    found: dict[str, Panel] = {}
    for row in reversed([row for row in rows if row.get("split") == SPLIT]):
        tasks = row.get("tasks")
        for name, about in tasks.items() if isinstance(tasks, dict) else ():
            panel = _panel(str(name), about, row) if isinstance(about, dict) else None
            if panel is not None:
                found.setdefault(panel.name, panel)
    return list(found.values())


def _panel(task: str, about: Mapping[str, Any], row: Mapping[str, Any]) -> Panel | None:
    figure = about.get("figure")
    if not isinstance(figure, str) or not is_number(row.get(figure)):
        return None
    metric = str(about.get("metric", "")).replace("_", " ")
    beside, interval, chance = row.get(f"{figure}_log_mel"), about.get("interval_95"), about.get("chance")
    text = [
        f"{about.get('title', task)}: the frozen encoder as it was at these updates, {about.get('how', '')}, on "
        f"{about.get('num_items', 'some')} items; {'higher' if about.get('higher_is_better', True) else 'lower'} is "
        "better. A falling loss proves nothing by itself: this curve says whether it becomes useful."
    ]
    if isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval)):
        text.append(f"The newest figure lies in {100 * interval[0]:.1f} to {100 * interval[1]:.1f} % (95 %).")
    if is_number(chance):
        text.append(f"Chance is {100 * chance:.1f} %.")
    if about.get("heard"):
        text.append(f"Note: {about['heard']}.")
    level = (beside, str(about.get("log_mel", "log-mel"))) if is_number(beside) else None
    return Panel(figure, task, f"% {metric}", "Learning", " ".join(text), level=level, scale=100)
