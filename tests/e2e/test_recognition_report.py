"""The page of ``audio-ssl evaluate --html`` in a browser, at the width of a desk and of a phone, light and dark."""

import numpy as np
import pytest
import soundfile as sf
from matplotlib.image import imread

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from tests.e2e.browser import CHROMIUM, NO_CHROMIUM, browse, measured, run_in

SECTIONS = ["summary", "comparison", "speakers", "languages", "durations", "confusions", "utterances", "measured",
            "refused", "notes"]  # fmt: skip
TEXTS = (
    "the quick brown fox jumps over the lazy dog and runs away from it as fast as a fox can run",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "שלום עולם",
    "我们今天去公园散步然后回家吃饭",
    "a",
    "one two three",
)
# The sounds are decoded by the browser itself, and edits lie in the order of their language.
LISTEN = """
const sounds = [...document.querySelectorAll('audio')];
Promise.all(sounds.map(a => new Promise(done => {
  a.onloadedmetadata = () => done(a.duration); a.onerror = () => done(-1); a.preload = 'metadata'; a.load();
}))).then(seconds => {
  const places = [...document.querySelector('.aligned[dir=rtl]').children].map(e => e.getBoundingClientRect().left);
  tell(JSON.stringify({seconds, places}));
});
"""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, say):
    """Six rows of tones in four scripts, transcripts with every kind of error, an earlier report, and the page."""
    folder = tmp_path_factory.mktemp("recognition")
    rows, old, new = [], [], []
    for i in range(18):
        text, seconds = TEXTS[i % 6], 0.5 + i % 3
        wave = 0.2 * np.sin(2 * np.pi * (200 + 90 * i) * np.arange(int(seconds * 8_000)) / 8_000)
        sf.write(folder / f"{i}.wav", wave, 8_000)
        name = f"recording-of-a-rather-long-name-{i:03d}"
        rows.append(Utterance(name, f"{i}.wav", 0, len(wave), 8_000, text, f"speaker {i % 7}", "en" if i % 2 else "he"))
        old.append(f"{name}\t{text[:-3]} extra")
        new.append(f"{name}\t{text if i % 4 else text[2:]}")
    (folder / "0.wav").write_bytes(b"broken")
    rows.append(Utterance("without", "17.wav", 0, 4_000, 8_000))
    Manifest.from_rows(rows, root=folder).write(folder / "test.arrow")
    for name, lines in (("old", old), ("new", new)):
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    score = ["evaluate", folder / "test.arrow", "--hypotheses"]
    say(*score, folder / "old.txt", "-o", folder / "old.json")
    said = say(*score, folder / "new.txt", "--compare", folder / "old.json", "--html", folder / "page.html")
    assert "MAPSSWE" in said
    return folder


def test_the_page_is_small_and_whole(folder):
    html = (folder / "page.html").read_text(encoding="utf-8")
    assert len(html) < 3_000_000
    assert [name for name in SECTIONS if f'<section id="{name}"' not in html] == []
    assert "This system is better" in html


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(folder, width):
    found = measured(folder / "page.html", folder, width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["smallest"] >= 11
    assert found["narrowest"] >= 240
    assert found["pictures"] >= 4


@needs_chromium
def test_sounds_can_be_played_and_right_to_left_runs_so(folder):
    import json
    import re

    seen = run_in(folder / "page.html", LISTEN, width=390, profile=folder / "profile", draft=folder / "draft")
    told = json.loads(re.findall(r'data-told="([^"]*)"', seen.dom)[0].replace("&quot;", '"'))
    assert len(told["seconds"]) >= 4
    assert all(any(abs(s - length) < 0.01 for length in (0.5, 1.5, 2.5)) for s in told["seconds"])
    assert told["places"] == sorted(told["places"], reverse=True)


@needs_chromium
def test_the_page_itself_loads_without_a_word_on_the_console(folder):
    seen = browse(folder / "page.html", width=390, profile=folder / "profile")
    assert not seen.console


@needs_chromium
def test_both_themes_are_drawn(folder):
    means = []
    for dark in (False, True):
        shot = folder / f"{dark}.png"
        browse(folder / "page.html", width=390, profile=folder / "profile", screenshot=shot, dark=dark)
        picture = imread(shot)[..., :3]
        assert picture.std() > 0.02  # something is drawn
        means.append(float(np.median(picture)))
    assert means[0] > 0.9
    assert means[1] < 0.2
