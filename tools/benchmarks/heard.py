"""What decoders are given: log-probabilities with their texts, some to find weights on and others to be timed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio_ssl.config.text import TextRules
from audio_ssl.data.text import Vocabulary
from audio_ssl.inference.decoding import LogProbs
from audio_ssl.inference.decoding.arpa import write_arpa
from audio_ssl.inference.decoding.kneser_ney import estimate
from audio_ssl.rng import numpy_generator
from benchmarks.report import BenchError

SENTENCES = Path(__file__).parents[1] / "demo_sentences.txt"
SEED = 1
FRAMES_PER_S = 50
RIGHT, HEARD_WRONG = (8.0, 2.0), 0.08
"""Beta distribution of a letter's share of its frame, and how often another letter has this share instead."""
BLANKS = 2.5  # frames after each letter, on average
Texts = list[str]


@dataclass(frozen=True)
class Spoken:
    """Utterances: (T, A) log-probabilities of each, and their texts."""

    log_probs: Sequence[LogProbs]
    references: Texts

    @property
    def seconds(self) -> float:
        """Of audio."""
        return sum(map(len, self.log_probs)) / FRAMES_PER_S


@dataclass(frozen=True)
class Task:
    """What all candidates decode.

    Attributes:
        name: of the case.
        vocabulary: names the columns.
        tuning: utterances that weights are found on; none of their texts is among those that are timed.
        timed: the others.
        lm: ARPA file, which has seen neither's texts.
        lexicon: words of all texts, one a line.
    """

    name: str
    vocabulary: Vocabulary
    tuning: Spoken
    timed: Spoken
    lm: Path
    lexicon: Path


def make_up(place: Path, num_utterances: int) -> Task:
    """Sentences of the demo, and log-probabilities around them by the noise that this module's constants state."""
    sentences = list(dict.fromkeys(_texts_of_demo()))
    vocabulary = Vocabulary.from_texts(sentences, rules=TextRules())
    chosen = [sentences[i] for i in numpy_generator(SEED, "bench: chosen").permutation(len(sentences))]
    tuning, timed = (
        Spoken([_noisy(vocabulary, text) for text in texts], texts)
        for texts in (chosen[:num_utterances], chosen[num_utterances : 2 * num_utterances])
    )
    return _task(place, "made up", vocabulary, tuning=tuning, timed=timed)


def recognise(place: Path, model: Path, manifest: Path | None, *, num_utterances: int) -> Task:
    """What a recogniser makes of recordings; texts are shared out, so that none is on both sides.

    Raises:
        BenchError: no manifest, or too few texts in it.
    """
    from audio_ssl.inference.models import open_recogniser, open_runtime
    from audio_ssl.inference.source import ManifestSource, Refusal, open_input
    from audio_ssl.inference.stream import StreamSettings
    from audio_ssl.inference.transcribe import log_probs_of

    if manifest is None:
        raise BenchError("--model must come with --manifest: recordings with text that the model did not learn from")
    recogniser, opened = open_recogniser(model), open_input(manifest)
    vocabulary = recogniser.vocabulary
    texts = [vocabulary.normalize(text or "") for text in opened.manifest.column("text")]
    different = sorted(set(texts) - {""})
    if len(different) < 2:
        raise BenchError(f"--manifest must hold two different texts at least, {manifest} has {len(different)}")
    order = numpy_generator(SEED, "bench: chosen").permutation(len(different))
    halves = [{different[i] for i in order[part::2]} for part in range(2)]
    sides = [[row for row, text in enumerate(texts) if text in half][:num_utterances] for half in halves]
    results = log_probs_of(
        ManifestSource(opened.manifest), [row for rows in sides for row in rows], recogniser=recogniser,
        settings=StreamSettings(), runtime=open_runtime("cpu"),
    )  # fmt: skip
    heard = dict(result for result in results if not isinstance(result, Refusal))
    tuning, timed = (
        Spoken([heard[row] for row in rows if row in heard], [texts[row] for row in rows if row in heard])
        for rows in sides
    )
    return _task(place, "recognised", vocabulary, tuning=tuning, timed=timed)


def _task(place: Path, name: str, vocabulary: Vocabulary, *, tuning: Spoken, timed: Spoken) -> Task:
    heard = {*tuning.references, *timed.references}
    sentences = [vocabulary.normalize(text) for text in _texts_of_demo()]
    model = estimate((text for text in sentences if text not in heard), order=3)
    write_arpa(place / "lm.arpa", model.words, model.sections)
    words = sorted({word for text in (*sentences, *heard) for word in text.split()})
    (place / "words.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return Task(name, vocabulary, tuning, timed, place / "lm.arpa", place / "words.txt")


def _texts_of_demo() -> Texts:
    vocabulary = Vocabulary(("<pad>", "<unk>", "|"), TextRules(punctuation="remove"))
    return [vocabulary.normalize(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines() if line.strip()]


def _noisy(vocabulary: Vocabulary, text: str) -> LogProbs:
    """Log-probabilities of a recogniser that is not sure: a frame a letter, blanks between."""
    draw, rows = numpy_generator(SEED, f"bench: {text}"), []
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
