"""Probes of kind ``recognise``: symbols in order by a small CTC head on frozen frames.

A linear head, and one with a bidirectional LSTM layer; each learns a softmax-weighted sum over layers, on frames that
are standardised by the training items. Everything is fixed in advance: nothing is chosen, ``valid`` is not looked at.

Reference: SUPERB (2105.01051), phone recognition (linear) and speech recognition (recurrent).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from audio_ssl.config.probe import ProbeTask
from audio_ssl.errors import ConfigError
from audio_ssl.probe.ctc import Heard, Ids, Spoken, edits, fit, hear, steps_a_frame
from audio_ssl.probe.items import Fold, Frames, Items
from audio_ssl.probe.scores import Draws, Result, share_score
from audio_ssl.probe.standard import Held, standard_of

METRIC, NATS = "symbol_error_rate", "nats_a_symbol"


def run(
    frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int], heads: Sequence[str]
) -> list[Result]:
    """Learn each head with each seed on every fold, and count the edits of its greedy transcripts.

    Args:
        frames: of a candidate.
        items: labels are symbols in order.
        folds: a head can say the symbols of its training items.
        task: ``training`` holds passes, batch, rate and width.
        seeds: of weights and order.
        heads: ``linear``, ``recurrent``.

    Returns:
        A result a head: ``symbol_error_rate`` over all test items (above 1 where more is heard than said), and beside
        it ``nats_a_symbol``, the CTC loss of those that the head can say. Blocks are the speakers of the test items.

    Raises:
        ConfigError: a fold without utterances to learn from or to test on, or labels that are no symbols in order.
    """
    names = sorted({items.speakers[row] for fold in folds for row in fold.test.tolist()})
    tallies = {head: _Tally(tuple(names), tuple(seeds)) for head in heads}
    for fold in folds:
        opened = _open(frames, items, fold)
        for head, tally in tallies.items():
            tally.notes += opened.notes
            for seed in seeds:
                learned = fit(head, opened.train, training=task.training, seed=seed)
                tally.weights.append(learned.layer_weights().detach())
                heard = hear(learned, opened.test, batch=task.training.batch)
                for row, said, found in zip(fold.test.tolist(), opened.test.targets, heard, strict=True):
                    tally.add(seed, items.speakers[row], said=said, heard=found)
    return [tally.result(head) for head, tally in tallies.items()]


@dataclass(frozen=True)
class _Opened:
    """A fold to learn from, to be measured on, and what there is to tell of it."""

    train: Spoken
    test: Spoken
    notes: list[str]


def _open(frames: Frames, items: Items, fold: Fold) -> _Opened:
    learned, measured = fold.train.tolist(), fold.test.tolist()
    if not learned or not measured:
        raise ConfigError(
            f"{fold.name} must have utterances to learn from and to measure on, it has {len(learned)} and "
            f"{len(measured)}; see the task's split"
        )
    said = {row: _symbols(items, row) for row in (*learned, *measured)}
    alphabet = sorted({symbol for row in learned for symbol in said[row]})
    unheard = sorted({symbol for row in measured for symbol in said[row]} - set(alphabet))
    if not alphabet:
        raise ConfigError(f"{fold.name}: training items must have symbols to learn, all of them are empty")
    index = {symbol: number for number, symbol in enumerate((*alphabet, *unheard), start=1)}
    targets = {row: tuple(index[symbol] for symbol in own) for row, own in said.items()}
    standard, num_frames = standard_of(frames, fold.train)
    steps, clips = steps_a_frame(frames.hop_s), Held(frames, fold.test, standard)
    train = Spoken(Held(frames, fold.train, standard), num_frames, [targets[r] for r in learned], len(alphabet), steps)
    lengths = [len(clips[number]) for number in range(len(clips))]
    test = Spoken(clips, lengths, [targets[row] for row in measured], len(alphabet), steps)
    return _Opened(train, test, list(_notes(fold.name, train, test, unheard=unheard)))


def _notes(name: str, train: Spoken, test: Spoken, *, unheard: Sequence[str]) -> Iterator[str]:
    for what, part, fate in (("training", train, "not learned from"), ("test", test, "no part of nats")):
        count = len(part.targets)
        short = sum(part.is_short(number) for number in range(count))
        if short:
            yield f"{name}: {short} of {count} {what} utterances have more symbols than frames: {fate}"
    if unheard:
        count = sum(not test.is_known(i) for i in range(len(test.targets)))
        yield (
            f"{name}: {count} of {len(test.targets)} test utterances hold symbols that training lacks "
            f"({', '.join(map(repr, unheard[:10]))}{', ...' if len(unheard) > 10 else ''}): errors, and no part of nats"
        )


def _symbols(items: Items, row: int) -> tuple[str, ...]:
    label = items.labels[row]
    if isinstance(label, str):
        raise ConfigError(
            f"labels of a task of kind 'recognise' must be symbols in order, {items.manifest.describe(row)} has the "
            f'single label {label!r}; use labels.column = "text", labels.phones or labels.table'
        )
    return label


class _Tally:
    """Edits and losses of a head, speaker by speaker.

    Args:
        names: of the speakers.
        seeds: of the head.
    """

    def __init__(self, names: tuple[str, ...], seeds: tuple[int, ...]) -> None:
        self._names, self._seeds = names, seeds
        self._edits, self._nats = (
            {seed: dict.fromkeys(names, (0.0, 0.0)) for seed in seeds} for _ in range(2)
        )  # (errors, symbols) and (nats, symbols)
        self.weights: list[Tensor] = []
        self.notes: list[str] = []

    def add(self, seed: int, speaker: str, *, said: Ids, heard: Heard) -> None:
        """Take an utterance in."""
        _grow(self._edits[seed], speaker, edits(said, heard.symbols).errors, len(said))
        if heard.nats is not None:
            _grow(self._nats[seed], speaker, heard.nats, len(said))

    def result(self, head: str) -> Result:
        """What the head reached.

        Raises:
            ConfigError: nothing was said in any test item.
        """
        if not any(whole for counts in self._edits.values() for _, whole in counts.values()):
            raise ConfigError("test items must have symbols, all of them are empty")
        draws = Draws.of(self._names, len(self._seeds))
        score = share_score(METRIC, self._edits, draws=draws, higher_is_better=False)
        counted = any(whole for counts in self._nats.values() for _, whole in counts.values())
        others = {NATS: share_score(NATS, self._nats, draws=draws, higher_is_better=False)} if counted else {}
        weights = tuple(torch.stack(self.weights).mean(0).tolist())
        return Result(head, score, others, layer_weights=weights, notes=tuple(self.notes))


def _grow(counts: dict[str, tuple[float, float]], name: str, part: float, whole: float) -> None:
    counts[name] = counts[name][0] + part, counts[name][1] + whole
