"""Hot words and phrases as a state machine over words (Aho & Corasick 1975), with scores on its steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from audio_ssl.inference.decoding.tables import HOT_STEP, Floats, Records, records


@dataclass
class _State:
    depth: int
    steps: dict[int, _State] = field(default_factory=dict)
    fallback: _State | None = None
    whole: float = 0.0  # boosts of the phrases that end here
    open: float = 0.0  # given on trust to the best phrase that goes on from here
    number: int = 0


@dataclass(frozen=True)
class HotMachine:
    """The machine; state 0 has seen nothing of any phrase.

    Attributes:
        columns: the words of phrases to their columns; column 0 is every other word.
        steps: (H, C) of ``HOT_STEP``: what a word does in a state.
        open: (H,) what a state has been given on trust, to be taken back where a text ends there.
    """

    columns: Mapping[str, int]
    steps: Records
    open: Floats


def build_hot_machine(phrases: Sequence[tuple[Sequence[str], float]]) -> HotMachine:
    """The machine of some phrases.

    Each phrase that stands in a text whole adds its boost once for each of its words. The words of one that has begun
    are given theirs at once, so that it is not pruned, and lose it where it breaks off.

    Args:
        phrases: (words, boost a word); none empty.
    """
    columns: dict[str, int] = {}
    root = _State(0)
    for words, boost in phrases:
        state = root
        for depth, word in enumerate(words, start=1):
            state = state.steps.setdefault(columns.setdefault(word, len(columns) + 1), _State(depth))
            if depth < len(words):
                state.open = max(state.open, depth * boost)
        state.whole += len(words) * boost
    states = _number(root)
    steps = records((len(states), len(columns) + 1), HOT_STEP)
    for state in states:
        for column in range(len(columns) + 1):
            target = _step(state, column, root)
            steps[state.number, column] = (target.number, target.whole + target.open - state.open)
    return HotMachine(columns, steps, np.array([state.open for state in states]))


def _number(root: _State) -> list[_State]:
    """All states, shallow ones first, with their fallbacks and what ends in these."""
    states, waiting = list[_State](), deque([root])
    while waiting:
        state = waiting.popleft()
        state.number = len(states)
        states.append(state)
        for column, child in state.steps.items():
            child.fallback = root if state is root else _step(state.fallback or root, column, root)
            child.whole += child.fallback.whole
            child.open = max(child.open, child.fallback.open)
            waiting.append(child)
    return states


def _step(state: _State, column: int, root: _State) -> _State:
    while column not in state.steps:
        if state is root:
            return root
        state = state.fallback or root
    return state.steps[column]
