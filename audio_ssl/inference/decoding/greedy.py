"""The best symbol of each frame."""

from __future__ import annotations

from dataclasses import dataclass

from audio_ssl.data.text import BLANK, Vocabulary, collapse
from audio_ssl.inference.decoding.settings import Hypothesis, LogProbs


@dataclass(frozen=True)
class GreedyDecoder:
    """The best symbol of each frame, collapsed.

    Attributes:
        vocabulary: names the columns.
    """

    vocabulary: Vocabulary

    def __call__(self, log_probs: LogProbs) -> str:
        """(T, A) float32 to text."""
        return self.vocabulary.decode_ids(collapse(log_probs.argmax(axis=-1).tolist(), blank=BLANK))

    def nbest(self, log_probs: LogProbs, n: int) -> list[Hypothesis]:
        """(T, A) float32 to one hypothesis: there is no second; its score is that of the best path."""
        return [Hypothesis(self(log_probs), float(log_probs.max(axis=-1).sum(dtype="float64")))][:n]
