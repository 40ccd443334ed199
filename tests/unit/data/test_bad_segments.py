"""Bad recordings under lists of segments: each segment that cannot be read is named, its neighbours load to the bit."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from audio_ssl.data.audio import load_waveform
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.manifest_io import write_table
from audio_ssl.data.scan import scan
from audio_ssl.data.summary import find_faults
from audio_ssl.data.table import table_from_rows
from audio_ssl.errors import ManifestError
from tests.unit.data.bad_recordings import BAD, LENGTH, RATE, listed_rows, opened, rewrite

pytestmark = pytest.mark.usefixtures("never_hangs")


def before_damage(manifest: Manifest) -> dict[int, np.ndarray]:
    readable = [i for i, row in enumerate(manifest) if not row.path.endswith(".m4a")]
    return {i: load_waveform(manifest, i, sample_rate_hz=RATE) for i in readable}


@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_segments_are_named_and_their_neighbours_load_to_the_bit(tmp_path: Path, kind: str, engine: str, caplog):
    bad = BAD[kind]
    rows = listed_rows(tmp_path, [bad.file])
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "list.tsv")
    manifest = Manifest.read(tmp_path / "list.tsv")
    whole = before_damage(manifest)
    bad.do(tmp_path / bad.file)
    good = {i for i, row in enumerate(rows) if row.id.startswith("good") or int(row.id[-1]) in bad.good}

    batches = [(0, 1, 2), (3, 4), (5,), (1, 2, 4, 5)]  # 0 and 3 are rows of good files
    trained, validated = (opened(manifest, engine, replace=replace) for replace in (True, False))
    heard = list(trained.batches(batches))
    expected = [tuple(i for i in batch if i in good) for batch in batches]
    following = {5: next(i for i in (0, 1, 2, 3, 4) if i in good), 1: 3}  # the next readable row, round the end
    assert [b.rows for b in heard] == [e or (following[b[0]],) for e, b in zip(expected, batches, strict=True)]
    dropped = list(validated.batches(batches))
    assert [b.rows for b in dropped] == [e for e in expected if e]
    for batch in (*heard, *dropped):
        for i, row in enumerate(batch.rows):
            np.testing.assert_array_equal(batch.waveforms[i, : batch.num_samples[i]].numpy(), whole[row])
            assert not batch.waveforms[i, batch.num_samples[i] :].any()  # nothing is left of a bad row's samples

    lines = {i: f"{tmp_path / 'list.tsv'}:{i + 3} ({row.id}, {row.path})" for i, row in enumerate(rows)}
    for loader in (trained, validated):
        assert set(loader.bad_rows.reasons) == {lines[i] for i in range(6) if i not in good}
        assert all(re.search(bad.reason, said) for said in loader.bad_rows.reasons.values())
        assert all(str(tmp_path / bad.file) in said for said in loader.bad_rows.reasons.values())
    asked = [i for batch in batches for i in batch]
    assert validated.bad_rows.num_bad == sum(i not in good for i in asked)
    assert (validated.bad_rows.num_asked, trained.bad_rows.num_asked >= len(asked)) == (len(asked), True)
    named = [record.getMessage() for record in caplog.records]
    assert all(sum(lines[i] in message for message in named) == 2 for i in range(6) if i not in good)  # once a loader

    faults = find_faults(manifest, decode=True)
    # a check of the whole file comes first there: of a file that ends too early no segment is well
    assert [f.partition(": ")[0] for f in faults] == [
        lines[i] for i in range(6) if not rows[i].id.startswith("good") and (bad.scan_reason or i not in good)
    ]


def test_a_silent_recording_is_no_bad_one_until_all_is_decoded(tmp_path: Path):
    rows = listed_rows(tmp_path, ["a.wav"])
    rewrite(tmp_path / "a.wav", LENGTH)
    sf.write(tmp_path / "a.wav", np.zeros(LENGTH), RATE)
    loader = opened(Manifest.from_rows(rows, root=tmp_path), "threads", normalize=True)
    (batch,) = loader.batches([tuple(range(6))])
    assert batch.rows == tuple(range(6))
    assert torch.isfinite(batch.waveforms).all()
    assert not batch.waveforms[1].any()
    assert [r.reason for r in scan(tmp_path, check="full").refusals] == ["silent"]


BEYOND = {
    "behind the end": (50000, 8000, "must hold samples 50000 to 58000, but decoding ends at 48000"),
    "over the end": (47000, 8000, "must hold samples 47000 to 55000, but decoding ends at 48000"),
    "far behind": (2**40, 8000, "but decoding ends at 48000"),
    "all too long": (8000, 2**40, "but decoding ends at 48000"),
}


@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.ogg", "a.opus", "a.mp3"])
def test_segments_that_their_file_does_not_reach_are_bad_rows(tmp_path: Path, name: str, engine: str):
    rows = listed_rows(tmp_path, [name])
    rows += [Utterance(said, name, start, length, RATE) for said, (start, length, _) in BEYOND.items()]
    manifest = Manifest.from_rows(rows, root=tmp_path)
    loader = opened(manifest, engine)
    (batch,) = loader.batches([tuple(range(10))])
    assert batch.rows == tuple(range(6))
    for i, (_, _, reason) in enumerate(BEYOND.values(), start=6):
        assert reason in loader.bad_rows.reasons[manifest.describe(i)]
    faults = find_faults(manifest, decode=True)
    assert [f.partition(": ")[0] for f in faults] == [manifest.describe(i) for i in range(6, 10)]
    assert all("start + num_samples must be <= the file's 48000, got " in fault for fault in faults)


IMPOSSIBLE = {
    "no samples": ({"num_samples": 0}, "num_samples must be >= 1, got 0"),
    "fewer than none": ({"num_samples": -7}, "num_samples must be >= 1, got -7"),
    "before the start": ({"start": -8000}, "start must be >= 0, got -8000"),
    "more than can be": ({"num_samples": 2**62}, "num_samples must be <= 2^40 samples"),
    "no rate": ({"sample_rate": 0}, "sample_rate must be >= 1, got 0"),
    "way out": ({"path": "../a.flac"}, "path must stay under the root or be absolute"),
}


@pytest.mark.parametrize("extension", ["arrow", "parquet", "tsv"])
def test_impossible_segments_are_refused_with_their_line(tmp_path: Path, extension: str):
    rows = listed_rows(tmp_path, ["a.flac"])
    change = {"id": "x", "path": "a.flac", "start": 0, "num_samples": 8000, "sample_rate": RATE}
    rows += [Utterance(**(change | {"id": name} | wrong)) for name, (wrong, _) in IMPOSSIBLE.items()]
    path = tmp_path / f"list.{extension}"
    write_table(path, table_from_rows(rows), root=tmp_path)  # as another tool would: nothing is checked
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path).num_samples_at(RATE)  # Arrow's is trusted until its lengths are asked for
    for i, (name, (_, reason)) in enumerate(IMPOSSIBLE.items(), start=6):
        line = f"{path}:{i + 3}" if extension == "tsv" else f"{path} row {i + 1}"
        assert re.search(rf"{re.escape(line)} \({name}, .*\): {re.escape(reason)}", str(caught.value))


@pytest.mark.parametrize("change", [{"start": -8000}, {"path": "../a.flac"}])
@pytest.mark.parametrize("name", ["a.flac", "a.m4a"])
def test_a_mapped_row_that_leads_out_of_its_file_is_a_bad_row(tmp_path: Path, name: str, change: dict, monkeypatch):
    monkeypatch.setattr("audio_ssl.data.audio._decode_with_librosa", lambda _: (np.ones(LENGTH, np.float32), RATE))
    rows = [
        *listed_rows(tmp_path, ["a.flac"]),
        Utterance(**({"id": "x", "path": name, "start": 0} | change), num_samples=9000, sample_rate=RATE),
    ]
    write_table(tmp_path / "list.arrow", table_from_rows(rows), root=tmp_path)
    loader = opened(Manifest.read(tmp_path / "list.arrow"), "threads")
    assert [b.rows for b in loader.batches([(0, 6), (6,)])] == [(0,), (0,)]
    ((named, reason),) = loader.bad_rows.reasons.items()
    assert named.startswith(f"{tmp_path / 'list.arrow'} row 7 (x, ")
    assert ("from sample 0 or a later one" if "start" in change else "path must stay under the root") in reason
