"""Names under a folder: their order, what is followed, and what counts as an extension."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio_ssl.data.files import extension, find_files, is_audio, stem_path, walk
from audio_ssl.errors import ManifestError

NAMES = (
    "a.wav",
    "a/b.wav",
    "a.b/c.wav",
    "a-b/c.wav",
    "ab.wav",
    "a/b/c.wav",
    "a/b.c/d.wav",
    "B/z.wav",
    "é/ä.wav",
    "0.wav",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_the_walk_is_in_the_order_of_whole_paths(folder: Path):
    assert list(walk(folder)) == sorted(NAMES)


def test_the_walk_lists_a_folder_only_when_it_gets_there(folder: Path):
    names = walk(folder)
    assert next(names) == "0.wav"
    (folder / "é" / "new.wav").touch()
    assert list(names)[-2:] == ["é/new.wav", "é/ä.wav"]


def test_a_folder_that_two_links_lead_to_is_met_where_its_first_name_stands(folder: Path):
    (folder / "a" / "again").symlink_to(folder / "é")
    (folder / "a" / "up").symlink_to(folder)
    names = list(walk(folder))
    assert "a/again/ä.wav" in names
    assert [name for name in names if name.startswith(("é/", "a/up"))] == []
    assert names == sorted(names)


def test_files_are_counted_by_kind_and_only_those_asked_for_are_kept(folder: Path):
    for name in ("a/x.txt", "b.txt", "a/y.json", "z", ".hid.wav", "a/.x.txt", ".git/c.wav"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    found = find_files(folder, keep=lambda name: name.endswith(".txt"))
    assert (found.num_audio, found.num_hidden) == (len(NAMES), 2)
    assert found.kept == ("a/x.txt", "b.txt")
    assert found.unused == {".txt": 3, ".json": 1, "": 1, ".wav": 1}
    assert list(found.audio()) == sorted(NAMES)


def test_a_folder_that_is_gone_in_the_midst_is_named(folder: Path):
    names = walk(folder)
    next(names)
    (folder / "B" / "z.wav").unlink()
    (folder / "B").rmdir()
    with pytest.raises(ManifestError, match=r"every folder under .* must be readable: .*B"):
        list(names)


@given(st.lists(st.text(st.sampled_from("aB.é "), min_size=1), min_size=1, max_size=3))
def test_extensions_are_pathlibs(parts: list[str]):
    name = "/".join(parts)
    path = PurePosixPath(name)
    if str(path) != name or path.name in ("", "..") or path.name.endswith("."):  # pathlib itself changed about "a."
        return
    assert extension(name) == path.suffix.lower()
    assert stem_path(name) == name[: len(name) - len(path.suffix)]


def test_audio_is_known_by_extension_in_any_case():
    assert [
        name for name in ("a.WAV", "a/b.Flac", "a.wav/b", "a.", "a.txt", ".a.wav", "a/.wav", "wav") if is_audio(name)
    ] == [
        "a.WAV",
        "a/b.Flac",
    ]
