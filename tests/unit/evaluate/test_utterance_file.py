"""Files of utterances: written whole or not at all, and found by id in any order."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.evaluate import utterance_file
from audio_ssl.evaluate.hypotheses import open_hypotheses
from audio_ssl.evaluate.scores import Facts
from audio_ssl.evaluate.utterance_file import LineWriter, beside, report_lines


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_are_there_when_all_is_well_and_not_before(tmp_path: Path) -> None:
    place = tmp_path / "new" / "u.jsonl"
    with LineWriter(place) as writer:
        writer.write({"id": "día"})
        assert not place.exists()
    assert place.read_text(encoding="utf-8") == '{"id": "día"}\n'
    with pytest.raises(ValueError, match="not JSON compliant"), LineWriter(place) as writer:
        writer.write({"id": math.nan})
    assert json.loads(place.read_text(encoding="utf-8"))["id"] == "día"
    assert [p.name for p in place.parent.iterdir()] == ["u.jsonl"]
    with pytest.raises(ConfigError, match="must be writable"):
        LineWriter(place / "below.jsonl")


def test_lines_are_found_by_id(tmp_path: Path) -> None:
    names = [f"{i * 7919 % 101} é" for i in range(101)]
    path = write(tmp_path / "r.jsonl", "\n".join(json.dumps({"id": n, "x": n * 2}, ensure_ascii=False) for n in names))
    with report_lines(path) as lines:
        assert len(lines) == 101
        assert all(lines.get(name)["x"] == name * 2 for name in sorted(names)[1:])
        assert lines.get("absent") is None
        assert lines.get(sorted(names)[0], uses=False)["x"]
        assert (lines.num_unused, list(lines.unused())) == (1, [sorted(names)[0]])
        assert [name for name, _ in lines] == names


def test_names_whose_hashes_clash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utterance_file, "_hash", len)
    path = write(tmp_path / "h.txt", "aa one\nb two\ncc three\nd four\n")
    with open_hypotheses(path) as lines:
        assert [lines.get(name).hypothesis for name in ("d", "cc", "b", "aa")] == ["four", "three", "two", "one"]
        assert lines.get("ee") is None
    with pytest.raises(ManifestError, match="'b' is there more than once"):
        open_hypotheses(write(path, "b two\nc three\nb two\n"))


def test_the_utterances_of_a_report_lie_beside_it() -> None:
    assert beside(Path("a/report.json")) == Path("a/report.utterances.jsonl")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"id": "u", "hypothesis": "h", "reference": "r"}', ("h", "r")),
        ('{"id": "u", "text": "t"}', ("t", None)),
        ('{"id": "u", "pred_text": "p", "text": "t"}', ("p", "t")),
        ('{"id": "u", "hypothesis": "", "text": "t", "reference": null}', ("", None)),
        ("u\ta text", ("a text", None)),
        ("u a text", ("a text", None)),
        ("u\t", ("", None)),
        ("u", ("", None)),
    ],
)
def test_forms_of_finished_transcripts(tmp_path: Path, line: str, expected: tuple[str, str | None]) -> None:
    with open_hypotheses(write(tmp_path / "h", f"\n{line}\n\n")) as lines:
        found = lines.get("u")
    assert (found.hypothesis, found.reference) == expected


def test_facts_come_along_and_refused_rows_do_not(tmp_path: Path) -> None:
    text = '{"id": "u", "text": "t", "speaker": 7, "language": "sv", "duration": 2}\n{"id": "v", "refused": "gone"}\n'
    with open_hypotheses(write(tmp_path / "h", text)) as lines:
        assert lines.get("u").facts == Facts("7", "sv", 2.0)
        assert len(lines) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "u", "text": "t"}\n{"id": 3', r"h:2 must be a JSON object"),
        ('{"id": "u"}', "its keys are id"),
        ('{"text": "u"}', "its keys are text"),
        ('{"id": "u", "text": 3}', "must be texts"),
        ('{"id": "u", "text": "t"}\n[]', "it is a list"),
        ("u one\n two", r"h:2 must be an id, a tab and a text"),
    ],
)
def test_what_is_no_transcript_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        open_hypotheses(write(tmp_path / "h", text))


def test_files_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="--hypotheses must be a file"):
        open_hypotheses(tmp_path / "none")
    with pytest.raises(ManifestError, match="must be a file that can be read"):
        report_lines(tmp_path / "none")
    (tmp_path / "latin").write_bytes("u día".encode("latin-1"))
    with pytest.raises(ManifestError, match="latin:1 must be UTF-8"):
        open_hypotheses(tmp_path / "latin")


def test_seventeen_bytes_a_line_are_held(tmp_path: Path) -> None:
    with open_hypotheses(write(tmp_path / "h", "".join(f"u{i} text\n" for i in range(50)))) as lines:
        assert lines._hashes.nbytes + lines._offsets.nbytes + lines._is_used.nbytes == 17 * 50
