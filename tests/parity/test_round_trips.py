"""Round trips: ours to each format and back, and each format to ours and back, tensors and settings bit for bit."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from checkpoints import KINDS, SYSTEMS, VARIANTS, place, save_fairseq, save_foreign, save_ours, save_transformers
from peers import random_config

from audio_ssl.config import ModelConfig
from audio_ssl.errors import CheckpointError
from audio_ssl.interop import huggingface
from audio_ssl.interop.convert import convert
from audio_ssl.interop.huggingface_files import read_huggingface
from audio_ssl.interop.pt_file import read_pt
from audio_ssl.model.files import read_model_dir

pytestmark = pytest.mark.usefixtures("installed_peers")


def assert_same_tensors(after, before):
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype, name
        assert torch.equal(after[name], tensor), name


def theirs_in(path, system):
    """Tensors and settings of a foreign checkpoint, read apart from our converters."""
    if system == "transformers":
        return dict(read_huggingface(path).tensors), json.loads((path / "config.json").read_text())
    content = read_pt(path)
    settings = {key: content.get(key) for key in ("cfg", "args")} if system == "fairseq" else {}
    return content if system == "torchaudio" else content["model"], settings


@pytest.mark.parametrize(
    ("seed", "kind"), [*((seed, kind) for seed in (0, 3) for kind in KINDS), (1, "pretraining"), (2, "ctc")]
)
@pytest.mark.parametrize("system", SYSTEMS)
def test_ours_there_and_back(tmp_path, system, seed, kind):
    # settings far from every default: what a format has no place for must come back all the same
    settings = random_config(seed).model_dump() | {"dropout": 0.3, "feature_grad_scale": 0.7, "sample_rate_hz": 8000}
    eps = 3e-5 if system == "transformers" else 1e-5
    save_ours(tmp_path / "ours", ModelConfig(**settings | {"layer_norm_eps": eps, "normalize_waveform": True}), kind)
    there = convert(tmp_path / "ours", place(tmp_path / "there", system), to=system)
    convert(there.path, tmp_path / "back", to="audio_ssl", check=False)
    ours, back = read_model_dir(tmp_path / "ours"), read_model_dir(tmp_path / "back")
    assert_same_tensors(back.tensors, ours.tensors)
    assert back.document == ours.document
    differences = {check.system: check.difference for check in there.checks}
    assert differences.keys() == {system}
    assert system == "fairseq" or differences[system] < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_theirs_here_and_back(tmp_path, system, variant, kind):
    source = save_foreign(tmp_path / "theirs", system, variant, kind)
    heads = {"num_heads": random_config({"base": 0, "large": 3}[variant]).num_heads}
    overrides = heads if system in ("torchaudio", "fairseq2") else None  # shapes do not tell
    here = convert(source, tmp_path / "ours", to="audio_ssl", overrides=overrides)
    assert not here.report.unexpected
    back = convert(here.path, place(tmp_path / "back", system), to=system, check=False)
    before, after = theirs_in(source, system), theirs_in(back.path, system)
    assert_same_tensors(after[0], before[0])
    assert after[1] == before[1]


def test_from_one_foreign_format_to_the_next_through_all(tmp_path):
    save_ours(tmp_path / "ours", random_config(3), "ctc")
    path = tmp_path / "ours"
    for system in (*SYSTEMS, "transformers", "fairseq2", "torchaudio", "fairseq", "audio_ssl"):
        out = place(tmp_path / f"step_{len(list(tmp_path.iterdir()))}", system)
        path = convert(path, out, to=system, check=False).path
    ours, back = read_model_dir(tmp_path / "ours"), read_model_dir(path)
    columns = [back.document["ctc"]["symbols"].index(symbol) for symbol in ours.document["ctc"]["symbols"]]
    for leaf in ("weight", "bias"):
        assert torch.equal(back.tensors[f"head.{leaf}"][columns], ours.tensors[f"head.{leaf}"])
    is_encoder = {name for name in ours.tensors if name.startswith("encoder.")}
    assert_same_tensors({k: back.tensors[k] for k in is_encoder}, {k: ours.tensors[k] for k in is_encoder})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_what_it_is(tmp_path, dtype):
    save_transformers(tmp_path / "theirs", "large", "ctc", dtype=dtype)
    convert(tmp_path / "theirs", tmp_path / "ours", to="audio_ssl")
    assert {t.dtype for t in read_model_dir(tmp_path / "ours").tensors.values()} == {dtype}
    convert(tmp_path / "ours", tmp_path / "back", to="transformers")
    before, after = theirs_in(tmp_path / "theirs", "transformers"), theirs_in(tmp_path / "back", "transformers")
    assert_same_tensors(after[0], before[0])
    assert after[1] == before[1]


@pytest.mark.parametrize("kind", ["ctc", "encoder"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_hubert_of_transformers(tmp_path, variant, kind):
    model = save_transformers(tmp_path / "theirs", variant, kind, family="Hubert")
    here = convert(tmp_path / "theirs", tmp_path / "ours", to="audio_ssl")
    assert [check.system for check in here.checks] == ["transformers"]
    convert(tmp_path / "ours", tmp_path / "back", to="transformers")
    tensors, config = theirs_in(tmp_path / "back", "transformers")
    assert_same_tensors(tensors, model.state_dict())
    assert config == json.loads((tmp_path / "theirs" / "config.json").read_text())


@pytest.mark.parametrize("kind", ["ctc", "encoder"])
def test_hubert_of_fairseq(tmp_path, kind):
    config = random_config(3)
    save_fairseq(tmp_path / "theirs.pt", config, kind, is_hubert=True)
    here = convert(tmp_path / "theirs.pt", tmp_path / "ours", to="audio_ssl")
    assert (here.kind, len(here.report.kept)) == (kind, 3)  # label embeddings, weight and bias of their projection
    back = convert(tmp_path / "ours", tmp_path / "back" / "model.pt", to="fairseq").path
    before, after = theirs_in(tmp_path / "theirs.pt", "fairseq"), theirs_in(back, "fairseq")
    assert_same_tensors(after[0], before[0])
    assert after[1] == before[1]
    convert(tmp_path / "theirs.pt", tmp_path / "transformers", to="transformers")
    assert json.loads((tmp_path / "transformers" / "config.json").read_text())["model_type"] == "hubert"


def test_hubert_of_torchaudio_with_its_pretraining_parts(tmp_path):
    models = pytest.importorskip("torchaudio.models")
    torch.manual_seed(2)
    layers = [(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2
    theirs = models.hubert_pretrain_model(
        "group_norm", layers, False, 24, 0.0, 8, 4, 2, 3, 0.0, 17, 0.0, 0.0, False, 0.0, 0.8, "static", 0.0, 10, False,
        1, 0.0, "static", 0.0, 10, False, 1, False, False, 11, 6, 0.1,
    )  # fmt: skip
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    here = convert(tmp_path / "theirs.pt", tmp_path / "ours", to="audio_ssl", overrides={"num_heads": 3})
    assert (here.kind, here.report.filled) == ("encoder", ())
    mask = read_model_dir(tmp_path / "ours").tensors["encoder.mask_embedding"]
    assert torch.equal(mask, theirs.mask_generator.mask_embedding)
    convert(tmp_path / "ours", tmp_path / "back.pt", to="torchaudio")
    assert_same_tensors(read_pt(tmp_path / "back.pt"), theirs.state_dict())


def test_without_its_origin_an_imported_model_still_goes_everywhere(tmp_path):
    save_foreign(tmp_path / "theirs", "transformers", "base", "ctc")
    convert(tmp_path / "theirs" / "model", tmp_path / "ours", to="audio_ssl")
    shutil.rmtree(tmp_path / "ours" / "origin")
    for system in SYSTEMS:
        path = convert(tmp_path / "ours", place(tmp_path / system, system), to=system, check=False).path
        convert(path, tmp_path / f"{system}_back", to="audio_ssl", check=False)
        assert_same_tensors(
            read_model_dir(tmp_path / f"{system}_back").tensors, read_model_dir(tmp_path / "ours").tensors
        )


@pytest.mark.parametrize("system", ["torchaudio", "fairseq2", "fairseq"])
def test_a_setting_that_a_peer_cannot_have_is_refused(tmp_path, system):
    save_ours(tmp_path / "ours", random_config(1).model_copy(update={"layer_norm_eps": 3e-5}), "encoder")
    with pytest.raises(CheckpointError, match=rf"layer_norm_eps must be 1e-05 for {system}, got 3e-05"):
        convert(tmp_path / "ours", tmp_path / "theirs.pt", to=system)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


@pytest.mark.parametrize("system", ["fairseq2", "fairseq"])
def test_a_part_that_a_peer_cannot_have_is_refused(tmp_path, system):
    settings = random_config(1).model_dump()
    settings["conv_dims"] = (*settings["conv_dims"][:-1], settings["dim"])
    save_ours(tmp_path / "ours", ModelConfig(**settings), "encoder")
    with pytest.raises(CheckpointError, match=rf"conv_dims must differ from dim for {system}, got {settings['dim']}"):
        convert(tmp_path / "ours", tmp_path / "theirs.pt", to=system)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]
    convert(tmp_path / "ours", tmp_path / "theirs", to="transformers")
    convert(tmp_path / "theirs", tmp_path / "theirs.pt", to="torchaudio")


def test_a_wrong_guess_is_caught_by_the_check(tmp_path, monkeypatch):
    """The check compares numbers: a map that is complete, well shaped and wrong does not pass."""
    save_ours(tmp_path / "ours", random_config(1), "encoder")
    swapped = {"q_proj": "k_proj", "k_proj": "q_proj"}
    right = huggingface.pairs_for

    def wrong(*args):
        return [(o, ".".join(swapped.get(part, part) for part in t.split("."))) for o, t in right(*args)]

    monkeypatch.setattr(huggingface, "pairs_for", wrong)
    monkeypatch.setattr("audio_ssl.interop.huggingface_files.pairs_for", wrong)
    with pytest.raises(CheckpointError, match=r"same numbers in transformers.*frames differ"):
        convert(tmp_path / "ours", tmp_path / "theirs", to="transformers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]
