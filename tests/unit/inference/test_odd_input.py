"""Odd input through the command line: each file without a result is named, the rest is as if it were not there."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.inference.extract import Extractor, ExtractSettings
from audio_ssl.inference.layers import LayerForward, choose_layer
from audio_ssl.inference.models import open_encoder
from audio_ssl.inference.source import open_input
from audio_ssl.interop.source import weights_hash
from tests.unit.inference.conftest import CPU, noise, write_wav

Say = Callable[..., str]


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Rows of each forward pass, as they come."""
    found: list[int] = []
    forward = LayerForward.__call__

    def counting(self, waveforms, *args, **kwargs):
        found.append(len(waveforms))
        return forward(self, waveforms, *args, **kwargs)

    monkeypatch.setattr(LayerForward, "__call__", counting)
    return found


def good_files(root: Path) -> list[str]:
    """Two plain ones, silence, and one of 96 kHz with six channels."""
    write_wav(root / "a.wav", noise(12_000, seed=1))
    write_wav(root / "c_silence.wav", np.zeros(9_000, dtype=np.float32))
    channels = np.stack([noise(60_000, seed=i) for i in range(6)], axis=1)
    write_wav(root / "e_surround.wav", channels, 96_000)
    write_wav(root / "z.wav", noise(15_000, seed=2))
    return ["a", "c_silence", "e_surround", "z"]


def spoil(root: Path) -> None:
    """Between them in order: too short, NaN, no audio at all, empty."""
    write_wav(root / "b_short.wav", noise(100))
    broken = noise(10_000)
    broken[7_777] = np.nan
    write_wav(root / "d_nan.wav", broken)
    (root / "f_text.wav").write_text("this is no audio")
    (root / "g_empty.flac").touch()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reasons(out: Path) -> dict[str, str]:
    return {Path(line["path"]).name: line["reason"] for line in lines(out / "errors.jsonl")}


def test_a_folder_with_odd_files_in_the_middle(say: Say, passes, model_dir, tmp_path) -> None:
    speech, out = tmp_path / "in", tmp_path / "out"
    good = good_files(speech)
    say("extract", model_dir, speech, tmp_path / "alone", "--device", "cpu")
    spoil(speech)
    said = say("extract", model_dir, speech, out, "--device", "cpu")
    assert "warning: 4 without a result" in said
    assert f"all are listed in {out / 'errors.jsonl'}" in said
    assert reasons(out) == {
        "b_short.wav": "too short: 100 samples at 16000 Hz; a frame needs 0.025 s",
        "d_nan.wav": "NaN or infinity: first at sample 7777",
        "f_text.wav": "not audio: Format not recognised.",
        "g_empty.flac": "empty file: zero bytes",
    }
    assert lines(out / "index.jsonl") == lines(tmp_path / "alone" / "index.jsonl")
    for name in good:
        frames, expected = (np.load(place / f"{name}.npy") for place in (out, tmp_path / "alone"))
        np.testing.assert_array_equal(frames, expected)  # the same batch
        assert np.isfinite(frames).all()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    passes.clear()
    assert "4 were there already" in say("extract", model_dir, speech, out, "--device", "cpu")
    assert (passes, {path: path.stat().st_mtime_ns for path in out.rglob("*")}) == ([], before)


def test_six_channels_at_another_rate_are_their_mean(say: Say, model_dir, tmp_path) -> None:
    good_files(tmp_path / "in")
    channels = np.stack([noise(60_000, seed=i) for i in range(6)], axis=1)
    write_wav(tmp_path / "mono.wav", channels.mean(axis=1), 96_000)
    say("extract", model_dir, tmp_path / "in/e_surround.wav", tmp_path / "six", "--device", "cpu")
    say("extract", model_dir, tmp_path / "mono.wav", tmp_path / "one", "--device", "cpu")
    six, one = np.load(tmp_path / "six/e_surround.npy"), np.load(tmp_path / "one/mono.npy")
    assert six.shape == (31, 16)  # 10,000 samples at 16 kHz
    np.testing.assert_allclose(six, one, atol=1e-4)


