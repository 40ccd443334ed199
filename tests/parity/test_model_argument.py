"""Wherever a MODEL is asked for, anybody's will do, and gives bit for bit what it gives once converted to ours."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tomli_w
import torch
from checkpoints import SYSTEMS
from models import edit_tensors, tree
from peers import random_config

import audio_ssl
from audio_ssl.checkpoint import load_tensors
from audio_ssl.cli.main import run
from audio_ssl.interop.convert import convert

SHORT = (
    "data.max_s=8", "data.batch_s=8", "data.micro_batch_s=8", "data.num_workers=0", "run.num_updates=1",
    "run.device=cpu", "run.precision=fp32",
)  # fmt: skip
WEIGHT = "encoder.context_network.blocks.0.attention.query.weight"
CODEBOOK = "objective.quantizer.codebook"
INPUTS = (*SYSTEMS, "a file of transformers")


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Four seconds of noise with transcripts."""
    folder = tmp_path_factory.mktemp("speech")
    lines = ["path\ttext"]
    for i in range(4):
        noise = 0.1 * np.random.default_rng(i).standard_normal(16000 + 999 * i).astype(np.float32)
        soundfile.write(folder / f"{i}.wav", noise, 16000)
        lines.append(f"{i}.wav\t{'ab ba'[: i + 2]}")
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def call(monkeypatch, capfd):
    """The console script's entry point; gives what it printed to standard output."""

    def run_it(*args: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["audio-ssl", *map(str, args)])
        capfd.readouterr()
        try:
            run()
        except SystemExit as ended:
            assert not ended.code, capfd.readouterr().err  # noqa: PT017
        return capfd.readouterr().out

    return run_it


@pytest.fixture
def pair(whole, tmp_path):
    """(MODEL as it is, the same model converted to ours)."""

    def make(name: str, kind: str) -> tuple[Path, Path]:
        theirs = whole[kind]["transformers" if "file" in name else name]
        if not (tmp_path / kind / name).exists():
            convert(theirs, tmp_path / kind / name, to="audio_ssl", check=False)
        return (theirs / "model.safetensors" if "file" in name else theirs), tmp_path / kind / name

    return make


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def finetuned(call, model: Path, manifest: Path, run_dir: Path) -> dict[str, torch.Tensor]:
    data = [f"init_from={model}", f"data.train=['{manifest}']", "data.valid=[]", f"run.dir={run_dir}"]
    call("finetune", "finetune/small", *sets(*data, *SHORT))
    return load_tensors(run_dir / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def manifest(speech) -> Path:
    command = [sys.executable, "-m", "audio_ssl", "manifest", "build", str(speech), "-o", f"{speech}.arrow"]
    subprocess.run(command, check=True, capture_output=True)
    return Path(f"{speech}.arrow")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def frames(folder: Path) -> list[np.ndarray]:
    found = [np.load(path) for path in sorted(folder.rglob("*.npy"))]
    assert len(found) == 4
    return found


@pytest.mark.parametrize(("name", "kind"), [*((name, "pretraining") for name in INPUTS), ("torchaudio", "encoder")])
def test_extract_and_load(call, whole, pair, speech, tmp_path, name, kind):
    found = []
    for number, model in enumerate(pair(name, kind)):
        call("extract", model, speech, tmp_path / f"out{number}", "--device", "cpu", "--layer", "all")
        found.append(frames(tmp_path / f"out{number}"))
    assert all(np.array_equal(a, b) and np.isfinite(a).all() for a, b in zip(*found, strict=True))
    theirs, ours = (audio_ssl.load(model) for model in pair(name, kind))
    assert same(theirs.encoder.state_dict(), ours.encoder.state_dict())
    assert (theirs.encoder.sample_rate_hz, theirs.encoder.normalize_waveform) == (
        ours.encoder.sample_rate_hz, ours.encoder.normalize_waveform,
    )  # fmt: skip
    first = audio_ssl.load(whole[kind]["audio_ssl"])  # what all formats were written from
    for model in (ours, first):
        assert np.array_equal(*(e.extract(speech / "0.wav").frames for e in (theirs, model)))


@pytest.mark.parametrize("name", INPUTS)
def test_recognition(call, pair, speech, manifest, tmp_path, name):
    said, reports = [], []
    for number, model in enumerate(pair(name, "ctc")):
        verbs = [call("transcribe", model, speech, "--device", "cpu", "--format", "jsonl", "--times")]
        call("align", model, manifest, "-o", tmp_path / f"align{number}" / "all.ctm", "--device", "cpu")
        call("evaluate", model, manifest, "--device", "cpu", "-o", tmp_path / f"{number}.json")
        verbs.append(audio_ssl.transcribe(model, [speech / "0.wav", speech / "3.wav"]))
        said.append(verbs)
        reports.append(tree(tmp_path / f"align{number}"))
    assert said[0] == said[1]
    assert len(said[0][0].splitlines()) == 4
    assert any(said[0][1])
    assert reports[0] == reports[1]
    assert reports[0]
    found = [json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1)]
    first, second = ({k: v for k, v in f.items() if k not in ("model", "model_hash", "utterances_file")} for f in found)
    assert first == second
    first, second = ((tmp_path / f"{n}.utterances.jsonl").read_text() for n in (0, 1))
    assert first == second


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "pretraining") for name in SYSTEMS), (INPUTS[-1], "ctc"), ("torchaudio", "encoder")]
)
def test_finetune(call, pair, manifest, tmp_path, name, kind):
    theirs, ours = pair(name, kind)
    results = [finetuned(call, model, manifest, tmp_path / str(n)) for n, model in enumerate((theirs, ours))]
    assert same(*results)
    assert torch.allclose(results[0][WEIGHT], load_tensors(ours / "model.safetensors")[WEIGHT], atol=5e-3)


