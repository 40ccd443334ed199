"""Reading back: every format gives the frames and their times, and a folder that is not right says why."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import audio_ssl
from audio_ssl.cli.main import app
from audio_ssl.config import Wav2Vec2Config
from audio_ssl.errors import ManifestError
from audio_ssl.inference.embeddings import open_embeddings
from audio_ssl.inference.sinks import tables
from audio_ssl.inference.sinks.numbers import DTYPES_OF
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import pretraining_document, save_model_dir
from audio_ssl.objective.registry import build_objective
from tests.unit.inference.conftest import CONFIG, noise, write_wav
from tests.unit.inference.sink_cases import DIM, GOOD, ROWS, frames_of, settings_of, write_folder

ROW = {row.id: row for row in ROWS}
BOTH = [(file_format, dtype) for file_format, dtypes in DTYPES_OF.items() for dtype in dtypes]
# half a step: of 11 bits below 16, of 8 bits, and of 1/127 of the frame's largest value
TOLERANCE = {"fp32": 0, "int32": 0, "fp16": 8 * 2**-11, "bf16": 8 * 2**-8, "int8": 16 / 254}


@pytest.mark.parametrize("layers", [(), ("6", "9")], ids=["one", "two"])
@pytest.mark.parametrize(("file_format", "dtype"), BOTH)
def test_what_was_written_comes_back(
    tmp_path: Path, file_format: str, dtype: str, layers: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 100)  # 5 frames of fp32, 11 of int8 with scales
    monkeypatch.setattr(tables, "ROW_BYTES", 60)
    write_folder(tmp_path, settings_of(file_format, dtype, layers), codes=dtype == "int32")
    opened = open_embeddings(tmp_path)
    assert (len(opened), opened.ids) == (5, tuple(GOOD))
    for (line, values), name in zip(opened, GOOD, strict=True):
        frames = frames_of(ROW[name], len(layers), codes=dtype == "int32")
        assert line["id"] == name
        assert values.shape == frames.shape
        assert values.dtype == (np.int32 if dtype == "int32" else np.float32)
        np.testing.assert_allclose(values, frames, atol=TOLERANCE[dtype], rtol=0)
        np.testing.assert_array_equal(values, opened[name])


@pytest.mark.parametrize("file_format", ["npy", "matrix", "safetensors", "arrow"])
def test_frames_are_mapped_not_read(tmp_path: Path, file_format: str) -> None:
    keys = write_folder(tmp_path, settings_of(file_format, "fp32"))
    place, held = tmp_path / keys["u0"]["file"], open_embeddings(tmp_path)["u0"]
    data, found = place.read_bytes(), held.tobytes()
    at = data.index(found)
    with place.open("r+b") as file:  # as a map shows, and a copy does not
        file.seek(at)
        file.write(np.full(1, 42, "<f4").tobytes())
    assert held[0, 0] == 42


def test_times_are_the_centres_of_frames(tmp_path: Path) -> None:
    write_folder(tmp_path, settings_of("npy", "fp32"))
    opened = audio_ssl.open_embeddings(str(tmp_path))
    np.testing.assert_allclose(opened.times_s("нет"), [0.0125, 0.0325, 0.0525], rtol=1e-12)
    assert opened.settings["hop_s"] == 0.02
    assert opened.line("нет")["num_frames"] == 3
    assert [line["id"] for line in opened.lines[1:3]] == ["ann/day-2", "нет"]
    assert opened.lines[-1]["id"] == "u6"
    assert "u0" in opened
    assert "spoilt" not in opened
    with pytest.raises(KeyError):
        opened["spoilt"]


@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_it_can_be_sent_to_other_processes(tmp_path: Path, file_format: str) -> None:
    write_folder(tmp_path, settings_of(file_format, "fp32"))
    opened = open_embeddings(tmp_path)
    opened["u0"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(opened))["u0"], opened["u0"])


def test_folders_that_are_not_right_say_why(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="it is not there"):
        open_embeddings(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"it has no embeddings\.json"):
        open_embeddings(tmp_path)
    write_folder(tmp_path, settings_of("npy", "fp32"))
    index = (tmp_path / "index.jsonl").read_text()
    (tmp_path / "index.jsonl").unlink()
    with pytest.raises(ManifestError, match="must be complete"):
        open_embeddings(tmp_path)
    for text, named in (
        (index[:-9], r"index\.jsonl:5 must be a line"),
        (index + index, r"index\.jsonl:6 .* id 'u0' comes twice"),
        ("[]\n", r"index\.jsonl:1 must be"),
    ):
        (tmp_path / "index.jsonl").write_text(text)
        with pytest.raises(ManifestError, match=named):
            open_embeddings(tmp_path)
    (tmp_path / "index.jsonl").write_text("")
    assert len(open_embeddings(tmp_path)) == 0
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/00000000-ab.jsonl").touch()  # a second input was begun
    with pytest.raises(ManifestError, match=r"it has parts/, which are not in index\.jsonl yet"):
        open_embeddings(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "h5"}, "it names 'h5' and 'fp32'"),
        ({"dtype": "bf16"}, "it names 'npy' and 'bf16'"),
        ({"hop_s": "slow"}, "could not convert"),
        ({"dtype": None}, "it names"),
    ],
)
def test_settings_of_another_version_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    settings = settings_of("npy", "fp32")
    write_folder(tmp_path, settings)
    (tmp_path / "embeddings.json").write_text(json.dumps(settings | change))
    with pytest.raises(ManifestError, match=named):
        open_embeddings(tmp_path)
    (tmp_path / "embeddings.json").write_text("{")
    with pytest.raises(ManifestError, match="must be what"):
        open_embeddings(tmp_path)


@pytest.mark.parametrize("file_format", DTYPES_OF)
@pytest.mark.parametrize("fault", ["cut", "gone", "garbage"])
def test_a_spoilt_file_is_named(tmp_path: Path, file_format: str, fault: str) -> None:
    keys = write_folder(tmp_path, settings_of(file_format, "fp32"))
    place = tmp_path / keys["u5"]["file"]
    data = place.read_bytes()
    if fault == "gone":
        place.unlink()
    else:
        place.write_bytes(data[: len(data) // 3] if fault == "cut" else bytes(len(data)))
    with pytest.raises(ManifestError, match=r"must hold 'u5' as index\.jsonl beside it says") as caught:
        open_embeddings(tmp_path)["u5"]
    assert str(place) in str(caught.value)


@pytest.mark.parametrize("file", ["../secret.npy", "/etc/passwd", "a/../../b.npy", ""])
def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path, file: str) -> None:
    write_folder(tmp_path / "out", settings_of("npy", "fp32"))
    np.save(tmp_path / "secret.npy", np.zeros((7, DIM), np.float32))
    (tmp_path / "out/index.jsonl").write_text(json.dumps({"id": "u0", "num_frames": 7, "file": file}) + "\n")
    with pytest.raises(ManifestError, match="a file must lie in the folder"):
        open_embeddings(tmp_path / "out")["u0"]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_folder(tmp_path, settings_of("npy", "fp32"))
    np.save(tmp_path / "u0.npy", np.array([{"a": 1}] * 7, dtype=object))
    with pytest.raises(ManifestError, match="must hold 'u0'"):
        open_embeddings(tmp_path)["u0"]


def test_other_frames_than_the_index_says_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, settings_of("npy", "fp32"))
    np.save(tmp_path / "u0.npy", np.zeros((6, DIM), np.float32))
    with pytest.raises(ManifestError, match="there are 6 frames, not 7"):
        open_embeddings(tmp_path)["u0"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    for name, length in (("a", 16_000), ("b", 7_333), ("long", 80_000)):
        write_wav(folder / f"{name}.wav", noise(length, seed=length))
    (folder / "bad.wav").write_text("no audio")
    return folder


def invoke(model: Path, speech: Path, out: Path, *options: str) -> Result:
    windows = ("--max-s", "2", "--overlap-s", "0.5")
    return CliRunner().invoke(app, ["extract", str(model), str(speech), str(out), *windows, *options])


def run(model: Path, speech: Path, out: Path, *options: str) -> str:
    result = invoke(model, speech, out, *options)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def plain(model_dir: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    out = tmp_path_factory.mktemp("plain")
    run(model_dir, speech, out)
    return {line["id"]: np.array(values) for line, values in open_embeddings(out)}


@pytest.mark.parametrize(
    ("file_format", "dtype"),
    [
        ("npy", "int8"),
        ("matrix", "int8"),
        ("safetensors", "bf16"),
        ("parquet", "fp16"),
        ("arrow", "fp32"),
        ("kaldi", "fp32"),
    ],
)
def test_extract_writes_each_format(
    model_dir: Path, speech: Path, plain: dict[str, np.ndarray], tmp_path: Path, file_format: str, dtype: str
) -> None:
    options = ("--format", file_format, "--dtype", dtype)
    said = run(model_dir, speech, tmp_path, *options, "--shard-mib", "0.005")
    assert ("error of the number format" in said) == (dtype != "fp32")
    opened = open_embeddings(tmp_path)
    assert opened.ids == ("a", "b", "long") == tuple(plain)
    for line, values in opened:
        frames = plain[line["id"]]
        off = 100 * np.linalg.norm(values - frames) / np.linalg.norm(frames)
        assert off == pytest.approx(line.get("error_percent", 0), rel=1e-2)
        assert off <= {"fp32": 0, "fp16": 0.03, "bf16": 0.25, "int8": 0.7}[dtype]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert "3 were there already" in run(model_dir, speech, tmp_path, *options, "--shard-mib", "0.005")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_extract_pools(
    model_dir: Path, speech: Path, plain: dict[str, np.ndarray], tmp_path: Path, file_format: str
) -> None:
    run(model_dir, speech, tmp_path, "--format", file_format, "--pool", "mean+std")
    opened = open_embeddings(tmp_path)
    for line, vector in opened:
        frames = plain[line["id"]].astype(np.float64)
        assert (line["dim"], line["num_frames"]) == (32, len(frames))
        np.testing.assert_allclose(vector, np.concatenate([frames.mean(0), frames.std(0)]), rtol=1e-5, atol=1e-6)
    with pytest.raises(ManifestError, match="to have times, it holds vectors"):
        opened.times_s("a")


@pytest.mark.parametrize("file_format", DTYPES_OF)
def test_extract_keeps_several_layers(model_dir: Path, speech: Path, tmp_path: Path, file_format: str) -> None:
    run(model_dir, speech / "a.wav", tmp_path / "npy", "--layer", "all")
    run(model_dir, speech / "a.wav", tmp_path / "other", "--layer", "3,1", "--format", file_format)
    opened = open_embeddings(tmp_path / "other")
    assert opened.settings["layers"] == ["3", "1"]
    assert opened["a"].shape == (2, 49, 16)
    np.testing.assert_array_equal(opened["a"], np.load(tmp_path / "npy/a.npy")[[3, 1]])


@pytest.mark.parametrize("file_format", ["npy", "parquet"])
def test_codes_are_whole_numbers(speech: Path, tmp_path: Path, file_format: str) -> None:
    torch.manual_seed(6)
    objective = Wav2Vec2Config(num_groups=3, num_entries=5, code_dim=6, target_dim=7)
    modules = {"encoder": build_encoder(CONFIG), "objective": build_objective(objective, latent_dim=8, dim=16)}
    save_model_dir(tmp_path / "model", pretraining_document(CONFIG, objective), modules)
    run(tmp_path / "model", speech / "a.wav", tmp_path / "out", "--layer", "codes", "--format", file_format)
    line, codes = next(iter(open_embeddings(tmp_path / "out")))
    assert (line["dtype"], codes.dtype, codes.shape) == ("int32", np.int32, (49, 3))
    found = audio_ssl.load(tmp_path / "model").extract(speech / "a.wav", layers="codes")
    np.testing.assert_array_equal(codes, found.frames)
    for options, named in (
        (("--dtype", "fp32"), "must be int32 for codes"),
        (("--pool", "mean"), "--pool mean must be left out with --layer codes"),
    ):
        fault = invoke(tmp_path / "model", speech, tmp_path / "no", "--layer", "codes", *options).exception
        assert named in str(fault)


def test_a_feats_scp_has_all_shards(model_dir: Path, speech: Path, tmp_path: Path) -> None:
    run(model_dir, speech, tmp_path, "--format", "kaldi", "--shard-mib", "0.005")
    entries = [line.split(" ") for line in (tmp_path / "feats.scp").read_text().splitlines()]
    assert [name for name, _ in entries] == ["a", "b", "long"]
    assert len({place.rsplit(":")[0] for _, place in entries}) == 2


def test_what_a_format_cannot_hold_is_an_error_of_the_command(model_dir: Path, speech: Path, tmp_path: Path) -> None:
    for options, named in (
        (("--format", "kaldi", "--dtype", "fp16"), "--format kaldi cannot hold fp16"),
        (("--dtype", "int32"), "int32 is for codes alone"),
    ):
        assert named in str(invoke(model_dir, speech, tmp_path / "out", *options).exception)
        assert not (tmp_path / "out").exists()


def test_a_matrix_whose_input_has_grown_is_refused(model_dir: Path, speech: Path, tmp_path: Path) -> None:
    run(model_dir, speech / "a.wav", tmp_path, "--format", "matrix")
    assert "a matrix cannot grow" in str(invoke(model_dir, speech, tmp_path, "--format", "matrix").exception)
