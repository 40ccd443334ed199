"""``audio-ssl manifest`` from the outside: what is written, printed and refused."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from audio_ssl.cli.manifest import app
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import AudioSSLError, ConfigError, ManifestError


def call(*arguments: object) -> str:
    """Standard output of a verb; errors for users come out as they are."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_build_reports_rows_refusals_and_notes(bad_folder: Path, tmp_path: Path):
    out = tmp_path / "new" / "m.arrow"
    printed = call("build", bad_folder, "-o", out, "--language", "en")
    assert f"wrote 6 rows, 1.00 h of audio, to {out}" in printed
    assert "6 files refused" in printed
    assert "skipped: 1 .pdf" in printed
    assert "note: 1 rows are longer than 20 s" in printed
    manifest = Manifest.read(out)
    assert set(manifest.column("language")) == {"en"}
    refused = (tmp_path / "new" / "m.arrow.refused.tsv").read_text(encoding="utf-8").splitlines()
    assert refused[0] == "path\treason\tdetail"
    assert len(refused) == 7
    assert "zero.flac\tempty file\tzero bytes" in refused


def test_an_old_list_of_refusals_goes_when_all_is_well(corpus: Manifest, tmp_path: Path):
    (tmp_path / "m.tsv.refused.tsv").write_text("path\treason\tdetail\nold\told\told\n")
    call("build", corpus.root, "-o", tmp_path / "m.tsv", "--speaker-from", "parent")
    assert not (tmp_path / "m.tsv.refused.tsv").exists()
    assert Manifest.read(tmp_path / "m.tsv").column("speaker") == [f"s{i}" for i in (0, 0, 0, 1, 1, 2, 2)]


def test_a_folder_without_one_usable_file_is_an_error_with_a_list(tmp_path: Path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").touch()
    with pytest.raises(
        ManifestError, match=r"at least one usable audio file; refused: 1 empty file; see .*refused\.tsv"
    ):
        call("build", tmp_path / "audio", "-o", tmp_path / "m.arrow")
    assert (tmp_path / "m.arrow.refused.tsv").exists()
    assert not (tmp_path / "m.arrow").exists()


def test_validate_lists_every_fault(corpus: Manifest, tmp_path: Path):
    corpus.write(tmp_path / "m.tsv")
    assert "all 7 rows agree" in call("validate", tmp_path / "m.tsv", "--decode")
    corpus.audio_path(2).unlink()
    with pytest.raises(ManifestError, match=r"1 rows do not.*\n  - .*m\.tsv:5 \(u2"):
        call("validate", tmp_path / "m.tsv")


def test_stats_and_show(corpus: Manifest, tmp_path: Path):
    corpus.write(tmp_path / "m.arrow")
    printed = call("stats", tmp_path / "m.arrow")
    assert "7 rows in 7 files, 0.00 h" in printed
    assert "16000 Hz" in printed
    assert "speakers: 3; 0 rows without" in printed
    assert "languages: en 7" in printed
    assert "texts: 7 (42 characters), 0 empty, 0 rows without" in printed
    shown = call("show", tmp_path / "m.arrow", "--rows", 2)
    assert "s1/u1.flac" in shown
    assert "s2/u2.flac" not in shown


def test_split_writes_a_manifest_a_part(corpus: Manifest, tmp_path: Path):
    corpus.write(tmp_path / "m.tsv")
    printed = call("split", tmp_path / "m.tsv", "-o", tmp_path / "parts", "--parts", "a=0.5, b=0.5")
    parts = [Manifest.read(tmp_path / "parts" / f"{name}.tsv") for name in "ab"]
    assert sorted(row.id for part in parts for row in part) == corpus.column("id")
    assert all(part.root == corpus.root for part in parts)
    assert "a.tsv" in printed
    for text in ("a", "a=x", "a=0.5,a=0.5", "../a=1", "=1"):
        with pytest.raises(ConfigError, match="--parts must read"):
            call("split", tmp_path / "m.tsv", "-o", tmp_path / "parts", "--parts", text)


def test_convert_both_ways(corpus: Manifest, tmp_path: Path):
    corpus.write(tmp_path / "m.arrow")
    call("convert", tmp_path / "m.arrow", tmp_path / "fs.tsv", "--to", "fairseq", "--labels", "ltr,wrd")
    assert (tmp_path / "fs.ltr").read_text().startswith("t e x t | 0 |\n")
    call("convert", tmp_path / "fs.tsv", tmp_path / "back.parquet")
    assert Manifest.read(tmp_path / "back.parquet").column("text") == corpus.column("text")
    with pytest.raises(ConfigError, match="--labels must come with --to fairseq"):
        call("convert", tmp_path / "m.arrow", tmp_path / "x.tsv", "--labels", "ltr")
    with pytest.raises(ManifestError, match=r"must end in \.tsv"):
        call("convert", tmp_path / "m.arrow", tmp_path / "x.arrow", "--to", "fairseq")


def test_convert_to_other_tools_says_what_is_lost(corpus: Manifest, tmp_path: Path):
    corpus.select([1, 0]).write(tmp_path / "m.arrow")
    for to, name in (("nemo", "n.jsonl"), ("lhotse", "l.jsonl.gz"), ("kaldi", "k")):
        printed = call("convert", tmp_path / "m.arrow", tmp_path / name, "--to", to)
        assert f"wrote 2 rows to {tmp_path / name}" in printed
        assert ("cannot say" in printed) == (to == "kaldi")
        call("convert", tmp_path / name, tmp_path / f"{to}.tsv")
        assert {row.id: row.text for row in Manifest.read(tmp_path / f"{to}.tsv")} == {"u0": "text 0", "u1": "text 1"}
    assert "m.arrow, since kaldi's format cannot say it: order of the rows: sorted by id (2 rows)\n" in printed
    call("split", tmp_path / "n.jsonl", "-o", tmp_path / "parts", "--parts", "a=0.5,b=0.5")
    assert len(Manifest.read(tmp_path / "parts" / "a.arrow")) == 1


def test_merge_and_segment(corpus: Manifest, tmp_path: Path):
    corpus.select([0, 1]).write(tmp_path / "a.tsv")
    corpus.select([6]).write(tmp_path / "b.arrow")
    assert "wrote 3 rows of 2 manifests" in call(
        "merge", tmp_path / "a.tsv", tmp_path / "b.arrow", "-o", tmp_path / "c.tsv"
    )
    printed = call("segment", tmp_path / "c.tsv", "-o", tmp_path / "d.arrow", "--max-s", "0.7", "--min-s", "0.2")
    pieces = Manifest.read(tmp_path / "d.arrow")
    assert pieces.durations_s().max() <= 0.7
    assert f"wrote {len(pieces)} rows (from 3; 1 were cut)" in printed
    assert "note: 1 rows lost their text" in printed


def test_help_names_every_verb():
    printed = call("--help")
    for verb in ("build", "validate", "stats", "split", "convert", "segment", "merge", "show"):
        assert verb in printed
        assert "Usage" in call(verb, "--help")
