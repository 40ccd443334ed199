"""Kaldi data directories read as manifests and written as such."""

import re
from pathlib import Path

import pytest

from audio_ssl.data.formats.kaldi_dir import write_kaldi
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.errors import ManifestError


@pytest.fixture
def recipe(tmp_path: Path, write_audio) -> Path:
    """A recipe's folder with audio, and a data directory two folders below."""
    write_audio(tmp_path / "wav" / "long one.wav", 10_000, rate=1000)
    write_audio(tmp_path / "wav" / "b.flac", 11_025, rate=11_025)
    write_audio(tmp_path / "data" / "train" / "c.wav", 500)
    (tmp_path / "data" / "train" / "wav.scp").write_text(
        f"rec-a wav/long one.wav\n\nrec-b {tmp_path}/wav/b.flac\nrec-c c.wav\n"
    )
    return tmp_path / "data" / "train"


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


def test_recordings_are_rows_where_there_are_no_segments(recipe: Path, caplog: pytest.LogCaptureFixture):
    (recipe / "text").write_text("rec-a two  words \nrec-b\nrec-q gone\n")
    (recipe / "utt2spk").write_text("rec-a anna\nrec-b rec-b\nrec-c eve\n")
    (recipe / "utt2lang").write_text("rec-a en\n")
    (recipe / "spk2utt").write_text("anna rec-a\n")
    (recipe / "utt2dur").write_text("rec-a 10\n")
    manifest = Manifest.read(recipe)
    assert [manifest.audio_path(i) for i in range(3)] == [
        recipe.parents[1] / "wav" / "long one.wav",
        recipe.parents[1] / "wav" / "b.flac",
        recipe / "c.wav",
    ]
    assert [(r.id, r.start, r.num_samples, r.sample_rate, r.text, r.speaker, r.language) for r in manifest] == [
        ("rec-a", 0, 10_000, 1000, "two  words", "anna", "en"),
        ("rec-b", 0, 11_025, 11_025, "", None, None),
        ("rec-c", 0, 500, 16_000, None, "eve", None),
    ]
    assert manifest[2].path == "c.wav"
    assert "text: 1 entries are about utterances that are not there (rec-q ...)" in caplog.text
    assert "not read: utt2dur\n" in caplog.text
    assert "spk2utt" not in caplog.text


