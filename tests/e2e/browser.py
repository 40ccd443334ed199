"""A headless Chromium for tests: the page as drawn, its console, and its DOM after a script has run."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NO_CHROMIUM = f"no Chromium on the PATH ({', '.join(NAMES)}); Debian's package is `chromium`"
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
