"""How fast log-probabilities become text with a language model, and how well, beside torchaudio and pyctcdecode."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from audio_ssl.config.text import TextRules
from audio_ssl.data.text import Vocabulary
from audio_ssl.evaluate.error_rate import count_edits, total
from audio_ssl.inference.decoding import DecodeSettings, LogProbs, build_decoder
from audio_ssl.inference.decoding.arpa import write_arpa
from audio_ssl.inference.decoding.build import run_decoder
from audio_ssl.inference.decoding.kneser_ney import estimate
from audio_ssl.rng import numpy_generator
from benchmarks.measure import Spread, Work, fastest, speed_ratio, time_in_turn
from benchmarks.report import BenchError, Row, note

SENTENCES = Path(__file__).parents[1] / "demo_sentences.txt"
EVERY = 24  # sentence is decoded; the language model sees the others
FRAMES_PER_S = 50
BEAM_SIZE = 50
LM_WEIGHT, WORD_SCORE, UNKNOWN_SCORE = 0.4, 0.9, -10.0
RIGHT, HEARD_WRONG = (8.0, 2.0), 0.08
"""Beta distribution of a letter's share of its frame, and how often another letter has this share instead."""
BLANKS = 2.5  # frames after each letter, on average
Texts = list[str]
Heard = tuple[Vocabulary, Sequence[LogProbs], Texts]


@dataclass(frozen=True)
class Task:
    """What all candidates decode.

    Attributes:
        name: of the case.
        vocabulary: names the columns.
        log_probs: (T, A) of each utterance.
        references: their texts.
        lm: ARPA file.
        lexicon: words, one a line.
    """

    name: str
    vocabulary: Vocabulary
    log_probs: Sequence[LogProbs]
    references: Sequence[str]
    lm: Path
    lexicon: Path

    @property
    def seconds(self) -> float:
        """Of audio."""
        return sum(map(len, self.log_probs)) / FRAMES_PER_S


def run(*, repeats: int, threads: int, model: Path | None = None, manifest: Path | None = None) -> list[Row]:
    """Rows of ``decode``: the same log-probabilities, language model, weights and beam for all.

    The log-probabilities are those of a recogniser (``--model``) on recordings with text (``--manifest``), or made up
    around the sentences of the demo by the noise that the constants of this module state. The language model is a
    trigram of the sentences that are not decoded; the lexicon has the words of all.

    - ``speed`` of each candidate in seconds of audio a second, in one thread and in ``--threads`` (ours: threads;
      peers: a pool of forked processes, which pyctcdecode's ``decode_batch`` takes itself), and its ``wer``;
    - ``ratio_best_peer``: how many times as fast as the fastest peer ours is, both in ``--threads``;
      ``ratio_best_single``: both in one thread.

    The case ``lexicon`` allows known words alone (pyctcdecode, which cannot forbid others, is told what they are); the
    case ``open`` any spelling, which torchaudio cannot score with a language model of words.
    """
    with TemporaryDirectory(prefix="bench-decode-") as place:
        task = _made_up(Path(place)) if model is None else _recognised(Path(place), model, manifest)
        note(f"{len(task.references)} utterances, {task.seconds:.0f} s at {FRAMES_PER_S} frames a second")
        return [row for is_open in (False, True) for row in _case(task, is_open, repeats=repeats, threads=threads)]


def _case(task: Task, is_open: bool, *, repeats: int, threads: int) -> list[Row]:
    case = f"{'open' if is_open else 'lexicon'}, {task.name}"
    found: dict[str, Texts] = {}
    ours, peers = _ours(task, is_open, threads), _peers(task, is_open, threads)

    def keeping(name: str, work: Callable[[], Texts]) -> Work:
        def keep() -> None:
            found[name] = work()

        return keep

    works = {name: keeping(name, work) for name, work in (*ours.items(), *peers.items())}
    times = time_in_turn(works, repeats)
    rows = []
    for name, seconds in times.items():
        place = ("decode", f"{case}, {name}")
        rows.append(Row.of((*place, "speed"), Spread.of(task.seconds / s for s in seconds), "audio-s/s"))
        rows.append(Row(*place, "wer", _word_error_rate(task, found[name]), "share"))
    for metric, one, others in (
        ("ratio_best_single", "ours", [name for name in peers if "processes" not in name]),
        ("ratio_best_peer", f"ours, {threads} threads", list(peers)),
    ):
        best = fastest(times, others)
        if best is not None:
            rows.append(Row.of(("decode", case, metric), speed_ratio(times[one], times[best]), "ratio"))
    return rows


def _word_error_rate(task: Task, texts: Texts) -> float:
    pairs = zip(task.references, texts, strict=True)
    return total([count_edits(reference, text, unit="word") for reference, text in pairs]).rate


def _settings(task: Task, is_open: bool, **others: Any) -> DecodeSettings:
    return DecodeSettings(
        "beam", lexicon=None if is_open else task.lexicon, lm=task.lm, lm_weight=LM_WEIGHT, word_score=WORD_SCORE,
        unknown_score=UNKNOWN_SCORE, beam_size=BEAM_SIZE, **others,
    )  # fmt: skip


def _ours(task: Task, is_open: bool, threads: int) -> dict[str, Callable[[], Texts]]:
    decoder = build_decoder(task.vocabulary, _settings(task, is_open))
    decoder(task.log_probs[0])  # compiled

    def work(workers: int) -> Texts:
        return [text for _, text in run_decoder(enumerate(task.log_probs), decoder, workers=workers)]

    return {"ours": lambda: work(1), f"ours, {threads} threads": lambda: work(threads)}