def test_segments_are_rows_to_the_nearest_sample(recipe: Path, caplog: pytest.LogCaptureFixture):
    (recipe / "segments").write_text("s1 rec-a 0.5004 1.2506\ns2 rec-a 9 -1\ns3 rec-a 9.5 10.1\n\ns4 rec-b 0 0.5\n")
    assert [(r.id, r.start, r.num_samples) for r in Manifest.read(recipe)] == [
        ("s1", 500, 751),
        ("s2", 9000, 1000),
        ("s3", 9500, 500),
        ("s4", 0, 5513),  # 5512.5: halves up
    ]
    assert "1 segments ended up to 0.1 s behind their recordings" in caplog.text


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("segments", "s1 rec-a 0 1\n\ns2 rec-a 9 10.2\n", r"segments:3: s2 is 9\.0 s to 10\.2 s, but .* at 10\.0 s"),
        ("segments", "s1 rec-x 0 1\n", r"segments:1: s1 is a part of rec-x, which must be in wav\.scp"),
        ("segments", "s1 rec-a 3 2\n", r"segments:1: s1 is 3\.0 s to 2\.0 s"),
        ("segments", "s1 rec-a 1e300 -1\n", r"segments:1: must be `utt recording start end`"),
        ("segments", "s1 rec-a 0 inf\n", r"segments:1: must be `utt recording start end`"),
        ("segments", "s1 rec-a nan 1\n", r"segments:1: must be `utt recording start end`"),
        ("segments", "s1 rec-a 0\n", r"segments:1: must be `utt recording start end`"),
        ("segments", "s1 rec-a 0 1 A\n", r"segments:1: must be `utt recording start end`"),
        ("segments", "s1 rec-a 0 1\ns1 rec-a 0 2\n", r"segments:2: s1 is there twice"),
        ("segments", "", "segments: 0 segments .*\n.*it is empty"),
        ("wav.scp", "", r"wav\.scp: 0 of 0 .*\n.*it is empty"),
        ("wav.scp", "a touch ran; cat c.wav |\n", r"wav\.scp:1: a is a command, and commands are not run"),
        ("wav.scp", "a c.wav\nb ../train/c.wav\nc\n", r"2 of 3 .*\n.*wav\.scp:2: b .* without `\.\.`.*\n.*:3: c must"),
        ("wav.scp", "\na none.wav\n", r"wav\.scp:2: a must be a file, but there is no none\.wav here or above"),
        ("wav.scp", "a bad.wav\n", r"wav\.scp:1: a: .*bad\.wav must be readable audio"),
        ("wav.scp", "a empty.wav\n", r"wav\.scp:1: a: .*must hold samples, got none"),
        ("wav.scp", "a \0\n", r"wav\.scp:1: a must have a path"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named(recipe: Path, write_audio, file: str, content: str, message: str):
    (recipe / "bad.wav").write_text("no audio")
    write_audio(recipe / "empty.wav", 0)
    (recipe / file).write_text(content)
    with pytest.raises(ManifestError) as caught:
        Manifest.read(recipe)
    assert re.search(message, str(caught.value)), caught.value
    assert not Path("ran").exists()
    assert not (recipe / "ran").exists()


def test_whole_files_are_written_without_segments_and_sorted(corpus: Manifest, tmp_path: Path):
    root = corpus.root
    rows = [
        Utterance("u10", "s1/u1.flac", 0, 9600, 16000, " two\twords ", "s-b"),
        Utterance("U9", "s2/u2.flac", 0, 11200, 16000, "", "s-b", "en"),
        Utterance("u1", "s0/u0.flac", 0, 8000, 16000),
    ]
    lost = write_kaldi(Manifest.from_rows(rows, root=root), tmp_path / "new" / "train")
    assert contents(tmp_path / "new" / "train") == {
        "wav.scp": f"U9 {root}/s2/u2.flac\nu1 {root}/s0/u0.flac\nu10 {root}/s1/u1.flac\n",
        "text": "U9\nu10 two words\n",
        "utt2spk": "U9 s-b\nu1 u1\nu10 s-b\n",
        "spk2utt": "s-b U9 u10\nu1 u1\n",
        "utt2lang": "U9 en\n",
    }
    assert lost == (
        "order of the rows: sorted by id (3 rows)",
        "white space in text (1 rows)",
        "unknown text beside known: Kaldi's tools drop such rows (1 rows)",
        "unknown language beside known: Kaldi's tools drop such rows (2 rows)",
    )


def test_parts_of_files_are_written_as_segments(corpus: Manifest, tmp_path: Path):
    rows = [
        Utterance("p1", "s0/u0.flac", 4000, 1, 16000),
        Utterance("p2", "s0/u0.flac", 0, 8000, 16000),
        Utterance("p3", "s1/u1.flac", 0, 4000, 16000),
    ]
    write_kaldi(Manifest.from_rows(rows, root=corpus.root), tmp_path / "k")
    assert (tmp_path / "k" / "segments").read_text() == (
        "p1 s0/u0 0.25 0.2500625\np2 s0/u0 0.0 0.5\np3 s1/u1 0.0 0.25\n"
    )
    assert (tmp_path / "k" / "wav.scp").read_text() == (
        f"s0/u0 {corpus.root}/s0/u0.flac\ns1/u1 {corpus.root}/s1/u1.flac\n"
    )
    assert sorted(contents(tmp_path / "k")) == ["segments", "spk2utt", "utt2spk", "wav.scp"]


def test_recordings_of_like_names_stay_apart(tmp_path: Path, write_audio):
    for name in ("a b.wav", "a_b.wav", "a b.flac"):
        write_audio(tmp_path / name, 100)
    rows = [Utterance(str(i), n, 1, 50, 16000) for i, n in enumerate(("a b.wav", "a_b.wav", "a b.flac"))]
    write_kaldi(Manifest.from_rows(rows, root=tmp_path), tmp_path / "k")
    assert (tmp_path / "k" / "wav.scp").read_text() == (
        f"a_b {tmp_path}/a b.wav\na_b-2 {tmp_path}/a_b.wav\na_b-3 {tmp_path}/a b.flac\n"
    )
    assert [r.path for r in Manifest.read(tmp_path / "k")] == [f"{tmp_path}/{row.path}" for row in rows]


def test_rows_that_kaldi_cannot_say_are_refused_and_nothing_is_left(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 100)
    rows = [
        Utterance("two words", "a.wav", 0, 100, 16000),
        Utterance("b", "a.wav", 0, 100, 16000, None, "an na"),
        Utterance("c", "a.wav", 0, 100, 16000, None, None, ""),
        Utterance("d", "rm a.wav |", 0, 100, 16000),
        Utterance("e", "a.ark:12", 0, 100, 16000),
        Utterance("f", "a\nb.wav", 0, 100, 16000),
        Utterance("g", "a.wav ", 0, 100, 16000),
        Utterance("", "a.wav", 0, 100, 16000),
    ]
    with pytest.raises(ManifestError, match="8 rows cannot be written as a Kaldi data directory") as caught:
        write_kaldi(Manifest.from_rows(rows, root=tmp_path), tmp_path / "k")
    assert str(caught.value).count("one word without blanks") == 4
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_audio_that_disagrees_with_its_row_is_refused(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 100)
    write_audio(tmp_path / "stereo.wav", 100, channels=2)
    rows = [
        Utterance("rate", "a.wav", 0, 100, 8000),
        Utterance("long", "a.wav", 1, 100, 16000),
        Utterance("gone", "gone.wav", 0, 100, 16000),
        Utterance("two", "stereo.wav", 0, 100, 16000),
        Utterance("good", "a.wav", 0, 100, 16000),
    ]
    with pytest.raises(ManifestError, match="4 rows cannot be written as a Kaldi data directory") as caught:
        write_kaldi(Manifest.from_rows(rows, root=tmp_path), tmp_path / "k")
    for words in ("sample_rate must be the file's 16000", "file's 100 samples, got 101", "no such file", "2 channels"):
        assert words in str(caught.value)
    assert not (tmp_path / "k").exists()


def test_a_folder_with_content_is_left_alone(corpus: Manifest, tmp_path: Path):
    (tmp_path / "k").mkdir()
    write_kaldi(corpus, tmp_path / "k")  # an empty one is taken
    before = contents(tmp_path / "k")
    with pytest.raises(ManifestError, match="must be a new or an empty folder"):
        write_kaldi(corpus.select([0]), tmp_path / "k")
    assert contents(tmp_path / "k") == before


def test_a_failure_half_way_leaves_nothing(corpus: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = []

    def fail_at_third(self: Path, *args, **options) -> None:
        written.append(self.name)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        real(self, *args, **options)

    real = Path.write_text
    monkeypatch.setattr(Path, "write_text", fail_at_third)
    with pytest.raises(ManifestError, match=r"must be writable with room to spare.*nothing was changed"):
        write_kaldi(corpus, tmp_path / "out" / "k")
    assert list((tmp_path / "out").iterdir()) == []


def test_lhotse_reads_and_writes_the_same_directories(tmp_path: Path, write_audio):
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed: `pip install lhotse` runs this check")
    rows = []
    for i, name in enumerate(("a.wav", "é/b.wav")):
        path = tmp_path / "audio" / name  # of FLAC files lhotse writes commands, which are refused here
        write_audio(path, 11_025, rate=11_025)
        rows.append(Utterance(f"u{i}", str(path), 0, 11_025, 11_025, "two words", "anna", "en"))
        rows.append(Utterance(f"u{i}-part", str(path), 5513, 4003, 11_025, f"é{i}", None, "fr"))
    write_kaldi(Manifest.from_rows(rows, root=tmp_path), tmp_path / "ours")
    recordings, supervisions, _ = lhotse.load_kaldi_data_dir(tmp_path / "ours", 11_025)
    files = {recording.id: recording.sources[0].source for recording in recordings}
    places = {s.id: (s.start * 11_025, s.duration * 11_025) for s in supervisions}
    assert places == {row.id: pytest.approx((row.start, row.num_samples), abs=1e-6) for row in rows}
    assert {(s.id, files[s.recording_id], s.text, s.speaker, s.language) for s in supervisions} == {
        (row.id, row.path, row.text, row.speaker or row.id, row.language) for row in rows
    }
    lhotse.kaldi.export_to_kaldi(recordings, supervisions, tmp_path / "theirs")
    assert sorted(Manifest.read(tmp_path / "theirs"), key=lambda row: row.id) == rows
