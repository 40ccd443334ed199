"""Our beam search: a decoder from settings, and its hypotheses as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding.kernel import search
from audio_ssl.inference.decoding.settings import DecodeSettings, Hypothesis, LogProbs
from audio_ssl.inference.decoding.space import new_space
from audio_ssl.inference.decoding.tables import BEAM, CANDIDATES, NO_WORD, QUESTIONS, Known, Records, Space
from audio_ssl.inference.decoding.words import WordSources


class BeamDecoder:
    """Prefix beam search (:mod:`~audio_ssl.inference.decoding.kernel`); may be called by several threads at once.

    Args:
        vocabulary: names the columns.
        settings: with ``name = "beam"``.
        sources: what the settings' files hold, where it was read already.

    Raises:
        ConfigError: a file is missing or wrong, or a word cannot be spelled.
        MissingExtraError: the language model is a binary file and kenlm is not installed.
    """

    def __init__(self, vocabulary: Vocabulary, settings: DecodeSettings, *, sources: WordSources | None = None) -> None:
        self._vocabulary, self._beam_size = vocabulary, settings.beam_size
        self._sources = sources or WordSources(vocabulary, settings)
        self._plan = self._sources.plan(settings)

    def reweighted(self, settings: DecodeSettings) -> BeamDecoder:
        """A decoder with the same words and files, not read again, and the weights of these settings."""
        return BeamDecoder(self._vocabulary, settings, sources=self._sources)

    def __call__(self, log_probs: LogProbs) -> str:
        """(T, A) float32 to the text of the best hypothesis."""
        return self.nbest(log_probs, 1)[0].text

    def nbest(self, log_probs: LogProbs, n: int) -> list[Hypothesis]:
        """(T, A) float32 to at most ``n`` hypotheses of different texts, best first; at least one.

        With a lexicon, where no hypothesis ends at the end of a word, the last word of each is left out.

        Raises:
            ConfigError: the columns are not the vocabulary's.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self._vocabulary):
            raise ConfigError(
                f"log-probabilities must have a column for each of {len(self._vocabulary)} symbols, "
                f"got shape {log_probs.shape}"
            )
        space = self._searched(np.ascontiguousarray(log_probs, dtype=np.float32))
        found = dict[str, float]()
        for path, word, score in self._endings(space):
            if len(found) == max(n, 1) and not self._plan.has_twins:
                break
            text = self._text(space.paths, path, word)
            found[text] = _log_add(found[text], score) if text in found else score
        ranked = sorted(found.items(), key=lambda item: -item[1])
        return [Hypothesis(text, score) for text, score in ranked[: max(n, 1)]]

    def _searched(self, log_probs: LogProbs) -> Space:
        """Run the search, and let the language model answer what it is asked."""
        plan = self._plan
        space = new_space(
            len(log_probs), self._beam_size, symbols=plan.symbols, words=plan.words, weights=plan.weights,
            start=plan.lm.start,
        )  # fmt: skip
        known, frame, is_done = Known(plan.symbols, plan.words, plan.lm.tables(), plan.weights, plan.letters), 0, False
        while not is_done:
            frame = search(log_probs, frame, space, known)
            is_done = frame == len(log_probs) and not space.counts[QUESTIONS]
            known = known._replace(lm=plan.lm.answered(known.lm, space))
        return space

    def _endings(self, space: Space) -> list[tuple[int, int, float]]:
        """(path, word that ends with the audio, score), best first; with and without a separator at the end are one."""
        separator, paths = self._plan.symbols.separator, space.paths
        found = dict[tuple[int, int], float]()
        for ending in space.cand[: space.counts[CANDIDATES]]:
            path, word, score = int(space.beam[ending.parent].path), int(ending.word), float(ending.score)
            if path and paths[path].token == separator:
                path, word = int(paths[path].parent), int(paths[path].word)
            found[path, word] = _log_add(found[path, word], score) if (path, word) in found else score
        if not found:
            rest = space.beam[: space.counts[BEAM]]
            return sorted(
                ((int(h.path), NO_WORD, _log_add(h.blank, h.label) + float(h.extra)) for h in rest), key=_by_score
            )
        return sorted(((path, word, score) for (path, word), score in found.items()), key=_by_score)

    def _text(self, paths: Records, path: int, last_word: int) -> str:
        """The words along a path; those that are known as the lexicon writes them."""
        steps = list[tuple[int, int]]()
        while path > 0:
            step = paths[path]
            steps.append((int(step.token), int(step.word)))
            path = int(step.parent)
        written, labels = list[str](), list[int]()
        for token, word in reversed(steps):
            if word != NO_WORD:
                written.append(self._written(labels, word))
                labels = []
            if token != self._plan.symbols.separator:
                labels.append(token)
        if last_word != NO_WORD:
            written.append(self._written(labels, last_word))
        return " ".join(text for text in written if text)

    def _written(self, labels: Sequence[int], word: int) -> str:
        return self._plan.names[word] if word >= 0 else self._vocabulary.decode_ids(labels)


def _log_add(a: float, b: float) -> float:
    return float(np.logaddexp(a, b))


def _by_score(ending: tuple[int, int, float]) -> float:
    return -ending[2]
