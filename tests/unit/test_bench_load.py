"""``tools/bench.py load``: its arithmetic by hand, and that every candidate hears the same audio."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from benchmarks import loaders, loading
from benchmarks.loaders import Corpus, Heard
from benchmarks.loading import Found
from benchmarks.report import BenchError

LEAST_HOURS = 3 / 3600


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders as the benchmark expects them, with a second of FLAC and of Opus in each."""
    generator = np.random.default_rng(0)
    for folder, name in (("librispeech_mini", "a.flac"), ("speech_to_intent", "a.opus")):
        (tmp_path / folder).mkdir()
        kind = {} if name.endswith("flac") else {"format": "OGG", "subtype": "OPUS"}
        sf.write(tmp_path / folder / name, generator.standard_normal(16000).astype("f4") * 0.1, 16000, **kind)
    monkeypatch.setenv("AUDIO_SSL_CORPORA", str(tmp_path))
    monkeypatch.setattr(loading, "LEAST_HOURS", LEAST_HOURS)
    return tmp_path


def test_ratios_are_of_times_within_a_round_and_padding_of_what_came():
    heard = {"audio_ssl": Heard(32000, 40000), "bare decoding": Heard(32000, 32000), "DataLoader": Heard(32000, 64000)}
    times = {"audio_ssl": (1.0, 2.0), "bare decoding": (0.9, 1.8), "DataLoader": (3.0, 6.0)}
    rows = {(row.case, row.metric): row.value for row in loading._rows("flac", Found(heard, times))}
    assert rows["flac", "ratio_bare_decode"] == pytest.approx(0.9)
    assert rows["flac", "ratio_dataloader"] == pytest.approx(3.0)
    assert rows["flac, audio_ssl", "batch_padding_share"] == pytest.approx(0.2)
    assert rows["flac, DataLoader", "batch_padding_share"] == pytest.approx(0.5)
    assert rows["flac, audio_ssl", "audio_s_per_s"] == pytest.approx((2 / 1 + 2 / 2) / 2)
    assert ("flac", "ratio_lhotse") not in rows
    grown = loading._growth("flac", Found({}, {}, (100.0, 300.0, 103.0)))
    assert (grown.metric, grown.value) == ("rss_growth", pytest.approx(0.03))


def test_all_hear_the_same_audio(corpora: Path):
    corpus = Corpus("flac", loading._manifest(corpora, "flac", least_hours=LEAST_HOURS), 2)
    assert len(corpus.manifest) == 3
    epochs = loaders.candidates(corpus)
    assert {"bare decoding", "audio_ssl", "audio_ssl, threads", "DataLoader"} <= set(epochs)
    for name, epoch in epochs.items():
        assert loading._checked(name, epoch(), corpus).num_samples == 48000
    with pytest.raises(BenchError, match="DataLoader must read the whole corpus, 48000 samples, but read 5"):
        loading._checked("DataLoader", Heard(5, 5), corpus)


def test_the_plain_data_loader_normalises_as_ours(corpora: Path):
    rows = [Utterance(str(i), "a.flac", 0, 16000, 16000) for i in range(2)]
    manifest = Manifest.from_rows(rows, root=corpora / "librispeech_mini")
    ours = next(loaders.Loader(manifest, sample_rate_hz=16000, normalize=True, num_workers=0).batches([(0,)]))
    theirs = loaders._Files(Corpus("flac", manifest, 1).paths)[0]
    np.testing.assert_allclose(theirs, ours.waveforms[0], rtol=6e-4, atol=1e-6)  # floors: 1e-5 and 1e-7 of 0.01


def test_load_tells_of_each_corpus(corpora: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench, "pin", lambda *_, **__: None)
    monkeypatch.setattr(loading, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(loading, "_child", loading.measure)
    monkeypatch.setattr(loading, "NUM_LIBRISPEECH", 1000)
    assert bench.main(["load", "--repeats", "1", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    values = {(row["case"], row["metric"]): row["value"] for row in rows}
    assert values["1,000 utterances", "padding_share"] == 0  # all of a second
    for name in ("flac", "opus"):
        for metric in ("ratio_bare_decode", "ratio_bare_decode_threads", "ratio_dataloader"):
            assert values[f"{name}, 2 threads", metric] > 0
        assert abs(values[f"{name}, 2 threads", "rss_growth"]) < 1


def test_a_child_tells_what_it_measured(corpora: Path):
    found = loading._child(loading.Ask("flac", str(corpora), 0, 1, LEAST_HOURS))
    assert len(found.resident_mib) == 3
    assert min(found.resident_mib) > 10
    assert (found.heard, found.times) == ({}, {})


def test_without_corpora_it_says_what_it_wants(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(bench, "pin", lambda *_, **__: None)
    monkeypatch.delenv("AUDIO_SSL_CORPORA", raising=False)
    assert bench.main(["load"]) == 2
    assert "AUDIO_SSL_CORPORA must name a folder with librispeech_mini and speech_to_intent" in capsys.readouterr().err
