"""Packs: bytes as they were, places exact, decoding equal to that of the files, and no way out of a file's bytes."""

import contextlib
import io
import json
import os
import shutil
import tarfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf

from audio_ssl.data import pack as pack_module
from audio_ssl.data import packed as packed_module
from audio_ssl.data.audio import load_waveform, probe, read_audio
from audio_ssl.data.checks import Refusal, inspect_file
from audio_ssl.data.engine_fairseq2 import fairseq2_unavailable
from audio_ssl.data.formats.fairseq import write_fairseq
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.pack import PackResult, write_shards
from audio_ssl.data.packed import PackedFile, open_bytes
from audio_ssl.data.partition import split_rows
from audio_ssl.data.segment import segment_manifest
from audio_ssl.data.silence import SegmentSettings
from audio_ssl.data.summary import find_faults, summarize
from audio_ssl.errors import AudioError, ManifestError

KINDS = [
    ("a/one.wav", {}, 16000, 1),
    ("b/one.flac", {}, 22050, 2),
    ("b/t.w.o.opus", {"format": "OGG", "subtype": "OPUS"}, 48000, 1),
    ("three.mp3", {}, 16000, 2),
    ("four.WAV", {"subtype": "FLOAT"}, 8000, 3),
    ("five.ogg", {}, 16000, 2),
]


@pytest.fixture
def many(tmp_path: Path, write_audio) -> Manifest:
    """Six files of six kinds; the FLAC is cut in three rows, one of which overlaps; ids with dots, slashes, blanks."""
    rows = []
    for i, (name, kind, rate, channels) in enumerate(KINDS):
        write_audio(tmp_path / "in" / name, rate + 997 * i, rate=rate, channels=channels, seed=i, **kind)
        length = probe(tmp_path / "in" / name).num_samples
        rows.append(
            Utterance(name.rpartition(".")[0], name, 0, length, rate, None if i in (3, 5) else f"text {i}", "s")
        )
    flac = rows[1]
    rows += [
        replace(flac, id="seg 1", start=1001, num_samples=5003, text=None),
        replace(flac, id="seg 2", start=3000, num_samples=20000, text="words"),
    ]
    return Manifest.from_rows(rows, root=tmp_path / "in")


def packed(manifest: Manifest, folder: Path, *, shard_bytes: int = 10**9) -> PackResult:
    result = write_shards(manifest, folder, shard_bytes=shard_bytes)
    result.manifest.write(folder / "manifest.arrow")
    return result


def samples_of(shards: list[Path]) -> dict[str, dict[str, bytes]]:
    """WebDataset's rule, said again: members in a row that share their name up to the first dot are a sample."""
    samples: dict[str, dict[str, bytes]] = {}
    last = None
    for shard in shards:
        with tarfile.open(shard, "r|") as tar:  # as a stream: no seeking back
            for member in tar:
                key, _, suffix = member.name.partition(".")
                assert member.isfile()
                assert "/" not in key
                if key != last:
                    assert key not in samples
                    samples[key] = {}
                samples[key][suffix] = tar.extractfile(member).read()
                last = key
    return samples


def test_shards_hold_the_files_byte_for_byte_as_webdataset_groups_them(many: Manifest, tmp_path: Path):
    result = packed(many, tmp_path / "out")
    samples = samples_of(list(result.shards))
    assert {key: sorted(sample) for key, sample in samples.items()} == {
        "a_one": ["json", "txt", "wav"],
        "b_one": ["flac", "json"],  # three rows share it: their texts are in the JSON
        "b_t_w_o": ["json", "opus", "txt"],
        "three": ["json", "mp3"],  # no text is known
        "four": ["json", "txt", "wav"],
        "five": ["json", "ogg"],
    }
    for (name, *_), key in zip(KINDS, ["a_one", "b_one", "b_t_w_o", "three", "four", "five"], strict=True):
        assert samples[key][name.rpartition(".")[2].lower()] == (many.root / name).read_bytes()
    assert samples["a_one"]["txt"] == b"text 0"
    assert json.loads(samples["b_one"]["json"]) == {
        "sample_rate": 22050,
        "segments": [
            {"id": "b/one", "start": 0, "num_samples": 23047, "text": "text 1", "speaker": "s", "language": None},
            {"id": "seg 1", "start": 1001, "num_samples": 5003, "text": None, "speaker": "s", "language": None},
            {"id": "seg 2", "start": 3000, "num_samples": 20000, "text": "words", "speaker": "s", "language": None},
        ],
    }
    assert (result.num_files, len(result.manifest), result.refusals) == (6, 8, ())
    assert result.num_bytes == sum((many.root / name).stat().st_size for name, *_ in KINDS)


