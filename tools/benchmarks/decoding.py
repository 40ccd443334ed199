"""How fast log-probabilities become text with a language model, and how well, beside torchaudio and pyctcdecode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from audio_ssl.evaluate.error_rate import Unit, count_edits, total
from audio_ssl.inference.decoding import DecodeSettings
from audio_ssl.inference.decoding.tune import Errors, Trial, search_weights
from benchmarks.decoders import Candidate, Decode, open_candidates
from benchmarks.heard import Spoken, Task, Texts, make_up, recognise
from benchmarks.measure import Spread, Times, Work, fastest, speed_ratio, time_in_turn
from benchmarks.report import BenchError, Row, note

UTTERANCES = 32
"""Timed, and as many others to find weights on."""
TRIALS, SEED = 20, 1
"""Weights that are tried for each candidate, and the seed that they are drawn from: the same for all."""
BEAM_SIZE = 50
LM_WEIGHT, WORD_SCORE, UNKNOWN_SCORE = 0.4, 0.9, -10.0  # the first trial of each
SAME_ERRORS = 0.002
"""A peer is no worse than ours while its WER exceeds ours by no more than this (0.2 words of 100)."""


def run(
    *, repeats: int, threads: int, model: Path | None = None, manifest: Path | None = None,
    num_utterances: int | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of ``decode``: the same log-probabilities, language model and beam for all; weights found for each.

    The log-probabilities are those of a recogniser (``--model``) on recordings with text (``--manifest``), or made up
    around the sentences of the demo by the noise that heard.py states. The language model is a trigram of the
    demo's sentences without those that are decoded; the lexicon has the words of all. Each candidate's weights come
    from the same search (:func:`audio_ssl.inference.decoding.tune.search_weights`, ``TRIALS`` trials, ``SEED``) on
    utterances whose texts are not among those timed; the figures are of these others. All have the same beam
    (``BEAM_SIZE``); what else there is has its default, but torchaudio has our threshold, narrower than its own.

    - ``speed`` of each candidate in seconds of audio a second, in one thread and in ``--threads`` (ours: threads;
      pyctcdecode: ``decode_batch`` with a pool; torchaudio, which has none: forked processes that inherit everything;
      pools are there before the clock starts), and its ``wer``;
    - ``ratio_best_peer``: how many times as fast ours in ``--threads`` is as the fastest of all peers' ways, one thread
      or several, at equal WER; ``ratio_best_single``: the same for one thread each.

    **At equal WER** means: of the peers whose WER on the timed utterances is at most ours + ``SAME_ERRORS``, the
    fastest; so a peer that has fewer errors counts, and one that has more does not. Where all peers have more, the
    one with the fewest counts. ``wer_above_best`` is our WER less the lowest of the peers': where it is above 0, ours
    is as fast as the ratio says at *more* errors, and the ratio has to be read with it.

    The case ``lexicon`` allows known words alone (pyctcdecode, which cannot forbid others, is told what they are); the
    case ``open`` any spelling, with the language model's words known to all, which torchaudio cannot do.
    """
    count = num_utterances or UTTERANCES
    with TemporaryDirectory(prefix="bench-decode-") as place:
        if model is None:
            task = make_up(Path(place), count)
        else:
            task = recognise(Path(place), model, manifest, num_utterances=count)
        if not task.tuning.references or not task.timed.references:
            raise BenchError("recordings must be enough to find weights on some and to time others")
        note(
            f"{len(task.timed.references)} utterances, {task.timed.seconds:.0f} s, timed; "
            f"{len(task.tuning.references)} others to find weights on, {TRIALS} trials each"
        )
        return [row for is_open in (False, True) for row in _case(task, is_open, repeats=repeats, threads=threads)]


def _case(task: Task, is_open: bool, *, repeats: int, threads: int) -> list[Row]:
    case, spoken = f"{'open' if is_open else 'lexicon'}, {task.name}", task.timed
    settings = DecodeSettings(
        "beam", lexicon=None if is_open else task.lexicon, lm=task.lm, lm_weight=LM_WEIGHT, word_score=WORD_SCORE,
        unknown_score=UNKNOWN_SCORE, beam_size=BEAM_SIZE,
    )  # fmt: skip
    works, found, singles = dict[str, Work](), dict[str, Texts](), list[str]()
    with ExitStack() as stack:
        for candidate in open_candidates(task, settings):
            decode = candidate.weighted(_tuned(candidate, task, settings).settings)
            together = stack.enter_context(candidate.pool(decode, spoken.log_probs, threads))
            parallel = f"{candidate.name}, {threads} {candidate.workers_are}"
            works[candidate.name] = _keeping(found, candidate.name, partial(_decode_all, decode, spoken))
            works[parallel] = _keeping(found, parallel, together)
            singles.append(candidate.name)
        times = time_in_turn(works, repeats)
    rates = {name: count_errors(spoken.references, texts).word_rate for name, texts in found.items()}
    rows = []
    for name, seconds in times.items():
        place = ("decode", f"{case}, {name}")
        rows.append(Row.of((*place, "speed"), Spread.of(spoken.seconds / s for s in seconds), "audio-s/s"))
        rows.append(Row(*place, "wer", rates[name], "share"))
    ours, peers = list(times)[:2], list(times)[2:]
    for metric, one, others in (
        ("ratio_best_single", ours[0], [name for name in peers if name in singles]),
        ("ratio_best_peer", ours[1], peers),
    ):
        best = best_peer(times, rates, ours=one, peers=others)
        if best is not None:
            note(f"{case}: {metric} is over {best}")
            rows.append(Row.of(("decode", case, metric), speed_ratio(times[one], times[best]), "ratio"))
    if peers:
        rows.append(Row("decode", case, "wer_above_best", rates[ours[0]] - min(rates[p] for p in peers), "share"))
    return rows


def best_peer(times: Times, rates: Mapping[str, float], *, ours: str, peers: Sequence[str]) -> str | None:
    """Whom ours is compared with at equal WER (:func:`run`); None without peers."""
    if not peers:
        return None
    allowed = max(rates[ours] + SAME_ERRORS, min(rates[peer] for peer in peers))
    return fastest(times, [peer for peer in peers if rates[peer] <= allowed])


def _tuned(candidate: Candidate, task: Task, settings: DecodeSettings) -> Trial:
    """The weights of the fewest word errors, then character errors, on the utterances that are not timed."""

    def measure(tried: DecodeSettings) -> Errors:
        return count_errors(task.tuning.references, _decode_all(candidate.weighted(tried), task.tuning))

    best = search_weights(settings, candidate.weighed, measure, num_trials=TRIALS, seed=SEED)[0]
    weights = ", ".join(f"{name} {getattr(best.settings, name):g}" for name in candidate.weighed)
    note(f"{candidate.name}: {weights}; WER {best.errors.word_rate:.2%} on what they were found on")
    return best


def _decode_all(decode: Decode, spoken: Spoken) -> Texts:
    return [decode(log_probs) for log_probs in spoken.log_probs]


def _keeping(found: dict[str, Texts], name: str, work: Callable[[], Texts]) -> Work:
    def keep() -> None:
        found[name] = work()

    return keep


def count_errors(references: Sequence[str], texts: Sequence[str]) -> Errors:
    """Word and character errors of all utterances."""
    units: tuple[Unit, Unit] = ("word", "character")
    pairs = list(zip(references, texts, strict=True))
    words, characters = (total([count_edits(r, t, unit=unit) for r, t in pairs]) for unit in units)
    return Errors(words.errors, characters.errors, words.reference_length, characters.reference_length)
