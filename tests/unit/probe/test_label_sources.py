"""Every place that labels may stand in; what has none is counted and named, and what cannot be is refused."""

import json
from pathlib import Path

import pytest

from audio_ssl.config import ProbeTask, validate_config
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.items import Segment
from audio_ssl.probe.label_files import read_phones
from audio_ssl.probe.labels import read_labels
from audio_ssl.probe.recordings import read_recordings
from tests.unit.probe.corpora import write_noise

NAMES = ("a/one.wav", "b/one.wav", "b/two.wav")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        write_noise(tmp_path / "corpus" / name)
    return tmp_path / "corpus"


def task(kind="classify", data=None, split=None, **labels) -> ProbeTask:
    values = {"kind": kind, "title": "t", "data": {"root": "corpus", **(data or {})}, "labels": labels}
    return validate_config(ProbeTask, values | ({"split": split} if split else {}), source="t.toml")


def found(folder: Path, kind="classify", data=None, **labels):
    """Labels by path, segments by path, notes."""
    asked = task(kind, data, **labels)
    recordings = read_recordings(asked.data, corpora=folder.parent)
    told = read_labels(asked, recordings)
    paths = recordings.manifest.column("path")
    return dict(zip(paths, told.labels, strict=True)), dict(zip(paths, told.segments, strict=True)), told.notes


def test_a_pattern_takes_labels_from_paths_and_counts_what_has_none(folder):
    labels, _, notes = found(folder, pattern="^b/(?P<label>[a-z]+)")
    assert labels == {"a/one.wav": None, "b/one.wav": "one", "b/two.wav": "two"}
    assert notes == ("1 of 3 rows have no label and are left out: a/one",)


def test_columns_of_the_manifest_are_labels(folder):
    (folder / "transcripts.tsv").write_text(
        "path\ttext\tspeaker\ta\n".replace("\ta", "")
        + "a/one.wav\tIt's  HIS, don't\ts1\nb/one.wav\tb  C\ts2\nb/two.wav\t\ts2\n"
    )
    assert found(folder, column="speaker")[0] == {"a/one.wav": "s1", "b/one.wav": "s2", "b/two.wav": "s2"}
    assert set(found(folder, column="language", data={"language": "sv"})[0].values()) == {"sv"}
    assert found(folder, column="text")[0] == {"a/one.wav": "It's HIS, don't", "b/one.wav": "b C", "b/two.wav": None}
    spelled, _, notes = found(folder, "recognise", column="text")
    assert spelled["a/one.wav"] == tuple("it's|his|don't")
    assert spelled["b/one.wav"] == ("b", "|", "c")
    assert notes == ("1 of 3 rows have no label and are left out: b/two",)
    assert found(folder, "recognise", column="text", unit="word")[0]["a/one.wav"] == ("it's", "his", "don't")


def test_json_labels_may_lie_deep_and_names_without_recording_are_told(folder):
    told = {
        "a/one.wav": {"slots": {"drink": " soy  milk", "cups": 2}}, "b/one.flac": {"slots": {"drink": "tea"}},
        "b/two": {"slots": {}}, "c/three.wav": {"slots": {"drink": "tea"}}, "four": {"slots": {"drink": "tea"}},
    }  # fmt: skip
    (folder / "l.json").write_text(json.dumps(told))
    labels, _, notes = found(folder, json_file="l.json", json_key="slots.drink")
    assert labels == {"a/one.wav": "soy milk", "b/one.wav": "tea", "b/two.wav": None}
    assert notes == (
        "l.json: 2 of 5 names have no recording: c/three.wav, four",
        "1 of 3 rows have no label and are left out: b/two",
    )
    assert found(folder, json_file="l.json", json_key="slots.cups")[0]["a/one.wav"] == "2"
    with pytest.raises(ManifestError, match=r"l\.json: a/one\.wav: slots must be text or a number"):
        found(folder, json_file="l.json", json_key="slots")
    (folder / "l.json").write_text('{"a":')
    with pytest.raises(ManifestError, match=r"l\.json must be a readable JSON file.*line 1"):
        found(folder, json_file="l.json", json_key="x")
    (folder / "l.json").write_text("[]")
    with pytest.raises(ManifestError, match="must hold an object from file name to labels, got a list"):
        found(folder, json_file="l.json", json_key="x")


