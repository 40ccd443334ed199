"""Prefix beam search over CTC log-probabilities, compiled by numba on its first call (and kept on disk from then on).

Plain Python on arrays: ``NUMBA_DISABLE_JIT=1`` does the same, slowly. No lock of the interpreter is held meanwhile.

Reference: Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using bi-directional recurrent
DNNs", algorithm 1. Deviations: the language model's score is no part of a prefix's probability but stands beside it; a
second separator, or one at the start, reads the same as none, so it makes no prefix of its own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.text import BLANK
from audio_ssl.inference.decoding import tables
from audio_ssl.inference.decoding.compiling import compiled, part
from audio_ssl.inference.decoding.tables import Floats, Ints, Known, LanguageModel, Records, Space

IMPOSSIBLE, LEAST = -math.inf, -1e300  # the logarithm of nothing, and what is above it
NEGLIGIBLE = 40.0  # e^-40 is below the rounding of float64


@part
def log_add(a: float, b: float) -> float:
    """``ln(e^a + e^b)``."""
    a, b = max(a, b), min(a, b)
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
    return tables.OUTSIDE


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
    if lm.kind == tables.NO_LM:
        return 0.0, 0, True
    if lm.kind == tables.ASKED:
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
    count = space.counts[tables.QUESTIONS]
    if count < len(space.questions):
        space.questions[count].state, space.questions[count].word = state, word
        space.counts[tables.QUESTIONS] = count + 1


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
    if word == tables.UNKNOWN_WORD:
        extra += weights.unknown_score
    return extra, lm_state, int(step.following)


@part
def walk(node: int, token: int, known: Known) -> int:
    """Where a symbol leads in the tree of words."""
    symbols, words = known.symbols, known.words
    for k in range(symbols.symbols[token].first_unit, symbols.symbols[token + 1].first_unit):
        if node != tables.OUTSIDE:
            node = find_child(words.nodes, words.label, node, symbols.units[k])
    return node


@part
def ahead(node: int, known: Known) -> float:
    """What the word that has begun may bring; counts in pruning alone."""
    return known.weights.ahead_outside if node == tables.OUTSIDE else known.words.nodes[node].ahead


@part
def spelled(i: int, token: int, node: int, space: Space, known: Known) -> float:
    """What a symbol after hypothesis ``i`` costs where no known word has it, by the two before it."""
    path, letters = space.paths[space.beam[i].path], known.letters
    row = space.paths[max(path.parent, 0)].token * letters.shape[1] + path.token if len(letters) > 1 else 0
    return known.weights.spelling_weight * letters[row, token] if node == tables.OUTSIDE else 0.0


@part
def endings(node: int, known: Known) -> tuple[int, int]:
    """Range in ``words.ending`` of the words that end at a node; (-1, 0) where an unknown word does."""
    if node != tables.OUTSIDE:
        start, stop = known.words.nodes[node].first_word, known.words.nodes[node + 1].first_word
        if start < stop:
            return int(start), int(stop)
    return (0, 0) if known.weights.is_closed else (-1, 0)


@part
def choose_tokens(row: NDArray[np.float32], space: Space, known: Known) -> int:
    """The symbols that are tried at a frame, most probable first; how many."""
    tokens, count = space.tokens, 0
    for token in range(len(row)):
        if row[token] >= known.weights.token_threshold and known.symbols.symbols[token].is_text and token != BLANK:
            place = count
            while place and row[tokens[place - 1]] < row[token]:
                tokens[place] = tokens[place - 1]
                place -= 1
            tokens[place] = token
            count += 1
    return count


@part
def step(old: Any, token: int, row: NDArray[np.float32]) -> float:
    """Ln P of a hypothesis with one label more, that is just heard."""
    # the same label twice is two labels only with a blank between them
    return float((old.blank if token == old.last else log_add(old.blank, old.label)) + row[token])


@part
def join(row: NDArray[np.float32], space: Space, known: Known) -> None:
    """Hypotheses of the beam get the mass of those with one label less, and those are linked to them."""
    beam, paths, separator = space.beam, space.paths, known.symbols.separator
    for j in range(space.counts[tables.BEAM]):
        paths[beam[j].path].slot = j
        beam[j].first_child = -1
    for j in range(space.counts[tables.BEAM]):
        old = beam[j]
        if old.last == separator >= 0:  # the second of two with a blank between them reads as one
            space.cand[j].label = log_add(space.cand[j].label, step(old, separator, row))
        parent = paths[old.path].parent
        i = paths[parent].slot if parent >= 0 else -1
        if i >= 0:
            old.next_child = beam[i].first_child
            beam[i].first_child = j
            space.cand[j].label = log_add(space.cand[j].label, step(beam[i], old.last, row))


@part
def find_in_beam(i: int, token: int, word: int, space: Space) -> int:
    """The hypothesis of the beam that is ``i`` with ``token`` after it; -1 if there is none."""
    beam, j = space.beam, space.beam[i].first_child
    while j >= 0 and (beam[j].last != token or space.paths[beam[j].path].word != word):
        j = beam[j].next_child
    return int(j)


@part
def stay(row: NDArray[np.float32], space: Space, known: Known) -> None:
    """Every hypothesis as it is: a blank, or its last label again. Sets the floor for what else there may be."""
    best, worst = IMPOSSIBLE, math.inf
    for j in range(space.counts[tables.BEAM]):
        old, new = space.beam[j], space.cand[j]
        new.blank = log_add(old.blank, old.label) + row[BLANK]
        new.label = old.label + row[old.last] if old.last >= 0 else IMPOSSIBLE
        new.extra, new.parent, new.token, new.word = old.extra, j, -1, tables.NO_WORD
        new.node, new.lm_state, new.hot_state = old.node, old.lm_state, old.hot_state
        new.score = log_add(new.blank, new.label) + new.extra + ahead(new.node, known)
        best, worst = max(best, new.score), min(worst, new.score)
    space.counts[tables.CANDIDATES] = space.counts[tables.BEAM]
    space.floor[0] = max(best - known.weights.beam_threshold, LEAST)
    if space.counts[tables.BEAM] == len(space.beam):  # full of hypotheses that will be no worse than this
        space.floor[0] = max(space.floor[0], worst)


@part
def put(space: Space, i: int, token: int, word: int) -> int:
    """A new candidate, hypothesis ``i`` with ``token`` after it, whose scores and states the caller sets; its place."""
    m, old = space.counts[tables.CANDIDATES], space.beam[i]
    space.counts[tables.CANDIDATES] = m + 1
    new = space.cand[m]
    new.parent, new.token, new.word, new.blank = i, token, word, IMPOSSIBLE
    new.extra, new.lm_state, new.hot_state = old.extra, old.lm_state, old.hot_state
    return int(m)


@part
def extend_inside(i: int, token: int, acoustic: float, space: Space, known: Known) -> None:
    """A candidate with one more label of the same word."""
    node = walk(space.beam[i].node, token, known)
    if node == tables.OUTSIDE and known.weights.is_closed:
        return
    extra = space.beam[i].extra + spelled(i, token, node, space, known)
    is_good = acoustic + extra + ahead(node, known) >= space.floor[0]
    if is_good and find_in_beam(i, token, tables.NO_WORD, space) < 0:
        new = space.cand[put(space, i, token, tables.NO_WORD)]
        new.label, new.node, new.extra = acoustic, node, extra


@part
def extend_after_word(i: int, token: int, acoustic: float, space: Space, known: Known) -> None:
    """Candidates with a label that ends the word before it: a separator, or the first of a new word."""
    node = 0 if token == known.symbols.separator else walk(0, token, known)
    if node == tables.OUTSIDE and known.weights.is_closed:
        return
    start, stop = endings(space.beam[i].node, known)
    for k in range(start, stop):
        word = known.words.ending[k] if k >= 0 else tables.UNKNOWN_WORD
        if find_in_beam(i, token, word, space) >= 0:
            continue
        extra, lm_state, hot_state = end_word(i, word, space, known)
        extra += spelled(i, token, node, space, known)
        if acoustic + extra + ahead(node, known) >= space.floor[0]:
            new = space.cand[put(space, i, token, word)]
            new.label, new.node = acoustic, node
            new.extra, new.lm_state, new.hot_state = extra, lm_state, hot_state


@part
def extend(row: NDArray[np.float32], num_tokens: int, space: Space, known: Known) -> None:
    """Candidates: every hypothesis with each of the tokens after it, as long as they may be good enough."""
    weights = known.weights
    for i in range(space.counts[tables.BEAM]):
        old = space.beam[i]
        total = log_add(old.blank, old.label)
        most = max(ahead(old.node, known), weights.ahead_outside, weights.best_end) if old.node else weights.best_start
        for k in range(num_tokens):
            token = space.tokens[k]
            if total + row[token] + old.extra + most < space.floor[0]:
                break  # the others are less probable still
            acoustic = (old.blank if token == old.last else total) + row[token]  # as in ``step``
            is_separator = token == known.symbols.separator
            if old.node != 0 and (is_separator or known.symbols.symbols[token].starts_word):
                extend_after_word(i, token, acoustic, space, known)
            elif not is_separator:
                extend_inside(i, token, acoustic, space, known)


@part
def find_least(values: Floats, count: int, room: int) -> float:
    """The least of the ``room`` greatest of the first ``count`` values, which change places (Hoare 1961, "Find")."""
    low, high, place = 0, count - 1, room - 1
    while low < high:
        pivot, i, j = values[(low + high) // 2], low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if place <= j:
            high = j
        elif place >= i:
            low = i
        else:
            break
    return float(values[place])


@part
def find_floor(space: Space, known: Known) -> tuple[float, int]:
    """Score the candidates; the lowest score that is kept, and how many of exactly that score."""
    room, count, best = len(space.beam), space.counts[tables.CANDIDATES], IMPOSSIBLE
    for m in range(count):
        new = space.cand[m]
        space.scores[m] = new.score = log_add(new.blank, new.label) + new.extra + ahead(new.node, known)
        best = max(best, new.score)
    floor, num_above = best - known.weights.beam_threshold, 0
    if count > room:
        floor = max(floor, find_least(space.scores, count, room))
    for m in range(count):
        num_above += space.scores[m] > floor
    return floor, room - num_above


@part
def new_path(space: Space, parent: int, token: int, word: int) -> int:
    """A place for a label sequence that was not kept before."""
    number = space.counts[tables.PATHS]
    space.counts[tables.PATHS] = number + 1
    path = space.paths[number]
    path.parent, path.token, path.word, path.slot = parent, token, word, -1
    return int(number)


@part
def select(space: Space, known: Known) -> None:
    """The best candidates become the beam."""
    floor, num_equal = find_floor(space, known)
    old_count = space.counts[tables.BEAM]
    for j in range(old_count):
        space.old_paths[j] = space.beam[j].path
    kept = 0
    for m in range(space.counts[tables.CANDIDATES]):
        chosen = space.cand[m]
        if chosen.score < floor or (chosen.score == floor and num_equal == 0):
            continue
        num_equal -= chosen.score == floor
        new = space.beam[kept]
        if chosen.token >= 0:
            new.path = new_path(space, space.old_paths[chosen.parent], chosen.token, chosen.word)
            new.last = chosen.token
        else:  # candidates that stay come first, so what is read here was not overwritten
            new.path, new.last = space.old_paths[m], space.beam[m].last
        new.blank, new.label, new.extra = chosen.blank, chosen.label, chosen.extra
        new.node, new.lm_state, new.hot_state = chosen.node, chosen.lm_state, chosen.hot_state
        kept += 1
    for j in range(old_count):
        space.paths[space.old_paths[j]].slot = -1
    space.counts[tables.BEAM] = kept


@part
def finish(space: Space, known: Known) -> None:
    """Write what the hypotheses are as whole texts into the candidates: last word and end of the sentence counted.

    ``parent`` is the hypothesis, ``word`` the word that ended with the audio, ``score`` the final score. Where only
    known words may be written, hypotheses in the middle of one are left out.
    """
    space.counts[tables.CANDIDATES] = 0
    for j in range(space.counts[tables.BEAM]):
        old = space.beam[j]
        start, stop = endings(old.node, known) if old.node != 0 else (-1, 0)
        for k in range(start, stop):
            word, extra, lm_state, hot_state = tables.NO_WORD, old.extra, int(old.lm_state), int(old.hot_state)
            if old.node != 0:
                word = known.words.ending[k] if k >= 0 else tables.UNKNOWN_WORD
                extra, lm_state, hot_state = end_word(j, word, space, known)
            log_prob, _, is_answered = lm_step(known.lm, lm_state, known.lm.end)
            if not is_answered:
                ask(space, lm_state, known.lm.end)
            score = log_add(old.blank, old.label) + extra + known.weights.lm_weight * log_prob
            space.cand[put(space, j, -1, word)].score = score - known.words.hot_open[hot_state]


@compiled
def search(log_probs: NDArray[np.float32], start: int, space: Space, known: Known) -> int:
    """Advance the beam frame by frame; the number of the frame that waits for answers, T when all are done."""
    for t in range(start, len(log_probs)):
        stay(log_probs[t], space, known)
        count = choose_tokens(log_probs[t], space, known)
        if count:
            join(log_probs[t], space, known)
            extend(log_probs[t], count, space, known)
            if space.counts[tables.QUESTIONS]:
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
