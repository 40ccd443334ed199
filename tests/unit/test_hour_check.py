"""The tool that watches an hour's transcription: its recording, its look at subtitles, and that kills are kills."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile as sf

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from hour_check import broken_rules, differences, kill_and_go_on, write_drawn

from audio_ssl.inference.align import TimedToken
from audio_ssl.inference.source import manifest_of_files

FIRST_AND_SECOND = 5  # draws kills after one passage, and after two
# Writes a line beside the output each time that it is started, and is done at its third start.
STUBBORN = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[-1])
work = out.parent / f".{out.name}.work" / "passages"
work.mkdir(parents=True, exist_ok=True)
with (work / "a.jsonl").open("a") as journal: journal.write("a passage\\n")
while (work / "a.jsonl").read_text().count("\\n") < 3: time.sleep(0.1)
(work / "a.jsonl").unlink(); work.rmdir(); work.parent.rmdir(); out.write_text("all of it")
"""


def test_a_recording_is_drawn_and_drawn_alike(tmp_path: Path) -> None:
    for name, value in [("a", 0.1), ("b", 0.2), ("c", 0.3)]:
        sf.write(tmp_path / f"{name}.wav", np.full(100, value), 16_000, subtype="FLOAT")
    manifest, found = manifest_of_files(sorted(tmp_path.glob("*.wav"))), []
    for seed in (1, 1, 2):
        write_drawn(manifest, tmp_path / "hour.caf", 600, seed=seed)
        found.append(np.round(sf.read(tmp_path / "hour.caf")[0][50::100], 1).tolist())
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_words_that_differ_are_counted_with_their_times() -> None:
    def words(text: str) -> list[TimedToken]:
        return [TimedToken(word, float(i), i + 0.5, 1.0) for i, word in enumerate(text.split())]

    assert differences(words("a b c d e"), words("a x c d d e")) == [(1, [1.0, 1.5, 1.0, 1.5]), (1, [4.0, 4.5])]
    assert differences(words("a b"), words("a b")) == []


def test_broken_subtitles_are_seen() -> None:
    good = "1\n00:00:00,000 --> 00:00:02,000\na\nb\n\n2\n00:00:02,000 --> 00:00:09,000\nc\n\n"
    assert broken_rules(good) == ([], 2)
    for bad in (
        good.replace("2\n00:00:02", "3\n00:00:02"), good.replace("09,000", "09,100"), good.replace("b\n", "b\nb\n"),
        good.replace("02,000 -->", "01,900 -->"), good.replace("c", "c" * 43), good.replace(",", "."),
    ):  # fmt: skip
        assert broken_rules(bad)[0], bad


def test_a_run_is_killed_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "whole.srt").write_text("all of it")
    command = [sys.executable, "-c", STUBBORN]
    killed = kill_and_go_on(command, tmp_path, 2, seed=FIRST_AND_SECOND, num_passages=3)
    assert (killed.num_kills, killed.known_at, killed.is_equal) == (2, (1, 2), True)
    (tmp_path / "killed.srt").unlink()
    (tmp_path / "whole.srt").write_text("something else")
    assert not kill_and_go_on(command, tmp_path, 2, seed=FIRST_AND_SECOND, num_passages=3).is_equal
