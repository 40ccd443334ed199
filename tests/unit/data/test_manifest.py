"""The manifest's promises: what is written is read, and what breaks a rule is refused by row."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.data import manifest as manifest_module
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.manifest_io import escape_cell, unescape_cell
from audio_ssl.errors import ManifestError

ROWS = [
    Utterance("a", "x/a b.wav", 0, 16000, 16000, "one\ttwo\\n\nthree", "anna", "en"),
    Utterance("b", "ü/語.flac", 100, 22051, 22050, "", None, None),
    Utterance("c", "/abs/c.wav", 0, 7, 8000, None, "", "de"),
]


@pytest.mark.parametrize("extension", ["arrow", "parquet", "tsv"])
def test_every_format_gives_back_what_was_written(tmp_path: Path, extension: str):
    path = tmp_path / "sub" / f"m.{extension}"
    Manifest.from_rows(ROWS, root=tmp_path / "audio").write(path)
    back = Manifest.read(path)
    assert list(back) == ROWS
    assert back.root == tmp_path / "audio"
    assert [back[0], back[2], back[-1]] == [ROWS[0], ROWS[2], ROWS[2]]


def test_tsv_is_laid_out_as_the_documentation_says(tmp_path: Path):
    Manifest.from_rows(ROWS, root=tmp_path / "audio").write(tmp_path / "m.tsv")
    assert (tmp_path / "m.tsv").read_text(encoding="utf-8").split("\n") == [
        "#audio_ssl-manifest\tversion=1\troot=audio",
        "id\tpath\tstart\tnum_samples\tsample_rate\ttext\tspeaker\tlanguage",
        "a\tx/a b.wav\t0\t16000\t16000\tone\\ttwo\\\\n\\nthree\tanna\ten",
        "b\tü/語.flac\t100\t22051\t22050\t\\e\t\t",
        "c\t/abs/c.wav\t0\t7\t8000\t\t\\e\tde",
        "",
    ]


def test_tsv_by_hand_needs_three_columns_only(tmp_path: Path):
    (tmp_path / "m.tsv").write_text(
        "#audio_ssl-manifest\tversion=1\nsample_rate\tpath\tnum_samples\r\n8000\ta.wav\t9\r\n\n"
    )
    back = Manifest.read(tmp_path / "m.tsv")
    assert list(back) == [Utterance("a.wav", "a.wav", 0, 9, 8000)]
    assert back.root == tmp_path


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_a_cell_gives_back_its_value(value: str):
    cell = escape_cell(value)
    assert cell
    assert not set(cell) & set("\t\n\r")
    assert unescape_cell(cell) == value


def test_opening_arrow_maps_the_file(tmp_path: Path):
    rows = [Utterance(f"id{i:06d}", f"some/folder/{i:06d}.wav", 0, 1000 + i, 16000) for i in range(20_000)]
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "m.arrow")
    size = (tmp_path / "m.arrow").stat().st_size
    before = pa.total_allocated_bytes()
    back = Manifest.read(tmp_path / "m.arrow")
    assert pa.total_allocated_bytes() - before < size / 100
    assert back[19_999] == rows[19_999]


def test_a_tree_with_audio_and_manifest_can_move(tmp_path: Path):
    Manifest.from_rows(ROWS, root=tmp_path / "old" / "audio").write(tmp_path / "old" / "m.arrow")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert Manifest.read(tmp_path / "new" / "m.arrow").audio_path(0) == tmp_path / "new" / "audio" / "x" / "a b.wav"


def test_all_broken_rows_are_named_at_once():
    rows = [
        Utterance("a", "a.wav", 0, 5, 16000),
        Utterance("a", "b.wav", 0, 5, 16000),
        Utterance("c", "c.wav", -1, 0, 16000),
        Utterance("d", "../d.wav", 0, 5, 0),
        Utterance("e", "x/../../e.wav", 0, 5, 1),
        Utterance("f", "x/../f..wav", 0, 5, 1),
    ]
    with pytest.raises(ManifestError) as caught:
        Manifest.from_rows(rows, root="/audio")
    faults = [line for line in str(caught.value).split("\n") if line.startswith("  - ")]
    assert faults == [
        "  - manifest row 3 (c, c.wav): start must be >= 0, got -1",
        "  - manifest row 3 (c, c.wav): num_samples must be >= 1, got 0",
        "  - manifest row 4 (d, ../d.wav): sample_rate must be >= 1, got 0",
        "  - manifest row 4 (d, ../d.wav): path must stay under the root or be absolute, got '../d.wav'",
        "  - manifest row 5 (e, x/../../e.wav): path must stay under the root or be absolute, got 'x/../../e.wav'",
        "  - manifest row 2 (a, b.wav): id 'a' is already that of manifest row 1 (a, a.wav)",
    ]


def test_a_mapped_file_is_guarded_when_a_path_is_used(tmp_path: Path):
    table = Manifest.from_rows(ROWS[:1], root=tmp_path).table
    crooked = Manifest(table.set_column(1, table.schema.field("path"), pa.array(["../../etc/passwd"])), root=tmp_path)
    with pytest.raises(ManifestError, match="must stay under the root"):
        crooked.audio_path(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("#audio_ssl-manifest\tversion=7\n", "version must be 1 or 2, got '7'"),
        ("#audio_ssl-manifest\tversion=1\npath\tnum_samples\nx\t1\n", "column `sample_rate` is missing"),
        ("#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\tsex\n", "column `sex` is not one of"),
        ("#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\na\t1\n", "m.tsv:3: must have 3"),
        ("#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\na\t1\t1\nb\tx\t2\n", "m.tsv:4: num_samples"),
        ("#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\na\t\t1\n", "`num_samples` must have a value"),
        (
            "#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\na\\wav\t1\t1\n",
            "m.tsv:3: path must hold backs",
        ),
        (
            "#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\na\t1\t9999999999\n",
            "m.tsv must be a readable",
        ),
        (
            f"#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\na\t{10**30}\t1\n",
            "m.tsv must be a readable",
        ),
        ("#audio_ssl-manifest\tversion=1\troot=a\\b\npath\tnum_samples\tsample_rate\n", "m.tsv must be a readable"),
        ("id,path\n", "first line must be"),
        ("", "first line must be"),
    ],
)
def test_a_broken_tsv_is_refused_with_its_line(tmp_path: Path, content: str, message: str):
    (tmp_path / "m.tsv").write_text(content)
    with pytest.raises(ManifestError, match=message):
        Manifest.read(tmp_path / "m.tsv")


@pytest.mark.parametrize("name", ["none.arrow", "garbage.arrow", "garbage.parquet", "other.csv", "foreign.parquet"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, name: str):
    import pyarrow.parquet as pq

    (tmp_path / "garbage.arrow").write_bytes(b"ARROW?")
    (tmp_path / "garbage.parquet").write_bytes(b"PAR?")
    (tmp_path / "other.csv").write_text("a,b\n")
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "foreign.parquet")
    with pytest.raises(ManifestError, match=name.replace(".", r"\.")):
        Manifest.read(tmp_path / name)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Manifest.from_rows(ROWS, root=tmp_path).write(tmp_path / "m.tsv")
    before = (tmp_path / "m.tsv").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ManifestError, match=r"m\.tsv must be writable.*No space left"):
        Manifest.from_rows(ROWS[:1], root=tmp_path).write(tmp_path / "m.tsv")
    assert (tmp_path / "m.tsv").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.tsv"]


def test_an_unknown_extension_is_refused_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ManifestError, match="must end in"):
        Manifest.from_rows(ROWS, root=tmp_path).write(tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []


def test_lengths_at_another_rate_round_up():
    manifest = Manifest.from_rows(ROWS, root="/audio")
    assert manifest.num_samples_at(16000).tolist() == [16000, 16001, 14]  # 22051 * 16000 / 22050 = 16000.7
    assert manifest.durations_s().tolist() == [1.0, 22051 / 22050, 7 / 8000]


def test_selected_rows_keep_the_name_of_their_line(tmp_path: Path):
    Manifest.from_rows(ROWS, root=tmp_path).write(tmp_path / "m.tsv")
    part = Manifest.read(tmp_path / "m.tsv").select(np.array([2, 0])).select([1])
    assert list(part) == [ROWS[0]]
    assert part.describe(0) == f"{tmp_path / 'm.tsv'}:3 (a, x/a b.wav)"


def test_concat_joins_roots_and_parts_clashing_ids(tmp_path: Path):
    Manifest.from_rows(ROWS[:2], root=tmp_path / "p").write(tmp_path / "one.tsv")
    Manifest.from_rows(ROWS[:1], root=tmp_path / "q").write(tmp_path / "two.arrow")
    joined = Manifest.concat([Manifest.read(tmp_path / "one.tsv"), Manifest.read(tmp_path / "two.arrow")])
    assert joined.column("id") == ["one/a", "one/b", "two/a"]
    assert [str(joined.audio_path(i)) for i in range(3)] == [
        f"{tmp_path}/p/x/a b.wav",
        f"{tmp_path}/p/ü/語.flac",
        f"{tmp_path}/q/x/a b.wav",
    ]
    assert joined.describe(2).startswith(f"{tmp_path / 'two.arrow'} row 1 ")
    assert joined.describe(1).startswith(f"{tmp_path / 'one.tsv'}:4 ")


def test_concat_parts_clashing_ids_by_folder_where_files_have_one_name(tmp_path: Path):
    for language in ("en", "sv"):
        Manifest.from_rows(ROWS[:1], root=tmp_path / language).write(tmp_path / language / "train.tsv")
    joined = Manifest.concat([Manifest.read(tmp_path / language / "train.tsv") for language in ("en", "sv")])
    assert joined.column("id") == ["en/train/a", "sv/train/a"]


def test_concat_makes_no_python_string_a_row_and_its_paths_are_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [
        "a.wav",
        "x/./b.wav",
        "x//c.wav",
        "x/../d.wav",
        "/abs/e.wav",
        "/abs/../f.wav",
        ".g.wav",
        "x/..h/..i",
        "x/j.",
        "k/m/..",
        "k/",
    ]
    rows = [Utterance(f"u{i}", path, 0, 10, 8000) for i, path in enumerate(paths)]
    monkeypatch.setattr(manifest_module, "_PIECE_ROWS", 2)
    manifests = [Manifest.from_rows(rows, root=root) for root in (tmp_path, tmp_path / "q/../q", "/")]
    expected = [os.path.normpath(m.root / path) for m in manifests for path in paths]
    with monkeypatch.context() as patch:
        for name in ("column", "__getitem__", "__iter__"):
            patch.delattr(Manifest, name)
        joined = Manifest.concat(manifests)
    assert joined.column("path") == expected
    assert joined.column("id") == [f"manifest{i}/u{n}" for i in range(3) for n in range(len(paths))]


def test_concat_of_equal_roots_keeps_paths_and_ids(tmp_path: Path):
    first, second = (Manifest.from_rows(ROWS[i : i + 1], root=tmp_path) for i in (0, 1))
    joined = Manifest.concat([first, second])
    assert list(joined) == ROWS[:2]


def test_missing_files_are_named(corpus: Manifest):
    corpus.check_files()
    corpus.audio_path(3).unlink()
    with pytest.raises(ManifestError, match=r"missing 1.*\n  - .*u3"):
        corpus.check_files()


def test_ten_thousand_rows_of_one_file_are_segments(tmp_path: Path):
    rows = [Utterance(f"r-{i}", "r.wav", i * 10, 10, 8000) for i in range(10_000)]
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet")[9_999] == rows[9_999]


def test_joining_tells_of_paths_that_leave_their_root(tmp_path: Path):
    """Mapped manifests are not checked when they are opened, and absolute paths no longer show where they started."""
    from audio_ssl.data.table import table_from_rows

    paths = {"a": "../../etc/a.wav", "b": "fine/../b.wav"}
    tables = {name: table_from_rows([Utterance(name, path, 0, 5, 16000)]) for name, path in paths.items()}
    a, b = (Manifest(tables[name], root=tmp_path / name, path=tmp_path / f"{name}.arrow") for name in paths)
    with pytest.raises(
        ManifestError, match=r"a\.arrow row 1 \(a, \.\./\.\./etc/a\.wav\): path must stay under the root"
    ):
        Manifest.concat([b, a])
    c = Manifest(tables["b"].set_column(0, tables["b"].schema.field("id"), [["c"]]), root=tmp_path / "c")
    assert Manifest.concat([b, c])[0].path == str(tmp_path / "b" / "b.wav")