def test_rows_say_where_the_bytes_lie_and_are_else_the_same(many: Manifest, tmp_path: Path):
    packed(many, tmp_path / "out", shard_bytes=200_000)
    back = Manifest.read(tmp_path / "out" / "manifest.arrow")
    assert back.root == tmp_path / "out"
    for old, new in zip(many, back, strict=True):
        assert replace(new, path=old.path, offset=None, num_bytes=None) == old
        content = (tmp_path / "out" / new.path).read_bytes()[new.offset : new.offset + new.num_bytes]
        assert content == (many.root / old.path).read_bytes()
        with tarfile.open(tmp_path / "out" / new.path) as tar:  # an independent word on the place
            assert (new.offset, new.num_bytes) in {(m.offset_data, m.size) for m in tar}
    assert len({(row.path, row.offset) for row in back}) == 6


def test_shards_keep_their_size_and_never_part_a_sample(many: Manifest, tmp_path: Path):
    result = packed(many, tmp_path / "out", shard_bytes=100_000)
    assert [shard.name for shard in result.shards] == [f"shard-{i:06d}.tar" for i in range(len(result.shards))]
    assert len(result.shards) > 2
    keys = []
    for shard in result.shards:
        assert shard.stat().st_size % 10240 == 0
        with tarfile.open(shard) as tar:
            names = [m.name.partition(".")[0] for m in tar]
        assert shard.stat().st_size <= 100_000 or len(set(names)) == 1
        keys.append(set(names))
    assert sum(map(len, keys)) == len(set.union(*keys)) == 6


@pytest.mark.parametrize("start", [0, 3000])
def test_a_text_alone_is_that_of_a_whole_file(many: Manifest, tmp_path: Path, start: int):
    length = many[1].num_samples - 3000
    row = replace(many[7], start=start, num_samples=length)
    result = packed(Manifest.from_rows([row], root=many.root), tmp_path / "out")
    (sample,) = samples_of(list(result.shards)).values()
    assert sorted(sample) == ["flac", "json"]
    assert json.loads(sample["json"])["segments"][0]["text"] == "words"


def test_an_archive_ends_with_two_empty_blocks_even_where_members_fill_its_records(tmp_path: Path, write_audio):
    write_audio(tmp_path / "in" / "x.wav", 4330)  # 44 + 2 * 4330 = 17 blocks; with two headers and the JSON: 20
    rows = [Utterance("x", "x.wav", 0, 4330, 16000)]
    (shard,) = packed(Manifest.from_rows(rows, root=tmp_path / "in"), tmp_path / "out").shards
    content = shard.read_bytes()
    assert (len(content), content[10240:]) == (20480, bytes(10240))
    assert any(content[10240 - 512 : 10240])


def test_equal_input_gives_equal_shards(many: Manifest, tmp_path: Path):
    first, second = (packed(many, tmp_path / name).shards[0].read_bytes() for name in ("x", "y"))
    assert first == second


def test_decoding_from_a_pack_is_decoding_the_file(many: Manifest, tmp_path: Path):
    part = packed(many, tmp_path / "out").manifest
    for row in range(len(many)):
        file = part.audio_file(row)
        assert isinstance(file, PackedFile)
        assert probe(file) == probe(many.audio_path(row))
        np.testing.assert_array_equal(read_audio(file)[0], read_audio(many.audio_path(row))[0])
        a, b = (read_audio(f, start=2003, num_samples=1009)[0] for f in (file, many.audio_path(row)))
        np.testing.assert_array_equal(a, b)
        for rate in (16000, 22050):
            expected = load_waveform(many, row, sample_rate_hz=rate)
            np.testing.assert_array_equal(load_waveform(part, row, sample_rate_hz=rate), expected)
        for check in ("headers", "ends", "full"):
            assert inspect_file(file, name="n", check=check) == inspect_file(
                many.audio_path(row), name="n", check=check
            )


