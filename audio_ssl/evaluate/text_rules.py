"""How references and hypotheses are brought into one form before they are compared; the report states which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from audio_ssl.config.text import TextRules
from audio_ssl.data.normalize import Normalizer

RuleName = Literal["model", "plain", "exact"]
_APOSTROPHES = dict.fromkeys("’‘ʼ＇`", "'")
PLAIN = TextRules(unicode_form="NFKC", case="lower", punctuation="remove", replace=_APOSTROPHES)
EXACT = TextRules(unicode_form="NFC", case="keep", punctuation="keep")
MEANINGS: dict[RuleName, str] = {
    "model": "references went through the model's own text rules, hypotheses are as it wrote them",
    "plain": "both went through one set of rules: NFKC, lower case, punctuation and symbols to spaces but for "
    "apostrophes and their like inside words, single spaces",
    "exact": "both are as they stand but for Unicode's composed form (NFC) and single spaces: case and punctuation "
    "count",
}


@dataclass(frozen=True)
class ScoringText:
    """The rules of an evaluation.

    Attributes:
        name: as the user chose.
        references: what references go through.
        hypotheses: what hypotheses go through; None leaves them as the model wrote them.
    """

    name: RuleName
    references: TextRules
    hypotheses: TextRules | None

    @classmethod
    def named(cls, name: RuleName, of_model: TextRules = EXACT) -> ScoringText:
        """The rules of a name; ``of_model`` are those of the recogniser."""
        if name == "model":
            return cls(name, of_model, None)
        rules = PLAIN if name == "plain" else EXACT
        return cls(name, rules, rules)

    def reference(self, text: str) -> str:
        """What was said, in the form to be compared."""
        return Normalizer(self.references)(text)

    def hypothesis(self, text: str) -> str:
        """What was recognised, in the form to be compared."""
        return text if self.hypotheses is None else Normalizer(self.hypotheses)(text)

    def to_document(self) -> dict[str, Any]:
        """JSON-able values for the report."""
        return {
            "rule": self.name,
            "meaning": MEANINGS[self.name],
            "references": self.references.model_dump(mode="json"),
            "hypotheses": None if self.hypotheses is None else self.hypotheses.model_dump(mode="json"),
        }
