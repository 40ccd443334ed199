"""Each kind of file that corpora bring beside their audio, and what is said about what did not match."""

from pathlib import Path

import pytest

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.scan import scan
from audio_ssl.errors import ManifestError


@pytest.fixture
def four_files(tmp_path: Path, write_audio) -> Path:
    for name in ("one/a.flac", "one/b.wav", "two/c.wav", "two/d.wav"):
        write_audio(tmp_path / name, 8000)
    return tmp_path


def known(manifest: Manifest) -> list[tuple]:
    return [(row.id, row.text, row.speaker, row.language) for row in manifest]


def test_transcripts_tsv_in_any_column_order(four_files: Path):
    (four_files / "one" / "transcripts.tsv").write_text(
        "speaker\ttext\tpath\tlanguage\nanna\thello there\ta.flac\ten\n\tbonjour\tb.flac\tfr\nx\tlost\tz.wav\ten\n"
    )
    result = scan(four_files, language="de")
    assert known(result.manifest) == [
        ("one/a", "hello there", "anna", "en"),
        ("one/b", "bonjour", None, "fr"),
        ("two/c", None, None, "de"),
        ("two/d", None, None, "de"),
    ]
    (source,) = result.sources
    assert (source.file, source.num_texts, source.num_speakers, source.num_unmatched, source.examples) == (
        "one/transcripts.tsv",
        2,
        1,
        1,
        ("z.wav",),
    )
    assert "2 of 4 rows have no text" in result.notes
    assert any("1 entries have no audio file (z.wav ...)" in note for note in result.notes)
    assert result.skipped == {}