@pytest.mark.parametrize("engine", ["threads", "fairseq2"])
def test_batches_from_a_pack_are_those_from_files(many: Manifest, tmp_path: Path, engine: str):
    if engine == "fairseq2" and fairseq2_unavailable() is not None:
        pytest.skip(f"fairseq2: {fairseq2_unavailable()}")
    part = packed(many, tmp_path / "out").manifest
    settings = {"sample_rate_hz": 16000, "normalize": True, "max_samples": 7001, "seed": 3, "engine": engine}
    batches = [(0, 1, 2), (7, 3), (6, 4, 5)]
    plain, other = (list(Loader(m, **settings).batches(batches, epoch=1)) for m in (many, part))
    assert len(plain) == 3
    for a, b in zip(plain, other, strict=True):
        assert a.rows == b.rows
        np.testing.assert_array_equal(a.waveforms.numpy(), b.waveforms.numpy())


def test_other_work_on_rows_takes_packed_ones(many: Manifest, tmp_path: Path):
    part = packed(many, tmp_path / "out").manifest
    assert find_faults(part, decode=True) == ()
    assert summarize(part) == summarize(many)
    settings = SegmentSettings(min_s=0.1, max_s=0.5)
    pieces, expected = (list(segment_manifest(m, settings=settings).manifest) for m in (part, many))
    assert [(p.id, p.start, p.num_samples) for p in pieces] == [(p.id, p.start, p.num_samples) for p in expected]
    assert len(pieces) > len(part)
    parts = split_rows(part, parts={"a": 0.5, "b": 0.5}, by="none")
    assert parts["a"].tolist() == split_rows(many, parts={"a": 0.5, "b": 0.5}, by="none")["a"].tolist()
    assert len({part[int(i)].offset for i in parts["a"]} & {part[int(i)].offset for i in parts["b"]}) == 0


@pytest.mark.parametrize("extension", ["arrow", "parquet", "tsv"])
def test_every_format_keeps_the_places(many: Manifest, tmp_path: Path, extension: str):
    part = packed(many, tmp_path / "out").manifest
    part.write(tmp_path / f"m.{extension}")
    assert list(Manifest.read(tmp_path / f"m.{extension}")) == list(part)
    joined = Manifest.concat([Manifest.read(tmp_path / f"m.{extension}"), many])
    assert [row.offset for row in joined] == [*(row.offset for row in part), *[None] * 8]
    np.testing.assert_array_equal(
        load_waveform(joined, 1, sample_rate_hz=16000), load_waveform(joined, 9, sample_rate_hz=16000)
    )


def test_a_pack_of_a_pack_holds_the_same_bytes(many: Manifest, tmp_path: Path):
    first = packed(many, tmp_path / "one")
    second = packed(first.manifest.select([7, 3, 2, 1]), tmp_path / "two")
    samples = samples_of(list(second.shards))
    assert {key: sorted(set(s) - {"json", "txt"}) for key, s in samples.items()} == {
        "seg_2": ["flac"],
        "three": ["mp3"],
        "b_t_w_o": ["opus"],
    }
    assert samples["seg_2"]["flac"] == (many.root / "b/one.flac").read_bytes()


