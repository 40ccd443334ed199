"""One evaluation from its first utterance to its report: scoring, the file of utterances, comparison, refusals.

Texts come in as they were written; the scoring rules are applied here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from audio_ssl.errors import ManifestError
from audio_ssl.evaluate.comparison import Comparer, Comparison
from audio_ssl.evaluate.document import SCHEMA, SCHEMA_VERSION, comparison_document, report_document, utterance_document
from audio_ssl.evaluate.scores import Evaluation, Facts, Report, score_utterance
from audio_ssl.evaluate.text_rules import ScoringText
from audio_ssl.evaluate.utterance_file import LinesById, LineWriter, report_lines

NUM_NAMED = 100  # refusals in a report; the file of utterances names all
Named: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation came to.

    Attributes:
        report: its figures.
        comparison: with an earlier report, where one was given.
        refused: id, path and reason of the first :data:`NUM_NAMED` rows that take no part.
        num_refused: all of them.
    """

    report: Report
    comparison: Comparison | None
    refused: tuple[Named, ...]
    num_refused: int

    def to_document(self) -> dict[str, Any]:
        """JSON-able values."""
        return {
            **report_document(self.report),
            "comparison": None if self.comparison is None else comparison_document(self.comparison),
            "num_refused": self.num_refused,
            "refused": list(self.refused),
        }


class Session:
    """Takes utterances and refusals in, one by one.

    Args:
        text: what texts go through before they are compared.
        comparer: looks each utterance up in an earlier report.
        lines: where every utterance is written.
        num_worst: utterances to keep for the report.
    """

    def __init__(
        self, text: ScoringText, *, comparer: Comparer | None, lines: LineWriter | None, num_worst: int
    ) -> None:
        self._text, self._comparer, self._lines = text, comparer, lines
        self._evaluation = Evaluation(num_worst=num_worst)
        self._refused: list[Named] = []
        self._num_refused = 0

    def check(self, references: Iterable[tuple[str, str]]) -> None:
        """Look, before any work, whether an earlier report is about the same references, by id.

        Raises:
            ManifestError: it is not.
        """
        if self._comparer is not None:
            for utterance_id, reference in references:
                self._comparer.check_reference(utterance_id, self._text.reference(reference))

    def add(self, utterance_id: str, reference: str, hypothesis: str, *, facts: Facts) -> None:
        """Score an utterance.

        Raises:
            ManifestError: as :meth:`check`.
        """
        said, heard = self._text.reference(reference), self._text.hypothesis(hypothesis)
        utterance = score_utterance(utterance_id, said, heard, facts=facts)
        self._evaluation.add(utterance)
        if self._comparer is not None:
            self._comparer.add(utterance)
        if self._lines is not None:
            self._lines.write(utterance_document(utterance))

    def refuse(self, utterance_id: str, path: str, reason: str) -> None:
        """Count and name a row that takes no part."""
        named = {"id": utterance_id, "path": path, "reason": reason}
        self._num_refused += 1
        if len(self._refused) < NUM_NAMED:
            self._refused.append(named)
        if self._lines is not None:
            self._lines.write({"id": utterance_id, "path": path, "refused": reason})

    def outcome(self, *, seed: int) -> Outcome:
        """What came out; ``seed`` is that of the bootstrap."""
        comparison = None if self._comparer is None else self._comparer.result(seed=seed)
        return Outcome(self._evaluation.report(seed=seed), comparison, tuple(self._refused), self._num_refused)


def head() -> dict[str, Any]:
    """The first fields of every report."""
    return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION}


def open_baseline(report: Path) -> tuple[LinesById, str]:
    """The utterances of an earlier report, and a name for what made them. Close the utterances.

    Raises:
        ManifestError: it is no report, or its file of utterances is gone.
    """
    try:
        document = json.loads(report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"--compare must be the JSON report of an evaluation; {report}: {error}") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ManifestError(
            f"--compare must be the JSON report of an evaluation, of schema {SCHEMA}; {report} is not: make it again "
            "with `audio-ssl evaluate ... -o REPORT.json`"
        )
    if document["schema_version"] > SCHEMA_VERSION:
        raise ManifestError(
            f"--compare must be a report of schema version {SCHEMA_VERSION} at most, {report} has "
            f"{document['schema_version']}: it is from a newer audio_ssl"
        )
    lines = report.with_name(document["utterances_file"])
    if not lines.is_file():
        raise ManifestError(f"--compare needs the utterances beside the report: there is no {lines}; keep both files")
    return report_lines(lines), str(document["model"] or document["hypotheses"])
