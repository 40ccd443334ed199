"""Model directories: what is written is what is read, and nothing else is accepted."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from small_models import small_config, small_encoder
from torch import nn

from audio_ssl.checkpoint import load_tensors, save_model
from audio_ssl.config import TextRules, Wav2Vec2Config
from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.interop import source
from audio_ssl.model import files
from audio_ssl.model.ctc import CTCModel
from audio_ssl.objective.registry import build_objective

SYMBOLS = ("<pad>", "<unk>", "|", "a", "ü")


@pytest.fixture
def recogniser(tmp_path):
    model = CTCModel(small_encoder("large"), len(SYMBOLS))
    document = files.ctc_document(small_config("large"), symbols=SYMBOLS)
    files.save_model_dir(tmp_path / "model", document, {"encoder": model.encoder, "head": model.head})
    return model.eval(), tmp_path / "model"


def test_recogniser_comes_back_whole(recogniser):
    model, path = recogniser
    loaded, document = source.load_ctc(path)
    assert not loaded.training
    assert document["ctc"] == {"symbols": list(SYMBOLS), "text": TextRules().model_dump(mode="json")}
    waveforms, num_samples = torch.randn(2, 2000), torch.tensor([2000, 1500])
    assert torch.equal(loaded(waveforms, num_samples)[0], model(waveforms, num_samples)[0])


def test_encoder_of_any_kind_comes_back(recogniser, tmp_path):
    model, path = recogniser
    encoder = source.load_encoder(path)
    assert not encoder.training
    assert all(torch.equal(v, model.encoder.state_dict()[k]) for k, v in encoder.state_dict().items())
    files.save_model_dir(tmp_path / "e", files.encoder_document(small_config("large")), {"encoder": encoder})
    assert files.read_model_dir(tmp_path / "e").kind == "encoder"
    assert files.read_model_dir(tmp_path / "e").model == small_config("large")


def test_pretraining_model_keeps_its_objective(tmp_path):
    config, settings = small_config(), Wav2Vec2Config(num_entries=7)
    document = files.pretraining_document(config, settings)
    objective = build_objective(settings, latent_dim=config.conv_dims[-1], dim=config.dim)
    files.save_model_dir(tmp_path / "m", document, {"encoder": small_encoder(), "objective": objective})
    read = files.read_model_dir(tmp_path / "m")
    assert torch.equal(read.tensors["objective.quantizer.codebook"], objective.quantizer.codebook)
    assert Wav2Vec2Config(**read.document["objective"]).num_entries == 7
    with pytest.raises(CheckpointError, match="recogniser"):
        source.load_ctc(tmp_path / "m")


def test_parts_must_fit_the_kind(tmp_path):
    with pytest.raises(ValueError, match="head"):
        files.save_model_dir(
            tmp_path / "m",
            files.ctc_document(small_config(), symbols=SYMBOLS),
            {"encoder": nn.Linear(1, 1)},
        )
    assert list(tmp_path.iterdir()) == []


def _run_folder(tmp_path, path, *, best: str | None, latest: str | None, final: bool):
    run = tmp_path / "run"
    for name in ("step_00000010", "step_00000020"):
        shutil.copytree(path, run / "checkpoints" / name)
    for pointer, name in (("best", best), ("latest", latest)):
        if name:
            (run / "checkpoints" / f"{pointer}.json").write_text(json.dumps({"name": name, "update": 1, "metric": 0}))
    (run / "config.toml").write_text("[run]\n")  # a run's own settings do not make it a model
    if final:
        shutil.copytree(path, run / "model")
    return run


@pytest.mark.parametrize(
    ("best", "latest", "final", "expected"),
    [
        ("step_00000010", "step_00000020", True, "model"),
        ("step_00000010", "step_00000020", False, "checkpoints/step_00000010"),
        (None, "step_00000020", False, "checkpoints/step_00000020"),
        ("step_00000005", "step_00000020", False, "checkpoints/step_00000020"),
        ("../model", "step_00000020", False, "checkpoints/step_00000020"),
    ],
)
def test_a_run_folder_means_its_best_model(recogniser, tmp_path, best, latest, final, expected):
    run = _run_folder(tmp_path, recogniser[1], best=best, latest=latest, final=final)
    assert files.resolve_model_dir(run) == run / expected
    assert files.resolve_model_dir(run / "checkpoints" / "step_00000010").name == "step_00000010"


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no model in it"):
        files.resolve_model_dir(tmp_path)
    with pytest.raises(CheckpointError, match="not a directory"):
        files.resolve_model_dir(tmp_path / "absent")


def test_hash_names_the_weights(recogniser, tmp_path):
    path = recogniser[1]
    before = source.weights_hash(path)
    assert len(before) == 16
    assert int(before, 16) >= 0
    shutil.copytree(path, tmp_path / "copy")
    assert source.weights_hash(tmp_path / "copy") == before
    tensors = load_tensors(path / "model.safetensors")
    tensors["head.bias"][0] += 1
    save_model(path, document=files.read_model_dir(path).document, tensors=tensors)
    assert source.weights_hash(path) != before


def _rewrite(path, *, tensors=None, document=None):
    read = files.read_model_dir(path)
    current = {k: v for k, v in read.document.items() if k != "format_version"}
    save_model(path, document={**current, **(document or {})}, tensors={**read.tensors, **(tensors or {})})


def test_strays_are_refused(recogniser):
    _rewrite(recogniser[1], tensors={"encoder.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 unexpected:\n +- encoder\.extra"):
        source.load_encoder(recogniser[1])
    _rewrite(recogniser[1], tensors={"teacher.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"teacher\.weight"):
        source.load_encoder(recogniser[1])


def test_wrong_documents_are_refused(recogniser):
    _rewrite(recogniser[1], document={"model": {"num_layerz": 3}})
    with pytest.raises(ConfigError, match=r"\[model\].*\n.*num_layerz"):
        source.load_encoder(recogniser[1])
    _rewrite(recogniser[1], document={"kind": "vocoder"})
    with pytest.raises(CheckpointError, match="vocoder"):
        source.load_encoder(recogniser[1])
