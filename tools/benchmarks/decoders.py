"""Candidates of ``decode``: our beam search, torchaudio's and pyctcdecode, each with weights that can be changed."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Protocol

from audio_ssl.errors import AudioSSLError
from audio_ssl.inference.decoding import DecodeSettings, LogProbs
from audio_ssl.inference.decoding.arpa import read_arpa
from audio_ssl.inference.decoding.beam import BeamDecoder
from audio_ssl.inference.decoding.build import build_decoder, run_decoder
from benchmarks.heard import Task, Texts
from benchmarks.report import note

LEAST_WEIGHT = 1e-3  # pyctcdecode multiplies its offset of unknown words by the weight of the model
Decode = Callable[[LogProbs], str]
DecodeAll = Callable[[], Texts]


class Candidate(Protocol):
    """A decoder that is measured.

    Attributes:
        name: in the rows.
        weighed: names of the weights that are searched for it.
        workers_are: what it decodes with in parallel.
    """

    name: str
    weighed: tuple[str, ...]
    workers_are: str

    def weighted(self, settings: DecodeSettings) -> Decode:
        """It with these weights, in one thread; the one before is not used any more."""

    def pool(self, decode: Decode, log_probs: Sequence[LogProbs], workers: int) -> AbstractContextManager[DecodeAll]:
        """All utterances by several workers, which are there before the first call."""


class Ours:
    """Our search, in threads.

    Args:
        task: what is decoded.
        settings: files and sizes.
    """

    name, workers_are = "ours", "threads"

    def __init__(self, task: Task, settings: DecodeSettings) -> None:
        self.weighed: tuple[str, ...] = (
            "lm_weight",
            "word_score",
            *(() if settings.lexicon else ("unknown_score", "spelling_weight")),
        )
        self._decoder = BeamDecoder(task.vocabulary, settings)
        self._decoder(task.tuning.log_probs[0])  # compiled

    def weighted(self, settings: DecodeSettings) -> Decode:
        """It with these weights; the words are not read again."""
        return self._decoder.reweighted(settings)

    @contextmanager
    def pool(self, decode: Decode, log_probs: Sequence[LogProbs], workers: int) -> Iterator[DecodeAll]:
        """As ``decode_all`` does it: threads that are made for each call."""
        assert isinstance(decode, BeamDecoder)
        yield lambda: [text for _, text in run_decoder(enumerate(log_probs), decode, workers=workers)]


_forked: Any = None  # what the processes of a pool inherit


def _decode_forked(number: int) -> str:
    decode, log_probs = _forked
    return str(decode(log_probs[number]))


class Torchaudio:
    """torchaudio's ``ctc_decoder`` (flashlight-text), which has no pool: forked processes, to which nothing is sent.

    Args:
        task: what is decoded.
        settings: files and sizes; with a lexicon.
    """

    name, workers_are = "torchaudio", "processes"
    weighed: tuple[str, ...] = ("lm_weight", "word_score")

    def __init__(self, task: Task, settings: DecodeSettings) -> None:
        self._vocabulary = task.vocabulary
        self.weighted(settings)  # says now what is missing

    def weighted(self, settings: DecodeSettings) -> Decode:
        """A new one with these weights."""
        return build_decoder(self._vocabulary, replace(settings, engine="flashlight"))

    @contextmanager
    def pool(self, decode: Decode, log_probs: Sequence[LogProbs], workers: int) -> Iterator[DecodeAll]:
        """Processes that have inherited decoder and log-probabilities, and get numbers of utterances."""
        global _forked  # noqa: PLW0603 - this is how forked processes inherit what cannot be pickled
        _forked = (decode, log_probs)
        with multiprocessing.get_context("fork").Pool(workers) as made:
            yield lambda: made.map(_decode_forked, range(len(log_probs)), chunksize=4)


class Pyctcdecode:
    """pyctcdecode with its own ``decode_batch``.

    Its ``alpha`` is our ``lm_weight`` and its ``beta`` our ``word_score``, both in natural logarithms; its offset of
    unknown words is in log10 and is multiplied by alpha. It cannot forbid words: unknown ones are weighed in any case.

    Args:
        task: what is decoded.
        settings: files and sizes. Without a lexicon it is told the words of the language model, as ours reads them.
    """

    name, workers_are = "pyctcdecode", "processes"
    weighed: tuple[str, ...] = ("lm_weight", "word_score", "unknown_score")

    def __init__(self, task: Task, settings: DecodeSettings) -> None:
        from pyctcdecode import build_ctcdecoder

        known = task.lexicon.read_text(encoding="utf-8").split() if settings.lexicon else _words_of(task)
        shown = {"<pad>": "", "|": " ", "<unk>": "⁇"}
        self._beam_size = settings.beam_size
        self._decoder = build_ctcdecoder(
            [shown.get(symbol, symbol) for symbol in task.vocabulary.symbols],
            kenlm_model_path=str(task.lm),
            unigrams=known,
        )

    def weighted(self, settings: DecodeSettings) -> Decode:
        """The same one, with its weights set."""
        alpha = max(settings.lm_weight, LEAST_WEIGHT)
        offset = settings.unknown_score / alpha / math.log(10)
        self._decoder.reset_params(alpha=alpha, beta=settings.word_score, unk_score_offset=offset)
        return lambda log_probs: str(self._decoder.decode(log_probs, beam_width=self._beam_size))

    @contextmanager
    def pool(self, decode: Decode, log_probs: Sequence[LogProbs], workers: int) -> Iterator[DecodeAll]:  # noqa: ARG002
        """``decode_batch`` with a pool of forked processes, as its documentation has it."""
        with multiprocessing.get_context("fork").Pool(workers) as made:
            yield lambda: list(self._decoder.decode_batch(made, list(log_probs), beam_width=self._beam_size))


def _words_of(task: Task) -> Texts:
    return [word for word in read_arpa(task.lm).words if not word.startswith("<")]


def open_candidates(task: Task, settings: DecodeSettings) -> list[Candidate]:
    """Ours first, then the peers that are installed and can do what is asked; the others are named on stderr."""
    candidates: list[Candidate] = [Ours(task, settings)]
    kinds: list[Callable[[Task, DecodeSettings], Candidate]] = [Pyctcdecode]
    if settings.lexicon is not None:  # without one, torchaudio's language models are of symbols
        kinds.append(Torchaudio)
    for kind in kinds:
        try:
            candidates.append(kind(task, settings))
        except (ImportError, AudioSSLError) as error:
            note(f"left out: {getattr(kind, 'name', kind)} ({error})")
    return candidates
