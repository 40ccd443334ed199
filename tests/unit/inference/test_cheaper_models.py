"""Models with a mel front end or a squeezed context network, from pre-training to text, as the command line runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from audio_ssl.cli.align import align
from audio_ssl.cli.convert import convert
from audio_ssl.cli.extract import extract
from audio_ssl.cli.finetune import finetune
from audio_ssl.cli.pretrain import pretrain
from audio_ssl.cli.transcribe import transcribe
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import AudioSSLError, CheckpointError, ConfigError
from audio_ssl.interop.source import load_encoder
from tests.unit.inference.conftest import noise, write_wav

app = typer.Typer()
for verb in (pretrain, extract, finetune, transcribe, align, convert):
    app.command()(verb)
SHAPE = ("preset='tiny_cpu'", "dim=24", "num_layers=2", "num_heads=3", "ffn_dim=31", "pos_conv_kernel=8",
         "pos_conv_groups=4")  # fmt: skip
RUN = ("data.max_s=2", "data.batch_s=4", "data.micro_batch_s=4", "data.num_workers=0", "run.num_updates=2",
       "run.log_every=1", "run.save_every=2", "run.device='cpu'", "run.precision='fp32'")  # fmt: skip
CHEAPER = {"mel": ("front_end='mel'", "block_conv_kernel=3"), "squeezed": ("context_stride=2", f"conv_dims={[8] * 7}")}
LENGTHS = (16_000, 8_009, 12_007)


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture(scope="module", params=sorted(CHEAPER))
def made(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Speech, a pre-trained run and a recogniser made of it: two updates each."""
    work = tmp_path_factory.mktemp(request.param)
    rows = []
    for i, samples in enumerate(LENGTHS):
        write_wav(work / f"u{i}.wav", noise(samples, seed=i))
        rows.append(Utterance(f"u{i}", f"u{i}.wav", 0, samples, 16_000, ("ab", "b", "a b")[i]))
    Manifest.from_rows(rows, root=work).write(work / "m.tsv")
    model = [f"model.{setting}" for setting in (*SHAPE, *CHEAPER[request.param])]
    data = [f"data.train=['{work / 'm.tsv'}']", "data.valid=[]"]
    call("pretrain", "pretrain/conv_tiny", *sets(*model, *data, *RUN, f"run.dir='{work / 'ssl'}'"))
    start = f"init_from='{work / 'ssl'}'"
    call("finetune", "finetune/small", *sets(start, *data, *RUN, f"run.dir='{work / 'asr'}'"))
    return request.param, work


def test_pretraining_learns_and_can_be_gone_on_with(made: tuple[str, Path], tmp_path: Path) -> None:
    name, work = made
    losses = [json.loads(line)["loss"] for line in (work / "ssl/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    if name == "mel":  # latents that do not learn are not held small: their mean square is 1, its weight was 10
        assert losses[0] < 7
    again = [f"model.{setting}" for setting in (*SHAPE, *CHEAPER[name])]
    data = [f"data.train=['{work / 'm.tsv'}']", "data.valid=[]", *RUN]
    call("pretrain", "pretrain/conv_tiny", "--init-from", work / "ssl", *sets(*again, *data, f"run.dir='{tmp_path}/a'"))
    start = json.loads((tmp_path / "a/events.jsonl").read_text().splitlines()[0])
    assert (start["event"], start["init_from"]) == ("start", str(work / "ssl"))
    other = "model.front_end must be 'mel', got 'conv'" if name == "mel" else "context_stride must be 2, got 1"
    plain = [f"model.{setting}" for setting in SHAPE]
    with pytest.raises(ConfigError, match=other):
        call(
            "pretrain",
            "pretrain/conv_tiny",
            "--init-from",
            work / "ssl",
            *sets(*plain, *data, f"run.dir='{tmp_path}/b'"),
        )


def test_extraction_gives_every_frame_with_its_time(made: tuple[str, Path], tmp_path: Path) -> None:
    name, work = made
    call("extract", work / "ssl", work / "m.tsv", tmp_path / "out", "--layer", "all")
    lines = [json.loads(line) for line in (tmp_path / "out/index.jsonl").read_text().splitlines()]
    field = 560 if name == "mel" else 400
    assert [line["num_frames"] for line in lines] == [(n - field) // 320 + 1 for n in LENGTHS]
    assert {(line["hop_s"], line["first_centre_s"]) for line in lines} == {(0.02, field / 2 / 16_000)}
    assert np.load(tmp_path / "out/u1.npy").shape == (3, (8_009 - field) // 320 + 1, 24)
    convention = json.loads((tmp_path / "out/embeddings.json").read_text())["layer_convention"]
    assert ("; blocks see 2 frames as one" in convention) == (name == "squeezed")


def test_windows_group_frames_as_the_whole_does(made: tuple[str, Path], tmp_path: Path) -> None:
    name, work = made
    path = write_wav(tmp_path / "long.wav", noise(111_111, seed=8))
    for out, settings in (("whole", ("--max-s", 10)), ("cut", ("--max-s", 2.1, "--overlap-s", 0.5))):
        call("extract", work / "ssl", path, tmp_path / out, "--layer", 0, *settings)
    whole, cut = np.load(tmp_path / "whole/long.npy"), np.load(tmp_path / "cut/long.npy")
    assert len(whole) == (111_111 - (560 if name == "mel" else 400)) // 320 + 1
    np.testing.assert_allclose(cut, whole, atol=5e-5)


def test_symbols_lie_on_frames(made: tuple[str, Path], tmp_path: Path) -> None:
    name, work = made
    said = call("transcribe", work / "asr", work / "m.tsv")
    assert [line.split("\t")[0] for line in said.splitlines() if line.startswith("u")] == ["u0", "u1", "u2"]
    call("align", work / "asr", work / "m.tsv", "-o", tmp_path / "words.jsonl", "--format", "json")
    edge = (560 if name == "mel" else 400) / 2 / 16_000 - 0.01  # half a hop before the first centre
    lines = [json.loads(line) for line in (tmp_path / "words.jsonl").read_text().splitlines()]
    assert [[chunk["text"] for chunk in line["chunks"]] for line in lines] == [["ab"], ["b"], ["a", "b"]]
    first, second = lines[0]["characters"]
    frames = [
        (time_s - edge) / 0.02 for time_s in (first["end_s"], second["start_s"])
    ]  # a word's own edges follow the voice
    assert frames == pytest.approx([round(frame) for frame in frames], abs=0.05)  # times are rounded


@pytest.mark.parametrize("system", ["transformers", "torchaudio", "fairseq", "fairseq2"])
def test_no_other_system_takes_it(made: tuple[str, Path], tmp_path: Path, system: str) -> None:
    name, work = made
    of_mel = "front_end must be 'conv', got 'mel' and block_conv_kernel must be 0, got 3"
    why = of_mel if name == "mel" else "context_stride must be 1, got 2"
    with pytest.raises(CheckpointError, match=rf"{why} for {system}: its model has no such part"):
        call("convert", work / "asr", tmp_path / "out.pt", "--to", system)
    assert not list(tmp_path.iterdir())


def test_the_trained_weights_are_what_is_loaded(made: tuple[str, Path]) -> None:
    name, work = made
    encoder = load_encoder(work / "ssl")
    assert encoder.context_stride == (2 if name == "squeezed" else 1)
    assert encoder.latent_dim == (160 if name == "mel" else 8)
    with torch.no_grad():
        output = encoder(torch.randn(1, 16_000), torch.tensor([16_000]))
    assert output.frames.isfinite().all()
