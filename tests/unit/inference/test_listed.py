"""Files that are named on standard input: order, names, refusals, and a result before the next name comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_ssl.inference.decoding import GreedyDecoder
from audio_ssl.inference.listed import Ids, open_list, read_paths, transcribe_listed
from audio_ssl.inference.source import Refusal
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.transcribe import Transcriber, one_by_one
from tests.unit.inference.conftest import CPU, write_wav
from tests.unit.inference.spelled import spelled, speller


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    words = ["cat", "a", "tab", "act|at"]
    return [str(write_wav(tmp_path / f"{i}.wav", spelled(word))) for i, word in enumerate(words)]


def transcriber() -> Transcriber:
    recogniser = speller()
    return Transcriber(recogniser, one_by_one(GreedyDecoder(recogniser.vocabulary)), StreamSettings(batch_s=0.1), CPU)


def test_paths_are_lines() -> None:
    assert list(read_paths([b"a b.wav\n", b"\n", b"c.wav\r\n", b"\xff.wav"])) == ["a b.wav", "c.wav", "\udcff.wav"]


def test_ids_are_paths_without_what_is_not_a_name() -> None:
    ids = Ids()
    paths = ["/data/a/b.wav", "./a/b.flac", "../a/b.ogg", "a/b", "...", ".", "x.y/z.tar.wav"]
    assert [ids(path) for path in paths] == [
        "data/a/b", "a/b", "a/b-2", "a/b-3", "...", "recording", "x.y/z.tar",
    ]  # fmt: skip


def test_results_come_in_the_order_of_the_list_refusals_among_them(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    listed = [str(tmp_path / "none.wav"), files[3], str(tmp_path / "bad.wav"), files[0], files[0], str(tmp_path / "x")]
    found = list(transcribe_listed(transcriber(), listed))
    assert [result.path for result in found] == listed
    texts = [result.reason if isinstance(result, Refusal) else result.text for result in found]
    assert (texts[1], texts[3], texts[4]) == ("act at", "cat", "cat")
    assert [isinstance(result, Refusal) for result in found] == [True, False, True, False, False, True]
    assert found[3].id + "-2" == found[4].id


def test_whoever_names_a_file_and_waits_gets_its_text(files: list[str]) -> None:
    named: queue.Queue[str | None] = queue.Queue()

    def paths() -> Iterator[str]:
        while (path := named.get()) is not None:
            yield path

    texts: queue.Queue[str] = queue.Queue()

    def work() -> None:
        for result in transcribe_listed(transcriber(), paths()):
            assert not isinstance(result, Refusal)
            texts.put(result.text)

    thread = threading.Thread(target=work)
    thread.start()
    for path, text in zip(files, ["cat", "a", "tab", "act at"], strict=True):
        named.put(path)
        assert texts.get(timeout=60) == text
    named.put(None)
    thread.join()


def test_a_list_that_breaks_off_is_no_end(files: list[str]) -> None:
    def paths() -> Iterator[str]:
        yield files[0]
        raise OSError("the list is gone")

    with pytest.raises(OSError, match="the list is gone"):
        list(transcribe_listed(transcriber(), paths()))


def test_a_list_as_a_manifest(files: list[str], tmp_path: Path) -> None:
    opened = open_list([files[1], str(tmp_path / "none.wav"), files[0], files[1]], workers=2)
    assert [row.path for row in opened.manifest] == [files[1], files[0], files[1]]
    assert opened.manifest[2].id == opened.manifest[0].id + "-2"
    assert [refusal.path for refusal in opened.refused] == [str(tmp_path / "none.wav")]
