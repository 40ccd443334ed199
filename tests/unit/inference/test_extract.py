"""The embedding folder: what is written, what the index says, and that a second run does nothing twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.pack import write_shards
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioError, ConfigError, ManifestError
from audio_ssl.inference.extract import Extractor, ExtractSettings, ExtractSummary
from audio_ssl.inference.layers import choose_layer
from audio_ssl.inference.ranks import Rank
from audio_ssl.inference.source import OpenedInput, open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.windows import WindowSettings
from audio_ssl.model.encoder import Encoder
from tests.unit.inference.conftest import CPU, noise, write_wav

LENGTHS = (16_000, 7_333, 24_001, 400)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    for i, length in enumerate(LENGTHS):
        write_wav(tmp_path / "speech" / f"u{i}.wav", noise(length, seed=i))
    return tmp_path / "speech"


def run(encoder: Encoder, source: Path | OpenedInput, out: Path, **changes: Any) -> ExtractSummary:
    layer = choose_layer(changes.pop("layer", None), num_layers=encoder.num_layers)
    stream = StreamSettings(
        changes.pop("batch_s", 3.0), WindowSettings(changes.pop("max_s", 10.0), changes.pop("overlap_s", 1.0))
    )
    kept = ("dtype", "strict", "shard_mib")
    settings = ExtractSettings(layer, stream=stream, **{k: changes.pop(k) for k in kept if k in changes})
    opened = open_input(source) if isinstance(source, Path) else source
    rank = changes.pop("rank", Rank())
    return Extractor(encoder, changes.pop("encoder_hash", "h1"), settings, CPU).to_folder(opened, out, rank=rank)


def index_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


def errors_of(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]


def state_of(out: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir() if p.is_file()}


def alone(encoder: Encoder, waveform: np.ndarray) -> Any:
    with torch.inference_mode():
        return encoder(torch.from_numpy(normalize(waveform))[None], torch.tensor([len(waveform)]), return_layers=True)


def test_files_are_the_encoders_frames_in_a_batch_as_alone(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    summary = run(encoder, speech, tmp_path / "out")
    assert (summary.tally.num_written, summary.tally.num_present, summary.tally.num_refused) == (4, 0, 0)
    assert summary.tally.num_frames == 49 + 22 + 74 + 1
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".lock", "embeddings.json", "index.jsonl", "u0.npy", "u1.npy", "u2.npy", "u3.npy"]
    for i, length in enumerate(LENGTHS):
        expected = alone(encoder, noise(length, seed=i)).frames[0].numpy()
        found = np.load(tmp_path / "out" / f"u{i}.npy")
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_numbered_layer_is_that_of_the_encoder(encoder: Encoder, speech: Path, tmp_path: Path, layer: int) -> None:
    run(encoder, speech, tmp_path / "out", layer=layer)
    expected = alone(encoder, noise(LENGTHS[0])).layers[layer][0].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out/u0.npy"), expected, atol=2e-5)


def test_all_layers_are_stacked_in_front(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    run(encoder, speech, tmp_path / "out", layer="all")
    expected = np.stack([layer[0].numpy() for layer in alone(encoder, noise(LENGTHS[1], seed=1)).layers])
    found = np.load(tmp_path / "out/u1.npy")
    assert found.shape == (4, 22, 16)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert index_of(tmp_path / "out")[1]["num_layers"] == 4


def test_the_index_says_everything_in_input_order(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    run(encoder, speech, tmp_path / "out", layer=2)
    lines = index_of(tmp_path / "out")
    assert [line["id"] for line in lines] == ["u0", "u1", "u2", "u3"]
    assert [line["num_frames"] for line in lines] == [49, 22, 74, 1]
    assert lines[2] == {
        "id": "u2", "path": str(speech / "u2.wav"), "start": 0, "num_samples": 24_001, "sample_rate": 16_000,
        "file": "u2.npy", "num_frames": 74, "dim": 16, "windowed": False, "layer": "2", "dtype": "fp32",
        "hop_s": 0.02, "first_centre_s": 0.0125, "model_hash": "h1", "normalized": True,
    }  # fmt: skip
    settings = json.loads((tmp_path / "out/embeddings.json").read_text())
    rule = settings.pop("frame_rule")
    assert "frame t covers samples [320t, 320t + 400)" in rule
    assert settings == {
        "version": 1, "format": "npy", "dtype": "fp32", "layer": "2", "layer_convention": "output of block 2",
        "hop_s": 0.02, "first_centre_s": 0.0125, "model_hash": "h1", "normalized": True, "precision": "fp32",
        "max_s": 10.0, "overlap_s": 1.0, "exact": False, "pool": None, "layers": None,
        "precision_error": None, "model_rate_hz": 16_000,
    }  # fmt: skip


def test_a_second_run_does_nothing_twice(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    run(encoder, speech, tmp_path / "out")
    before = state_of(tmp_path / "out")
    summary = run(encoder, speech, tmp_path / "out")
    assert (summary.tally.num_written, summary.tally.num_present) == (0, 4)
    assert state_of(tmp_path / "out") == before


def test_a_run_goes_on_where_it_was_cut_off(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(encoder, speech, out)
    complete, lines = state_of(out), (out / "index.jsonl").read_text().splitlines(keepends=True)
    # one file was taken away, and a kill came before the index was put together
    (out / "u1.npy").unlink()
    (out / "parts").mkdir()
    (out / "parts/a.jsonl").write_text(lines[1] + lines[2])
    (out / "index.jsonl").write_text(lines[0])
    summary = run(encoder, speech, out)
    assert (summary.tally.num_written, summary.tally.num_present) == (2, 2)
    assert (out / "index.jsonl").read_text() == "".join(lines)
    for name in ("u0.npy", "u2.npy"):
        assert state_of(out)[name] == complete[name]
    expected = alone(encoder, noise(LENGTHS[1], seed=1)).frames[0].numpy()
    np.testing.assert_allclose(np.load(out / "u1.npy"), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "named"), [({"encoder_hash": "h2"}, "model_hash is 'h1', now it is 'h2'"), ({"layer": 1}, "layer")]
)
def test_a_folder_made_otherwise_is_refused(
    encoder: Encoder, speech: Path, tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    run(encoder, speech, tmp_path / "out")
    before = state_of(tmp_path / "out")
    with pytest.raises(ManifestError, match=named):
        run(encoder, speech, tmp_path / "out", **changes)
    assert state_of(tmp_path / "out") == before


def test_an_id_means_one_piece_of_audio(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    run(encoder, speech, tmp_path / "out")
    write_wav(tmp_path / "other" / "u0.wav", noise(5_000))
    with pytest.raises(ManifestError, match="id 'u0' must mean one piece of audio"):
        run(encoder, tmp_path / "other", tmp_path / "out")


def test_a_second_input_adds_to_the_folder(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    run(encoder, speech, tmp_path / "out")
    run(encoder, write_wav(tmp_path / "more.wav", noise(5_000)), tmp_path / "out")
    assert [line["id"] for line in index_of(tmp_path / "out")] == ["u0", "u1", "u2", "u3", "more"]


def test_a_pack_gives_the_embeddings_of_its_files(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    manifest = open_input(speech).manifest
    packed = write_shards(manifest, tmp_path / "packed", shard_bytes=10**9).manifest
    run(encoder, speech, tmp_path / "out")
    assert run(encoder, OpenedInput(packed), tmp_path / "from_pack").tally.num_written == 4
    for name in ("u0", "u1", "u2", "u3"):
        frames, expected = (np.load(tmp_path / out / f"{name}.npy") for out in ("from_pack", "out"))
        np.testing.assert_array_equal(frames, expected)
    assert [(line["offset"], line["num_bytes"]) for line in index_of(tmp_path / "from_pack")] == [
        (row.offset, row.num_bytes) for row in packed
    ]
    moved = Manifest.from_rows([replace(packed[1], id="u0", num_samples=packed[0].num_samples)], root=packed.root)
    with pytest.raises(ManifestError, match="id 'u0' must mean one piece of audio"):
        run(encoder, OpenedInput(moved), tmp_path / "from_pack")


def with_bad_rows(speech: Path) -> OpenedInput:
    """Rows that a scan would not have let through: gone since, NaN, too short, and one good."""
    spoilt = noise(9_000)
    spoilt[4_321] = np.nan
    write_wav(speech / "nan.wav", spoilt)
    rows = [
        Utterance("gone", "gone.wav", 0, 8_000, 16_000),
        Utterance("nan", "nan.wav", 0, 9_000, 16_000),
        Utterance("short", "u0.wav", 0, 399, 16_000),
        Utterance("good", "u0.wav", 100, 5_000, 16_000),
    ]
    return OpenedInput(Manifest.from_rows(rows, root=speech))


def test_bad_rows_are_named_and_the_rest_goes_on(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    summary = run(encoder, with_bad_rows(speech), tmp_path / "out")
    assert summary.tally.num_written == 1
    reasons = {line["id"]: line["reason"] for line in errors_of(tmp_path / "out")}
    assert reasons.keys() == {"gone", "nan", "short"}
    assert "no such file" in reasons["gone"]
    assert "4321" in reasons["nan"]
    assert reasons["short"] == "it must last 25 ms or more to give a frame, it lasts 24.9375 ms"
    expected = alone(encoder, noise(LENGTHS[0])[100:5_100]).frames[0].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "out/good.npy"), expected, atol=2e-5)


def test_strict_stops_with_the_name(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="short"):
        run(encoder, with_bad_rows(speech), tmp_path / "out", strict=True)


def test_files_that_the_scan_refuses_are_named(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    (speech / "zero.wav").touch()
    (speech / "text.wav").write_text("this is no audio")
    summary = run(encoder, speech, tmp_path / "out")
    assert summary.tally.num_written == 4
    assert sorted(r.id for r in summary.tally.refused) == ["text.wav", "zero.wav"]
    assert [(line["id"], line["path"]) for line in errors_of(tmp_path / "out")] == [
        ("text.wav", str(speech / "text.wav")), ("zero.wav", str(speech / "zero.wav")),
    ]  # fmt: skip


@pytest.mark.parametrize(("rate", "atol"), [(16_000, 2e-5), (8_000, 2e-4), (22_050, 2e-4)])
def test_windows_change_nothing_that_is_local(encoder: Encoder, tmp_path: Path, rate: int, atol: float) -> None:
    # Layer 0 sees 25 ms and 8 frames of positional conv: inside half an overlap the whole and its windows agree,
    # which they would not if a seam, a resampling offset or the normalisation were wrong.
    path = write_wav(tmp_path / "long.wav", noise(round(7.1 * rate), seed=8) + 0.05, rate)
    run(encoder, path, tmp_path / "whole", layer=0, max_s=10.0)
    run(encoder, path, tmp_path / "cut", layer=0, max_s=2.0, overlap_s=0.5)
    whole, cut = np.load(tmp_path / "whole/long.npy"), np.load(tmp_path / "cut/long.npy")
    assert len(whole) == encoder.geometry.num_frames(-(-round(7.1 * rate) * 16_000 // rate))
    np.testing.assert_allclose(cut, whole, atol=atol)
    lines = index_of(tmp_path / "whole")[0], index_of(tmp_path / "cut")[0]
    assert [line["windowed"] for line in lines] == [False, True]
    assert [line["num_frames"] for line in lines] == [len(whole), len(whole)]


def test_windows_of_all_layers(encoder: Encoder, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", noise(72_345))
    run(encoder, path, tmp_path / "out", layer="all", max_s=2.0, overlap_s=0.5)
    assert np.load(tmp_path / "out/long.npy").shape == (4, encoder.geometry.num_frames(72_345), 16)


def test_a_long_file_that_breaks_late_leaves_nothing(encoder: Encoder, tmp_path: Path) -> None:
    spoilt = noise(100_000)
    spoilt[95_000] = np.inf
    path = write_wav(tmp_path / "long.wav", spoilt)
    opened = OpenedInput(Manifest.from_rows([Utterance("long", str(path), 0, 100_000, 16_000)], root=tmp_path))
    plain = replace_normalize(encoder)  # without normalisation nothing looks at the end before it is reached
    summary = run(plain, opened, tmp_path / "out", max_s=2.0, overlap_s=0.5, batch_s=2.0)
    assert summary.tally.num_written == 0
    assert [refusal.id for refusal in summary.tally.refused] == ["long"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [".lock", "embeddings.json", "errors.jsonl", "index.jsonl"]


def replace_normalize(encoder: Encoder) -> Encoder:
    import copy

    plain = copy.deepcopy(encoder)
    plain.normalize_waveform = False
    return plain


def test_half_precision_is_rounded_once(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    run(encoder, speech, tmp_path / "full")
    run(encoder, speech, tmp_path / "half", dtype="fp16")
    half = np.load(tmp_path / "half/u0.npy")
    assert half.dtype == np.float16
    assert (half == np.load(tmp_path / "full/u0.npy").astype(np.float16)).all()


def test_what_half_precision_cannot_hold_is_refused(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    import copy

    loud = copy.deepcopy(encoder)
    loud.context_network.norm.weight.data.mul_(1e6)
    summary = run(loud, speech / "u0.wav", tmp_path / "out", dtype="fp16")
    assert "--dtype fp32" in summary.tally.refused[0].reason
    assert not (tmp_path / "out/u0.npy").exists()


def test_a_long_recording_with_one_window_that_cannot_be_held_is_refused_whole(
    encoder: Encoder, tmp_path: Path
) -> None:
    import copy

    loud = copy.deepcopy(encoder)
    loud.normalize_waveform = False
    loud.context_network.norm.weight.data.mul_(2e4)
    waveform = noise(100_000)
    run(loud, write_wav(tmp_path / "long.wav", waveform), tmp_path / "full", max_s=2.0, overlap_s=0.5)
    peaks = (
        np.abs(np.load(tmp_path / "full/long.npy")).max(axis=1) / 65_504
    )  # of each frame, in largest numbers of fp16
    first, later = peaks[:90].max(), peaks[110:].max()
    loud.context_network.norm.weight.data.div_(np.sqrt(first * later))  # one side of the first seam fits, one does not
    loud.context_network.norm.bias.data.div_(np.sqrt(first * later))
    assert min(first, later) < np.sqrt(first * later) < max(first, later)
    summary = run(loud, tmp_path / "long.wav", tmp_path / "half", dtype="fp16", max_s=2.0, overlap_s=0.5)
    assert summary.tally.num_written == 0
    assert [line["id"] for line in errors_of(tmp_path / "half")] == ["long"]
    assert not list((tmp_path / "half").glob("*.npy"))


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a//b", ".", "a\\b", "a\nb", "x" * 300])
def test_ids_that_are_no_file_names_are_refused(encoder: Encoder, speech: Path, tmp_path: Path, name: str) -> None:
    rows = [Utterance(name, "u0.wav", 0, 5_000, 16_000)]
    with pytest.raises(ManifestError, match="usable as a file name"):
        run(encoder, OpenedInput(Manifest.from_rows(rows, root=speech)), tmp_path / "out")


def test_slashes_and_other_scripts_in_ids(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    rows = [Utterance("speaker 1/день 2", "u0.wav", 0, 5_000, 16_000)]
    run(encoder, OpenedInput(Manifest.from_rows(rows, root=speech)), tmp_path / "out")
    assert (tmp_path / "out/speaker 1/день 2.npy").is_file()


def test_a_link_out_of_the_folder_is_not_followed(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    rows = [Utterance("a/b", "u0.wav", 0, 5_000, 16_000)]
    with pytest.raises(ManifestError, match="link leads out"):
        run(encoder, OpenedInput(Manifest.from_rows(rows, root=speech)), tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_place_that_cannot_be_written_is_said(encoder: Encoder, speech: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="must be writable"):
        run(encoder, speech, tmp_path / "file/out")


def test_settings_are_plain_values() -> None:
    assert replace(StreamSettings(), batch_s=5.0).batch_s == 5.0
    with pytest.raises(ConfigError, match="--batch-s must be > 0"):
        StreamSettings(batch_s=0)