def test_a_csv_label_may_be_of_several_columns_and_files(folder):
    (folder / "x_data.csv").write_text("n,path,action,object\n0,a/one.wav,turn on,the  lamp\n1,b/one.wav,,lamp\n")
    (folder / "y_data.csv").write_text('n,path,action,object\n0,b/two.wav,"stop, now",music\n')
    asked = {"csv": "*_data.csv", "csv_key": "path", "csv_label": ["action", "object"]}
    labels, _, notes = found(folder, **asked)
    assert labels == {"a/one.wav": "turn on/the lamp", "b/one.wav": None, "b/two.wav": "stop, now/music"}
    assert notes == ("1 of 3 rows have no label and are left out: b/one",)
    with pytest.raises(ManifestError, match=r"x_data\.csv:1: the header must name thing, got n, path"):
        found(folder, **asked | {"csv_label": ["thing"]})
    (folder / "y_data.csv").write_text("n,path,action,object\n0,b/two.wav,stop\n")
    with pytest.raises(ManifestError, match=r"y_data\.csv:2: must have 4 cells, got 3"):
        found(folder, **asked)
    with pytest.raises(ManifestError, match=r"must hold files called z\*\.csv"):
        found(folder, **asked | {"csv": "z*.csv"})
    for pattern in (f"{folder}/*.csv", "**.csv"):
        with pytest.raises(ConfigError, match=r"labels\.csv must name files below .*, got '.*\*\.csv'"):
            found(folder, **asked | {"csv": pattern})


def test_a_table_names_rows_by_id_or_by_file(folder):
    (folder / "t.txt").write_text("a/one x y\n\nb/one.wav z\ntwo.opus x  y\n")
    assert found(folder, table="t.txt")[0] == {"a/one.wav": "x y", "b/one.wav": "z", "b/two.wav": "x  y"}
    spelled = found(folder, "recognise", table="t.txt")[0]
    assert spelled == {"a/one.wav": ("x", "y"), "b/one.wav": ("z",), "b/two.wav": ("x", "y")}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("one x\n", r"t\.txt:1: one must mean one recording, but there are a/one\.wav, b/one\.wav"),
        ("a/one x\na/one y\n", r"t\.txt:2: a/one is there twice"),
        ("a/one x\n\na/one.wav y\n", r"t\.txt:3: a/one\.wav is y, but .*t\.txt:1 has x for it"),
        ("zero x\n", r"labels\.table = 't\.txt' must label recordings, but labels none of 3, such as id 'a/one'.*zero"),
    ],
)
def test_faults_of_a_table_are_told_by_line(folder, text, fault):
    (folder / "t.txt").write_text(text)
    with pytest.raises(ManifestError, match=fault):
        found(folder, table="t.txt")


def test_a_name_that_left_out_rows_share_means_the_one_that_is_used(folder):
    (folder / "t.txt").write_text("one x\ntwo y\n")
    labels, _, notes = found(folder, table="t.txt", data={"only": "^a/"})
    assert labels == {"a/one.wav": "x", "b/one.wav": None, "b/two.wav": None}
    assert notes == ()  # what `only` leaves out is not lost, and its name is not unknown
    labels, _, notes = found(folder, pattern="(?P<label>one|two)", data={"only": "^a/"})
    assert labels == {"a/one.wav": "one", "b/one.wav": None, "b/two.wav": None}


def test_marks_of_place_and_stress_are_no_part_of_a_phone(tmp_path):
    path = tmp_path / "text-phone"
    path.write_text("a.b.0\tW_B IY0_E\na.b.1\tIH T_E\nc.0\tAO2_S\n")
    assert read_phones(path) == {"a.b": ("W", "IY", "IH", "T"), "c": ("AO",)}
    path.write_text("a.0\tW_B\nb\nc.1 \n")
    with pytest.raises(ManifestError, match=r"text-phone:2: must read ID\.NUMBER(.|\n)*text-phone:3: must read"):
        read_phones(path)


