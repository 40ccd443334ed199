"""Prefix beam search over CTC log-probabilities, compiled by numba on its first call (and kept on disk from then on).

The functions are plain Python on arrays and do the same, slowly, with ``NUMBA_DISABLE_JIT=1``. They hold no lock of the
interpreter, so threads decode side by side.

References: Graves & Jaitly 2014, "Towards end-to-end speech recognition with recurrent neural networks", section 3;
Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs",
algorithm 1. Deviations: the language model's score is no part of the probability mass of a prefix but stands beside it;
a second separator, or one at the start, reads the same as none, so it makes no prefix of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.text import BLANK
from audio_ssl.inference.decoding.tables import (
    ASKED,
    BEAM,
    CANDIDATES,
    NO_LM,
    NO_WORD,
    OUTSIDE,
    PATHS,
    QUESTIONS,
    UNKNOWN_WORD,
    Ints,
    Known,
    LanguageModel,
    Records,
    Space,
)

P = ParamSpec("P")
R = TypeVar("R")
IMPOSSIBLE = -math.inf
NEGLIGIBLE = 40.0  # e^-40 is below the rounding of float64


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function as machine code, from the cache where one can be written."""
    from numba import njit

    try:
        made = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        made = njit(nogil=True)(function)
    return cast("Callable[P, R]", made)


def part(function: Callable[P, R]) -> Callable[P, R]:
    """The function for use in compiled ones alone, where it is a part of their machine code."""
    from numba import njit

    return cast("Callable[P, R]", njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function))


@part
def log_add(a: float, b: float) -> float:
    """``ln(e^a + e^b)``."""
    if a < b:
        a, b = b, a
    if b == IMPOSSIBLE or a - b > NEGLIGIBLE:
        return a
    return a + math.log1p(math.exp(b - a))


@part
def find_child(nodes: Records, edge_label: Ints, node: int, label: int) -> int:
    """The child of a node by its edge's label; ``OUTSIDE`` if there is none."""
    low, stop = nodes[node].first, nodes[node + 1].first
    high = stop
    while low < high:
        middle = (low + high) // 2
        if edge_label[middle] < label:
            low = middle + 1
        else:
            high = middle
    if low < stop and edge_label[low] == label:
        return int(low + 1)
    return OUTSIDE


@part
def find_answer(answers: Records, question: int) -> int:
    """The place of a question among the answers, or where it would be."""
    low, high = 0, len(answers)
    while low < high:
        middle = (low + high) // 2
        if answers[middle].question < question:
            low = middle + 1
        else:
            high = middle
    return low


@part
def lm_step(lm: LanguageModel, state: int, word: int) -> tuple[float, int, bool]:
    """Ln P(word | state), the state after it, and whether that is known (else it must be asked)."""
    if lm.kind == NO_LM:
        return 0.0, 0, True
    if lm.kind == ASKED:
        question = state * lm.num_words + word
        place = find_answer(lm.answers, question)
        if place < len(lm.answers) and lm.answers[place].question == question:
            return lm.answers[place].log_prob, int(lm.answers[place].state), True
        return 0.0, 0, False
    backed_off = 0.0
    while state != 0:
        child = find_child(lm.nodes, lm.label, state, word)
        if child >= 0:
            return backed_off + lm.nodes[child].log_prob, int(lm.nodes[child].context), True
        backed_off += lm.nodes[state].backoff
        state = lm.nodes[state].suffix
    unigram = lm.nodes[1 + word]  # every word is one
    return backed_off + unigram.log_prob, int(unigram.context), True


@part
def ask(space: Space, state: int, word: int) -> None:
    """Note a question; those that do not fit come up again."""
    count = space.counts[QUESTIONS]
    if count < len(space.questions):
        space.questions[count].state, space.questions[count].word = state, word
        space.counts[QUESTIONS] = count + 1


@part
def end_word(i: int, word: int, space: Space, known: Known) -> tuple[float, int, int]:
    """Score of hypothesis ``i`` once ``word`` is complete, and its states in the language model and in hot phrases."""
    hypothesis, words, weights = space.beam[i], known.words, known.weights
    lm_word, hot_word = known.lm.unknown, 0
    if word >= 0:
        lm_word, hot_word = words.words[word].lm_word, words.words[word].hot_word
    log_prob, lm_state, is_answered = lm_step(known.lm, hypothesis.lm_state, lm_word)
    if not is_answered:
        ask(space, hypothesis.lm_state, lm_word)
    step = words.hot[hypothesis.hot_state, hot_word]
    extra = hypothesis.extra + weights.lm_weight * log_prob + weights.word_score + step.gain
    if word == UNKNOWN_WORD:
        extra += weights.unknown_score
    return extra, lm_state, int(step.following)


@part
def walk(node: int, token: int, known: Known) -> int:
    """Where a symbol leads in the tree of words."""
    symbols, words = known.symbols, known.words
    for k in range(symbols.symbols[token].first_unit, symbols.symbols[token + 1].first_unit):
        if node == OUTSIDE:
            break
        node = find_child(words.nodes, words.label, node, symbols.units[k])
    return node


