"""Manifests about audio elsewhere: every format reads and keeps addresses, every verb works on them or says why not."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from audio_ssl.config import PretrainConfig, validate_config
from audio_ssl.config.augment import AugmentConfig
from audio_ssl.data.addresses import Address
from audio_ssl.data.audio import load_waveform, probe
from audio_ssl.data.cache import AudioCache, current_cache, use_cache
from audio_ssl.data.dedupe import drop_duplicates
from audio_ssl.data.formats.export import export_manifest
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.pack import write_shards
from audio_ssl.data.remote import Fetcher, TransferSettings
from audio_ssl.data.scan import scan
from audio_ssl.data.segment import segment_manifest
from audio_ssl.data.silence import SegmentSettings
from audio_ssl.data.summary import find_faults
from audio_ssl.errors import ManifestError
from audio_ssl.inference.source import ManifestSource, open_input
from audio_ssl.train.datasets import open_training_data
from tests.unit.data.file_server import FileServer, file_server
from tests.unit.data.verbs import call


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    use_cache(AudioCache(tmp_path / "cache", max_bytes=10**8, fetch=Fetcher(TransferSettings(first_wait_s=0.01))))
    with file_server() as running:
        yield running
    use_cache(None)


@pytest.fixture
def away(corpus: Manifest, server: FileServer) -> Manifest:
    """The corpus of seven files, elsewhere."""
    return corpus.moved_to(server.add_tree(corpus.root, "corpus/"))


def same_audio(left: Manifest, right: Manifest) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(load_waveform(left, i, sample_rate_hz=16000), load_waveform(right, i, sample_rate_hz=16000))
        for i in range(len(left))
    )


@pytest.mark.parametrize("extension", ["arrow", "parquet", "tsv"])
def test_our_formats_keep_addresses(away: Manifest, tmp_path: Path, extension: str):
    rows = [*away, Utterance("x", "gs://bucket/a b.wav", 0, 5, 8000), Utterance("y", "/abs/a.wav", 0, 5, 8000)]
    Manifest.from_rows(rows, root=away.root).write(tmp_path / f"m.{extension}")
    back = Manifest.read(tmp_path / f"m.{extension}")
    assert back.root == away.root
    assert isinstance(back.root, Address)
    assert list(back) == rows
    assert [str(back.audio_path(i)) for i in (0, 7, 8)] == [
        f"{away.root}/s0/u0.flac", "gs://bucket/a b.wav", "/abs/a.wav",
    ]  # fmt: skip


def test_a_table_without_ids_takes_them_from_addresses_without_their_queries(tmp_path: Path):
    (tmp_path / "m.tsv").write_text(
        "#audio_ssl-manifest\tversion=1\npath\tnum_samples\tsample_rate\nhttps://h/a.wav?sig=SECRET\t9\t8000\nb.wav\t9\t8000\n"
    )
    back = Manifest.read(tmp_path / "m.tsv")
    assert back.column("id") == ["https://h/a.wav?...", "b.wav"]
    assert "SECRET" not in back.describe(0)
    assert back[0].path == "https://h/a.wav?sig=SECRET"


def test_manifests_here_and_elsewhere_are_joined(corpus: Manifest, away: Manifest):
    named = Manifest.from_rows([Utterance("x", "gs://bucket/x//a.wav", 0, 1, 1)], root="/audio")
    parts = [corpus.select([0, 1]), away.select([2, 3]), corpus.select([4]).moved_to("s3://b"), named]
    joined = Manifest.concat(parts)
    assert [str(joined.audio_path(i)) for i in range(6)] == [
        f"{corpus.root}/s0/u0.flac", f"{corpus.root}/s1/u1.flac", f"{away.root}/s2/u2.flac", f"{away.root}/s0/u3.flac",
        "s3://b/s1/u4.flac", "gs://bucket/x//a.wav",
    ]  # fmt: skip
    assert same_audio(joined.select(range(4)), corpus.select(range(4)))


def test_a_row_that_leaves_a_root_elsewhere_is_refused_by_joining_too(away: Manifest, corpus: Manifest):
    table = away.select([0]).table
    crooked = Manifest(table.set_column(1, table.schema.field("path"), [["../secret.flac"]]), root=away.root)
    with pytest.raises(ManifestError, match="path must stay under the root"):
        Manifest.concat([crooked, corpus])


def test_a_pack_that_was_uploaded_is_pointed_at_by_convert(corpus: Manifest, server: FileServer, tmp_path: Path):
    write_shards(corpus, tmp_path / "pack", shard_bytes=10**9).manifest.write(tmp_path / "pack" / "manifest.arrow")
    url = server.add_tree(tmp_path / "pack", "up/")
    assert "wrote 7 rows" in call("convert", tmp_path / "pack" / "manifest.arrow", tmp_path / "m.arrow", "--root", url)
    there = Manifest.read(tmp_path / "m.arrow")
    assert str(there.root) == url
    assert same_audio(there, corpus)
    assert {path for path, _ in server.requests} == {"/up/shard-000000.tar"}
    assert "all 7 rows agree" in call("validate", tmp_path / "m.arrow", "--decode")
    assert f"{url}/shard-000000.tar bytes 512 to" in call("show", tmp_path / "m.arrow", 1)
    with pytest.raises(ManifestError, match=r"(?s)every path must start from the root, but 1 do not.*\(x, s3://b/a\)"):
        Manifest.from_rows([Utterance("x", "s3://b/a", 0, 1, 1)], root="/").moved_to("s3://c")


def test_convert_points_at_another_folder_of_this_machine_too(corpus: Manifest, tmp_path: Path):
    corpus.write(tmp_path / "m.arrow")
    corpus.root.rename(tmp_path / "moved")
    call("convert", tmp_path / "m.arrow", tmp_path / "new.arrow", "--root", tmp_path / "moved")
    Manifest.read(tmp_path / "new.arrow").check_files()


def nemo(folder: Path, values: list[dict]) -> Path:
    (folder / "m.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values))
    return folder / "m.jsonl"


def test_nemo_names_addresses(away: Manifest, corpus: Manifest, tmp_path: Path):
    values = [{"audio_filepath": f"{away.root}/{row.path}?sig=SECRET.1", "text": row.text} for row in away]
    back = Manifest.read(nemo(tmp_path, values))
    assert same_audio(back, corpus)
    assert back.column("id")[0] == f"{away.root}/s0/u0"
    for address, message in (
        ("file:///etc/passwd", "audio_filepath: an address must start with one of"),
        (f"{away.root}/gone.wav?sig=SECRET", r"gone\.wav\?\.\.\. must be readable audio: there is no such file"),
    ):
        with pytest.raises(ManifestError, match=message) as caught:
            Manifest.read(nemo(tmp_path, [{"audio_filepath": address}]))
        assert "SECRET" not in str(caught.value)
    export_manifest(away, tmp_path / "out.jsonl", to="nemo")
    written = Manifest.read(tmp_path / "out.jsonl")
    assert [row.path for row in written] == [f"{away.root}/{row.path}" for row in away]


def test_lhotse_calls_addresses_urls(away: Manifest, corpus: Manifest, tmp_path: Path):
    export_manifest(away, tmp_path / "cuts.jsonl", to="lhotse")
    first = json.loads((tmp_path / "cuts.jsonl").read_text().splitlines()[0])
    assert first["recording"]["sources"] == [{"type": "url", "channels": [0], "source": f"{away.root}/s0/u0.flac"}]
    back = Manifest.read(tmp_path / "cuts.jsonl")
    assert same_audio(back, corpus)
    first["recording"]["sources"][0]["source"] = "memory://a.flac"
    (tmp_path / "bad.jsonl").write_text(json.dumps(first))
    with pytest.raises(ManifestError, match="source: an address must start with one of"):
        Manifest.read(tmp_path / "bad.jsonl")


def test_kaldi_directories_name_addresses(away: Manifest, corpus: Manifest, tmp_path: Path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text("".join(f"{row.id} {away.root}/{row.path}\n" for row in away))
    back = Manifest.read(folder)
    assert same_audio(back, corpus)
    found = scan(folder)  # a scan looks at this machine alone, and says so
    assert {(r.reason, r.path) for r in found.refusals} == {
        ("address in wav.scp", f"{away.root}/{row.path}") for row in away
    }
    (folder / "wav.scp").write_text("a ftp://h/a.wav\n")
    with pytest.raises(ManifestError, match="a: an address must start with one of"):
        Manifest.read(folder)
    with pytest.raises(ManifestError, match=r"(?s)7 rows cannot be written as a Kaldi data directory.*is elsewhere"):
        export_manifest(away, tmp_path / "kaldi", to="kaldi")


def test_fairseqs_manifests_name_addresses(away: Manifest, corpus: Manifest, tmp_path: Path):
    lines = [f"{row.path}\t{row.num_samples}" for row in away]
    (tmp_path / "m.tsv").write_text("\n".join([str(away.root), *lines]) + "\n")
    assert same_audio(Manifest.read(tmp_path / "m.tsv"), corpus)
    (tmp_path / "m.tsv").write_text("\n".join([".", *(f"{away.root}/{line}" for line in lines)]) + "\n")
    assert same_audio(Manifest.read(tmp_path / "m.tsv"), corpus)
    for line, message in (
        ("file:///x.wav\t5", "must start with one of"),
        ("s3://b/../x.wav\t5", "without the folders"),
    ):
        (tmp_path / "m.tsv").write_text(f".\n{line}\n")
        with pytest.raises(ManifestError, match=message):
            Manifest.read(tmp_path / "m.tsv")
    with pytest.raises(ManifestError, match=r"(?s)7 rows cannot be written as a fairseq manifest.*is elsewhere"):
        export_manifest(away, tmp_path / "out.tsv", to="fairseq")


def test_packing_fetches_what_is_elsewhere(away: Manifest, corpus: Manifest, server: FileServer, tmp_path: Path):
    server.always["/corpus/s1/u4.flac"] = 404
    here = write_shards(corpus.select([0, 1, 2, 3, 5, 6]), tmp_path / "here", shard_bytes=10**9)
    there = write_shards(away, tmp_path / "there", shard_bytes=10**9)
    assert [(r.path, r.reason, r.detail) for r in there.refusals] == [
        (f"{away.root}/s1/u4.flac", "unreadable", "there is no such file")
    ]
    shards = [(tmp_path / name / "shard-000000.tar").read_bytes() for name in ("here", "there")]
    assert shards[0] == shards[1]
    assert here.num_files == there.num_files == 6


def test_a_packed_file_keeps_the_extension_of_its_address(server: FileServer, write_audio, tmp_path: Path):
    write_audio(tmp_path / "a.ogg", 16000)
    url = server.add("a.oga", tmp_path / "a.ogg") + "?x=1.wav"
    manifest = Manifest.from_rows([Utterance("a", url, 0, 16000, 16000)], root="/")
    (shard,) = write_shards(manifest, tmp_path / "pack", shard_bytes=10**9).shards
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["a.oga", "a.json"]


def test_equal_bytes_elsewhere_are_found(away: Manifest, server: FileServer):
    server.files["/corpus/s2/u5.flac"] = server.files["/corpus/s1/u4.flac"]
    server.always["/corpus/s0/u6.flac"] = 404
    rows = [replace(row, num_samples=8000) for row in away]
    result = drop_duplicates(Manifest.from_rows(rows, root=away.root))
    assert [(r.path, r.reason) for r in result.refusals] == [("s2/u5.flac", "duplicate"), ("s0/u6.flac", "unreadable")]
    assert "there is no such file" in result.refusals[1].detail


def test_recordings_elsewhere_are_cut(away: Manifest, corpus: Manifest, server: FileServer):
    settings = SegmentSettings(min_s=0.1, max_s=0.6)
    here, there = (segment_manifest(m, settings=settings) for m in (corpus, away))
    assert there.manifest.root == away.root
    assert list(here.manifest) == list(there.manifest)
    server.always["/corpus/s0/u6.flac"] = 404
    current_cache().discard(away.audio_file(6))
    (refusal,) = segment_manifest(away, settings=settings).refusals
    assert refusal.path == "s0/u6.flac"


def test_missing_files_elsewhere_are_told_by_validate(away: Manifest, server: FileServer):
    server.always["/corpus/s1/u4.flac"] = 404
    (fault,) = find_faults(away)
    assert re.search(r"row 5 \(u4, s1/u4\.flac\): unreadable: there is no such file", fault)


def test_what_is_augmented_with_may_be_elsewhere(away: Manifest, corpus: Manifest, tmp_path: Path):
    away.write(tmp_path / "there.arrow")
    corpus.write(tmp_path / "here.arrow")
    found = []
    for name in ("here", "there"):
        augment = AugmentConfig(noise=(tmp_path / f"{name}.arrow",), noise_prob=1.0, noise_snr_db=(0.0, 10.0))
        loader = Loader(corpus, sample_rate_hz=16000, normalize=False, augment=augment, engine="threads")
        (batch,) = loader.batches([(0, 1, 2)])
        found.append(batch.waveforms)
    assert (found[0] == found[1]).all()


def test_inference_reads_and_names_what_is_elsewhere(away: Manifest, tmp_path: Path):
    away.write(tmp_path / "m.arrow")
    source = ManifestSource(open_input(tmp_path / "m.arrow").manifest)
    assert source.name(0) == ("u0", f"{away.root}/s0/u0.flac")
    assert source.load(0, 10, 100, to_hz=16000).shape == (100,)
    with pytest.raises(ManifestError, match="an address goes into a row of a manifest"):
        open_input("s3://bucket/a.wav")


def test_training_reads_through_the_cache_of_its_settings(away: Manifest, tmp_path: Path):
    away.write(tmp_path / "m.arrow")
    values = {
        "data": {
            "train": [str(tmp_path / "m.arrow")], "cache_dir": str(tmp_path / "mine"), "cache_gib": 0.001,
            "num_workers": 0, "min_s": 0.1,
        },
        "run": {"dir": str(tmp_path / "run")},
    }  # fmt: skip
    config = validate_config(PretrainConfig, values, source="here")
    data = open_training_data(
        config.data.train, config.data, sample_rate_hz=16000, normalize=False, min_samples=400, seed=1, is_train=True
    )
    (batch,) = data.loader.batches([(0, 1)])
    assert batch.rows == (0, 1)
    assert (current_cache().folder, current_cache().max_bytes) == (tmp_path / "mine", 2**30 // 1000)
    assert len(list((tmp_path / "mine").glob("??/*.flac"))) == 2


def test_files_that_only_librosa_opens_are_fetched_too(server: FileServer, write_audio, tmp_path: Path):
    """The name alone decides; what the decoder makes of it is as for a file here."""
    write_audio(tmp_path / "a.wav", 16000)
    (tmp_path / "a.m4a").write_bytes((tmp_path / "a.wav").read_bytes())
    url = server.add("a.m4a", tmp_path / "a.m4a")
    there = Manifest.from_rows([Utterance("a", url, 0, 16000, 16000)], root="/")
    assert probe(there.audio_file(0)) == probe(tmp_path / "a.m4a")
    here = Manifest.from_rows([Utterance("a", "a.m4a", 0, 16000, 16000)], root=tmp_path)
    assert same_audio(here, there)
