"""Run folders as tests want them: figures, settings, events, a small model and audio that it has not learned from."""

import json
from pathlib import Path

import numpy as np
import soundfile as sf
import tomli_w
import torch

from audio_ssl.config import ModelConfig, Wav2Vec2Config
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import Utterance
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, pretraining_document, save_model_dir
from audio_ssl.objective.registry import build_objective

MODEL = ModelConfig(preset="tiny_cpu", conv_dims=(16,) * 7, dim=48, num_heads=3, num_layers=2, pos_conv_groups=4)
OBJECTIVE = Wav2Vec2Config(num_entries=7, num_groups=2, code_dim=12, target_dim=11, num_masks=2)
SYMBOLS = ("<pad>", "<unk>", "|", "a", "b")
TRAIN = {
    "split": "train", "epoch": 0, "loss": 4.9, "contrastive_loss": 4.4, "accuracy": 0.05, "code_perplexity": 9.0,
    "code_perplexity_1": 4.0, "code_perplexity_2": 5.0, "grad_norm": 2.0, "lr": 1e-3, "skipped_updates": 0,
    "audio_h": 0.5, "audio_s_per_s": 80.0, "data_wait_share": 0.01, "padding_share": 0.03, "time_left_s": 61.0,
}  # fmt: skip


def rows(num: int = 5) -> list[dict]:
    """Figures of ``num`` log lines, ten updates apart, and one of validation."""
    train = [{**TRAIN, "update": 10 * i, "contrastive_loss": 4.6 - 0.1 * i} for i in range(1, num + 1)]
    return [*train, {"update": 10 * num, "split": "valid", "contrastive_loss": 4.3, "accuracy": 0.04, "is_best": True}]


def event(name: str, update: int = 0, **values) -> dict:
    return {"time": "2026-11-23T01:02:03+00:00", "update": update, "event": name, **values}


def write_run(folder: Path, *, figures: list[dict] | None = None, events: list[dict] = (), **sections) -> Path:
    """A run folder without a model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model": {"preset": "tiny_cpu"}, "run": {"num_updates": 50}, **sections}
    if "init_from" not in sections:
        config.setdefault("objective", {"num_entries": 7, "num_groups": 2, "num_distractors": 100})
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    lines = rows() if figures is None else figures
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    if events:
        (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return folder


def write_audio(folder: Path, *, texts: bool = False) -> Path:
    """Three rows of noise of 0.4, 0.9 and 0.7 s, as a manifest in our own text form."""
    (folder / "audio").mkdir(parents=True)
    noise = np.random.default_rng(5).normal(size=16_000).astype(np.float32) / 10
    lines = []
    for name, length in (("one", 6_400), ("<b>two</b>", 14_400), ("three", 11_200)):
        path = f"{len(lines)}.wav"
        sf.write(folder / "audio" / path, noise[:length], 16_000)
        lines.append({"id": name, "path": path, "start": 0, "num_samples": length, "sample_rate": 16_000})
        if texts:
            lines[-1]["text"] = "ab a<i>b"
    manifest = Manifest.from_rows([Utterance(**line) for line in lines], root=folder / "audio")
    manifest.write(folder / "speech.arrow")
    return folder / "speech.arrow"


def write_checkpoint(run: Path, *, name: str = "step_00000050", is_ctc: bool = False) -> Path:
    """A checkpoint with random weights, which is the best."""
    torch.manual_seed(0)
    encoder = build_encoder(MODEL)
    place = run / "checkpoints" / name
    place.parent.mkdir(exist_ok=True)
    if is_ctc:
        head = CTCModel(encoder, len(SYMBOLS)).head
        document = ctc_document(MODEL, symbols=SYMBOLS)
        save_model_dir(place, document, {"encoder": encoder, "head": head})
    else:
        objective = build_objective(OBJECTIVE, latent_dim=encoder.latent_dim, dim=encoder.dim)
        save_model_dir(place, pretraining_document(MODEL, OBJECTIVE), {"encoder": encoder, "objective": objective})
    (run / "checkpoints" / "best.json").write_text(json.dumps({"name": name}))
    return place