@pytest.fixture
def went_bad(tmp_path) -> tuple[Path, Path]:
    """A manifest over seven good files, three of which went bad since, and a manifest of the other four."""
    root = tmp_path / "in"
    good_files(root)
    for i, name in enumerate(("b_gone", "d_nan", "f_cut")):
        write_wav(root / f"{name}.wav", noise(10_000, seed=i + 10))
    lengths = {"a": 12_000, "b_gone": 10_000, "c_silence": 9_000, "d_nan": 10_000, "f_cut": 10_000, "z": 15_000}
    rows = [Utterance(name, f"{name}.wav", 0, length, 16_000) for name, length in lengths.items()]
    rows.insert(5, Utterance("e_surround", "e_surround.wav", 0, 60_000, 96_000))
    Manifest.from_rows(rows, root=root).write(tmp_path / "all.tsv")
    good = [row for row in rows if row.id in ("a", "c_silence", "e_surround", "z")]
    Manifest.from_rows(good, root=root).write(tmp_path / "good.tsv")
    (root / "b_gone.wav").unlink()
    broken = noise(10_000)
    broken[3] = np.inf
    write_wav(root / "d_nan.wav", broken)
    (root / "f_cut.wav").write_bytes((root / "f_cut.wav").read_bytes()[:9_000])
    return tmp_path / "all.tsv", tmp_path / "good.tsv"


def test_files_that_went_bad_since_the_manifest_was_made(say: Say, passes, model_dir, tmp_path, went_bad) -> None:
    everything, good = went_bad
    out, device = tmp_path / "out", ("--device", "cpu")
    say("extract", model_dir, good, tmp_path / "alone", *device)
    assert "warning: 3 without a result" in say("extract", model_dir, everything, out, *device)
    assert [line["id"] for line in lines(out / "errors.jsonl")] == ["b_gone", "d_nan", "f_cut"]
    why = reasons(out)
    assert "no such file" in why["b_gone.wav"]
    assert "3" in why["d_nan.wav"]
    assert "10000" in why["f_cut.wav"]
    assert lines(out / "index.jsonl") == lines(tmp_path / "alone" / "index.jsonl")
    for line in lines(out / "index.jsonl"):
        np.testing.assert_allclose(np.load(out / line["file"]), np.load(tmp_path / "alone" / line["file"]), atol=2e-5)

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    passes.clear()
    say("extract", model_dir, everything, out, *device)
    assert (passes, {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}) == ([], before)

    write_wav(tmp_path / "in/b_gone.wav", noise(10_000, seed=10))  # it is back
    assert "warning: 2 without a result" in say("extract", model_dir, everything, out, *device)
    assert passes == [1]
    assert [line["id"] for line in lines(out / "errors.jsonl")] == ["d_nan", "f_cut"]
    index = [line["id"] for line in lines(out / "index.jsonl")]
    assert index == ["a", "b_gone", "c_silence", "e_surround", "z"]
    say("extract", model_dir, tmp_path / "in/b_gone.wav", tmp_path / "single", *device)
    np.testing.assert_allclose(np.load(out / "b_gone.npy"), np.load(tmp_path / "single/b_gone.npy"), atol=2e-5)

    for name, seed in (("d_nan", 11), ("f_cut", 12)):
        write_wav(tmp_path / f"in/{name}.wav", noise(10_000, seed=seed))
    say("extract", model_dir, everything, out, *device)
    assert not (out / "errors.jsonl").exists()
    assert len(lines(out / "index.jsonl")) == 7


def test_strict_stops_and_keeps_what_came_before(say: Say, passes, model_dir, tmp_path, went_bad) -> None:
    everything, _ = went_bad
    options = ["--device", "cpu", "--batch-s", "0.1", "--shard-mib", "0.004"]
    said = say("extract", model_dir, everything, tmp_path / "out", "--strict", *options, status=2)
    assert "error: b_gone (" in said
    assert "(--strict stops here)" in said
    num_kept = len(list((tmp_path / "out").glob("*.npy")))
    assert num_kept == 1
    passes.clear()
    assert "1 were there already" in say("extract", model_dir, everything, tmp_path / "out", *options)
    assert sum(passes) == 3


