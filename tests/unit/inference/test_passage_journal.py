"""The journal of a long recording: whole lines only, in their order, of that recording alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.inference.align import TimedToken
from audio_ssl.inference.passage_journal import PassageJournal
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.transcripts import PassageText

FIRST = PassageText(
    0, 60, False, "à b", (TimedToken("à", 0.1, 0.2, 0.5), TimedToken("b", 0.3, 0.4, 0.25)), None, (3, 4)
)
SECOND = PassageText(60, 110, False, "", None, "no times", None)
LAST = PassageText(110, 130, True, "c", (), None, (5, 5))


def journal_of(folder: Path, *, num_samples: int = 50_000) -> PassageJournal:
    rows = [Utterance("a", "a.wav", 0, num_samples, 16_000), Utterance("b", "b.wav", 0, 9, 16_000)]
    return PassageJournal(folder / "passages", Rows(Manifest.from_rows(rows, root=folder)))


def test_what_is_added_is_known_to_the_next_run(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    assert journal.known(0) == ()
    for passage in (FIRST, SECOND, LAST):
        journal.add(0, passage)
    assert journal_of(tmp_path).known(0) == [FIRST, SECOND, LAST]
    assert journal.known(1) == ()
    assert journal_of(tmp_path, num_samples=50_001).known(0) == ()  # another recording under the same name
    journal.forget([0, 1])
    assert journal.known(0) == ()
    assert not (tmp_path / "passages").exists()


@pytest.mark.parametrize("lost", [1, 2, 30])
def test_a_line_that_was_cut_off_is_forgotten_and_the_next_one_is_whole(tmp_path: Path, lost: int) -> None:
    journal = journal_of(tmp_path)
    journal.add(0, FIRST)
    journal.add(0, SECOND)
    (file,) = (tmp_path / "passages").iterdir()
    file.write_bytes(file.read_bytes()[:-lost])
    assert journal.known(0) == [FIRST]
    journal.add(0, SECOND)
    journal.add(0, LAST)
    assert journal.known(0) == [FIRST, SECOND, LAST]


def test_a_passage_that_does_not_go_on_ends_what_is_known(tmp_path: Path) -> None:
    journal = journal_of(tmp_path)
    journal.add(0, FIRST)
    journal.add(0, LAST)  # the one between them is missing
    assert journal.known(0) == [FIRST]