@part
def ahead(node: int, known: Known) -> float:
    """What the word that has begun may bring; counts in pruning alone."""
    return known.weights.ahead_outside if node == OUTSIDE else known.words.nodes[node].ahead


@part
def endings(node: int, known: Known) -> tuple[int, int]:
    """Range in ``words.ending`` of the words that end at a node; (-1, 0) where an unknown word does."""
    if node != OUTSIDE:
        start, stop = known.words.nodes[node].first_word, known.words.nodes[node + 1].first_word
        if start < stop:
            return int(start), int(stop)
    return (0, 0) if known.weights.is_closed else (-1, 0)


@part
def choose_tokens(row: NDArray[np.float32], known: Known, tokens: Ints) -> int:
    """The symbols that are tried at a frame; how many."""
    count = 0
    for token in range(len(row)):
        if row[token] >= known.weights.token_threshold and known.symbols.symbols[token].is_text and token != BLANK:
            tokens[count] = token
            count += 1
    return count


@part
def link(space: Space) -> None:
    """Find, for each hypothesis, those of the beam that have one label more."""
    beam, paths = space.beam, space.paths
    for j in range(space.counts[BEAM]):
        paths[beam[j].path].slot = j
        beam[j].first_child = -1
    for j in range(space.counts[BEAM]):
        parent = paths[beam[j].path].parent
        i = paths[parent].slot if parent >= 0 else -1
        if i >= 0:
            beam[j].next_child = beam[i].first_child
            beam[i].first_child = j


@part
def find_in_beam(i: int, token: int, word: int, space: Space) -> int:
    """The hypothesis of the beam that is ``i`` with ``token`` after it; -1 if there is none."""
    beam = space.beam
    j = beam[i].first_child
    while j >= 0:
        if beam[j].last == token and space.paths[beam[j].path].word == word:
            break
        j = beam[j].next_child
    return int(j)


@part
def stay(row: NDArray[np.float32], space: Space, known: Known) -> float:
    """Every hypothesis as it is: a blank, or its last label again. The best score."""
    best = IMPOSSIBLE
    for j in range(space.counts[BEAM]):
        old, new = space.beam[j], space.cand[j]
        new.blank = log_add(old.blank, old.label) + row[BLANK]
        new.label = old.label + row[old.last] if old.last >= 0 else IMPOSSIBLE
        new.extra, new.parent, new.token, new.word = old.extra, j, -1, NO_WORD
        new.node, new.lm_state, new.hot_state = old.node, old.lm_state, old.hot_state
        best = max(best, log_add(new.blank, new.label) + new.extra + ahead(new.node, known))
    space.counts[CANDIDATES] = space.counts[BEAM]
    return best


@part
def put(space: Space, i: int, token: int, word: int) -> int:
    """A new candidate, hypothesis ``i`` with ``token`` after it, whose scores and states the caller sets; its place."""
    m, old = space.counts[CANDIDATES], space.beam[i]
    space.counts[CANDIDATES] = m + 1
    new = space.cand[m]
    new.parent, new.token, new.word = i, token, word
    new.extra, new.lm_state, new.hot_state = old.extra, old.lm_state, old.hot_state
    new.blank = IMPOSSIBLE
    return int(m)


@part
def extend_inside(i: int, token: int, acoustic: float, space: Space, known: Known) -> None:
    """One more label of the same word; what is in the beam already gets the mass."""
    j = find_in_beam(i, token, NO_WORD, space)
    if j >= 0:
        space.cand[j].label = log_add(space.cand[j].label, acoustic)
        return
    node = walk(space.beam[i].node, token, known)
    if node == OUTSIDE and known.weights.is_closed:
        return
    if acoustic + space.beam[i].extra + ahead(node, known) >= space.floor[0]:
        new = space.cand[put(space, i, token, NO_WORD)]
        new.label, new.node = acoustic, node


@part
def extend_after_word(i: int, token: int, acoustic: float, space: Space, known: Known) -> None:
    """A label that ends the word before it: a separator, or the first of a new word."""
    node = 0 if token == known.symbols.separator else walk(0, token, known)
    if node == OUTSIDE and known.weights.is_closed:
        return
    start, stop = endings(space.beam[i].node, known)
    for k in range(start, stop):
        word = known.words.ending[k] if k >= 0 else UNKNOWN_WORD
        j = find_in_beam(i, token, word, space)
        if j >= 0:
            space.cand[j].label = log_add(space.cand[j].label, acoustic)
            continue
        extra, lm_state, hot_state = end_word(i, word, space, known)
        if acoustic + extra + ahead(node, known) >= space.floor[0]:
            new = space.cand[put(space, i, token, word)]
            new.label, new.node = acoustic, node
            new.extra, new.lm_state, new.hot_state = extra, lm_state, hot_state


