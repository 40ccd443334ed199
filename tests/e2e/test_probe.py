"""``audio-ssl probe`` from a folder of sounds to its page, which fits desks and phones in both themes."""

import json

import numpy as np
import pytest
import soundfile as sf
import torch
from matplotlib.image import imread

from audio_ssl.config import ModelConfig
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from tests.e2e.browser import CHROMIUM, NO_CHROMIUM, browse, measured

CONFIG = ModelConfig(
    preset="tiny_cpu", conv_dims=(8,) * 7, dim=16, num_layers=3, num_heads=2, ffn_dim=24,
    pos_conv_kernel=8, pos_conv_groups=4,
)  # fmt: skip
TASK = """
kind = "classify"
title = "tones, speakers held out"
[data]
root = "tones"
speaker_from = "_(?P<speaker>[a-z]+)_"
[labels]
pattern = "(?P<label>low|high|noise)_"
[split]
kind = "leave_one_speaker_out"
[training]
epochs = 3
"""
VOICES = ("ann", "bob", "cy")
NAMES = ["log-mel", "log-mel, 140 ms", "MFCC", "random weights", "tiny"]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, say):
    """27 tones of three voices, an encoder that nobody trained, and a probe of it."""
    folder = tmp_path_factory.mktemp("probe")
    rng = np.random.default_rng(1)
    (folder / "corpora" / "tones").mkdir(parents=True)
    for i in range(27):
        voice, kind = VOICES[i % 3], ("low", "high", "noise")[i // 3 % 3]
        hz = {"low": 300, "high": 2000, "noise": 0}[kind] * (1 + 0.05 * (i % 3))
        wave = 0.2 * np.sin(2 * np.pi * hz * np.arange(6_400) / 16_000) if hz else 0.2 * rng.standard_normal(6_400)
        sf.write(
            folder / "corpora" / "tones" / f"{kind}_{voice}_{i}.wav", wave + 0.02 * rng.standard_normal(6_400), 16_000
        )
    (folder / "tones.toml").write_text(TASK)
    torch.manual_seed(3)
    save_model_dir(folder / "tiny", encoder_document(CONFIG), {"encoder": build_encoder(CONFIG)})
    (folder / "said.txt").write_text(say(*_words(folder)))
    return folder


def _words(folder):
    return (
        "probe", folder / "tiny", "--task", folder / "tones.toml", "--corpora", folder / "corpora", "-o",
        folder / "out", "--seeds", "2", "--device", "cpu", "--per-layer",
    )  # fmt: skip


def test_it_tells_what_it_will_need_and_what_it_found(folder):
    said = (folder / "said.txt").read_text()
    assert "tones: tones, speakers held out; 27 items of 3 speakers" in said
    assert "3 folds" in said
    assert "GiB to be written to" in said
    assert "what" in said
    assert "heard in training is not known" in said
    assert "over random weights" in said
    for name in NAMES:
        assert f"tones, {name}: linear accuracy" in said


def test_its_files_say_the_same(folder):
    document = json.loads((folder / "out" / "probe.json").read_text())
    (task,) = document["tasks"]
    assert [result["candidate"] for result in task["results"]] == NAMES
    log_mel, *_, model = task["results"]
    assert log_mel["heads"]["linear"]["value"] > 0.9  # tones and noise are what log-mel is good at
    assert set(model["heads"]) == {"linear", "mlp"}
    assert len(model["heads"]["mlp"]["of_seed"]) == 2
    assert len(model["layers"]) == 4
    assert len(model["heads"]["linear"]["layer_weights"]) == 4
    assert 0 <= model["control"]["value"] <= 0.8
    assert task["chance"] == pytest.approx(1 / 3)
    table = (folder / "out" / "table.md").read_text()
    value = f"{100 * model['heads']['linear']['value']:.1f}"
    assert f"| tiny | linear | {value} |" in table


def test_extract_takes_the_learned_sum(folder, say):
    weights = folder / "out" / "layer_weights" / "tones_tiny_linear.json"
    say("extract", folder / "tiny", folder / "corpora" / "tones", folder / "sums", "--layer-weights", weights)
    assert len(list((folder / "sums").rglob("*.npy"))) == 27


def test_a_second_run_says_the_same_and_computes_nothing(folder, say):
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "results").iterdir()}
    said = say(*_words(folder))
    assert "0.00 GiB to be written" in said
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "results").iterdir()} == before
    first = (folder / "said.txt").read_text()
    assert [line for line in said.splitlines() if "│" in line] == [line for line in first.splitlines() if "│" in line]


def test_what_cannot_be_done_is_said_before_anything_is_computed(folder, say):
    probe = ("probe", folder / "tiny", "-o", folder / "none", "--corpora", folder / "corpora", "--task")
    assert "no_such_task" in say(*probe, "no_such_task", status=2)
    assert "no_model" in say("probe", folder / "no_model", *probe[2:], folder / "tones.toml", status=2)
    said = say(*probe, folder / "tones.toml", "--set", "training.epoch=3", status=2)
    assert "did you mean `training.epochs`?" in said
    assert not (folder / "none").exists()


def test_the_page_is_small_and_whole(folder):
    html = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert len(html) < 4_000_000
    for key in ("doubts", "task-tones", "measured"):
        assert f'<section id="{key}"' in html
    assert html.count('<figure class="map"') == 8  # of the model and of log-mel, by label and speaker, in two ways
    assert html.count('<figure class="layers"') == 1
    assert 'class="neighbours"' in html
    assert "<audio" in html


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window(folder, width):
    found = measured(folder / "out" / "report.html", folder, width)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["wide"] == []
    assert found["smallest"] >= 11


@needs_chromium
def test_both_themes_are_drawn_and_the_console_is_silent(folder):
    means = []
    for dark in (False, True):
        shot = folder / f"{dark}.png"
        seen = browse(
            folder / "out" / "report.html", width=390, profile=folder / "profile", screenshot=shot, dark=dark
        )  # fmt: skip
        assert not seen.console
        picture = imread(shot)[..., :3]
        assert picture.std() > 0.02  # something is drawn
        means.append(float(np.median(picture)))
    assert means[0] > 0.9
    assert means[1] < 0.2
