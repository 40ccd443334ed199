"""Finished transcripts, whoever made them: JSON lines or plain lines, looked up by id.

JSON lines are known by the brace that they begin with. A line's text is its ``hypothesis``, else ``pred_text`` (NeMo),
else ``text`` (what ``transcribe`` writes); its ``reference``, where no manifest is given, is ``reference``, or ``text``
beside ``pred_text``. Plain lines are an id, a tab (or, where there is none, a space) and the text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audio_ssl.errors import ManifestError
from audio_ssl.evaluate.scores import Facts
from audio_ssl.evaluate.utterance_file import LinesById


@dataclass(frozen=True)
class Finished:
    """A finished transcript.

    Attributes:
        hypothesis: what was recognised.
        reference: what was said, where the line tells.
        facts: what else the line tells.
    """

    hypothesis: str
    reference: str | None = None
    facts: Facts = field(default_factory=Facts)


def open_hypotheses(path: Path) -> LinesById:
    """Index a file of transcripts; the contents are :class:`Finished`. Close it, or use it as a context manager.

    Raises:
        ManifestError: no such file, a line without id or text, or an id that comes twice.
    """
    is_json = _begins_with_brace(path)

    def parse(line: bytes, number: int) -> tuple[str, Any] | None:
        try:
            text = line.decode("utf-8")
            return _of_json(text) if is_json else _of_plain(text)
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path}:{number} must be UTF-8: {error}") from error
        except ValueError as error:
            form = 'a JSON object with "id" and "hypothesis" (or "text")' if is_json else "an id, a tab and a text"
            raise ManifestError(f"{path}:{number} must be {form}: {error}") from error

    return LinesById(path, parse)


def _begins_with_brace(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return next((line for line in file if line.strip()), b"").lstrip().startswith(b"{")
    except OSError as error:
        raise ManifestError(f"--hypotheses must be a file that can be read: {error}") from error


def _of_json(line: str) -> tuple[str, Finished] | None:
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError(f"it is a {type(document).__name__}")
    if "refused" in document:  # a row of a report that has no transcript
        return None
    key = next((key for key in ("hypothesis", "pred_text", "text") if key in document), None)
    if key is None or "id" not in document:
        raise ValueError(f"its keys are {', '.join(document) or 'none'}")
    reference = document.get("reference", document.get("text") if key == "pred_text" else None)
    duration = document.get("duration_s", document.get("duration"))
    facts = Facts(
        _text_or_none(document, "speaker"), _text_or_none(document, "language"),
        float(duration) if isinstance(duration, int | float) else None,
    )  # fmt: skip
    hypothesis = document[key]
    if not isinstance(hypothesis, str) or not isinstance(reference, str | None):
        raise ValueError(f"{key} and reference must be texts")
    return str(document["id"]), Finished(hypothesis, reference, facts)


def _text_or_none(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    return None if value is None else str(value)


def _of_plain(line: str) -> tuple[str, Finished]:
    stripped = line.strip("\r\n")
    name, _, text = stripped.partition("\t" if "\t" in stripped else " ")
    if not name:
        raise ValueError("it begins with white space")
    return name, Finished(text.strip())