def test_a_given_table_wins_over_what_lies_there(four_files: Path, tmp_path_factory: pytest.TempPathFactory):
    (four_files / "transcripts.tsv").write_text("id\ttext\na\tfrom the folder\nd\tfour\n")
    mine = tmp_path_factory.mktemp("mine") / "my table.txt"
    mine.write_text("id\ttext\none/a\tmine\n")
    result = scan(four_files, transcripts=mine)
    assert result.manifest.column("text") == ["mine", None, None, "four"]
    assert any("1 rows have different texts" in note for note in result.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\tspeaker\n", r":1: the header must name `path` or `id`"),
        ("id\tword\n", r":1: the header must name"),
        ("id\ttext\na\tb\tc\n", r":2: must have 2 tab-separated cells, got 3"),
        (b"id\ttext\na\t\xff\xfe\n", "in UTF-8"),
    ],
)
def test_a_broken_table_is_refused_with_its_line(four_files: Path, content: str | bytes, message: str):
    (four_files / "transcripts.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError, match=message):
        scan(four_files)


def test_kaldi_directories_name_utterances(four_files: Path, tmp_path_factory: pytest.TempPathFactory, write_audio):
    outside = tmp_path_factory.mktemp("outside") / "e.wav"
    write_audio(outside, 4000)
    data = four_files / "data" / "train"
    data.mkdir(parents=True)
    (data / "wav.scp").write_text(
        f"utt-a one/a.flac\nutt-e {outside}\nutt-p sph2pipe -f wav x.sph |\nutt-z one/z.wav\nutt-c two/c.flac\n"
    )
    (data / "text").write_text("utt-a HELLO THERE\nutt-c\nutt-q NEVER\n")
    (data / "utt2spk").write_text("utt-a anna\nutt-c utt-c\nutt-e eve\n")
    (data / "spk2utt").write_text("anna utt-a\n")
    result = scan(four_files)
    assert known(result.manifest) == [
        ("utt-a", "HELLO THERE", "anna", None),
        ("one/b", None, None, None),
        ("utt-c", "", None, None),
        ("two/d", None, None, None),
        ("utt-e", None, "eve", None),
    ]
    assert result.manifest.audio_path(4) == outside
    assert [(r.path, r.reason) for r in result.refusals] == [
        ("one/z.wav", "missing file"),
        ("sph2pipe -f wav x.sph |", "command in wav.scp"),
    ]
    assert result.sources[0].num_unmatched == 1  # utt-q; utt-p and utt-z are refused
    assert result.skipped == {"(none)": 1}


def test_kaldi_segments_become_rows_of_one_file(tmp_path: Path, write_audio):
    write_audio(tmp_path / "rec.wav", 10_000, rate=1000)
    (tmp_path / "wav.scp").write_text("rec rec.wav\n")
    (tmp_path / "segments").write_text(
        "s1 rec 0.5 1.25\ns2 rec 2 -1\ns3 rec 9 10.05\ns4 rec 9 12\ns5 rec 3 3.01\ns6 rec 4 3\ns7 other 0 1\n"
    )
    (tmp_path / "text").write_text("s1 one\ns2 two\n")
    (tmp_path / "utt2spk").write_text("s1 anna\n")
    result = scan(tmp_path)
    rows = [(r.id, r.path, r.start, r.num_samples, r.text, r.speaker) for r in result.manifest]
    assert rows == [
        ("s1", "rec.wav", 500, 750, "one", "anna"),
        ("s2", "rec.wav", 2000, 8000, "two", None),
        ("s3", "rec.wav", 9000, 1000, None, None),
    ]
    assert sorted((r.reason, r.detail[:2]) for r in result.refusals) == [
        ("segment outside its file", "s4"),
        ("segment outside its file", "s6"),
        ("too short", "s5"),
    ]
    assert result.sources[0].num_unmatched == 1


@pytest.mark.parametrize("content", ["s1 rec 0.5\n", "s1 rec a b\n", "s1 rec 0 1\ns1 rec 1 2\n"])
def test_broken_segments_are_refused(tmp_path: Path, write_audio, content: str):
    write_audio(tmp_path / "rec.wav", 10_000)
    (tmp_path / "wav.scp").write_text("rec rec.wav\n")
    (tmp_path / "segments").write_text(content)
    with pytest.raises(ManifestError, match="segments"):
        scan(tmp_path)


def test_librispeech_transcripts(tmp_path: Path, write_audio):
    for name in ("84/1/84-1-0000.flac", "84/1/84-1-0001.flac", "85/1/85-1-0000.flac"):
        write_audio(tmp_path / name, 1000)
    (tmp_path / "84" / "1" / "84-1.trans.txt").write_text("84-1-0000 GO DO\n84-1-0001 YOU HEAR\n")
    result = scan(tmp_path, speaker_from=r"(?P<speaker>\d+)-\d+-\d+")
    assert known(result.manifest) == [
        ("84/1/84-1-0000", "GO DO", "84", None),
        ("84/1/84-1-0001", "YOU HEAR", "84", None),
        ("85/1/85-1-0000", None, "85", None),
    ]


def test_ljspeech_metadata_takes_the_normalised_text(tmp_path: Path, write_audio):
    for name in ("wavs/LJ1.wav", "wavs/LJ2.wav", "wavs/LJ3.wav"):
        write_audio(tmp_path / name, 1000)
    (tmp_path / "metadata.csv").write_text('LJ1|In 1455, "so"|In fourteen fifty-five, "so"\nLJ2|plain\nLJ3|raw|\n')
    assert scan(tmp_path).manifest.column("text") == ['In fourteen fifty-five, "so"', "plain", "raw"]


def test_hugging_face_metadata(four_files: Path):
    (four_files / "metadata.csv").write_text(
        'file_name,transcription,speaker_id\none/a.flac,"hi, you",7\none/b.wav,,8\n'
    )
    assert known(scan(four_files).manifest)[:2] == [("one/a", "hi, you", "7", None), ("one/b", None, "8", None)]


def test_a_csv_of_another_kind_is_refused(four_files: Path):
    (four_files / "metadata.csv").write_text("name,text\nx,y\n")
    with pytest.raises(ManifestError, match=r"metadata\.csv:1: must be"):
        scan(four_files)


def test_text_files_of_the_same_name(four_files: Path):
    (four_files / "one" / "a.txt").write_text("  Hello\nworld \n")
    (four_files / "one" / "README.txt").write_text("about\n")
    result = scan(four_files)
    assert result.manifest.column("text") == ["Hello world", None, None, None]
    assert result.skipped == {".txt": 1}
    assert [(s.file, s.num_texts) for s in result.sources] == [("*.txt of the same names", 1)]


def test_a_name_that_two_files_bear_matches_neither(tmp_path: Path, write_audio):
    write_audio(tmp_path / "x" / "a.wav", 1000)
    write_audio(tmp_path / "y" / "a.wav", 1000)
    (tmp_path / "transcripts.tsv").write_text("id\ttext\na\twhose\ny/a\tmine\n")
    result = scan(tmp_path)
    assert result.manifest.column("text") == [None, "mine"]
    assert result.sources[0].num_unmatched == 1
