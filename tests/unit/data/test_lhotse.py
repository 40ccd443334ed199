"""Lhotse's cuts, recordings and supervisions: as its documentation has them, and with its own reader where it is."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.data.audio import read_audio
from audio_ssl.data.formats.lhotse import write_lhotse
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ManifestError

RATE, LENGTH = 11025, 33082


@pytest.fixture
def rec(tmp_path: Path, write_audio) -> dict:
    """A recording as lhotse 1.33 writes it, its file there."""
    write_audio(tmp_path / "audio" / "a.wav", LENGTH, rate=RATE)
    source = {"type": "file", "channels": [0], "source": str(tmp_path / "audio" / "a.wav")}
    return {
        "id": "a", "sources": [source], "sampling_rate": RATE, "num_samples": LENGTH,
        "duration": 3.0006349206349205, "channel_ids": [0],
    }  # fmt: skip


def supervision(start: float = 0.0, duration: float = 1.25, **more) -> dict:
    known = {"text": "héé", "language": "fr", "speaker": "x"}
    return {"id": "s1", "recording_id": "a", "start": start, "duration": duration, "channel": 0, **known, **more}


def cut(rec: dict, *supervisions: dict, **more) -> dict:
    place = {"start": 0.5000453514739229, "duration": 1.2345578231292518, "channel": 0}
    return {"id": "c1", **place, "supervisions": list(supervisions), "recording": rec, "type": "MonoCut", **more}


def written(path: Path, *rows: dict) -> Path:
    data = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_cuts_are_rows_to_the_nearest_sample(tmp_path: Path, rec: dict, caplog: pytest.LogCaptureFixture):
    rows = [
        cut(rec, supervision(gender="f", custom={"snr": 3})),
        cut(rec, id="c2", custom={"x": 1}),
        cut(rec, supervision(text="", speaker=None), id="c3", start=0, duration=3.0006349206349205),
    ]
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        manifest = Manifest.read(written(tmp_path / name, *rows))
        path = str(tmp_path / "audio" / "a.wav")
        assert list(manifest) == [
            Utterance("c1", path, 5513, 13611, RATE, "héé", "x", "fr"),
            Utterance("c2", path, 5513, 13611, RATE),
            Utterance("c3", path, 0, LENGTH, RATE, "", None, "fr"),
        ]
        assert manifest.describe(1).startswith(f"{tmp_path / name}:2 (")
    assert "custom (1 rows), supervisions.custom (1 rows), supervisions.gender (1 rows)" in caplog.text


@pytest.mark.parametrize("given", ["recordings", "supervisions"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_recordings_and_supervisions_find_each_other(
    tmp_path: Path, rec: dict, given: str, suffix: str, caplog: pytest.LogCaptureFixture
):
    written(tmp_path / "x_recordings_train.jsonl.gz", rec | {"id": "b"}, rec)
    written(tmp_path / f"x_supervisions_train{suffix}", supervision(start=1.0), supervision(start=0.5, id="s2"))
    name = "x_recordings_train.jsonl.gz" if given == "recordings" else f"x_supervisions_train{suffix}"
    assert [(r.id, r.start, r.num_samples, r.text) for r in Manifest.read(tmp_path / name)] == [
        ("s1", 11025, 13781, "héé"),
        ("s2", 5513, 13781, "héé"),
        ("b", 0, LENGTH, None),
    ]
    assert "1 recordings that it does not name are rows without text" in caplog.text


def test_recordings_alone_are_rows_and_supervisions_alone_are_refused(tmp_path: Path, rec: dict):
    rows = list(Manifest.read(written(tmp_path / "recordings.jsonl", rec, rec | {"id": "b"})))
    assert [(r.id, r.num_samples, r.text) for r in rows] == [("a", LENGTH, None), ("b", LENGTH, None)]
    for name in ("my_supervisions.jsonl", "other.jsonl"):
        with pytest.raises(ManifestError, match="holds supervisions, which need their recordings beside them"):
            Manifest.read(written(tmp_path / name, supervision()))


def test_relative_sources_start_from_the_manifest_or_from_where_the_command_runs(
    tmp_path: Path, rec: dict, monkeypatch: pytest.MonkeyPatch
):
    def with_source(path: str) -> Path:
        source = rec["sources"][0] | {"source": path}
        return written(tmp_path / "sub" / "recordings.jsonl", rec | {"sources": [source]})

    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Manifest.read(with_source("audio/a.wav"))[0].path == str(tmp_path / "audio" / "a.wav")
    (tmp_path / "audio").rename(tmp_path / "sub" / "audio")
    assert Manifest.read(with_source("audio/a.wav"))[0].path == "audio/a.wav"
    with pytest.raises(ManifestError, match=r":1: source must stay under the manifest's folder or be absolute"):
        Manifest.read(with_source("../audio/a.wav"))


TRIM = "`lhotse cut trim-to-supervisions`"
CUTS_REFUSED = [  # (what is changed, how, the message about line 2)
    ("cut", {"type": "MixedCut", "tracks": []}, "is a MixedCut; rows are read from MonoCuts alone"),
    ("cut", {"type": "MultiCut", "channel": [0, 1]}, "is a MultiCut"),
    ("cut", {"type": "PaddingCut"}, "is a PaddingCut"),
    ("cut", {"recording": None}, "must hold its recording"),
    ("source", {"type": "command"}, "recording a comes from a source of type 'command'; .* commands are never run"),
    ("source", {"type": "url"}, "recording a has a source of type 'url', which must be an address"),
    ("source", {"type": "url", "source": "file:///a.wav"}, r"source: an address must start with one of http://.*got"),
    ("source", {"channels": [0, 1]}, "recording a has 2 channels in 1 files"),
    ("recording", {"sources": [{"channels": [0]}, {"channels": [1]}]}, "recording a has 2 channels in 2 files"),
    ("recording", {"sources": "x"}, "a recording must have an id and a list"),
    ("recording", {"transforms": [{"name": "Speed"}]}, "recording a is changed on reading"),
    ("recording", {"duration": 3.001}, r"recording a: duration must be .* = 3\.0006\d* s to one .* got 3\.001 s"),
    ("recording", {"num_samples": 0}, "num_samples must be a whole number >= 1, got 0"),
    ("recording", {"sampling_rate": 16000.5}, "sampling_rate must be a whole number"),
    ("cut", {"start": 2.0}, "must be a part of its file, which has 33082 samples .* 22050 to 35661"),
    ("cut", {"start": -0.1}, "must be a part of its file"),
    ("cut", {"duration": None}, "must have id, start and duration"),
    ("cut", {"supervisions": [supervision()] * 2}, f"c1 must have one supervision or none, got 2; {TRIM}"),
    ("cut", {"supervisions": [supervision(duration=1.4)]}, r"c1 must hold its .* got 0\.0 s to 1\.4 s of 1\.23"),
    ("cut", {"supervisions": [supervision(start=-0.2)]}, "c1 must hold its supervision"),
    ("cut", {"supervisions": [supervision(channel=[0, 1])]}, "supervision s1 is about several channels"),
    ("cut", {"supervisions": ["x"]}, "a supervision must be a JSON object"),
    ("cut", {"supervisions": "x"}, "supervisions must be a list"),
]


@pytest.mark.parametrize(("where", "change", "message"), CUTS_REFUSED)
def test_a_cut_that_no_row_can_be_is_named(tmp_path: Path, rec: dict, where: str, change: dict, message: str):
    recording = {"recording": rec | change, "source": rec | {"sources": [rec["sources"][0] | change]}}.get(where, rec)
    good = cut(rec, supervision())
    bad = cut(recording, supervision(), **(change if where == "cut" else {}))
    path = written(tmp_path / "cuts.jsonl", good, bad, good | {"id": "c3"})
    with pytest.raises(ManifestError, match=f"(?s)1 of 3 lines cannot be read.*:2: {message}"):
        Manifest.read(path)


def test_broken_pairs_are_named(tmp_path: Path, rec: dict):
    written(tmp_path / "recordings.jsonl", rec)
    written(tmp_path / "supervisions.jsonl", supervision(), supervision(start=2.0), supervision(recording_id="b"))
    with pytest.raises(ManifestError, match="2 of 3 rows cannot be read") as caught:
        Manifest.read(tmp_path / "recordings.jsonl")
    assert "supervisions.jsonl:2: must be a part of its file" in str(caught.value)
    assert "supervisions.jsonl:3: recording b must be in" in str(caught.value)
    written(tmp_path / "recordings.jsonl", rec, rec)
    with pytest.raises(ManifestError, match="must name each recording once, but has a twice"):
        Manifest.read(tmp_path / "recordings.jsonl")


def test_cuts_are_laid_out_as_lhotse_writes_them(tmp_path: Path, rec: dict):
    row = Utterance("c1", "audio/a.wav", 5513, 13611, RATE, "héé", "x", "fr")
    manifest = Manifest.from_rows([row, Utterance("c2", "audio/a.wav", 0, LENGTH, RATE)], root=tmp_path)
    assert write_lhotse(manifest, tmp_path / "cuts.jsonl") == ()
    first, second = map(json.loads, (tmp_path / "cuts.jsonl").read_text(encoding="utf-8").splitlines())
    expected = cut(rec | {"id": "audio/a.wav"}, supervision(duration=1.2345578231292518))
    expected["supervisions"][0] |= {"id": "c1", "recording_id": "audio/a.wav"}
    assert first == expected
    assert second["supervisions"] == []
    write_lhotse(manifest, tmp_path / "1.jsonl.gz")
    write_lhotse(manifest, tmp_path / "2.jsonl.gz")
    assert (tmp_path / "1.jsonl.gz").read_bytes() == (tmp_path / "2.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "1.jsonl.gz").read_bytes()) == (tmp_path / "cuts.jsonl").read_bytes()


def test_audio_of_several_channels_is_refused(tmp_path: Path, write_audio):
    write_audio(tmp_path / "two.wav", 100, channels=2)
    manifest = Manifest.from_rows([Utterance("a", "two.wav", 0, 100, 16000)], root=tmp_path)
    with pytest.raises(ManifestError, match=r"1 rows cannot be written as Lhotse's cuts.*\n.*has 2 channels"):
        write_lhotse(manifest, tmp_path / "cuts.jsonl")
    assert not (tmp_path / "cuts.jsonl").exists()


def test_lhotse_opens_what_is_written_here(corpus: Manifest, tmp_path: Path):
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed: `pip install lhotse` runs this check")
    part = Utterance("part", "s1/u4.flac", 4001, 4003, 16000, "", None, None)
    manifest = Manifest.from_rows([*corpus, part], root=corpus.root)
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        write_lhotse(manifest, tmp_path / name)
        cuts = list(lhotse.load_manifest(tmp_path / name))
        assert len(cuts) == len(manifest)
        for i, (row, found) in enumerate(zip(manifest, cuts, strict=True)):
            lhotse.validate(found)
            (known,) = found.supervisions
            assert (found.id, known.text, known.speaker, known.language) == (
                row.id,
                row.text,
                row.speaker,
                row.language,
            )
            expected, _ = read_audio(manifest.audio_path(i), start=row.start, num_samples=row.num_samples)
            np.testing.assert_array_equal(found.load_audio()[0], expected)


def test_what_lhotse_writes_is_read_here(tmp_path: Path, write_audio):
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed: `pip install lhotse` runs this check")
    samples = write_audio(tmp_path / "a.wav", LENGTH, rate=RATE)
    recording = lhotse.Recording.from_file(tmp_path / "a.wav")
    known = [
        lhotse.SupervisionSegment("s1", "a", 0.1, 0.7654321, text="one", speaker="x", language="en"),
        lhotse.SupervisionSegment("s2", "a", 1.37, 1.5, text=""),
    ]
    recordings = lhotse.RecordingSet.from_recordings([recording])
    supervisions = lhotse.SupervisionSet.from_segments(known)
    cuts = (
        lhotse.CutSet.from_manifests(recordings=recordings, supervisions=supervisions).trim_to_supervisions().to_eager()
    )
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    recordings.to_file(tmp_path / "x_recordings.jsonl.gz")
    supervisions.to_file(tmp_path / "x_supervisions.jsonl.gz")
    rows = list(Manifest.read(tmp_path / "cuts.jsonl.gz"))
    assert [(r.text, r.speaker, r.language) for r in rows] == [("one", "x", "en"), ("", None, None)]
    for row, found in zip(rows, cuts, strict=True):
        np.testing.assert_array_equal(samples[row.start : row.start + row.num_samples], found.load_audio()[0])
    pairs = list(Manifest.read(tmp_path / "x_recordings.jsonl.gz"))
    assert [(r.id, r.text, r.start) for r in pairs] == [("s1", "one", rows[0].start), ("s2", "", rows[1].start)]