def test_segments_are_in_order_of_time_and_within_their_recording(folder):
    (folder / "p.ctm").write_text(";; remark\na/one 1 0.05 0.15 T 0.9\na/one 1 0.0 0.052 IH\nb/two.wav 1 0.01 0.02 S\n")
    labels, segments, notes = found(folder, "frames", ctm="p.ctm")
    assert segments["a/one.wav"] == (Segment(0.0, 0.05, "IH"), Segment(0.05, 0.1, "T"))  # the file has 0.1 s
    assert segments["b/one.wav"] == ()
    assert labels == {"a/one.wav": ("IH", "T"), "b/one.wav": None, "b/two.wav": ("S",)}
    assert notes == ("1 of 3 rows have no label and are left out: b/one",)
    labels, segments, notes = found(folder, "frames", ctm="p.ctm", min_count=1)
    assert len(segments["b/two.wav"]) == 1


def test_rare_labels_are_left_out_with_what_has_them(folder):
    (folder / "p.ctm").write_text("a/one 1 0 0.02 IH\na/one 1 0.02 0.02 T\na/one 1 0.04 0.02 T\nb/two 1 0 0.02 IH\n")
    labels, segments, notes = found(folder, "units", ctm="p.ctm", min_count=2)
    assert [s.label for s in segments["a/one.wav"]] == ["IH"]
    assert labels["a/one.wav"] == ("IH",)
    assert notes[-1].startswith(
        "1 labels of fewer than 2 utterances (labels.min_count) are left out, 2 segments: T (1)"
    )
    (folder / "t.txt").write_text("a/one x\nb/one x\nb/two y\n")
    labels, _, notes = found(folder, table="t.txt", min_count=2)
    assert labels == {"a/one.wav": "x", "b/one.wav": "x", "b/two.wav": None}
    assert "with them 1 utterances: y (1)" in notes[0]
    with pytest.raises(ManifestError, match="must be there 3 times"):
        found(folder, table="t.txt", min_count=3)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a/one 1 0 IH\n", r"p\.ctm:1: must read ID CHANNEL START DURATION LABEL"),
        ("a/one 1 0 -0.1 IH\n", r"p\.ctm:1: must read"),
        ("a/one 1 0 nan IH\n", r"p\.ctm:1: must read"),
        ("a/one 1 0 0.05 IH\na/one 1 0.02 0.05 T\n", r"p\.ctm:2: T of a/one must begin where IH has ended"),
        ("a/one 1 0 0.004 IH\na/one 1 0 0.05 T\n", r"p\.ctm:2: T of a/one must begin where IH has ended"),
        ("a/one 1 0.1 0.2 IH\n", r"row 1 \(a/one, a/one\.wav\): IH ends at 0\.30 s, the row at 0\.10 s"),
    ],
)
def test_times_that_cannot_be_are_refused(folder, text, fault):
    (folder / "p.ctm").write_text(text)
    with pytest.raises(ManifestError, match=fault):
        found(folder, "frames", ctm="p.ctm")


@pytest.mark.parametrize(
    ("kind", "labels", "fault"),
    [
        ("classify", {}, "must have exactly one of pattern, column"),
        ("classify", {"pattern": "(?P<label>a)", "column": "text"}, "got pattern, column"),
        ("classify", {"pattern": "("}, "must be a regular expression"),
        ("classify", {"pattern": "(a)"}, "must have a group named label"),
        ("classify", {"json_file": "x"}, "json_file and json_key together"),
        ("classify", {"csv": "x", "csv_key": "path"}, "csv, csv_key and csv_label together"),
        ("classify", {"phones": "x"}, "labels.phones must be left out"),
        ("recognise", {"pattern": "(?P<label>a)"}, "symbols in order"),
        ("recognise", {"ctm": "x"}, "labels.ctm must be left out"),
        ("frames", {"column": "text"}, "labels.ctm must be given"),
    ],
)
def test_settings_of_labels_that_cannot_be_are_refused(kind, labels, fault):
    with pytest.raises(ConfigError, match=fault):
        task(kind, **labels)


def test_an_override_of_one_source_takes_the_place_of_the_others(tmp_path):
    from audio_ssl.config import find_config, load_config

    asked = load_config(
        ProbeTask,
        find_config("probe/digits"),
        ["data.manifest=x.arrow", "labels.column=speaker", "split.kind=utterances"],
    )
    assert (asked.data.root, asked.data.manifest) == (None, "x.arrow")
    assert (asked.labels.pattern, asked.labels.column) == (None, "speaker")
