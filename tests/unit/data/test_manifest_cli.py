"""``audio-ssl manifest`` from the outside: what is written, printed and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ConfigError, ManifestError
from tests.unit.data.verbs import call


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
    assert f"wrote the parts to {tmp_path / 'parts'}\n" in printed
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


def test_pack_and_what_reads_it(corpus: Manifest, tmp_path: Path):
    (corpus.root / "s1" / "u1.flac").write_bytes(b"")
    corpus.write(tmp_path / "m.tsv")
    out = tmp_path / "packed"
    printed = call("pack", tmp_path / "m.tsv", "-o", out, "--shard-mb", "1")
    assert f"wrote 6 rows to {out / 'manifest.arrow'}" in printed
    assert "6 files, 0.2 MB, in 1 shards" in printed
    assert f"left out: 1 empty file; all with reasons: {out / 'manifest.arrow.refused.tsv'}" in printed
    assert "s1/u1.flac\tempty file\tzero bytes" in (out / "manifest.arrow.refused.tsv").read_text().splitlines()
    assert "all 6 rows agree" in call("validate", out / "manifest.arrow", "--decode")
    assert "6 rows in 6 files" in call("stats", out / "manifest.arrow")
    assert "shard-000000.tar" in call("show", out / "manifest.arrow")
    call("convert", out / "manifest.arrow", out / "m.tsv")
    assert (out / "m.tsv").read_text().splitlines()[1].endswith("\tlanguage\toffset\tnum_bytes")
    assert list(Manifest.read(out / "m.tsv")) == list(Manifest.read(out / "manifest.arrow"))


def test_dedupe_lists_what_it_drops(corpus: Manifest, tmp_path: Path):
    (corpus.root / "s2" / "u5.flac").write_bytes((corpus.root / "s1" / "u4.flac").read_bytes())
    rows = [replace(row, num_samples=14400) if row.id == "u5" else row for row in corpus]
    Manifest.from_rows(rows, root=corpus.root).write(tmp_path / "m.tsv")
    printed = call("dedupe", tmp_path / "m.tsv", "-o", tmp_path / "d.tsv")
    assert f"wrote 6 rows (from 7; 1 duplicates) to {tmp_path / 'd.tsv'}" in printed
    assert "note: 1 of them have another text" in printed
    assert (tmp_path / "d.tsv.refused.tsv").read_text().splitlines() == [
        "path\treason\tdetail",
        "s2/u5.flac\tduplicate\tu5 has the same audio as u4 (s1/u4.flac)",
    ]
    assert Manifest.read(tmp_path / "d.tsv").column("id") == ["u0", "u1", "u2", "u3", "u4", "u6"]


def test_show_writes_one_row_to_listen_to(corpus: Manifest, tmp_path: Path):
    rows = [*corpus, replace(corpus[4], id="part", start=1001, num_samples=5003)]
    Manifest.from_rows(rows, root=corpus.root).write(tmp_path / "m.tsv")
    printed = call("show", tmp_path / "m.tsv", "8", "--play", tmp_path / "out" / "a.wav")
    assert "m.tsv:10 (part, s1/u4.flac)" in printed
    assert "start: 1001\n" in printed
    assert "text: 'text 4'\n" in printed
    assert "offset: unknown\n" in printed
    samples, rate = sf.read(tmp_path / "out" / "a.wav", dtype="float32")
    assert rate == 16000
    np.testing.assert_array_equal(samples, sf.read(corpus.audio_path(4), dtype="float32")[0][1001:6004])
    sf.write(corpus.root / "slow.wav", samples, 11025)
    Manifest.from_rows([Utterance("slow", "slow.wav", 3, 4000, 11025)], root=corpus.root).write(tmp_path / "s.tsv")
    call("show", tmp_path / "s.tsv", "1", "--play", tmp_path / "s.WAV")
    slow, rate = sf.read(tmp_path / "s.WAV", dtype="float32")
    assert rate == 11025  # the file's own
    np.testing.assert_array_equal(slow, samples[3:4003])
    for arguments, message in (
        (("--play", "a.wav"), "--play must come with a ROW"),
        (("9",), r"ROW must be in 1\.\.8, the rows of .*m\.tsv, got 9"),
    ):
        with pytest.raises(ConfigError, match=message):
            call("show", tmp_path / "m.tsv", *arguments)
    for name, message in (("a.mp3", r"must end in \.wav"), ("m.tsv/a.wav", "must be writable")):
        with pytest.raises(ManifestError, match=message):
            call("show", tmp_path / "m.tsv", "1", "--play", tmp_path / name)


def test_help_names_every_verb():
    printed = call("--help")
    for verb in ("build", "validate", "stats", "split", "convert", "segment", "merge", "dedupe", "pack", "show"):
        assert verb in printed
        assert "Usage" in call(verb, "--help")
