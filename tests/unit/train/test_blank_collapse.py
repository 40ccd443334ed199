"""Real fine-tuning runs, as small as can be: one that cannot learn is warned of and stopped, one that learns is not."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console

from audio_ssl.config import FinetuneConfig, ModelConfig
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import TrainingError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, save_model_dir
from audio_ssl.train.finetune import _signs, finetune

RATE = 16000
MODEL = {
    "front_end": "mel", "preset": "tiny_cpu", "dim": 24, "num_heads": 2, "num_layers": 1, "ffn_dim": 32,
    "pos_conv_groups": 2, "pos_conv_kernel": 8, "dropout": 0.0, "attention_dropout": 0.0, "feature_dropout": 0.0,
    "layer_drop": 0.0,
}  # fmt: skip
TONES_HZ = {"a": 300, "b": 900, "c": 2000, "d": 4000}


def spoken(text: str, generator: np.random.Generator) -> np.ndarray:
    """1.6 s of quiet noise, with a tone of 0.1 s for each letter."""
    samples = 0.01 * generator.standard_normal(round(1.6 * RATE))
    for i, letter in enumerate(text):
        start, time_s = round((0.1 + 0.5 * i) * RATE), np.arange(RATE // 10) / RATE
        samples[start : start + len(time_s)] += 0.3 * np.sin(2 * np.pi * TONES_HZ[letter] * time_s)
    return samples


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    generator = np.random.default_rng(3)
    rows = []
    for i in range(40):
        text = "".join(generator.choice(list(TONES_HZ), size=3))
        samples = spoken(text, generator)
        sf.write(folder / f"{i}.wav", samples, RATE)
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, len(samples), RATE, text=text))
    Manifest.from_rows(rows, root=folder).write(folder / "list.tsv")
    return folder / "list.tsv"


@pytest.fixture(scope="module")
def blank_recogniser(tmp_path_factory) -> Path:
    """A recogniser that answers blanks whatever it hears."""
    torch.manual_seed(1)
    symbols = ("<pad>", "<unk>", "|", *TONES_HZ)
    model = CTCModel(build_encoder(ModelConfig(**MODEL)), len(symbols))
    with torch.no_grad():
        model.head.bias[0] = 30.0
    place = tmp_path_factory.mktemp("blank") / "model"
    document = ctc_document(ModelConfig(**MODEL), symbols=symbols)
    save_model_dir(place, document, {"encoder": model.encoder, "head": model.head})
    return place


def settings(folder: Path, manifest: Path, *, lr: float, freeze=None, num_updates: int = 160, **sections):
    return FinetuneConfig(
        **sections, data={"train": [manifest], "batch_s": 8.0, "micro_batch_s": 8.0, "max_s": 2.0, "num_workers": 0},
        ctc={"mask_prob": 0.0, "channel_mask_prob": 0.0, **(freeze or {})},
        optim={"lr": lr, "schedule": "constant", "warmup_share": 0.05},
        run={"dir": folder / "run", "device": "cpu", "precision": "fp32", "num_updates": num_updates, "log_every": 10},
    )  # fmt: skip


def run(folder: Path, manifest: Path, **about) -> list[dict]:
    """Rows of metrics."""
    config = settings(folder, manifest, **about)
    try:
        finetune(config, resume="never", console=Console(file=io.StringIO()))
    finally:
        lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_run_that_learns_comes_near_to_blanks_and_is_left_alone(manifest, tmp_path):
    rows = run(tmp_path, manifest, lr=4e-3, model=MODEL)
    shares = [row["blank_share"] for row in rows if row["split"] == "train"]
    assert max(shares) > 0.95
    assert shares[-1] < max(shares)
    assert not [row for row in rows if row["split"] == "guard"]


def test_a_run_that_stays_among_blanks_is_warned_of_and_stopped(manifest, blank_recogniser, tmp_path):
    with pytest.raises(TrainingError) as caught:  # the rate is far too low to get away from there
        run(tmp_path, manifest, lr=1e-7, init_from=blank_recogniser, guard={"blank_stop_share": 0.4})
    said = str(caught.value)
    assert "blank_share is 100.0%: the model has never answered anything but blanks" in said
    assert "for 102 updates, up to update 110." in said  # the warm-up of 8 is not counted
    assert "optim.lr" in said
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    told = [(event["event"], event["update"]) for event in events]
    assert told == [("start", 0), ("warning", 60), ("warning", 110), ("end", 110)]
    assert (events[-1]["how"], "guard.blank_stop_share" in events[-1]["message"]) == ("failed", True)


@pytest.mark.parametrize(
    ("freeze", "after"),
    [
        ({}, 8),  # the warm-up
        ({"freeze_encoder_updates": 30}, 30),
        ({"freeze_feature_encoder": 40}, 40),
        ({"freeze_feature_encoder": 40, "freeze_encoder_updates": 30}, 40),
        ({"freeze_feature_encoder": 160, "freeze_encoder_updates": 30}, 30),  # the front end never thaws in this run
        ({"freeze_feature_encoder": 160}, 8),
    ],
)
def test_blanks_count_from_the_last_thaw_on(freeze, after):
    config = settings(Path(), Path("list.tsv"), lr=1e-3, freeze=freeze, model=MODEL)
    (sign,) = (sign for sign in _signs(config, 160) if sign.name == "blanks")
    assert sign.after == after


def test_a_run_compares_losses_with_those_after_a_thaw(manifest, tmp_path):
    freeze = {"freeze_encoder_updates": 10}
    run(tmp_path, manifest, lr=1e-3, freeze=freeze, num_updates=20, model=MODEL, guard={"spike_updates": 10})
    (state,) = (tmp_path / "run").rglob("progress.json")
    assert len(json.loads(state.read_text())["losses"]) == 1  # of two rows