def test_a_folder_with_pack_and_manifest_can_move(many: Manifest, tmp_path: Path):
    packed(many, tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert find_faults(Manifest.read(tmp_path / "elsewhere" / "manifest.arrow")) == ()


@pytest.mark.parametrize("name", ["../../etc/x", "/etc/x", "..", "a\\..\\b", "a\nb\tc\0d", "", "con/./x", "ü 語/é.1"])
def test_no_member_name_leads_anywhere(tmp_path: Path, write_audio, name: str):
    write_audio(tmp_path / "in" / "x.flac", 4000)
    rows = [Utterance(name, "x.flac", 0, 4000, 16000)]
    result = packed(Manifest.from_rows(rows, root=tmp_path / "in"), tmp_path / "out")
    with tarfile.open(result.shards[0]) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert sorted(p.name for p in (tmp_path / "unpacked").iterdir()) == sorted(names)
    for member in names:
        assert not set(member) & set("/\\\n\t\0 ")
        assert member.count(".") == 1
        assert not member.startswith(".")


def test_keys_that_would_be_equal_are_numbered(tmp_path: Path, write_audio):
    ids = ["a/b", "a.b", "a_b-2", "a b", "l" * 150]  # the last needs more than a tar header's 100 bytes
    for i in range(5):
        write_audio(tmp_path / "in" / f"{i}.flac", 4000 + i, seed=i)
    rows = [Utterance(name, f"{i}.flac", 0, 4000 + i, 16000) for i, name in enumerate(ids)]
    result = packed(Manifest.from_rows(rows, root=tmp_path / "in"), tmp_path / "out")
    assert list(samples_of(list(result.shards))) == ["a_b", "a_b-2", "a_b-2-2", "a_b-3", "l" * 150]
    assert find_faults(result.manifest, decode=True) == ()


def broken(manifest: Manifest, row: int, **changes: int) -> Manifest:
    return Manifest.from_rows([replace(manifest[row], **changes)], root=manifest.root)


def test_a_cut_member_never_reads_its_neighbour(tmp_path: Path, write_audio):
    """MP3 frames follow one another without a length: a decoder that sees on goes on into the next member."""
    for i in range(2):
        write_audio(tmp_path / "in" / f"{i}.mp3", 32000, seed=i)
        write_audio(tmp_path / "in" / f"{i}.flac", 32000, seed=i)
    names = ["0.mp3", "1.mp3", "0.flac", "1.flac"]
    rows = [Utterance(n, n, 0, probe(tmp_path / "in" / n).num_samples, 16000) for n in names]
    part = packed(Manifest.from_rows(rows, root=tmp_path / "in"), tmp_path / "out").manifest
    for row in (0, 2):
        cut = broken(part, row, num_bytes=part[row].num_bytes * 2 // 3)
        place = rf"shard-000000\.tar bytes \d+ to \d+ \(row {names[row]}\)"
        with pytest.raises(AudioError, match=place):
            load_waveform(cut, 0, sample_rate_hz=16000)
        assert len(find_faults(cut)) == 1
    wrong = broken(part, 2, offset=part[3].offset - 700)
    with pytest.raises(AudioError, match=r"shard-000000\.tar bytes .* must be readable audio"):
        load_waveform(wrong, 0, sample_rate_hz=16000)
    content = (tmp_path / "in" / "0.mp3").read_bytes()[:3000]
    with open_bytes(PackedFile(tmp_path / "out" / part[0].path, part[0].offset, 3000, "x")) as window:
        assert window.read() == content
        assert (window.seek(-100, os.SEEK_END), window.read()) == (2900, content[2900:])
        assert (window.seek(5000), window.read()) == (5000, b"")
        assert (window.seek(-9000, os.SEEK_END), window.read()) == (0, content)  # not the bytes before it


@pytest.mark.parametrize(("keep", "change"), [(0.5, {}), (1, {"offset": 10**12}), (1, {"num_bytes": 10**9}), (0, {})])
def test_bytes_beyond_the_shard_are_refused_before_decoding(tmp_path: Path, write_audio, keep: float, change: dict):
    write_audio(tmp_path / "in" / "x.flac", 32000)
    rows = [Utterance("x", "x.flac", 0, 32000, 16000)]
    part = packed(Manifest.from_rows(rows, root=tmp_path / "in"), tmp_path / "out").manifest
    shard = tmp_path / "out" / "shard-000000.tar"
    os.truncate(shard, int(shard.stat().st_size * keep))
    crooked = broken(part, 0, **change)
    for call in (lambda: load_waveform(crooked, 0, sample_rate_hz=16000), lambda: probe(crooked.audio_file(0))):
        with pytest.raises(AudioError, match=r"shard-000000\.tar bytes .*\(row x\).*must lie inside the shard, which"):
            call()
    (fault,) = find_faults(crooked)
    assert "truncated: " in fault
    assert "manifest row 1 (x, shard-000000.tar)" in fault
    shard.unlink()
    with pytest.raises(AudioError, match=r"shard-000000\.tar bytes .*there is no such file"):
        load_waveform(crooked, 0, sample_rate_hz=16000)


def test_a_disk_that_fails_under_a_shard_is_an_audio_error(many: Manifest, tmp_path: Path, monkeypatch, capfd):
    part = packed(many, tmp_path / "out").manifest

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(packed_module.os, "pread", fail)
    with pytest.raises(AudioError, match=r"shard-000000\.tar bytes .*Input/output error"):
        load_waveform(part, 0, sample_rate_hz=16000)
    assert capfd.readouterr().err == ""  # nothing printed from inside libsndfile's callbacks


@pytest.mark.parametrize("seed", range(20))
def test_damaged_members_are_audio_errors_without_noise(tmp_path: Path, many: Manifest, seed: int, capfd):
    part = packed(many, tmp_path / "out").manifest
    shard = tmp_path / "out" / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    rng = np.random.default_rng(seed)
    for row in part:
        content[row.offset + int(rng.integers(4, 60))] = int(rng.integers(256))  # headers: lengths, tables, codecs
    shard.write_bytes(content)
    for row in range(len(part)):
        with contextlib.suppress(AudioError):  # anything else fails the test
            assert np.isfinite(load_waveform(part, row, sample_rate_hz=16000)).all()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 5}, "offset and num_bytes must both be there"),
        ({"num_bytes": 5}, "offset and num_bytes must both be there"),
        ({"offset": -1, "num_bytes": 5}, "offset must be >= 0, got -1"),
        ({"offset": 0, "num_bytes": 0}, "num_bytes must be >= 1, got 0"),
        ({"offset": 2**63 - 5, "num_bytes": 5}, r"offset \+ num_bytes must be < 2\^63"),
    ],
)
def test_places_that_cannot_be_are_named(change: dict, message: str):
    rows = [Utterance("a", "a.tar", 0, 5, 16000, offset=512, num_bytes=9), Utterance("b", "b.wav", 0, 5, 16000)]
    Manifest.from_rows(rows, root="/audio")
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.from_rows([*rows, Utterance("c", "c.tar", 0, 5, 16000, **change)], root="/audio")
    assert str(caught.value).count("\n  - manifest row 3 (c, c.tar): ") == str(caught.value).count("\n")


