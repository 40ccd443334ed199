"""fairseq's manifests: both ways, and every way in which lines and labels fall apart."""

from pathlib import Path

import pytest

from audio_ssl.data.formats.fairseq import letters, words, write_fairseq
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ManifestError


def test_files_are_laid_out_as_fairseq_expects(corpus: Manifest, tmp_path: Path):
    write_fairseq(corpus.select([0, 4]), tmp_path / "train.tsv", labels=("ltr", "wrd"))
    assert (tmp_path / "train.tsv").read_text() == f"{corpus.root}\ns0/u0.flac\t8000\ns1/u4.flac\t14400\n"
    assert (tmp_path / "train.ltr").read_text() == "t e x t | 0 |\nt e x t | 4 |\n"
    assert (tmp_path / "train.wrd").read_text() == "text 0\ntext 4\n"


def test_round_trip_reads_rates_from_the_audio(corpus: Manifest, tmp_path: Path):
    write_fairseq(corpus, tmp_path / "train.tsv", labels=("ltr",))
    back = Manifest.read(tmp_path / "train.tsv")
    assert [(r.id, r.path, r.num_samples, r.sample_rate, r.text) for r in back] == [
        (r.path[:-5], r.path, r.num_samples, r.sample_rate, r.text) for r in corpus
    ]
    assert back.root == corpus.root
    assert back.describe(3).startswith(f"{tmp_path / 'train.tsv'}:5 (")


def test_words_win_over_letters_and_absent_labels_mean_unknown(corpus: Manifest, tmp_path: Path):
    write_fairseq(corpus.select([1]), tmp_path / "a.tsv", labels=("ltr",))
    (tmp_path / "a.wrd").write_text("other words\n")
    assert Manifest.read(tmp_path / "a.tsv").column("text") == ["other words"]
    (tmp_path / "a.wrd").unlink()
    (tmp_path / "a.ltr").unlink()
    assert Manifest.read(tmp_path / "a.tsv").column("text") == [None]


def test_letters_and_words_are_inverse():
    assert letters("the dog's") == "t h e | d o g ' s |"
    assert words("T H E | D O G |") == "THE DOG"
    assert words("") == ""


def test_labels_of_another_length_are_refused(corpus: Manifest, tmp_path: Path):
    write_fairseq(corpus, tmp_path / "a.tsv", labels=("wrd",))
    lines = (tmp_path / "a.wrd").read_text().splitlines()
    (tmp_path / "a.wrd").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ManifestError, match=r"a\.wrd must have a line for each of the 7 rows of a\.tsv, got 6"):
        Manifest.read(tmp_path / "a.tsv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s0/u0.flac", r":3: must be `path TAB number of samples`"),
        ("s0/u0.flac\t8e3", r":3: must be `path TAB"),
        ("s0/u0.flac\t8001", r":3: s0/u0\.flac must have 8001 samples, its header says 8000"),
        ("s0/none.flac\t8000", r":3: .*there is no such file"),
        ("../x.flac\t8000", r":3: path must stay under the root"),
        ("x.zip:10:20\t8000", r":3: slices of archives are not read; unpack x\.zip"),
    ],
)
def test_a_broken_line_is_named(corpus: Manifest, tmp_path: Path, line: str, message: str):
    (tmp_path / "a.tsv").write_text(f"{corpus.root}\ns1/u1.flac\t9600\n{line}\n")
    with pytest.raises(ManifestError, match=message):
        Manifest.read(tmp_path / "a.tsv")


def test_rows_that_fairseq_cannot_say_are_refused(tmp_path: Path):
    rows = [
        Utterance("a", "a.wav", 5, 10, 16000, "x"),
        Utterance("b", "b.wav", 0, 10, 16000, "x"),
        Utterance("c", "b.wav", 0, 12, 16000, "x"),
        Utterance("d", "d\td.wav", 0, 10, 16000, "x"),
        Utterance("e", "e.wav", 0, 10, 16000, None),
    ]
    manifest = Manifest.from_rows(rows, root=tmp_path)
    with pytest.raises(ManifestError, match="5 rows cannot be written") as caught:
        write_fairseq(manifest, tmp_path / "a.tsv", labels=("ltr",))
    assert str(caught.value).count("segment of a file") == 3
    with pytest.raises(ManifestError, match="labels must be among ltr, wrd, got phn"):
        write_fairseq(manifest.select([4]), tmp_path / "a.tsv", labels=("phn",))
    assert not (tmp_path / "a.tsv").exists()
