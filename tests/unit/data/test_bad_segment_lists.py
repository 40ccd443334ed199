"""Bad recordings under every form of segment list that is read, and under the verbs that go through rows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from audio_ssl.data.dedupe import drop_duplicates
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.pack import write_shards
from audio_ssl.data.scan import scan
from audio_ssl.data.segment import segment_manifest
from audio_ssl.data.silence import SegmentSettings
from audio_ssl.errors import ManifestError
from tests.unit.data.bad_recordings import BAD, LENGTH, RATE, listed_rows, opened

pytestmark = pytest.mark.usefixtures("never_hangs")


Marks = dict[str, tuple[str, ...]]  # how messages begin that are about a row


def kaldi(root: Path, rows: list[Utterance]) -> tuple[Path, Marks]:
    names = list(dict.fromkeys(row.path for row in rows))
    (root / "wav.scp").write_text("".join(f"{name} {name}\n" for name in names))
    spans = [f"{r.id} {r.path} {r.start / RATE} {(r.start + r.num_samples) / RATE}\n" for r in rows]
    (root / "segments").write_text("".join(spans))
    of_file = {row.path: f"{root}/wav.scp:{names.index(row.path) + 1}: {row.path}" for row in rows}
    return root, {r.id: (of_file[r.path], f"{root}/segments:{i}: {r.id} is") for i, r in enumerate(rows, start=1)}


def nemo(root: Path, rows: list[Utterance]) -> tuple[Path, Marks]:
    about = [
        {"audio_filepath": r.path, "offset": r.start / RATE, "duration": r.num_samples / RATE, "id": r.id} for r in rows
    ]
    return json_lines(root, about, rows)


def lhotse(root: Path, rows: list[Utterance]) -> tuple[Path, Marks]:
    cuts = []
    for row in rows:
        source = {"type": "file", "channels": [0], "source": row.path}
        about = {"id": row.path, "sources": [source], "sampling_rate": RATE, "num_samples": LENGTH}
        times = {"start": row.start / RATE, "duration": row.num_samples / RATE}
        cuts.append({"id": row.id, **times, "channel": 0, "type": "MonoCut", "recording": about})
    return json_lines(root, cuts, rows)


def json_lines(root: Path, about: list[dict], rows: list[Utterance]) -> tuple[Path, Marks]:
    path = root / "list.jsonl"
    path.write_text("".join(json.dumps(values) + "\n" for values in about))
    return path, {row.id: (f"{path}:{i}: ",) for i, row in enumerate(rows, start=1)}


FORMS: dict[str, Callable[[Path, list[Utterance]], tuple[Path, Marks]]] = {
    "kaldi": kaldi, "nemo": nemo, "lhotse": lhotse,
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("form", FORMS)
def test_every_bad_segment_is_refused_at_reading_or_named_at_loading(tmp_path: Path, form: str, kind: str):
    bad = BAD[kind]
    rows = listed_rows(tmp_path, [bad.file])
    path, marks = FORMS[form](tmp_path, rows)
    assert [row.id for row in Manifest.read(path)] == [row.id for row in rows]
    bad.do(tmp_path / bad.file)
    lost = {r.id for r in rows if not r.id.startswith("good") and int(r.id[-1]) not in bad.good}
    if kind == "other rate" and form != "lhotse":
        lost = set()  # the others are in seconds, and take their rates from the file
    if (kind, form) == ("cut opus", "kaldi"):
        lost -= {"a.opus#1"}  # ends 0.03 s behind what is left, and segments of Kaldi's may do so by 0.1 s
    manifest = said = None
    try:
        manifest = Manifest.read(path)
    except ManifestError as error:
        said = str(error)
    if manifest is None:
        assert form != "lhotse"  # its own word on rates and lengths is taken: `manifest validate` compares them
        assert {name for name, own in marks.items() if any(mark in said for mark in own)} == lost
        return
    loader = opened(manifest, "threads")
    (batch,) = loader.batches([tuple(range(6))])
    assert {manifest[row].id for row in batch.rows} == {row.id for row in rows} - lost
    assert set(loader.bad_rows.reasons) == {manifest.describe(i) for i in range(6) if rows[i].id in lost}


OUTSIDE = {
    "behind the end": (3.5, 4.0),
    "over the end": (2.5, 3.2),
    "no time": (1.0, 1.0),
    "before the start": (-1.0, 1.0),
    "backwards": (2.0, 1.5),
}


@pytest.mark.parametrize("form", FORMS)
def test_segments_outside_of_their_file_are_refused_with_their_line(tmp_path: Path, form: str):
    rows = listed_rows(tmp_path, ["a.flac"])
    for said, (start_s, end_s) in OUTSIDE.items():
        start, stop = round(start_s * RATE), round(end_s * RATE)
        rows.append(Utterance(said.replace(" ", "_"), "a.flac", start, stop - start, RATE))
    path, marks = FORMS[form](tmp_path, rows)
    named: set[str] = set()
    for _ in range(2):  # NeMo's: values that are no times, and when these are gone, times that do not fit
        with pytest.raises(ManifestError) as caught:
            Manifest.read(path)
        found = {row.id for row in rows if any(mark in str(caught.value) for mark in marks[row.id])}
        assert found
        named |= found
        if named == {said.replace(" ", "_") for said in OUTSIDE}:
            break
        rows = [row for row in rows if row.id not in named]
        path, marks = FORMS[form](tmp_path, rows)
    assert named == {said.replace(" ", "_") for said in OUTSIDE}


@pytest.fixture
def everything_bad(tmp_path: Path) -> list[Utterance]:
    """Segments over a bad recording of each kind, in a folder of its own, and over two good ones."""
    kinds = [kind for kind in BAD if kind != "locked"]
    names = [f"{kind.replace(' ', '_')}/{BAD[kind].file}" for kind in kinds]
    rows = listed_rows(tmp_path, names)
    for kind, name in zip(kinds, names, strict=True):
        BAD[kind].do(tmp_path / name)
    return rows


def of_kinds(rows: list[Utterance]) -> dict[str, list[Utterance]]:
    found: dict[str, list[Utterance]] = {}
    for row in rows:
        if "/" in row.path:
            found.setdefault(row.path.partition("/")[0].replace("_", " "), []).append(row)
    return found


def test_a_scan_names_the_segments_of_each_file_that_stays_out(tmp_path: Path, everything_bad):
    kaldi(tmp_path, everything_bad)
    result = scan(tmp_path)
    refused = {refusal.path: refusal for refusal in result.refusals}
    kept = {row.id for row in result.manifest}
    assert {"good0", "good1"} < kept
    for kind, rows in of_kinds(everything_bad).items():
        path, bad = rows[0].path, BAD[kind]
        if bad.scan_reason:
            assert refused[path].reason == bad.scan_reason
            assert f"with it 4 segments stay out: {', '.join(row.id for row in rows)}" in refused[path].detail
        assert kept.isdisjoint({row.id for row in rows}) == (kind not in ("rotten", "other rate"))
    for kind in ("missing", "folder"):  # no recording is found: their segments are entries without audio
        assert refused[f"{kind}/{BAD[kind].file}"].reason == "missing file"
    (report,) = result.sources
    assert (report.num_unmatched, report.examples) == (8, tuple(f"missing/a.flac#{i}" for i in range(3)))


def test_a_pack_names_the_segments_of_each_file_that_stays_out(tmp_path: Path, everything_bad):
    result = write_shards(Manifest.from_rows(everything_bad, root=tmp_path), tmp_path / "out", shard_bytes=10**9)
    kept = {row.id for row in result.manifest}
    refused = {refusal.path: refusal for refusal in result.refusals}
    for kind, rows in of_kinds(everything_bad).items():
        if kind == "rotten":  # the bytes are copied as they are, and its ends decode
            assert kept.issuperset(row.id for row in rows)
            continue
        told = " ".join(r.detail for r in result.refusals if r.path == rows[0].path)
        assert kept.isdisjoint(row.id for row in rows)
        assert all(row.id in told for row in rows)
        assert kind == "other rate" or refused[rows[0].path].detail.count("4 segments stay out") == 1


def test_cutting_names_each_segment_that_cannot_be_read(tmp_path: Path, everything_bad):
    manifest = Manifest.from_rows(everything_bad, root=tmp_path)
    result = segment_manifest(manifest, settings=SegmentSettings(min_s=0.1, max_s=0.4))
    lost = [
        row.id
        for kind, rows in of_kinds(everything_bad).items()
        for row in rows
        if int(row.id[-1]) not in BAD[kind].good
    ]
    assert [refusal.detail.partition(": ")[0] for refusal in result.refusals] == lost
    whole = {row.id for row in everything_bad} - set(lost)
    assert {row.id.rpartition("-")[0] for row in result.manifest} == whole


def test_looking_for_equal_rows_names_those_without_a_file(tmp_path: Path, everything_bad):
    result = drop_duplicates(Manifest.from_rows(everything_bad, root=tmp_path))
    gone = [
        row.id for row in of_kinds(everything_bad)["missing"]
    ]  # the bytes of the others are there, and are one's own
    assert [r.detail.partition(": ")[0] for r in result.refusals] == gone