def test_a_mapped_manifest_with_half_a_place_is_guarded_when_it_is_used():
    whole = Manifest.from_rows([Utterance("a", "a.tar", 0, 5, 16000, offset=512, num_bytes=9)], root="/audio")
    idx = whole.table.column_names.index("num_bytes")
    table = whole.table.set_column(idx, whole.table.schema.field(idx), pa.array([None], pa.int64()))
    with pytest.raises(ManifestError, match=r"manifest row 1 \(a, a\.tar\): offset and num_bytes must both"):
        Manifest(table, root=Path("/audio")).audio_file(0)


def test_manifests_without_packed_rows_are_version_1_without_the_columns(tmp_path: Path):
    """What 0.14 and before wrote and read; the bytes of an old file are written out here."""
    old = pa.schema([("id", pa.string()), ("path", pa.string()), ("start", pa.int64()), ("num_samples", pa.int64())])
    old = pa.schema([f.with_nullable(False) for f in old])
    old = old.append(pa.field("sample_rate", pa.int32(), nullable=False))
    for name in ("text", "speaker", "language"):
        old = old.append(pa.field(name, pa.string()))
    marked = old.with_metadata({"audio_ssl.manifest_version": "1", "audio_ssl.root": "audio"})
    values = {"id": ["a"], "path": ["a.wav"], "start": [3], "num_samples": [7], "sample_rate": [8000]}
    table = pa.table({**values, "text": [None], "speaker": ["s"], "language": [None]}, schema=marked)
    with pa.ipc.new_file(str(tmp_path / "old.arrow"), marked) as writer:
        writer.write_table(table)
    manifest = Manifest.read(tmp_path / "old.arrow")
    assert list(manifest) == [Utterance("a", "a.wav", 3, 7, 8000, None, "s")]
    assert manifest.audio_file(0) == tmp_path / "audio" / "a.wav"
    manifest.write(tmp_path / "new.arrow")
    with pa.ipc.open_file(str(tmp_path / "new.arrow")) as reader:
        assert reader.schema == old
        assert reader.schema.metadata[b"audio_ssl.manifest_version"] == b"1"