@part
def extend(row: NDArray[np.float32], tokens: Ints, space: Space, known: Known) -> None:
    """Every hypothesis with each of the tokens after it."""
    for i in range(space.counts[BEAM]):
        old = space.beam[i]
        total = log_add(old.blank, old.label)
        for token in tokens:
            # the same label twice is two labels only with a blank between them
            acoustic = (old.blank if token == old.last else total) + row[token]
            if acoustic == IMPOSSIBLE:
                continue
            is_separator = token == known.symbols.separator
            if old.node != 0 and (is_separator or known.symbols.symbols[token].starts_word):
                extend_after_word(i, token, acoustic, space, known)
            elif is_separator:  # the second of two, with a blank between them
                space.cand[i].label = log_add(space.cand[i].label, acoustic)
            else:
                extend_inside(i, token, acoustic, space, known)


@part
def find_floor(space: Space, known: Known) -> tuple[float, int]:
    """Score the candidates; the lowest score that is kept, and how many of exactly that score."""
    room, count, best = len(space.beam), space.counts[CANDIDATES], IMPOSSIBLE
    scores = np.empty(count)
    for m in range(count):
        new = space.cand[m]
        scores[m] = new.score = log_add(new.blank, new.label) + new.extra + ahead(new.node, known)
        best = max(best, new.score)
    floor, num_above = best - known.weights.beam_threshold, 0
    if count > room:
        floor = max(floor, np.partition(scores, count - room)[count - room])
    for m in range(count):
        num_above += scores[m] > floor
    return floor, room - num_above


@part
def new_path(space: Space, parent: int, token: int, word: int) -> int:
    """A place for a label sequence that was not kept before."""
    number = space.counts[PATHS]
    space.counts[PATHS] = number + 1
    path = space.paths[number]
    path.parent, path.token, path.word, path.slot = parent, token, word, -1
    return int(number)


@part
def select(space: Space, known: Known) -> None:
    """The best candidates become the beam."""
    floor, num_equal = find_floor(space, known)
    old_count = space.counts[BEAM]
    old_paths = np.empty(old_count, dtype=np.int32)
    for j in range(old_count):
        old_paths[j] = space.beam[j].path
    kept = 0
    for m in range(space.counts[CANDIDATES]):
        chosen = space.cand[m]
        if chosen.score < floor or (chosen.score == floor and num_equal == 0):
            continue
        num_equal -= chosen.score == floor
        new = space.beam[kept]
        if chosen.token >= 0:
            new.path = new_path(space, old_paths[chosen.parent], chosen.token, chosen.word)
            new.last = chosen.token
        else:  # candidates that stay come first, so what is read here was not overwritten
            new.path, new.last = old_paths[m], space.beam[m].last
        new.blank, new.label, new.extra = chosen.blank, chosen.label, chosen.extra
        new.node, new.lm_state, new.hot_state = chosen.node, chosen.lm_state, chosen.hot_state
        kept += 1
    for path in old_paths:
        space.paths[path].slot = -1
    space.counts[BEAM] = kept


@part
def finish(space: Space, known: Known) -> None:
    """Write what the hypotheses are as whole texts into the candidates: last word and end of the sentence counted.

    ``parent`` is the hypothesis, ``word`` the word that ended with the audio, ``score`` the final score. Where only
    known words may be written, hypotheses in the middle of one are left out.
    """
    space.counts[CANDIDATES] = 0
    for j in range(space.counts[BEAM]):
        old = space.beam[j]
        start, stop = endings(old.node, known) if old.node != 0 else (-1, 0)
        for k in range(start, stop):
            word, extra, lm_state, hot_state = NO_WORD, old.extra, int(old.lm_state), int(old.hot_state)
            if old.node != 0:
                word = known.words.ending[k] if k >= 0 else UNKNOWN_WORD
                extra, lm_state, hot_state = end_word(j, word, space, known)
            log_prob, _, is_answered = lm_step(known.lm, lm_state, known.lm.end)
            if not is_answered:
                ask(space, lm_state, known.lm.end)
            score = log_add(old.blank, old.label) + extra + known.weights.lm_weight * log_prob
            space.cand[put(space, j, -1, word)].score = score - known.words.hot_open[hot_state]


@compiled
def search(log_probs: NDArray[np.float32], start: int, space: Space, known: Known) -> int:
    """Advance the beam frame by frame; the number of the frame that waits for answers, T when all are done."""
    tokens = np.empty(log_probs.shape[1], dtype=np.int32)
    for t in range(start, len(log_probs)):
        best = stay(log_probs[t], space, known)
        count = choose_tokens(log_probs[t], known, tokens)
        if count:
            link(space)
            space.floor[0] = best - known.weights.beam_threshold
            extend(log_probs[t], tokens[:count], space, known)
            if space.counts[QUESTIONS]:
                return t
        select(space, known)
    finish(space, known)
    return len(log_probs)


@compiled
def score_words(lm: LanguageModel, state: int, words: Ints) -> float:
    """Ln P of words after a state; of a model that needs not be asked."""
    total = 0.0
    for word in words:
        log_prob, state, _ = lm_step(lm, state, word)
        total += log_prob
    return total
