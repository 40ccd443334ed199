"""Room for one search: arrays of fixed size, made anew for each utterance."""

from __future__ import annotations

import math

import numpy as np

from audio_ssl.data.text import BLANK
from audio_ssl.inference.decoding.tables import (
    CANDIDATE,
    HYPOTHESIS,
    NO_WORD,
    PATH,
    QUESTION,
    Space,
    Symbols,
    Weights,
    Words,
    records,
)

NUM_QUESTIONS = 1024


def new_space(
    num_frames: int, beam_size: int, *, symbols: Symbols, words: Words, weights: Weights, start: int
) -> Space:
    """Room for a search over ``num_frames`` frames, with the empty hypothesis in the beam.

    Args:
        num_frames: T.
        beam_size: K.
        symbols: of the model.
        words: that are known.
        weights: of the search.
        start: state of the language model at the start.
    """
    num_symbols = len(symbols.symbols) - 1
    if weights.token_threshold > -50:  # so many symbols at most can be so probable
        num_symbols = min(num_symbols, math.ceil(math.exp(-weights.token_threshold)) + 1)
    num_homophones = max(int(np.diff(words.nodes["first_word"]).max(initial=0)), 1)
    room = beam_size * (1 + num_symbols * num_homophones)
    space = Space(
        beam=records(beam_size, HYPOTHESIS),
        cand=records(room, CANDIDATE),
        paths=records(1 + num_frames * beam_size, PATH),
        questions=records(NUM_QUESTIONS, QUESTION),
        counts=np.array([1, 0, 1, 0], dtype=np.int32),
        floor=np.zeros(1),
        scores=np.zeros(room),
        tokens=np.zeros(len(symbols.symbols), dtype=np.int32),
        old_paths=np.zeros(beam_size, dtype=np.int32),
    )
    # a separator before the first word reads as none: as if one had just been
    space.beam[0] = (0.0, -math.inf, 0.0, symbols.separator, 0, start, 0, 0, -1, -1)
    space.paths[0] = (-1, BLANK, NO_WORD, -1)
    return space
