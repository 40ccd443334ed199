"""Folders of units: what is written, what is refused, and that a second run does nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from audio_ssl.errors import AudioSSLError, CheckpointError, ConfigError, ManifestError
from audio_ssl.inference.units.codebook import Units, load_units, save_units
from audio_ssl.inference.units.fit import frames_wanted, lay_out
from audio_ssl.inference.units.kmeans import KMeansSettings
from audio_ssl.inference.units.stored import StoredFrames, frames_of_length
from tests.unit.inference.units.conftest import blobs, write_embeddings


def fit(folder: Path, out: Path, *, layer: str | None = None, **settings: Any) -> dict[str, Any]:
    chosen = KMeansSettings(**{"num_clusters": 5, "epochs": 1, "restarts": 1, **settings})
    return lay_out(StoredFrames(folder, layer=layer), chosen, out).run()


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_folder_of_units_says_what_they_are_of(tmp_path: Path) -> None:
    folder = write_embeddings(tmp_path / "e", blobs(5)[0])
    figures = fit(folder, tmp_path / "made/u")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["u"]
    assert sorted(path.name for path in (tmp_path / "made/u").iterdir()) == ["units.json", "units.safetensors"]
    document = json.loads((tmp_path / "made/u/units.json").read_text())
    named = {
        "version": 1, "num_units": 5, "dim": 7, "model_hash": "h1", "layer": "2",
        "layer_convention": "output of block 2",
        "normalized": True, "model_rate_hz": 16_000, "hop_s": 0.02, "first_centre_s": 0.0125, "precision": "fp32",
    }  # fmt: skip
    assert named.items() <= document.items()
    assert document["figures"] == figures
    assert document["fit"] | {"utterances_hash": ""} == {
        "num_clusters": 5, "frames_per_epoch": None, "epochs": 1, "restarts": 1, "seed": 0, "utterances": 23,
        "utterances_hash": "", "frames": sum(31 + 7 * i for i in range(23)),
    }  # fmt: skip
    tensors = load_file(tmp_path / "made/u/units.safetensors")
    assert {name: (t.dtype, t.shape) for name, t in tensors.items()} == {"centroids": (np.float32, (5, 7))}
    np.testing.assert_array_equal(load_units(tmp_path / "made/u").centroids, tensors["centroids"])


def test_a_second_run_finds_its_units_and_another_is_refused(tmp_path: Path) -> None:
    folder, out = write_embeddings(tmp_path / "e", blobs(5)[0]), tmp_path / "u"
    fit(folder, out)
    before = state_of(out)
    assert lay_out(StoredFrames(folder), KMeansSettings(5, epochs=1, restarts=1), out).is_present
    with pytest.raises(ConfigError, match="num_clusters is 5, now it is 6; epochs is 1, now it is 3"):
        lay_out(StoredFrames(folder), KMeansSettings(6, restarts=1), out)
    other = write_embeddings(tmp_path / "e2", blobs(5)[0], {"model_hash": "h2"})
    with pytest.raises(ConfigError, match="model_hash is 'h1', now it is 'h2'"):
        lay_out(StoredFrames(other), KMeansSettings(5, epochs=1, restarts=1), out)
    grown = write_embeddings(tmp_path / "e3", blobs(5, num_utterances=24)[0])
    with pytest.raises(ConfigError, match="utterances is 23, now it is 24"):
        lay_out(StoredFrames(grown), KMeansSettings(5, epochs=1, restarts=1), out)
    assert state_of(out) == before


def test_a_place_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    stored = StoredFrames(write_embeddings(tmp_path / "e", blobs(5)[0]))
    with pytest.raises(ConfigError, match=r"OUT must be a folder that is absent or empty.*embeddings.json"):
        lay_out(stored, KMeansSettings(5), tmp_path / "e")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="holds a file"):
        lay_out(stored, KMeansSettings(5), tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert not lay_out(stored, KMeansSettings(5), tmp_path / "empty").is_present


def test_nothing_is_left_where_units_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/other").touch()
    with pytest.raises(ConfigError, match="must be writable"):
        save_units(tmp_path / "full", np.zeros((2, 3), np.float32), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_one_of_several_layers_is_chosen_by_name(tmp_path: Path) -> None:
    frames, _ = blobs(5)
    stacked = [np.stack([part * 0, part, part * 2]) for part in frames]
    every = write_embeddings(tmp_path / "all", stacked, {"layer": "all", "layers": ["0", "1", "2"]})
    some = write_embeddings(tmp_path / "some", stacked, {"layer": "6,1,9", "layers": ["6", "1", "9"]})
    for folder, layer in ((every, "1"), (some, "1")):
        stored = StoredFrames(folder, layer=layer)
        np.testing.assert_array_equal(stored.read(3, 4, 9), frames[3][4:9])
        assert stored.origin["layer"] == "1"
        assert stored.notes["layer_convention"] == "output of block 1"
    np.testing.assert_array_equal(StoredFrames(some, layer="9").read(0), frames[0] * 2)
    with pytest.raises(ConfigError, match=r"--layer must say which of the layers in .*some: 6, 1, 9"):
        StoredFrames(some)
    with pytest.raises(ConfigError, match="must hold layer 3, it holds layers 0, 1, 2"):
        StoredFrames(every, layer="3")
    listed = write_embeddings(tmp_path / "listed", [part[None] for part in frames], {"layers": ["2"]})
    np.testing.assert_array_equal(StoredFrames(listed).read(1), frames[1])
    single = write_embeddings(tmp_path / "one", frames)
    with pytest.raises(ConfigError, match="must hold layer 3, it holds layer 2"):
        StoredFrames(single, layer="3")
    assert StoredFrames(single, layer="2").origin["layer"] == "2"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"layer": "codes"}, "quantizer's codes, which are units already"),
        ({"pool": "mean"}, "one pooled vector an utterance"),
        ({"model_rate_hz": None}, "must say model_rate_hz"),
    ],
)
def test_folders_of_another_kind_are_refused(tmp_path: Path, settings: dict[str, Any], named: str) -> None:
    folder = write_embeddings(tmp_path / "e", blobs(2)[0], settings)
    if None in settings.values():
        document = json.loads((folder / "embeddings.json").read_text())
        (folder / "embeddings.json").write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
    with pytest.raises(ManifestError, match=named):
        StoredFrames(folder)


def test_folders_without_frames_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for folder in (tmp_path / "nothing", tmp_path / "absent"):
        with pytest.raises(ManifestError, match="must be a folder that `audio-ssl extract` wrote"):
            StoredFrames(folder)
    with pytest.raises(ManifestError, match="its index has no utterance"):
        StoredFrames(write_embeddings(tmp_path / "e", []))


def test_spoilt_files_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    for i, spoil in enumerate((lambda a: a * np.nan, lambda a: a[:-1], lambda a: a[:, :3])):
        folder = write_embeddings(tmp_path / f"e{i}", blobs(5)[0])
        np.save(folder / "u3.npy", spoil(np.load(folder / "u3.npy")))
        with pytest.raises(AudioSSLError, match="'u3'"):
            fit(folder, tmp_path / "u")
    (folder / "u3.npy").write_bytes(b"torn")
    with pytest.raises(AudioSSLError, match="u3"):
        fit(folder, tmp_path / "u")
    assert not (tmp_path / "u").exists()


def test_units_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder, out = write_embeddings(tmp_path / "e", blobs(5)[0]), tmp_path / "u"
    fit(folder, out)
    path, whole = out / "units.safetensors", (out / "units.safetensors").read_bytes()
    for tensors, named in (
        ({"centroids": np.zeros((5, 7), np.float32)}, "must be the one of units.json"),
        ({"centroids": np.zeros((4, 7), np.float32)}, r"shape \(5, 7\)"),
        ({"centroids": np.full((5, 7), np.nan, np.float32)}, "finite"),
        ({"other": np.zeros(3, np.float32)}, "tensor 'centroids'"),
    ):
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=named):
            load_units(out)
    path.write_bytes(whole[:100])
    with pytest.raises(CheckpointError, match="must hold the tensor"):
        load_units(out)
    path.write_bytes(whole)
    for text, named in (("{", "must be as"), ('{"version": 1}', "it lacks num_units"), ("[]", "must be as|lacks")):
        (out / "units.json").write_text(text)
        with pytest.raises(CheckpointError, match=named):
            load_units(out)
    (tmp_path / "km.pkl").touch()
    with pytest.raises(CheckpointError, match="a pickle, which is not read"):
        load_units(tmp_path / "km.pkl")


def test_units_know_their_frames(tmp_path: Path) -> None:
    fit(write_embeddings(tmp_path / "e", blobs(5)[0]), tmp_path / "u")
    units: Units = load_units(tmp_path / "u")
    units.check_origin(units.origin, whose="x")
    with pytest.raises(ConfigError, match=r"x must give the frames.*layer is '3', that of the units is '2'"):
        units.check_origin({**units.origin, "layer": "3"}, whose="x")


@pytest.mark.parametrize(
    ("samples", "rate", "frames"),
    [(399, 16_000, 0), (400, 16_000, 1), (719, 16_000, 1), (720, 16_000, 2), (199, 8_000, 0), (200, 8_000, 1),
     (551, 22_050, 1), (992, 22_050, 2), (991, 22_050, 2), (990, 22_050, 1)],
)  # fmt: skip
def test_frames_of_a_length_follow_the_models_geometry(samples: int, rate: int, frames: int) -> None:
    origin = {"model_rate_hz": 16_000, "hop_s": 0.02, "first_centre_s": 0.0125}
    assert frames_of_length(samples, rate_hz=rate, origin=origin) == frames


@pytest.mark.parametrize(
    ("text", "frames"), [("all", None), ("ALL", None), ("123", 123), ("10%", 100), ("2.5%", 25), ("100%", 1000)]
)
def test_frames_are_a_number_a_share_or_all(text: str, frames: int | None) -> None:
    assert frames_wanted(text, 1000) == frames


@pytest.mark.parametrize("text", ["0", "-3", "x", "", "0%", "101%", "nan%", "inf%", "1.5", "10 percent"])
def test_other_numbers_of_frames_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--frames must be"):
        frames_wanted(text, 1000)