_forked: Any = None  # what the processes of a pool inherit


def _decode_forked(number: int) -> str:
    decoder, log_probs = _forked
    return str(decoder(log_probs[number]))


def _peers(task: Task, is_open: bool, threads: int) -> dict[str, Callable[[], Texts]]:
    peers: dict[str, Callable[[], Texts]] = {}
    try:
        peers |= _pyctcdecode(task, threads)
    except ImportError as error:
        note(f"left out: pyctcdecode ({error})")
    if is_open:
        return peers
    try:
        decoder = build_decoder(task.vocabulary, _settings(task, is_open, engine="flashlight"))
    except Exception as error:
        note(f"left out: torchaudio ({error})")
        return peers

    def forked() -> Texts:
        global _forked  # noqa: PLW0603 - forked processes inherit it, nothing is pickled
        _forked = (decoder, task.log_probs)
        with multiprocessing.get_context("fork").Pool(threads) as pool:
            return pool.map(_decode_forked, range(len(task.log_probs)), chunksize=4)

    return {
        **peers,
        "torchaudio": lambda: [decoder(log_probs) for log_probs in task.log_probs],
        f"torchaudio, {threads} processes": forked,
    }


def _pyctcdecode(task: Task, threads: int) -> dict[str, Callable[[], Texts]]:
    from pyctcdecode import build_ctcdecoder

    shown = {"<pad>": "", "|": " ", "<unk>": "⁇"}
    decoder = build_ctcdecoder(
        [shown.get(symbol, symbol) for symbol in task.vocabulary.symbols],
        kenlm_model_path=str(task.lm),
        unigrams=task.lexicon.read_text(encoding="utf-8").split(),
        alpha=LM_WEIGHT,
        beta=WORD_SCORE,
        unk_score_offset=UNKNOWN_SCORE / LM_WEIGHT / math.log(10),
    )

    @contextmanager
    def pool() -> Iterator[Any]:
        with multiprocessing.get_context("fork").Pool(threads) as made:
            yield made

    def batch() -> Texts:
        with pool() as made:
            return list(decoder.decode_batch(made, list(task.log_probs), beam_width=BEAM_SIZE))

    return {
        "pyctcdecode": lambda: [decoder.decode(log_probs, beam_width=BEAM_SIZE) for log_probs in task.log_probs],
        f"pyctcdecode, {threads} processes": batch,
    }


def _made_up(place: Path) -> Task:
    sentences = _texts_of_demo()
    vocabulary = Vocabulary.from_texts(sentences, rules=TextRules())
    references = sentences[::EVERY]
    log_probs = [_noisy(vocabulary, text, number) for number, text in enumerate(references)]
    return _task(place, "made up", (vocabulary, log_probs, references), sentences=sentences)


def _recognised(place: Path, model: Path, manifest: Path | None) -> Task:
    from audio_ssl.inference.models import open_recogniser, open_runtime
    from audio_ssl.inference.source import ManifestSource, Refusal, open_input
    from audio_ssl.inference.stream import StreamSettings
    from audio_ssl.inference.transcribe import log_probs_of

    if manifest is None:
        raise BenchError("--model must come with --manifest: recordings with text that the model did not learn from")
    recogniser, opened = open_recogniser(model), open_input(manifest)
    texts = opened.manifest.column("text")
    rows = [row for row, text in enumerate(texts) if text]
    results = log_probs_of(
        ManifestSource(opened.manifest), rows, recogniser=recogniser, settings=StreamSettings(),
        runtime=open_runtime("cpu"),
    )  # fmt: skip
    found = dict(result for result in results if not isinstance(result, Refusal))
    vocabulary = recogniser.vocabulary
    references = [vocabulary.normalize(texts[row]) for row in found]
    sentences = [vocabulary.normalize(text) for text in _texts_of_demo()]
    heard = (vocabulary, list(found.values()), references)
    return _task(place, "recognised", heard, sentences=[*references, *sentences])


def _texts_of_demo() -> Texts:
    vocabulary = Vocabulary(("<pad>", "<unk>", "|"), TextRules(punctuation="remove"))
    return [vocabulary.normalize(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines() if line.strip()]


def _task(place: Path, name: str, heard: Heard, *, sentences: Texts) -> Task:
    vocabulary, log_probs, references = heard
    decoded = set(references)
    model = estimate((text for text in sentences if text not in decoded), order=3)
    write_arpa(place / "lm.arpa", model.words, model.sections)
    words = sorted({word for text in sentences for word in text.split()})
    (place / "words.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return Task(name, vocabulary, log_probs, references, place / "lm.arpa", place / "words.txt")


def _noisy(vocabulary: Vocabulary, text: str, number: int) -> LogProbs:
    """Log-probabilities of a recogniser that is not sure: a frame a letter, blanks between."""
    draw, rows = numpy_generator(1, "bench", number), []
    size = len(vocabulary)
    for label in vocabulary.encode(text):
        heard = int(draw.integers(2, size)) if draw.random() < HEARD_WRONG else label
        share = float(draw.beta(*RIGHT))
        spike = (1 - share) * (0.5 * draw.dirichlet(np.full(size, 0.1)))
        spike[[heard, label]] += (share, 0.5 * (1 - share))
        rows.append(spike)
        for _ in range(int(draw.geometric(1 / BLANKS))):
            rest = float(draw.beta(1, 40))
            blank = rest * draw.dirichlet(np.full(size, 0.1))
            blank[0] += 1 - rest
            rows.append(blank)
    shares = np.maximum(np.stack(rows), 1e-7)
    found: LogProbs = np.log(shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return found
