"""``audio-ssl convert``: whose file it is, what is said, and the table of names behind it."""

from __future__ import annotations

import pytest
import torch
import typer
from checkpoints import SYSTEMS, place, save_ours
from peers import OBJECTIVE, random_config, random_encoder
from typer.testing import CliRunner

from audio_ssl.cli.convert import convert as command
from audio_ssl.errors import AudioSSLError, CheckpointError, ConfigError
from audio_ssl.interop.convert import convert
from audio_ssl.interop.names import NAMES, pairs_of
from audio_ssl.interop.source import open_source
from audio_ssl.model import files
from audio_ssl.objective import build_objective


@pytest.fixture
def ours(tmp_path):
    save_ours(tmp_path / "ours", random_config(3), "pretraining")
    return tmp_path / "ours"


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_format_is_known_again(ours, tmp_path, system):
    out = place(tmp_path, system, "theirs")
    convert(ours, out, to=system, check=False)
    assert open_source(out).system == system
    if out.is_dir():
        assert open_source(out / "model.safetensors").system == system


def test_a_conversion_that_changes_nothing_is_refused(ours, tmp_path):
    with pytest.raises(CheckpointError, match="already"):
        convert(ours, tmp_path / "out", to="audio_ssl")
    with pytest.raises(CheckpointError, match="cannot be overridden"):
        convert(ours, tmp_path / "out", to="transformers", overrides={"num_heads": 1})


def _run(*arguments):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_command_says_what_became_of_every_tensor(ours, tmp_path):
    result = _run(ours, tmp_path / "out.pt", "--to", "torchaudio")
    assert result.exit_code == 0
    assert "no place for objective.quantizer.codebook: kept in the .rest.safetensors beside it" in result.output
    assert "checked against torchaudio" in result.output
    (tmp_path / "out.rest.safetensors").unlink()
    (tmp_path / "out.toml").unlink()
    heads = f"num_heads={random_config(3).num_heads}"
    result = _run(tmp_path / "out.pt", tmp_path / "back", "--to", "audio_ssl", "--set", heads, "--verbose",
                  "--set", "model.sample_rate_hz=8000")  # fmt: skip
    assert "has no encoder.mask_embedding: filled with zeros" in result.output
    assert "does not say, taken as in the published models: norm_order = pre (--set overrides it)" in result.output
    assert "num_heads" not in result.output
    assert "encoder.transformer.layer_norm.bias -> encoder.context_network.norm.bias" in result.output
    assert files.read_model_dir(tmp_path / "back").model.sample_rate_hz == 8000


def test_the_check_can_be_left_out(ours, tmp_path, monkeypatch):
    monkeypatch.setattr("audio_ssl.interop.convert.check_against", None)
    result = _run(ours, tmp_path / "out.pt", "--to", "fairseq2", "--no-check")
    assert result.exit_code == 0
    assert "checked" not in result.output


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


def test_a_model_keeps_its_name_in_indexes(ours, tmp_path):
    from audio_ssl.interop.source import weights_hash

    convert(ours, tmp_path / "theirs.pt", to="fairseq2", check=False)
    before = weights_hash(tmp_path / "theirs.pt")
    assert before != weights_hash(ours)
    content = torch.load(tmp_path / "theirs.pt", weights_only=True)
    content["model"]["final_proj.bias"] += 1
    torch.save(content, tmp_path / "theirs.pt")
    assert weights_hash(tmp_path / "theirs.pt") != before


@pytest.fixture
def with_decoder(tmp_path):
    """A pre-training model whose transformer never saw masked frames."""
    config = random_config(3)
    settings = OBJECTIVE.model_copy(update={"encode": "visible", "decoder_dim": 10, "decoder_groups": 1})
    objective = build_objective(settings, latent_dim=config.conv_dims[-1], dim=config.dim)
    modules = {"encoder": random_encoder(config), "objective": objective}
    files.save_model_dir(tmp_path / "ours", files.pretraining_document(config, settings), modules)
    return tmp_path / "ours"


@pytest.mark.parametrize("system", ["transformers", "fairseq", "fairseq2"])
def test_a_decoder_has_no_place_in_a_peers_pretraining_model(with_decoder, tmp_path, system):
    out = place(tmp_path, system, "theirs")
    with pytest.raises(CheckpointError, match=f'objective.encode must be "all" for {system}(.|\n)*torchaudio'):
        convert(with_decoder, out, to=system)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours"]


def test_torchaudio_takes_the_encoder_and_the_decoder_stands_beside_it(with_decoder, tmp_path):
    told = convert(with_decoder, tmp_path / "out.pt", to="torchaudio")
    assert "objective.decoder.layers.3.weight" in told.dropped
    assert [check.system for check in told.checks] == ["torchaudio"]
    convert(tmp_path / "out.pt", tmp_path / "back", to="audio_ssl")
    ours, back = (files.read_model_dir(folder) for folder in (with_decoder, tmp_path / "back"))
    assert back.document["objective"] == ours.document["objective"]
    assert back.tensors.keys() == ours.tensors.keys()
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in ours.tensors.items())


def test_a_decoder_that_cannot_be_built_is_told(with_decoder, tmp_path):
    config = with_decoder / "config.toml"
    config.write_text(config.read_text().replace("decoder_groups = 1\n", "decoder_groups = 5\n"))
    assert random_config(3).dim % 5
    with pytest.raises(CheckpointError, match="the settings must describe a model that can be built"):
        convert(with_decoder, tmp_path / "out.pt", to="torchaudio")
