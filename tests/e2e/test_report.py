"""``audio-ssl report`` on a real run, and its page in a browser at the width of a desk and of a phone."""

import json

import numpy as np
import pytest
import soundfile as sf
from matplotlib.image import imread
from typer.testing import CliRunner

from audio_ssl.cli.main import app
from audio_ssl.errors import AudioSSLError
from tests.e2e.browser import CHROMIUM, NO_CHROMIUM, browse, measured
from tests.e2e.console import BATCHES, MODEL, sets

SECTIONS = ["summary", "warnings", "curves", "codebook", "utterance", "checkpoints", "settings", "environment"]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, say):
    """A run of a few updates on tones, one of which is gone, and its report."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "speech").mkdir()
    rng = np.random.default_rng(3)
    for i in range(6):
        time = np.arange(32_000 + 4_000 * i) / 16_000
        wave = 0.2 * np.sin(2 * np.pi * (200 + 90 * i) * time * (1 + 0.1 * np.sin(3 * time)))
        sf.write(folder / "speech" / f"{i}.wav", wave + rng.normal(scale=0.01, size=len(time)), 16_000)
    manifest = folder / "speech.arrow"
    say("manifest", "build", folder / "speech", "-o", manifest)
    (folder / "speech" / "3.wav").write_bytes(b"broken")
    train = ["pretrain", "pretrain/conv_tiny", *sets(
        f"data.train=['{manifest}']", f"data.valid=['{manifest}']", f"run.dir={folder / 'run'}", "run.num_updates=6",
        "run.log_every=1", "run.validate_every=2", "run.save_every=2", "run.device=cpu", "data.max_bad_share=0.9",
        "objective.num_entries=20", *MODEL, *BATCHES,
    )]  # fmt: skip
    say(*train)
    say("report", folder / "run", "-o", folder / "page.html")
    return folder


def test_the_run_has_told_what_the_page_shows(folder):
    html = (folder / "page.html").read_text()
    assert len(html) < 3_000_000
    assert "6 of 6 updates" in html
    assert ">done;" in html
    for text in ("3.wav", "[objective]", "Perplexity", "Every context with every target"):
        assert text in html
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if row["split"] == "train"][-1]
    assert last["code_perplexity"] == pytest.approx(last["code_perplexity_1"] + last["code_perplexity_2"])
    assert 0 <= last["padding_share"] < 1
    assert any(row.get("checkpoint_s", 0) > 0 for row in rows)


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(folder, width):
    found = measured(folder / "page.html", folder, width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["smallest"] >= 11
    assert found["narrowest"] >= 240
    assert found["lowest"] >= 150
    assert found["pictures"] == 2


@needs_chromium
def test_the_page_itself_loads_without_a_word_on_the_console(folder):
    seen = browse(folder / "page.html", width=390, profile=folder / "profile")
    assert not seen.console
    assert [name for name in SECTIONS if f'<section id="{name}"' not in seen.dom] == []


@needs_chromium
def test_both_themes_are_drawn(folder):
    means = []
    for dark in (False, True):
        shot = folder / f"{dark}.png"
        browse(folder / "page.html", width=390, profile=folder / "profile", screenshot=shot, dark=dark)
        picture = imread(shot)[..., :3]
        assert picture.shape[1] == 390
        assert picture.std() > 0.02  # something is drawn
        means.append(float(np.median(picture)))
    assert means[0] > 0.9
    assert means[1] < 0.2


@needs_chromium
def test_what_the_page_would_fetch_or_run_is_forbidden_and_noticed(folder):
    html = (folder / "page.html").read_text()
    bad = folder / "bad.html"
    bad.write_text(
        html.replace("</main>", '<img src="http://host.invalid/x.png"><script>document.title="x"</script></main>')
    )
    seen = browse(bad, width=390, profile=folder / "profile")
    assert len(seen.console) >= 2
    assert "<title>x</title>" not in seen.dom


def test_a_running_run_and_one_without_its_audio_have_a_page_too(folder):
    run = folder / "run"
    before = (run / "metrics.jsonl").read_text()
    moved = (folder / "speech").rename(folder / "elsewhere")
    try:
        (run / "metrics.jsonl").write_text(before[: len(before) - 40])  # a row that is being written
        said = report(run)
    finally:
        moved.rename(folder / "speech")
        (run / "metrics.jsonl").write_text(before)
    assert "1 line cannot be read" in said
    assert "cannot be read, such as" in said
    assert "could not be shown" in said
    assert "Not available" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speech"], "must be the folder of a run"),
        (["nothing"], "no such folder"),
        (["run", "-o", "page.html/x.html"], "Not a directory|must be writable"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_so(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    with pytest.raises((AudioSSLError, OSError), match=message):  # the console script tells both in one line
        report(*arguments)


def report(*arguments: object) -> str:
    """What the verb says; errors come out as they are."""
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    if isinstance(result.exception, AudioSSLError | OSError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output