def test_files_that_cannot_be_read_are_named_and_the_others_packed(many: Manifest, tmp_path: Path, monkeypatch):
    (many.root / "a/one.wav").unlink()
    content = (many.root / "three.mp3").read_bytes()
    (many.root / "three.mp3").write_bytes(b"no audio " * 50)
    (many.root / "x.m4a").write_bytes(content)
    rows = [*many, Utterance("m4a", "x.m4a", 0, 9, 8000), replace(many[1], id="late", start=23000, num_samples=48)]
    result = packed(Manifest.from_rows(rows, root=many.root), tmp_path / "out")
    assert [(r.path, r.reason) for r in result.refusals] == [
        ("a/one.wav", "unreadable"),
        ("b/one.flac", "row disagrees with its file"),
        ("three.mp3", "not audio"),
        ("x.m4a", "needs a file of its own"),
    ]
    assert "late" in result.refusals[1].detail
    assert result.manifest.column("id") == ["b/one", "b/t.w.o", "four", "five", "seg 1", "seg 2"]
    assert len(samples_of(list(result.shards))) == result.num_files == 4
    with pytest.raises(ManifestError, match=r"at least one file that can be packed.*\n  - x\.m4a: needs a file"):
        write_shards(Manifest.from_rows(rows[-2:-1], root=many.root), tmp_path / "none", shard_bytes=10**9)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("victim", [2, 5])
@pytest.mark.parametrize("trouble", ["fails", "shrinks", "grows"])
def test_a_file_that_goes_bad_while_it_is_copied_leaves_no_trace_in_the_shard(
    many: Manifest, tmp_path: Path, monkeypatch, trouble: str, victim: int
):
    original = pack_module.open_bytes
    (expected,) = packed(many.select([i for i in range(8) if i != victim]), tmp_path / "without").shards

    def opened(file):
        if file != many.audio_path(victim):
            return original(file)
        if trouble == "fails":
            raise OSError(5, "Input/output error", str(file))
        content = file.read_bytes()
        return io.BytesIO(content[:-10] if trouble == "shrinks" else content + b"more")

    monkeypatch.setattr(pack_module, "open_bytes", opened)
    result = packed(many, tmp_path / "out")
    (refusal,) = result.refusals
    assert refusal.path == str(many.audio_path(victim))
    assert refusal.reason == ("unreadable" if trouble == "fails" else "changed while it was read")
    assert result.shards[0].read_bytes() == expected.read_bytes()
    assert find_faults(result.manifest, decode=True) == ()


def test_a_pack_of_which_no_file_can_be_copied_is_an_error(many: Manifest, tmp_path: Path, monkeypatch):
    def fail(file):
        raise OSError(5, "Input/output error", str(file))

    monkeypatch.setattr(pack_module, "open_bytes", fail)
    with pytest.raises(ManifestError, match=r"at least one file that can be packed.*\n  - .*Input/output error"):
        write_shards(many, tmp_path / "out", shard_bytes=10**9)


def test_a_pack_that_was_killed_can_be_run_again(many: Manifest, tmp_path: Path, monkeypatch):
    original = pack_module._add_sample

    def killed(out, sample, *, shard):
        if sample.key == "three":
            raise KeyboardInterrupt
        return original(out, sample, shard=shard)

    out = tmp_path / "out"
    monkeypatch.setattr(pack_module, "_add_sample", killed)
    with pytest.raises(KeyboardInterrupt):
        write_shards(many, out, shard_bytes=50_000)
    assert sorted(p.name for p in out.iterdir()) == [".audio_ssl-pack", "shard-000000.tar", "shard-000001.tar"]
    (out / ".shard-000002.tar.123.tmp").write_bytes(b"what kill -9 leaves")
    (out / "shard-000009.tar").write_bytes(b"of a longer run")
    monkeypatch.undo()
    result = packed(many, out, shard_bytes=10**9)
    assert [p.name for p in result.shards] == ["shard-000000.tar"]
    assert sorted(p.name for p in out.iterdir()) == [".audio_ssl-pack", "manifest.arrow", "shard-000000.tar"]
    assert find_faults(Manifest.read(out / "manifest.arrow"), decode=True) == ()


