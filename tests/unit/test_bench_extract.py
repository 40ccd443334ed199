"""``tools/bench.py extract``: its arithmetic by hand, and one run of each kind on a minute model."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench
import soundfile as sf

from audio_ssl.config import ModelConfig
from benchmarks import cases, extracting, extractors, short
from benchmarks.cases import CASES
from benchmarks.extractors import DOCUMENTED, Job, Speech
from benchmarks.flops import forward_flops
from benchmarks.report import BenchError

CASE = CASES["smoke"]
LENGTHS = (16000, 9000, 12345)


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as the benchmark expects them; the tests' own process keeps its threads and processors."""
    generator = np.random.default_rng(0)
    (tmp_path / "corpora/speech_to_intent").mkdir(parents=True)
    for i, length in enumerate(LENGTHS):
        path = tmp_path / "corpora/librispeech_mini" / f"part{i % 2}" / f"{i}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, 0.1 * generator.standard_normal(length), 16000)
    monkeypatch.setenv("AUDIO_SSL_CORPORA", str(tmp_path / "corpora"))
    monkeypatch.setattr(bench, "pin", lambda *_, **__: None)
    return tmp_path


def run(capsys, *words) -> dict[tuple[str, str], float]:
    assert bench.main(["extract", "--case", "smoke", *words, "--json", "--repeats", "1", "--threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {(line["case"], line["metric"]): line["value"] for line in lines}


def test_batches_of_eight_and_what_they_pad(monkeypatch):
    monkeypatch.setattr(extractors, "BATCH_ROWS", 2)
    speech = Speech(Path(), {Path(name): length for name, length in zip("abcd", (10, 30, 20, 40), strict=True)})
    assert speech.in_order() == [[Path("a"), Path("b")], [Path("c"), Path("d")]]
    assert speech.by_length() == [[Path("d"), Path("b")], [Path("c"), Path("a")]]
    assert speech.padding_share(speech.in_order()) == pytest.approx(1 - 100 / 140)
    assert speech.padding_share(speech.by_length()) == pytest.approx(1 - 100 / 120)


def test_the_least_cosine_is_of_all_frames_of_all_files(tmp_path):
    frames = {"a": np.array([[1.0, 0.0], [0.0, 2.0]]), "b": np.array([[3.0, 4.0]])}
    for name, changed in (("exact", None), ("found", "b")):
        (tmp_path / name).mkdir()
        for file, values in frames.items():
            np.save(tmp_path / name / f"{file}.npy", values[:, ::-1] if file == changed else values)
    assert extracting.min_cosine(tmp_path / "found", tmp_path / "exact") == pytest.approx(24 / 25)
    (tmp_path / "found/b.npy").unlink()
    with pytest.raises(BenchError, match="found must give what exact gives: 2 files, got 1"):
        extracting.min_cosine(tmp_path / "found", tmp_path / "exact")


def test_the_fastest_mode_that_is_near_enough_meets_the_documentation():
    times = {
        "audio_ssl fp32": (4.0,), "audio_ssl bf16": (2.0,), "audio_ssl int8": (1.0,),
        DOCUMENTED: (8.0,), "transformers bf16, sorted": (3.0,),
    }  # fmt: skip
    cosines = {"audio_ssl fp32": 1.0, "audio_ssl bf16": 0.9991, "audio_ssl int8": 0.9989}
    rows = {(row.case, row.metric): row.value for row in extracting._ratio_rows("x", times, cosines)}
    assert rows["x", "ratio_documented_fp32"] == 2
    assert (rows["x", "ratio_documented_fast"], rows["x", "min_cosine"]) == (4, 0.9991)
    assert rows["x", "ratio_sorted_bf16"] == 1.5
    assert rows["x/audio_ssl int8", "ratio_documented"] == 8
    assert [rows[f"x/audio_ssl {p}", "is_fast"] for p in ("fp32", "bf16", "int8")] == [0, 1, 0]


def test_speed_is_that_of_the_audio_and_the_peaks_share_of_valid_frames():
    speech = Speech(Path(), {Path("a"): 16000, Path("b"): 9000})
    job = Job("audio_ssl fp32", 0.25, lambda _: None)
    times = {"audio_ssl fp32": (0.5,), "audio_ssl bf16": (0.25,)}
    times |= {f"gemm {p} 64x64x64": (1e-6,) for p in ("fp32", "bf16")}
    (speed, padding) = extracting._speed_rows("x", [job], times, 25000 / 16000)
    assert (speed.value, padding.value) == (3.125, 0.25)
    rows = {(row.case, row.metric): row.value for row in extracting._share_rows("x", CASE, speech, times)}
    flops = forward_flops(CASE.model, 16000).total + forward_flops(CASE.model, 9000).total
    peak = 3 * 2 * 64**3 / 1e-6
    assert rows["x", "gemm_peak_fp32"] == pytest.approx(peak / 1e9)
    assert rows["x/audio_ssl bf16", "share_of_peak"] == pytest.approx(flops / 0.25 / peak)


def test_extract_tells_its_metrics_and_the_peers_frames_are_ours(corpora, capsys, monkeypatch):
    pytest.importorskip("transformers")
    model = ModelConfig(preset="wav2vec2_base", **cases._SMOKE)  # group norm, as base
    monkeypatch.setitem(CASES, "smoke", replace(CASE, model=model))
    values = run(capsys, "--peer", "transformers")
    label = "smoke, 3 files, 0.0 min"
    for metric in ("ratio_documented_fp32", "ratio_documented_fast", "ratio_sorted_bf16"):
        assert values[label, metric] > 0
    assert values[label, "error_documented_fp32"] < 1e-5
    assert values[label, "error_documented_padding"] > 1e-3  # group norm that sees padding
    assert values[f"{label}/audio_ssl fp32", "min_cosine"] == pytest.approx(1)
    assert 0.98 < values[f"{label}/audio_ssl bf16", "min_cosine"] < 1
    padding = 1 - sum(LENGTHS) / (3 * max(LENGTHS))
    assert values[f"{label}/{DOCUMENTED}", "padding_share"] == pytest.approx(padding)
    names = [f"transformers {p}, sorted" for p in ("fp32", "bf16")]
    for name in (DOCUMENTED, *names, "audio_ssl fp32", "audio_ssl bf16"):
        assert values[f"{label}/{name}", "audio_s_per_s"] > 0


def test_a_part_of_the_files_is_evenly_chosen(corpora):
    whole = extracting._chosen(corpora / "all", None)
    assert [path.name for path in whole.num_samples] == ["0.flac", "1.flac", "2.flac"]
    some = extracting._chosen(corpora / "some", 2)
    assert list(some.num_samples.values()) == [16000, 12345]  # the first two of 0, 2, 1, which come folder by folder


def test_without_corpora_it_says_what_it_wants(corpora, monkeypatch, capsys):
    monkeypatch.delenv("AUDIO_SSL_CORPORA")
    assert bench.main(["extract", "--case", "smoke"]) == 2
    assert "AUDIO_SSL_CORPORA must name a folder" in capsys.readouterr().err


def test_short_files_hold_the_audio_of_the_long_ones(corpora, capsys):
    folders, audio_s = short.make_files(corpora / "made", 25)
    parts, wholes = ([sf.read(path)[0] for path in sorted(folders[kind].rglob("*.flac"))] for kind in ("short", "long"))
    assert (len(parts), len(wholes)) == (25, 3)
    assert np.array_equal(np.concatenate(parts), np.concatenate(wholes))
    assert all(16000 <= len(part) <= 32000 for part in parts)
    assert sum(map(len, parts)) / 16000 == pytest.approx(audio_s)
    values = run(capsys, "--short", "--files", "25")
    for precision in ("fp32", "bf16"):
        label = f"smoke, 25 files, {precision}"
        speeds = [values[f"{label}/{kind}", "audio_s_per_s"] for kind in ("short", "long")]
        assert values[label, "ratio_short_long"] == pytest.approx(speeds[0] / speeds[1])
        assert values[label, "rss_growth"] < 0.5
        assert 0 < values[f"{label}/short", "scan_s"] < audio_s / speeds[0]
