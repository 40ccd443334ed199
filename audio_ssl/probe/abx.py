"""ABX: of two sounds A and B of one speaker with different labels, is X, of another speaker, nearer to that of its own?

Nothing is learned, so this tells of the representation alone. Tokens are segments with a label, or whole utterances
where the task has none. A distance is that of :mod:`audio_ssl.probe.dtw`.

The error of a cell (labels a and b, speaker of A and B, speaker of X) is the share of triples in which X is nearer to
B, ties as one half. It is averaged over the cells of each ordered pair of labels, then over pairs, so that neither
frequent labels nor talkative speakers weigh more.

References: Schatz et al. 2013, "Evaluating speech features with the minimal-pair ABX task"; Libri-light (1912.07875)
section 4.1, for the bounds. Phones are compared in any context (Hallap et al. 2023, 2210.15775), not within triphones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe.abx_tokens import Tokens, tokens_of, vectors_of
from audio_ssl.probe.abx_triples import Triples, draw_triples
from audio_ssl.probe.dtw import distances
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.scores import Draws, Result, Score
from audio_ssl.rng import numpy_generator

MAX_TRIPLES = 200_000  # of a fold; a quarter of it where a layer is chosen
CHOOSING_SHARE = 4
MAX_NUMBERS = 64_000_000  # of frames that are held at once: 256 MB
_DRAWS_AT_ONCE = 200


@dataclass(frozen=True)
class Cells:
    """Errors of C cells.

    Attributes:
        pairs: (C, 2) labels of A and B.
        speakers: (C, 2) of A and B, and of X.
        errors: (C,) share of wrong triples.
    """

    pairs: NDArray[np.int64]
    speakers: NDArray[np.int64]
    errors: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.errors)


def run(
    frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int], heads: Sequence[str]
) -> list[Result]:
    """The runner of kind ``abx``: error rate across speakers (or languages), and within a speaker beside it.

    The same triples are drawn for every candidate. Where frames have layers, that of the least error on the fold's
    ``valid`` is taken, or on its ``train`` where ``valid`` allows no triple across.

    Raises:
        ConfigError: the task's labels, speakers or languages allow no triple, or frames are not finite.
    """
    del heads  # this kind has none
    tests = [tokens_of(items, fold.test, task=task) for fold in folds]
    drawn = [_drawn(tokens, seeds[0], number=number) for number, tokens in enumerate(tests)]
    if not any(len(across) for across, _ in drawn):
        raise ConfigError(
            f"{task.title}: at least two {task.across}s of the test part must share a label, and one of them must have "
            f"another label too, but no fold has such ({len(folds)} folds, {sum(map(len, tests))} tokens); take "
            'split.kind = "speakers" with a larger share for test'
        )
    across: list[Cells] = []
    within: list[Cells] = []
    layers: list[int] = []
    for fold, tokens, (far, near) in zip(folds, tests, drawn, strict=True):
        if not len(far) and not len(near):
            continue
        layers.append(_layer(frames, items, fold, task=task, seed=seeds[0]))
        own = frames.layer(layers[-1]) if frames.num_layers > 1 else frames
        across += [_cells(own, tokens, far)] if len(far) else []
        within += [_cells(own, tokens, near)] if len(near) else []
    names = tuple(sorted({items.speakers[row] for fold in folds for row in fold.test.tolist()}))
    draws = Draws.of(names, 1)
    code_of = {name: code for code, name in enumerate(sorted(set(items.speakers)))}
    codes = [code_of[name] for name in names]
    others = {"within": _score(within, codes, draws=draws, seed=seeds[0])} if within else {}
    chosen = int(np.bincount(layers).argmax()) if frames.num_layers > 1 else None
    return [Result("dtw", _score(across, codes, draws=draws, seed=seeds[0]), others, layer=chosen)]


def _drawn(tokens: Tokens, seed: int, *, number: int, share: int = 1) -> tuple[Triples, Triples]:
    """Triples across and within; the same for every candidate."""
    return (
        draw_triples(tokens, numpy_generator(seed, "abx across", number), max_triples=MAX_TRIPLES // share),
        draw_triples(
            tokens, numpy_generator(seed, "abx within", number), max_triples=MAX_TRIPLES // share, is_within=True
        ),
    )


def _layer(frames: Frames, items: Items, fold: Fold, *, task: ProbeTask, seed: int) -> int:
    """The layer of the least error across on items that are not measured."""
    if frames.num_layers == 1:
        return 0
    for rows in (fold.valid, fold.train):
        tokens = tokens_of(items, rows, task=task)
        triples, _ = _drawn(tokens, seed, number=0, share=CHOOSING_SHARE)
        if len(triples):
            errors = [_mean(_cells(frames.layer(n), tokens, triples)) for n in range(frames.num_layers)]
            return int(np.argmin(errors))
    raise ConfigError(
        f"{task.title}: {frames.name} has {frames.num_layers} layers, one of which must be chosen on items of fold "
        f"{fold.name!r} that are not measured, but neither its valid nor its train part has two {task.across}s that "
        "share a label; give them a larger share of the split, or probe one layer"
    )


def _cells(frames: Frames, tokens: Tokens, triples: Triples) -> Cells:
    """Error of each cell of ``triples``."""
    to_a, to_b = _compared(frames, tokens, triples.tokens).T
    if np.isnan(to_a + to_b).any():
        raise ConfigError(f"frames of {frames.name} must be finite to be measured, but some are NaN or infinite")
    wrong = (to_a > to_b) + 0.5 * (to_a == to_b)
    num_cells = len(triples.labels)
    errors = np.bincount(triples.cells, wrong, num_cells) / np.bincount(triples.cells, minlength=num_cells)
    return Cells(triples.labels, tokens.speaker_of_voice[triples.voices], errors)


def _compared(frames: Frames, tokens: Tokens, triples: Rows) -> NDArray[np.float64]:
    """(n, 2) distances of X to A and to B; in halves where the frames of all would not fit.

    Args:
        frames: of one layer.
        tokens: that triples are of.
        triples: (n, 3) numbers of A, B and X.
    """
    used = np.unique(triples)
    if len(triples) > 1 and tokens.seconds[used].sum() / frames.hop_s * frames.dim > MAX_NUMBERS:
        half = len(triples) // 2
        return np.concatenate([_compared(frames, tokens, part) for part in (triples[:half], triples[half:])])
    place = np.searchsorted(used, triples)  # numbers among the used
    wanted = np.stack([place[:, [2, 0]], place[:, [2, 1]]], axis=1)  # (n, 3) -> (n, 2 comparisons, 2 tokens)
    keys, inverse = np.unique(wanted @ np.array([len(used), 1]), return_inverse=True)
    pairs = np.stack([keys // len(used), keys % len(used)], axis=1)
    found: NDArray[np.float64] = distances(vectors_of(frames, tokens, used), pairs)[inverse.reshape(-1, 2)]
    return found


def _mean(cells: Cells) -> float:
    """Over the cells of each pair of labels, then over pairs."""
    _, pair = np.unique(cells.pairs, axis=0, return_inverse=True)
    return float((np.bincount(pair.ravel(), cells.errors) / np.bincount(pair.ravel())).mean())


def _score(found: Sequence[Cells], codes: Sequence[int], *, draws: Draws, seed: int) -> Score:
    """The score of cells of all folds.

    Args:
        found: of each fold.
        codes: number in the cells of each name of ``draws``.
        draws: of the test speakers.
        seed: to name the value by.
    """
    cells = Cells(
        *(np.concatenate([getattr(part, name) for part in found]) for name in ("pairs", "speakers", "errors"))
    )
    value = _mean(cells)
    of_block = {
        name: _mean(Cells(cells.pairs[own], cells.speakers[own], cells.errors[own]))
        for name, code in zip(draws.names, codes, strict=True)
        if (own := cells.speakers[:, 1] == code).any()
    }
    local = np.searchsorted(np.asarray(codes), cells.speakers)  # codes ascend, as names do
    resamples = _resampled(Cells(cells.pairs, local, cells.errors), draws.blocks)
    return Score("error_rate", value, resamples, len(draws.names), {seed: value}, False, of_block)


def _resampled(cells: Cells, blocks: Rows) -> NDArray[np.float64]:
    """(R,) the mean where a cell of speakers s and t counts n_s n_t times, of one speaker n_s times.

    Args:
        cells: with speakers numbered as the columns of ``blocks``.
        blocks: (R, B) how often each speaker is drawn.
    """
    from scipy.sparse import csr_array

    num_speakers = blocks.shape[1]
    _, pair = np.unique(cells.pairs, axis=0, return_inverse=True)
    used, spot = np.unique(cells.speakers @ np.array([num_speakers, 1]), return_inverse=True)
    first, second = used // num_speakers, used % num_speakers
    shape = (int(pair.max()) + 1, len(used))
    where = (pair.ravel(), spot.ravel())
    sums, counts = csr_array((cells.errors, where), shape), csr_array((np.ones(len(cells)), where), shape)
    values = []
    for start in range(0, len(blocks), _DRAWS_AT_ONCE):
        drawn = blocks[start : start + _DRAWS_AT_ONCE].astype(np.float64)
        weights = drawn[:, first] * np.where(first == second, 1.0, drawn[:, second])  # (r, speaker pairs)
        totals = counts @ weights.T  # (pairs of labels, r)
        is_there = totals > 0
        rates = np.divide(sums @ weights.T, totals, out=np.zeros_like(totals), where=is_there)
        num = is_there.sum(0)
        values.append(np.divide(rates.sum(0), num, out=np.full(len(num), np.nan), where=num > 0))
    return np.concatenate(values)