def test_what_lies_in_the_folder_is_never_overwritten(many: Manifest, tmp_path: Path):
    packed(many, tmp_path / "out")
    before = (tmp_path / "out" / "shard-000000.tar").read_bytes()
    with pytest.raises(ManifestError, match="holds a finished pack already"):
        write_shards(many.select([0]), tmp_path / "out", shard_bytes=10**9)
    assert (tmp_path / "out" / "shard-000000.tar").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "shard-000000.tar").write_bytes(b"somebody else's")
    with pytest.raises(ManifestError, match=r"must be new or empty, got shard-000000\.tar: nothing there is"):
        write_shards(many, tmp_path / "other", shard_bytes=10**9)
    assert (tmp_path / "other" / "shard-000000.tar").read_bytes() == b"somebody else's"
    with pytest.raises(ManifestError, match="must be a folder for shards, got a file"):
        write_shards(many, many.audio_path(0), shard_bytes=10**9)
    (tmp_path / "out" / "manifest.arrow").rename(tmp_path / "m.arrow")
    inner = Manifest(Manifest.read(tmp_path / "m.arrow").table, root=tmp_path / "out")
    with pytest.raises(ManifestError, match="must not hold the audio itself"):
        write_shards(inner, tmp_path / "out", shard_bytes=10**9)
    assert (tmp_path / "out" / "shard-000000.tar").read_bytes() == before


def test_a_disk_without_room_is_refused_before_and_named_while_writing(many: Manifest, tmp_path: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    size = packed(many, tmp_path / "out").shards[0].stat().st_size
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda _: usage(0, 0, size - 10240))
    with pytest.raises(
        ManifestError, match=r"must have room for 0\.\d MB of shards, got 0\.\d MB.*nothing was written"
    ):
        write_shards(many, tmp_path / "new", shard_bytes=10**9)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda _: usage(0, 0, size + 10240))
    write_shards(many, tmp_path / "new", shard_bytes=10**9)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pack_module, "_add_sample", full)
    with pytest.raises(ManifestError, match=r"shard-000000\.tar must be writable with room.*No space left"):
        write_shards(many, tmp_path / "full", shard_bytes=10**9)
    assert [p.name for p in (tmp_path / "full").iterdir()] == [".audio_ssl-pack"]


def test_fairseq_cannot_say_packed_rows(many: Manifest, tmp_path: Path):
    part = packed(many.select([0, 2]), tmp_path / "out").manifest
    with pytest.raises(ManifestError, match="2 rows cannot be written") as caught:
        write_fairseq(part, tmp_path / "fs.tsv")
    assert str(caught.value).count("lies in a shard") == 2
    assert "(a/one, shard-000000.tar)" in str(caught.value)
    assert str(caught.value).count("segment of a file") == 0


def test_a_damaged_place_is_a_refusal_in_a_check(many: Manifest, tmp_path: Path):
    part = packed(many, tmp_path / "out").manifest
    file = part.audio_file(0)
    found = inspect_file(replace(file, offset=-1), name="n", check="ends")
    assert isinstance(found, Refusal)
    assert "must lie inside the shard" in found.detail
    found = inspect_file(replace(file, num_bytes=file.num_bytes - 2), name="n", check="ends")
    assert found == Refusal("n", "truncated", "2 bytes are missing at the end")


def test_a_member_equals_what_soundfile_reads_from_the_tar(many: Manifest, tmp_path: Path):
    """Peers read members through tarfile and BytesIO: the same samples as ours."""
    result = packed(many, tmp_path / "out")
    with tarfile.open(result.shards[0]) as tar:
        samples, rate = sf.read(io.BytesIO(tar.extractfile("b_one.flac").read()), dtype="float32")
    ours, our_rate = read_audio(result.manifest.audio_file(1))
    assert rate == our_rate == 22050
    np.testing.assert_allclose(ours, samples.mean(axis=1), atol=1e-7)