def pretrained(call, model: Path, shape: Path, manifest: Path, run_dir: Path) -> dict[str, torch.Tensor]:
    """One update from ``model``, with the settings of the model of ours in ``shape``."""
    document = tomllib.loads((shape / "config.toml").read_text())
    settings = {key: document[key] for key in ("model", "objective") if key in document}
    config = run_dir.with_suffix(".toml")
    config.write_text(tomli_w.dumps({**settings, "data": {"train": [str(manifest)]}}))
    call("pretrain", config, "--init-from", model, *sets(f"run.dir={run_dir}", "optim.lr=1e-6", *SHORT))
    return load_tensors(run_dir / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "pretraining") for name in SYSTEMS), ("transformers", "encoder"), ("fairseq2", "encoder")],
)
def test_pretrain(call, pair, manifest, tmp_path, name, kind):
    theirs, ours = pair(name, kind)
    results = [pretrained(call, model, ours, manifest, tmp_path / str(n)) for n, model in enumerate((theirs, ours))]
    assert same(*results)
    source = load_tensors(ours / "model.safetensors")
    assert torch.allclose(results[0][WEIGHT], source[WEIGHT], atol=1e-4)
    assert (CODEBOOK in source) == (kind == "pretraining")
    if kind == "pretraining":
        assert torch.allclose(results[0][CODEBOOK], source[CODEBOOK], atol=1e-4)
    else:
        assert results[0][CODEBOOK].std() > 0  # fresh


@pytest.fixture(scope="module")
def hubert(tmp_path_factory) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32, conv_dim=[8] * 7,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    transformers.HubertModel(config).save_pretrained(tmp_path_factory.mktemp("hubert"))
    return next(path for path in tmp_path_factory.getbasetemp().glob("hubert*"))


def test_hubert(call, hubert, speech, manifest, tmp_path):
    convert(hubert, tmp_path / "ours", to="audio_ssl", check=False)
    found, tuned = [], []
    for number, model in enumerate((hubert, tmp_path / "ours")):
        call("extract", model, speech, tmp_path / f"out{number}", "--device", "cpu")
        found.append(frames(tmp_path / f"out{number}"))
        tuned.append(finetuned(call, model, manifest, tmp_path / str(number)))
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
    assert same(*tuned)


def test_guessed_settings_are_said_where_the_user_looks(whole, speech, manifest, tmp_path):
    content = torch.load(whole["ctc"]["fairseq"], weights_only=True)
    torch.save({"model": content["model"]}, tmp_path / "bare.pt")
    (tmp_path / "dict.ltr.txt").write_bytes(whole["ctc"]["fairseq"].with_name("dict.ltr.txt").read_bytes())
    tune = ["finetune", "finetune/small"]
    tune += sets(f"init_from={tmp_path / 'bare.pt'}", f"data.train=['{manifest}']", "data.valid=[]",
                 f"run.dir={tmp_path / 'run'}", *SHORT)  # fmt: skip
    for args in (["transcribe", tmp_path / "bare.pt", speech / "0.wav", "--device", "cpu"], tune):
        done = subprocess.run([sys.executable, "-m", "audio_ssl", *args], capture_output=True, text=True, check=True)
        warned = [line for line in done.stderr.splitlines() if line.startswith("WARNING ")]
        assert len(warned) == 1, done.stderr
        assert (
            f"{tmp_path / 'bare.pt'} does not say num_heads = 1, norm_order = pre, normalize_waveform = " in warned[0]
        )
        assert "`audio-ssl convert --set` sets them otherwise" in warned[0]
        assert "WARNING" not in done.stdout


def test_a_model_to_start_from_that_cannot_be_read(refused, whole, manifest, tmp_path):
    path = tmp_path / "theirs.pt"
    path.write_bytes(whole["pretraining"]["fairseq2"].read_bytes())
    run_dir = f"run.dir={tmp_path / 'run'}"
    edit_tensors(path, lambda tensors: tensors.pop("encoder_frontend.model_dim_proj.bias"))
    tune = ["finetune", "finetune/small", *sets(f"init_from={path}", f"data.train=['{manifest}']", run_dir)]
    train = ["pretrain", "pretrain/conv_tiny", "--init-from", path, *sets(f"data.train=['{manifest}']", run_dir)]
    for args in (tune, train):
        said = refused(*args)
        assert f"error: {path} must hold the tensors of one wav2vec 2.0" in said
        assert "1 missing:\n    - encoder_frontend.model_dim_proj.bias" in said
    said = refused("pretrain", "pretrain/conv_tiny", "--init-from", whole["ctc"]["fairseq"], *train[4:])
    assert f"[model] must describe the model of --init-from {whole['ctc']['fairseq']}:\n" in said
    assert "\n  - model.pos_conv_kernel must be 16, got 32\n" in said


def test_settings_that_shapes_do_not_tell_must_be_those_of_the_model_to_start_from(refused, whole, manifest, tmp_path):
    document = tomllib.loads((whole["encoder"]["audio_ssl"] / "config.toml").read_text())
    document["model"] |= {"norm_order": "post", "num_heads": 1, "dropout": 0.3}  # only the last is free
    (tmp_path / "c.toml").write_text(tomli_w.dumps({"model": document["model"], "data": {"train": [str(manifest)]}}))
    run_dir = f"run.dir={tmp_path / 'run'}"
    said = refused("pretrain", tmp_path / "c.toml", "--init-from", whole["encoder"]["transformers"], *sets(run_dir))
    assert "- model.norm_order must be 'pre', got 'post'\n" in said
    assert f"- model.num_heads must be {random_config(3).num_heads}, got 1\n" in said
    assert said.count("must be") == 2
    assert not (tmp_path / "run" / "checkpoints").exists()
