"""``audio-ssl convert``: whose file it is, what is refused, and what is said."""

from __future__ import annotations

import pytest
import torch
import typer
from peers import OBJECTIVE, random_config, random_encoder, random_objective
from typer.testing import CliRunner

from audio_ssl.cli.convert import convert as command
from audio_ssl.errors import AudioSSLError, CheckpointError, ConfigError
from audio_ssl.interop.convert import convert, detect_format
from audio_ssl.interop.names import NAMES, pairs_of
from audio_ssl.model import files


@pytest.fixture
def ours(tmp_path):
    config = random_config(3)
    modules = {"encoder": random_encoder(config), "objective": random_objective(config)}
    files.save_model_dir(tmp_path / "ours", files.pretraining_document(config, OBJECTIVE), modules)
    return tmp_path / "ours"


@pytest.mark.parametrize("system", ["transformers", "torchaudio", "fairseq2", "fairseq"])
def test_every_format_is_known_again_and_comes_back(ours, tmp_path, system):
    out = tmp_path / ("theirs" if system == "transformers" else "theirs.pt")
    convert(ours, out, to=system)
    assert detect_format(out) == system
    convert(out, tmp_path / "back", to="audio_ssl")
    before, after = files.read_model_dir(ours).tensors, files.read_model_dir(tmp_path / "back").tensors
    kept = after.keys() - {"encoder.mask_embedding"} if system == "torchaudio" else before.keys()
    assert all(torch.equal(after[k], before[k]) for k in kept)
    assert len(kept) > 60


def test_from_one_foreign_format_to_another(ours, tmp_path):
    convert(ours, tmp_path / "a.pt", to="fairseq2")
    convert(tmp_path / "a.pt", tmp_path / "b.pt", to="fairseq")
    convert(tmp_path / "b.pt", tmp_path / "back", to="audio_ssl")
    before, after = files.read_model_dir(ours), files.read_model_dir(tmp_path / "back")
    assert all(torch.equal(after.tensors[k], v) for k, v in before.tensors.items())


def test_what_is_there_is_never_overwritten(ours, tmp_path):
    for out, to in ((tmp_path / "dir", "transformers"), (tmp_path / "file.pt", "fairseq2")):
        out.mkdir() if to == "transformers" else out.write_text("precious")
        with pytest.raises(CheckpointError, match="must not exist"):
            convert(ours, out, to=to)
    assert (tmp_path / "file.pt").read_text() == "precious"


def test_strangers_are_refused(ours, tmp_path):
    torch.save({"layer1.weight": torch.zeros(2)}, tmp_path / "resnet.pt")
    with pytest.raises(CheckpointError, match=r"none of theirs, starting with layer1\.weight"):
        convert(tmp_path / "resnet.pt", tmp_path / "out", to="audio_ssl")
    with pytest.raises(CheckpointError, match="no such file"):
        convert(tmp_path / "absent", tmp_path / "out", to="fairseq2")
    with pytest.raises(CheckpointError, match="already"):
        convert(ours, tmp_path / "out", to="audio_ssl")
    with pytest.raises(CheckpointError, match="cannot be overridden"):
        convert(ours, tmp_path / "out", to="transformers", overrides={"num_heads": 1})


def _run(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_says_what_was_left_out(ours, tmp_path):
    result = _run(ours, tmp_path / "out.pt", "--to", "torchaudio")
    assert result.exit_code == 0
    assert "torchaudio has no place for objective.quantizer.codebook" in result.output
    result = _run(tmp_path / "out.pt", tmp_path / "back", "--to", "audio_ssl", "--set", "model.sample_rate_hz=8000")
    assert "has no encoder.mask_embedding: filled with zeros" in result.output
    assert files.read_model_dir(tmp_path / "back").model.sample_rate_hz == 8000


def test_command_refuses_wrong_settings(ours, tmp_path):
    _run(ours, tmp_path / "out.pt", "--to", "fairseq2")
    for setting, fault in (("num_heads", "form key=value"), ("num_headz=2", "did you mean `num_heads`")):
        error = _run(tmp_path / "out.pt", tmp_path / "back", "--to", "audio_ssl", "--set", setting).exception
        assert isinstance(error, ConfigError)
        assert fault in str(error)
    assert issubclass(ConfigError, AudioSSLError)


@pytest.mark.parametrize("system", ["fairseq", "fairseq2", "huggingface", "torchaudio"])
def test_no_two_parts_share_a_name(system):
    for norm in ("group", "layer"):
        for order in ("pre", "post"):
            for kind in ("pretraining", "ctc", "encoder"):
                pairs = pairs_of(system, (norm, order, kind))
                assert len({ours for ours, _ in pairs}) == len({theirs for _, theirs in pairs}) == len(pairs)
    assert len({row.ours for row in NAMES}) == len(NAMES) - 2  # conv norm and network norm have two rows each
