"""Search for the weights of a beam search on recordings whose text is known, over log-probabilities computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.decoding.beam import BeamDecoder
from audio_ssl.inference.decoding.build import build_decoder, run_decoder
from audio_ssl.inference.decoding.settings import Decoder, DecodeSettings, LogProbs
from audio_ssl.rng import numpy_generator

RANGES = {
    "lm_weight": (0.0, 3.0),
    "word_score": (-3.0, 3.0),
    "unknown_score": (-12.0, 0.0),
    "spelling_weight": (0.0, 2.0),
}
"""Where weights are looked for at first; steps around the best may leave it, but no ``_weight`` is ever negative."""
SHARE_AT_RANDOM = 0.5
FIRST_STEP, LAST_STEP = 0.25, 0.05
"""Standard deviations of the steps around the best, as shares of the ranges."""


@dataclass(frozen=True)
class Utterance:
    """What is decoded again and again.

    Attributes:
        passages: (T, A) float32 of each, one after another; most utterances are one passage.
        reference: its text, by the model's rules.
    """

    passages: tuple[LogProbs, ...]
    reference: str


@dataclass(frozen=True)
class Errors:
    """Errors of all utterances.

    Attributes:
        words: substituted, deleted and inserted.
        characters: the same.
        num_words: of the references.
        num_characters: of the references.
    """

    words: int
    characters: int
    num_words: int
    num_characters: int

    @property
    def word_rate(self) -> float:
        """WER."""
        return self.words / max(self.num_words, 1)

    @property
    def character_rate(self) -> float:
        """CER."""
        return self.characters / max(self.num_characters, 1)


@dataclass(frozen=True)
class Trial:
    """Some weights and what came of them."""

    number: int
    settings: DecodeSettings
    errors: Errors


CountErrors = Callable[[Sequence[str], Sequence[str]], Errors]
"""References and hypotheses, one an utterance, to errors."""


class Tuner:
    """Tries weights on utterances.

    The first half of the trials is drawn over :data:`RANGES`, after the weights that were given; the others are steps
    of shrinking size around the best so far. What there is nothing to weigh for is left alone.

    Args:
        utterances: to measure on; not those that the result will be reported on.
        vocabulary: names the columns.
        settings: files, sizes, and the weights to begin with.
        count_errors: compares texts.
        workers: utterances decoded at the same time.

    Raises:
        ConfigError: as :func:`~audio_ssl.inference.decoding.build.build_decoder`.
        MissingExtraError: the same.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        vocabulary: Vocabulary,
        settings: DecodeSettings,
        *,
        count_errors: CountErrors,
        workers: int = 1,
    ) -> None:
        self._parts = [(n, part) for n, utterance in enumerate(utterances) for part in utterance.passages]
        self._references = [utterance.reference for utterance in utterances]
        self._vocabulary, self._settings, self._count_errors = vocabulary, settings, count_errors
        self._workers = workers
        self._decoder: Decoder = build_decoder(vocabulary, settings)
        self.names = ["word_score"]
        if settings.lm is not None:
            self.names = ["lm_weight", "word_score"] + (
                ["unknown_score", "spelling_weight"] if settings.lexicon is None else []
            )

    def run(self, num_trials: int, *, seed: int, on_trial: Callable[[Trial], None] = lambda _: None) -> list[Trial]:
        """Try weights, best trial first.

        Args:
            num_trials: how many, the weights that were given among them.
            seed: of the draws.
            on_trial: told each trial when it is done.
        """
        return search_weights(
            self._settings, self.names, self.measure, num_trials=num_trials, seed=seed, on_trial=on_trial
        )

    def measure(self, settings: DecodeSettings) -> Errors:
        """Decode everything with these settings and count the errors."""
        if isinstance(self._decoder, BeamDecoder):
            decoder: Decoder = self._decoder.reweighted(settings)
        else:
            decoder = build_decoder(self._vocabulary, settings)
        texts: list[list[str]] = [[] for _ in self._references]
        for number, text in run_decoder(self._parts, decoder, workers=self._workers):
            texts[number].append(text)
        return self._count_errors(self._references, [" ".join(filter(None, parts)) for parts in texts])


def search_weights(
    settings: DecodeSettings,
    names: Sequence[str],
    measure: Callable[[DecodeSettings], Errors],
    *,
    num_trials: int,
    seed: int,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Try weights as :class:`Tuner` describes it, best trial first.

    Args:
        settings: the first trial.
        names: of the weights to change.
        measure: what comes of some settings.
        num_trials: how many.
        seed: of the draws.
        on_trial: told each trial when it is done.
    """
    trials, num_random = list[Trial](), round(num_trials * SHARE_AT_RANDOM)
    for number in range(num_trials):
        draw, weights = numpy_generator(seed, "tune-decoder", number), dict[str, Any]()
        if 0 < number <= num_random:
            weights = {name: round(float(draw.uniform(*RANGES[name])), 3) for name in names}
        elif number:
            progress = (number - num_random) / max(num_trials - num_random, 1)
            share = FIRST_STEP * (LAST_STEP / FIRST_STEP) ** progress
            weights = _moved(min(trials, key=_rank).settings, names, share=share, draw=draw)
        tried = replace(settings, **weights)
        trials.append(Trial(number, tried, measure(tried)))
        on_trial(trials[-1])
    return sorted(trials, key=_rank)


def _moved(best: DecodeSettings, names: Sequence[str], *, share: float, draw: np.random.Generator) -> dict[str, Any]:
    """Weights a step away from the best, of a standard deviation of this share of their ranges."""
    moved = dict[str, Any]()
    for name in names:
        low, high = RANGES[name]
        value = getattr(best, name) + float(draw.normal()) * share * (high - low)
        moved[name] = round(max(value, 0.0) if name.endswith("_weight") else value, 3)
    return moved


def _rank(trial: Trial) -> tuple[int, int, int]:
    return trial.errors.words, trial.errors.characters, trial.number


def table(trials: Sequence[Trial], names: Sequence[str]) -> list[list[str]]:
    """Rows of weights and error rates for people, the first the heading."""
    rows = [[*names, "WER", "CER"]]
    for trial in trials:
        weights = [f"{getattr(trial.settings, name):g}" for name in names]
        rows.append([*weights, f"{trial.errors.word_rate:.2%}", f"{trial.errors.character_rate:.2%}"])
    return rows
