"""A headless Chromium for tests: the page as drawn, its console, and its DOM after a script has run."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NO_CHROMIUM = f"no Chromium on the PATH ({', '.join(NAMES)}); Debian's package is `chromium`"
# Everything that sticks out to the right without a box of its own that scrolls, and what else a script can see.
MEASURE = """
const wide = [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, nav ul, svg')
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className);
const text = [...document.querySelectorAll('figcaption, td, li, p, .x span, .y span')]
  .map(e => parseFloat(getComputedStyle(e).fontSize));
const plots = [...document.querySelectorAll('.plot > svg')].map(e => e.getBoundingClientRect());
tell(JSON.stringify({
  inner: innerWidth, scroll: document.documentElement.scrollWidth, wide,
  smallest: Math.min(...text), pictures: document.querySelectorAll('svg image').length,
  narrowest: Math.min(...plots.map(p => p.width)), lowest: Math.min(...plots.map(p => p.height)),
}));
"""
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page.

    Attributes:
        dom: the document after loading.
        console: messages of the page's console, policy violations among them.
    """

    dom: str
    console: list[str]


def browse(page: Path, *, width: int, profile: Path, screenshot: Path | None = None, dark: bool = False) -> Seen:
    """Open a page in a window of ``width`` CSS pixels; nothing outside of this machine can be reached from it."""
    command = [
        str(CHROMIUM), "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-extensions",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", f"--window-size={width},1400",
        f"--user-data-dir={profile}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=5000", f"--screenshot={screenshot}" if screenshot else "--dump-dom",
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # Chromium refuses to be root in its sandbox
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Seen(done.stdout, console)


def run_in(page: Path, script: str, *, width: int, profile: Path, draft: Path) -> Seen:
    """Open a copy of a page without its policy and run ``script`` in it; ``tell(text)`` puts text into the DOM seen.

    A window is no narrower than 500 pixels, so the page lies in a frame of ``width`` in it.
    """
    html, num = POLICY.subn("", page.read_text(encoding="utf-8"))
    assert num == 1
    tell = "const tell = text => parent.postMessage(text, '*');"
    draft.mkdir(exist_ok=True)
    (draft / "inner.html").write_text(html.replace("</body>", f"<script>{tell}{script}</script></body>"))
    listen = "onmessage = e => { document.body.dataset.told = e.data; }"
    frame = f'<iframe src="inner.html" style="width:{width}px;height:1400px;border:0"></iframe>'
    (draft / "outer.html").write_text(f"<!doctype html><body><script>{listen}</script>{frame}</body>")
    return browse(draft / "outer.html", width=1400, profile=profile)


def measured(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What sticks out of a page at a width, and how large its letters and plots are; its console must be silent."""
    seen = run_in(page, MEASURE, width=width, profile=folder / "profile", draft=folder / "draft")
    assert not seen.console
    (found,) = re.findall(r'data-told="([^"]*)"', seen.dom)
    document: dict[str, Any] = json.loads(found.replace("&quot;", '"'))
    return document