def test_a_folder_that_grew(say: Say, passes, model_dir, tmp_path) -> None:
    speech, out = tmp_path / "in", tmp_path / "out"
    good_files(speech)
    say("extract", model_dir, speech, out, "--device", "cpu")
    write_wav(speech / "b.wav", noise(8_000, seed=5))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    passes.clear()
    assert "4 were there already" in say("extract", model_dir, speech, out, "--device", "cpu")
    assert passes == [1]
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}.items()
    assert [line["id"] for line in lines(out / "index.jsonl")] == ["a", "b", "c_silence", "e_surround", "z"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--layer", "1"], "layer is 'last', now it is '1'"),
        (["--dtype", "fp16"], "dtype is 'fp32', now it is 'fp16'"),
        (["--max-s", "30"], "max_s is 60.0, now it is 30.0"),
        (["--format", "safetensors"], "format is 'npy', now it is 'safetensors'"),
        (["--pool", "mean"], "pool is None, now it is 'mean'"),
    ],
)
def test_other_settings_are_refused(say: Say, model_dir, tmp_path, options, named) -> None:
    write_wav(tmp_path / "a.wav", noise(5_000))
    say("extract", model_dir, tmp_path / "a.wav", tmp_path / "out", "--device", "cpu")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    said = say("extract", model_dir, tmp_path / "a.wav", tmp_path / "out", "--device", "cpu", *options, status=2)
    assert named in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_other_processes_at_the_same_folder(say: Say, model_dir, tmp_path) -> None:
    """While one does its first shard: the same command does the others; another plan waits its turn."""
    good_files(tmp_path / "in")
    out, said = tmp_path / "out", list[str]()
    encoder = open_encoder(model_dir)
    settings = ExtractSettings(choose_layer(None, num_layers=3), shard_mib=0.004)  # about 60 frames
    command = ["extract", model_dir, tmp_path / "in", out, "--device", "cpu", "--shard-mib"]

    def at_work(seconds: float) -> None:
        if seconds and not said:
            said.append(say(*command, "0.004", status=75))
            said.append(say(*command, "1", status=2))

    extractor = Extractor(encoder, weights_hash(model_dir), settings, CPU)
    summary = extractor.to_folder(open_input(tmp_path / "in"), out, on_progress=at_work)
    assert "1 of 3 shards are left to another process" in said[0]
    assert "rows 00000000-00000001" in said[0]
    assert "another process is at work there with another one, or with another --shard-mib" in said[1]
    assert (summary.tally.num_written, summary.tally.num_present, summary.is_complete) == (1, 3, True)
    assert [line["id"] for line in lines(out / "index.jsonl")] == ["a", "c_silence", "e_surround", "z"]
    assert not (out / ".drafts").exists()
    assert not (out / "parts").exists()
    assert "4 were there already" in say(*command, "0.004")


def test_nothing_with_a_result_is_a_failure_of_the_rank_that_sees_it(
    say: Say, model_dir, tmp_path, monkeypatch
) -> None:
    rows = [Utterance(f"u{i}", f"u{i}.wav", 0, 8_000, 16_000) for i in range(2)]
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "m.tsv")
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["extract", model_dir, tmp_path / "m.tsv", tmp_path / "out", "--device", "cpu", "--shard-mib", "0.0001"]
    monkeypatch.setenv("RANK", "1")
    assert f"the last one writes {tmp_path / 'out/index.jsonl'}" in say(*command)
    monkeypatch.setenv("RANK", "0")
    say(*command, status=1)
    assert len(lines(tmp_path / "out/errors.jsonl")) == 2
    monkeypatch.setenv("RANK", "2")
    assert "RANK must be 0 to WORLD_SIZE - 1, got RANK=2, WORLD_SIZE=2" in say(*command, status=2)


def test_a_full_disk_keeps_the_shards_that_are_in_place(say: Say, model_dir, tmp_path, monkeypatch) -> None:
    from audio_ssl.inference.sinks import drafts

    good_files(tmp_path / "in")
    out, flush = tmp_path / "out", drafts.flush
    command = ["extract", model_dir, tmp_path / "in", out, "--device", "cpu", "--shard-mib", "0.004"]

    def full(path: Path) -> None:
        if path.name == "3.npy":  # of z, row 3
            raise OSError(28, "No space left on device")
        flush(path)

    monkeypatch.setattr(drafts, "flush", full)
    said = say(*command, status=2)
    assert f"{out} must be writable with room to spare: [Errno 28] No space left on device" in said
    assert "What is finished is kept" in said
    assert sorted(path.name for path in out.glob("*.npy")) == ["a.npy", "c_silence.npy", "e_surround.npy"]
    assert not list(out.glob(".drafts/*/*"))
    monkeypatch.setattr(drafts, "flush", flush)
    assert "1 utterances (1 s, 46 frames)" in say(*command)
    assert [line["id"] for line in lines(out / "index.jsonl")] == ["a", "c_silence", "e_surround", "z"]
