"""Addresses: which a manifest may hold, where relative paths lead from one, and that none is shown with a secret."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.data.addresses import Address, address_fault, looks_like_address, place_of, root_of, shown
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.table import _PLAIN_ADDRESS, path_fault
from audio_ssl.errors import ManifestError

GOOD = [
    "https://data.example.org/a.flac", "http://10.0.0.1:8000/x/y z/語.wav", "http://[::1]:80/a.wav",
    "s3://bucket/a/b..c.flac", "gs://b/1", "gcs://b/a#1.wav", "s3a://b/a?b.flac", "az://c/d.opus",
    "abfs://container@account.dfs.core.windows.net/a.flac", "https://h/a.flac?X-Sig=ab%2Fcd&e=1",
]  # fmt: skip
BAD = [
    ("file:///etc/passwd", "must start with one of http://, https://, s3://"),
    ("local:///etc/passwd", "must start with one of"),
    ("memory://a", "must start with one of"),
    ("S3://b/a", "must start with one of"),
    ("://b/a", "must start with one of"),
    ("x/y/http://h/a", "must start with one of"),
    ("zip://a.wav::http://h/a.zip", "must start with one of"),
    ("simplecache::s3://b/a", "must start with one of"),
    ("reference://a", "must start with one of"),
    ("python://a", "must start with one of"),
    ("http://h/a.zip::file:///etc/passwd", "chains"),
    ("s3://a::b/c", "chains"),
    ("http:///a.wav", "must have a host"),
    ("s3://bucket", "must have a host"),
    ("s3://bucket/", "must have a host"),
    ("http://../a", "must have a host"),
    ("https://user:word@h/a", "no user and no password"),
    ("https://token@h/a", "no user and no password"),
    ("s3://key:word@b/a", "no user and no password"),
    ("http://h/a/../../b", "without the folders"),
    ("http://h/a/%2e%2E/b", "without the folders"),
    ("http://h/a/..%2fb", "without the folders"),
    ("http://h/a\\..\\b", "without the folders"),
    ("s3://b/./a", "without the folders"),
    ("http://h/a\r\nX-Header: 1", "control characters"),
    ("http://h/a\x85", "control characters"),
]


@pytest.mark.parametrize("address", GOOD)
def test_an_address_of_a_file_is_taken(address: str):
    assert address_fault(address) is None
    assert Manifest.from_rows([Utterance("a", address, 0, 1, 1)], root="/")[0].path == address


@pytest.mark.parametrize(("address", "message"), BAD)
def test_anything_else_is_refused_by_its_row(address: str, message: str):
    with pytest.raises(ManifestError, match=rf"(?s)manifest row 1 \(a, .*: .*{message}"):
        Manifest.from_rows([Utterance("a", address, 0, 1, 1)], root="/")
    table = Manifest.from_rows([Utterance("a", "x", 0, 1, 1)], root="/").table
    trusted = Manifest(table.set_column(1, table.schema.field("path"), [[address]]), root=Path("/"))
    with pytest.raises(ManifestError, match=message):  # a mapped file is not checked when it is opened
        trusted.audio_file(0)


@given(st.from_regex(_PLAIN_ADDRESS, fullmatch=True))
def test_what_is_passed_without_a_close_look_would_pass_it(address: str):
    address = address.rstrip("\n")  # Python's `$`, not Arrow's
    assert path_fault(address) is None


def test_relative_paths_start_from_the_root_and_stay_below_it():
    web, store = root_of("https://h/corpus/"), root_of("s3://bucket")
    # in a web address these letters mean something; a file's name has them as letters
    assert place_of(web, "a b/50%#1?.wav") == Address("https://h/corpus/a%20b/50%25%231%3F.wav")
    assert place_of(web, "%2e%2e/a.wav") == Address("https://h/corpus/%252e%252e/a.wav")
    assert place_of(store, "a b/50%#1?.wav") == Address("s3://bucket/a b/50%#1?.wav")
    assert place_of(store, "x/../y/./a.wav") == Address("s3://bucket/y/a.wav")
    assert place_of(store, "/abs/a.wav") == Path("/abs/a.wav")
    assert (
        place_of(store, "gs://other/a.wav")
        == place_of(Path("/audio"), "gs://other/a.wav")
        == Address("gs://other/a.wav")
    )
    for path in ("../a.wav", "x/../../a.wav"):
        with pytest.raises(ManifestError, match="must stay under the root"):
            Manifest.from_rows([Utterance("a", path, 0, 1, 1)], root="s3://bucket/corpus")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("file:///audio", "must start with one of"),
        ("https://h/corpus?sig=SECRET", r"without `\?` and `#`; got 'https://h/corpus\?\.\.\.'"),
        ("https://h/a/../b", "without the folders"),
        ("s3://", "must start with one of"),
        ("https://me:SECRET@h/corpus", "no user and no password"),
    ],
)
def test_a_root_that_nothing_can_start_from_is_refused(root: str, message: str, tmp_path: Path):
    with pytest.raises(ManifestError, match=message) as caught:
        Manifest.from_rows([Utterance("a", "a.wav", 0, 1, 1)], root=root)
    assert "SECRET" not in str(caught.value)
    (tmp_path / "m.tsv").write_text(f"#audio_ssl-manifest\tversion=1\troot={root}\npath\tnum_samples\tsample_rate\n")
    with pytest.raises(ManifestError, match=message):
        Manifest.read(tmp_path / "m.tsv")


def test_nothing_secret_is_shown():
    assert shown("https://me:word@h:80/a.flac?sig=1#x") == "https://h:80/a.flac?..."
    assert shown("s3://bucket/a.flac") == "s3://bucket/a.flac"
    assert shown("abfs://box@account/a.flac") == "abfs://box@account/a.flac"
    assert shown("plain/path?x=1@2.wav") == "plain/path?x=1@2.wav"
    address = Address("https://h/a.flac?sig=SECRET")
    assert "SECRET" not in f"{address} {address!r} {[address]}"
    assert address.suffix == ".flac"
    assert Address("https://h/a.WAV").suffix == ".wav"
    assert Address("s3://b/a.x/name").suffix == ""


def test_an_address_where_a_file_must_be_named_is_told_from_a_missing_file(tmp_path: Path):
    assert looks_like_address(Path("s3://bucket/m.arrow"))
    assert not looks_like_address(tmp_path / "m:1.arrow")
    with pytest.raises(ManifestError, match="a manifest must lie on this machine"):
        Manifest.read("https://h/m.arrow")
