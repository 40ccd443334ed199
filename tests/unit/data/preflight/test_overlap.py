"""What training and validation share, with files on the disk."""

import pytest

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.preflight import overlap
from audio_ssl.data.preflight.overlap import same_audio, same_speakers, same_texts

from .splits import row, split


def rows_of(root, *rows: tuple) -> Manifest:
    """(path, start, num_samples, ...) each."""
    return Manifest.from_rows(
        [Utterance(f"r{i}", path, start, n, 100, **dict(more)) for i, (path, start, n, *more) in enumerate(rows)],
        root=root,
    )


def test_speakers_and_whole_texts():
    train = split(row(0, 1, "One two", speaker="anna"), row(1, 1, "three", speaker=None), row(2, 1, "", speaker="bo"))
    valid = split(
        row(0, 1, "one  TWO", speaker="bo"), row(1, 1, "three four", speaker=None), row(2, 1, "", speaker="anna"),
        row(3, 1, "three", speaker="cy"), name="valid",
    )  # fmt: skip
    assert same_speakers(train, valid) == {0: "speaker bo", 2: "speaker anna"}
    assert same_texts(train, valid) == {0: "'one two'", 3: "'three'"}


def test_segments_of_a_file_are_the_same_audio_where_they_overlap(tmp_path):
    train = rows_of(tmp_path, ("long.wav", 0, 100), ("long.wav", 50, 400), ("long.wav", 500, 10), ("other.wav", 0, 900))
    valid = rows_of(
        tmp_path, ("long.wav", 450, 50), ("long.wav", 449, 51), ("long.wav", 505, 1), ("long.wav", 510, 90),
        ("./sub/../long.wav", 60, 1), ("third.wav", 0, 900), ("long.wav", 0, 1000),
    )  # fmt: skip
    found = same_audio(train, valid, most_files=0)
    assert set(found.rows) == {1, 2, 4, 6}
    assert {row: found.rows[row] for row in (1, 2)} == {1: 1, 2: 2}
    assert found.num_left == 1  # other.wav and third.wav might be equal


def test_every_overlap_is_found_and_no_other(tmp_path):
    starts = [(s, n) for s in range(0, 9, 2) for n in (1, 2, 3, 7)]
    valid = rows_of(tmp_path, *(("a.wav", s, n) for s, n in starts))
    for first in range(12):
        for second in (4, 11):
            train = rows_of(tmp_path, ("a.wav", first, 2), ("a.wav", second, 3))
            expected = {
                i for i, (s, n) in enumerate(starts)
                if any(s < b + length and b < s + n for b, length in ((first, 2), (second, 3)))
            }  # fmt: skip
            assert set(same_audio(train, valid, most_files=0).rows) == expected


@pytest.fixture
def files(tmp_path):
    """Files of equal size: b is a copy of a; c and d differ from a in the middle and at the end."""
    content = bytes(range(256)) * 1024
    middle, end = bytearray(content), bytearray(content)
    middle[len(content) // 2] ^= 1
    end[-1] ^= 1
    for name, data in (("a", content), ("b", content), ("c", middle), ("d", end), ("e", content + b"tag")):
        (tmp_path / f"{name}.wav").write_bytes(data)
    return tmp_path


def test_copies_of_a_file_are_the_same_audio(files):
    train = rows_of(files, ("c.wav", 0, 100), ("d.wav", 0, 100), ("e.wav", 0, 100), ("a.wav", 0, 100), ("a.wav", 5, 60))
    valid = rows_of(files, ("b.wav", 0, 100), ("b.wav", 5, 60), ("b.wav", 6, 60), ("gone.wav", 0, 100))
    found = same_audio(train, valid, most_files=10)
    assert found.rows == {0: 3, 1: 4}
    assert (found.num_unreadable, found.num_elsewhere, found.num_left) == (1, 0, 0)
    assert same_audio(train, valid, most_files=3).rows == {}
    assert same_audio(train, valid, most_files=3).num_left == 2


def test_only_files_whose_ends_agree_are_read_whole(files, monkeypatch):
    read = []
    monkeypatch.setattr(overlap, "digest_of", lambda file: read.append(file.name) or b"same")
    train = rows_of(files, ("c.wav", 0, 100), ("d.wav", 0, 100), ("e.wav", 0, 100))
    same_audio(train, rows_of(files, ("b.wav", 0, 100), ("a.wav", 0, 99)), most_files=10)
    assert read == ["c.wav", "b.wav"]


def test_files_elsewhere_are_counted_and_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "size_bytes", lambda _: pytest.fail("it was asked for"))
    train = rows_of(tmp_path, ("s3://bucket/a.wav", 0, 100), ("s3://bucket/b.wav", 0, 50))
    valid = rows_of(tmp_path, ("s3://bucket/b.wav", 10, 5), ("s3://bucket/c.wav", 0, 100))
    found = same_audio(train, valid, most_files=10)
    assert found.rows == {0: 1}
    assert found.num_elsewhere == 2


def test_packed_files_are_compared_by_their_part_of_the_shard(tmp_path):
    (tmp_path / "one.tar").write_bytes(b"....SAME####")
    (tmp_path / "two.tar").write_bytes(b"SAMEdiff")
    part = {"num_bytes": 4}
    train = rows_of(tmp_path, ("one.tar", 0, 9, *{**part, "offset": 4}.items()))
    valid = rows_of(tmp_path, *(("two.tar", 0, 9, *{**part, "offset": at}.items()) for at in (0, 4)))
    assert same_audio(train, valid, most_files=9).rows == {0: 0}
