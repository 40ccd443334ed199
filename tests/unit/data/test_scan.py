"""A folder of trouble: every file is a row, or is refused with its reason."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from audio_ssl.data.checks import Refusal, inspect_file
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.scan import scan
from audio_ssl.errors import ManifestError


def test_the_bad_folder_is_sorted_out_file_by_file(bad_folder: Path):
    calls: list[tuple[int, int]] = []
    result = scan(bad_folder, progress=lambda done, total: calls.append((done, total)))
    assert [(row.path, row.num_samples, row.sample_rate) for row in result.manifest] == [
        ("48k stereo.wav", 48000, 48000),
        ("8k.wav", 8000, 8000),
        ("UPPER.WAV", 16000, 16000),
        ("good.wav", 16000, 16000),
        ("hour.flac", 8000 * 3600, 8000),
        ("имя с пробелами/語音 1.flac", 16000, 16000),
    ]
    assert {(refusal.path, refusal.reason) for refusal in result.refusals} == {
        ("cut.flac", "truncated"),
        ("cut.wav", "truncated"),
        ("nan.wav", "NaN or infinity"),
        ("short.wav", "too short"),
        ("text.wav", "not audio"),
        ("zero.flac", "empty file"),
    }
    assert result.refusal_counts() == {
        "truncated": 2,
        "NaN or infinity": 1,
        "too short": 1,
        "not audio": 1,
        "empty file": 1,
    }
    details = {refusal.path: refusal.detail for refusal in result.refusals}
    assert details["nan.wav"] == "first at sample 12345"
    assert details["short.wav"].startswith("200 samples at 16000 Hz")
    assert result.skipped == {".pdf": 1}
    assert any("1 rows are longer than 20 s" in note and "hour.flac" in note for note in result.notes)
    assert any("1 hidden files" in note for note in result.notes)
    assert calls == [(i, 12) for i in range(1, 13)]


def test_headers_alone_miss_what_only_decoding_shows(bad_folder: Path):
    names = {refusal.path for refusal in scan(bad_folder, check="headers").refusals}
    assert names == {"zero.flac", "text.wav", "short.wav", "cut.wav"}


def test_full_check_finds_silence_and_errors_in_the_middle(tmp_path: Path, write_audio):
    sf.write(tmp_path / "silent.flac", np.zeros(16000, dtype=np.int16), 16000)
    write_audio(tmp_path / "good.flac", 16000)
    write_audio(tmp_path / "hole.flac", 200_000)
    content = bytearray((tmp_path / "hole.flac").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    (tmp_path / "hole.flac").write_bytes(content)
    assert scan(tmp_path, check="ends").refusals == ()
    full = scan(tmp_path, check="full")
    assert {(r.path, r.reason) for r in full.refusals} == {("silent.flac", "silent"), ("hole.flac", "truncated")}
    assert full.manifest.column("path") == ["good.flac"]


@pytest.mark.parametrize(("extension", "kind"), [("ogg", {}), ("opus", {"format": "OGG", "subtype": "OPUS"})])
def test_a_cut_ogg_page_is_found(tmp_path: Path, write_audio, extension: str, kind: dict):
    write_audio(tmp_path / f"whole.{extension}", 48000, **kind)
    content = (tmp_path / f"whole.{extension}").read_bytes()
    for share in (0.5, 0.7, 0.999):
        (tmp_path / f"cut{share}.{extension}").write_bytes(content[: int(len(content) * share)])
    result = scan(tmp_path)
    assert result.manifest.column("path") == [f"whole.{extension}"]
    assert {r.reason for r in result.refusals} <= {"truncated", "not audio"}


# the last three: the header of the data ends with, runs over, and lies behind the first 4096 bytes
@pytest.mark.parametrize("extra", [b"", b"odd", b"even", bytes(4044), bytes(4047), bytes(9000)])
def test_wav_files_with_other_chunks_are_whole(tmp_path: Path, write_audio, extra: bytes):
    """A chunk of odd length is followed by a byte of padding, which is not counted in its length."""
    write_audio(tmp_path / "a.wav", 1000)
    content = (tmp_path / "a.wav").read_bytes()
    chunk = b"LIST" + len(extra).to_bytes(4, "little") + extra + bytes(len(extra) % 2)
    whole = content[:36] + chunk + content[36:]  # between the format and the data
    (tmp_path / "a.wav").write_bytes(whole)
    assert scan(tmp_path).manifest.column("num_samples") == [1000]
    (tmp_path / "a.wav").write_bytes(whole[:-2])
    (refusal,) = scan(tmp_path).refusals
    assert (refusal.reason, refusal.detail) == ("truncated", "2 bytes are missing at the end")


def test_sun_audio_without_a_header_is_known_by_its_name(tmp_path: Path):
    """libsndfile takes it for what such files hold: 8-bit µ-law at 8 kHz."""
    for name in ("old.au", "old.snd", "other.wav"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 4)
    result = scan(tmp_path)
    assert [(row.path, row.num_samples, row.sample_rate) for row in result.manifest] == [
        ("old.au", 1024, 8000),
        ("old.snd", 1024, 8000),
    ]
    assert [(r.path, r.reason) for r in result.refusals] == [("other.wav", "not audio")]


def test_a_file_that_may_not_be_read_and_one_that_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "folder.wav").mkdir()
    refusal = inspect_file(tmp_path / "folder.wav", name="folder.wav", check="ends")
    assert refusal == Refusal("folder.wav", "not audio", "it is a folder")
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # as root, every file may be read
    assert inspect_file(tmp_path / "a.wav", name="a.wav", check="ends") == Refusal(
        "a.wav", "unreadable", "Permission denied"
    )


def test_a_pipe_is_not_waited_for(tmp_path: Path, write_audio):
    write_audio(tmp_path / "a.wav", 1000)
    os.mkfifo(tmp_path / "pipe.wav")
    assert [(r.path, r.reason) for r in scan(tmp_path).refusals] == [("pipe.wav", "empty file")]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists a process's open files")
def test_files_are_closed_again(bad_folder: Path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for check in ("headers", "ends", "full"):
        scan(bad_folder, check=check)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_order_does_not_depend_on_threads(bad_folder: Path):
    none, one, eight = (scan(bad_folder, num_workers=n) for n in (0, 1, 8))  # none: as one
    assert none.manifest.table.equals(one.manifest.table)
    assert one.manifest.table.equals(eight.manifest.table)
    assert none.refusals == one.refusals == eight.refusals


def test_folders_without_audio_say_what_they_hold(tmp_path: Path):
    with pytest.raises(ManifestError, match=r"must hold audio files, but holds nothing"):
        scan(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.TXT").write_text("b")
    (tmp_path / "README").write_text("c")
    with pytest.raises(ManifestError, match=r"holds 2 \.txt, 1 \(none\)"):
        scan(tmp_path)
    with pytest.raises(ManifestError, match="must be a folder of audio, got a file"):
        scan(tmp_path / "a.txt")
    with pytest.raises(ManifestError, match="got nothing there"):
        scan(tmp_path / "x")


def test_files_that_differ_in_extension_alone_keep_their_own_ids(tmp_path: Path, write_audio):
    for name in ("a.wav", "a.flac", "b.wav"):
        write_audio(tmp_path / name, 1000)
    assert scan(tmp_path).manifest.column("id") == ["a.flac", "a.wav", "b"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path, write_audio):
    write_audio(tmp_path / "elsewhere" / "a.wav", 1000)
    (tmp_path / "scanned").mkdir()
    (tmp_path / "scanned" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "scanned", target_is_directory=True)
    (tmp_path / "scanned" / "broken.wav").symlink_to(tmp_path / "gone.wav")
    result = scan(tmp_path / "scanned")
    assert result.manifest.column("path") == ["link/a.wav"]
    assert [(r.path, r.reason) for r in result.refusals] == [("broken.wav", "unreadable")]


def test_a_name_that_is_not_utf8_is_refused_by_name(tmp_path: Path, write_audio):
    write_audio(tmp_path / "good.wav", 1000)
    strange = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    os.link(tmp_path / "good.wav", strange)
    result = scan(tmp_path)
    assert [(r.path, r.reason) for r in result.refusals] == [("caf\\xe9.wav", "unreadable")]
    assert result.manifest.column("id") == ["good"]


def test_speakers_come_from_the_path_by_rule(tmp_path: Path, write_audio):
    for name in ("anna/0_anna_1.wav", "ben/1_ben_2.wav", "ben/noname.wav"):
        write_audio(tmp_path / name, 1000)
    assert scan(tmp_path).manifest.column("speaker") == [None] * 3
    assert scan(tmp_path, speaker_from="parent").manifest.column("speaker") == ["anna", "ben", "ben"]
    by_name = scan(tmp_path, speaker_from=r"_(?P<speaker>[a-z]+)_", language="en")
    assert by_name.manifest.column("speaker") == ["anna", "ben", None]
    assert by_name.manifest.column("language") == ["en"] * 3
    assert "1 of 3 rows have no speaker" in by_name.notes
    for rule in ("(", "[a-z]+"):
        with pytest.raises(ManifestError, match="speaker-from must be none, parent or a regular expression"):
            scan(tmp_path, speaker_from=rule)


def test_a_scanned_manifest_round_trips(bad_folder: Path, tmp_path: Path):
    manifest = scan(bad_folder).manifest
    manifest.write(tmp_path / "m.tsv")
    back = Manifest.read(tmp_path / "m.tsv")
    back.check_files()
    assert list(back) == list(manifest)


CORPORA = os.environ.get("AUDIO_SSL_CORPORA")


@pytest.mark.corpora
@pytest.mark.skipif(not CORPORA, reason="AUDIO_SSL_CORPORA is not set")
@pytest.mark.parametrize(
    ("corpus", "rule", "rows", "speakers", "texts"),
    [
        ("speechocean762", "none", 2500, 125, 2500),
        ("librispeech_mini", r"(?P<speaker>\d+)-\d+-\d+", 226, 136, 0),
        ("ljspeech_mini", "none", 32, 0, 8),
        ("fsdd", r"_(?P<speaker>[a-z]+)_", 3000, 6, 0),
        ("speech_to_intent", "none", 619, 0, 0),
    ],
)
def test_real_corpora_are_read_whole(corpus: str, rule: str, rows: int, speakers: int, texts: int):
    result = scan(Path(CORPORA or "", corpus), speaker_from=rule)
    assert result.refusals == ()
    assert len(result.manifest) == rows
    assert len(set(result.manifest.column("speaker")) - {None}) == speakers
    assert sum(text is not None for text in result.manifest.column("text")) == texts
