"""Probes of kind ``frames``: the label of each frame inside a segment, by a head that sees this frame alone.

A linear head and an MLP, with a softmax-weighted sum over layers, on frames that are standardised by the training
items. Frames in no segment are left out, and told. Nothing is chosen, so ``valid`` is not looked at.

Reference: SUPERB (2105.01051), phone recognition and diarization, for heads of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from audio_ssl.config.probe import ProbeTask, ProbeTraining
from audio_ssl.errors import ConfigError
from audio_ssl.probe.heads import Head, build, learn
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.scores import Draws, Result, share_score
from audio_ssl.probe.segments import FrameLabels
from audio_ssl.probe.standard import Clips, Held, standard_of

METRIC = "frame_accuracy"


def run(
    frames: Frames, items: Items, folds: Sequence[Fold], *, task: ProbeTask, seeds: Sequence[int], heads: Sequence[str]
) -> list[Result]:
    """Learn each head with each seed on every fold, and count the test frames that it names rightly.

    Args:
        frames: of a candidate.
        items: with segments.
        folds: a head can name the labels of its training items; others are errors.
        task: ``training`` holds passes, utterances an update, rate and width.
        seeds: of weights and order.
        heads: ``linear``, ``mlp``.

    Returns:
        A result a head: ``frame_accuracy`` over all labelled test frames. Blocks are the speakers of the test items.

    Raises:
        ConfigError: a fold without labelled frames to learn from or to test on.
    """
    names = sorted({items.speakers[row] for fold in folds for row in fold.test.tolist()})
    hits = {head: {seed: dict.fromkeys(names, (0.0, 0.0)) for seed in seeds} for head in heads}
    weights = {head: list[Tensor]() for head in heads}
    notes = list[str]()
    for fold in folds:
        train, test = _open(frames, items, fold)
        notes += test.notes
        for head in heads:
            for seed in seeds:
                learned = fit(head, train, training=task.training, seed=seed)
                weights[head].append(learned.layer_weights().detach())
                for number, count in enumerate(count_hits(learned, test)):
                    own, name = hits[head][seed], items.speakers[int(test.rows[number])]
                    own[name] = own[name][0] + count, own[name][1] + len(test.targets[number])
    draws = Draws.of(names, len(seeds))
    return [
        Result(
            head, share_score(METRIC, hits[head], draws=draws, higher_is_better=True),
            layer_weights=tuple(torch.stack(weights[head]).mean(0).tolist()), notes=tuple(notes),
        )
        for head in heads
    ]  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """Labelled frames of items.

    Attributes:
        rows: the items.
        clips: (n, L, D) bfloat16 each, the labelled frames alone.
        targets: (n,) int64 each; those from ``num_known`` on were never seen in training.
        num_known: labels that a head can name.
        notes: what is left out.
    """

    rows: Rows
    clips: Clips
    targets: Sequence[Tensor]
    num_known: int
    notes: tuple[str, ...]


def fit(kind: str, train: Labelled, *, training: ProbeTraining, seed: int) -> Head:
    """A head that has learned the mean cross-entropy of frames.

    Args:
        kind: ``linear`` or ``mlp``.
        train: at least one labelled frame.
        training: passes, utterances an update, rate and width.
        seed: of weights and order.
    """
    used = [number for number, target in enumerate(train.targets) if len(target)]
    head = build(kind, train.clips[used[0]].shape[1:], train.num_known, hidden=training.hidden, seed=seed)

    def loss_of(chosen: list[int]) -> Tensor:
        scores = name_frames(head, torch.cat([train.clips[used[i]] for i in chosen]))
        return F.cross_entropy(scores, torch.cat([train.targets[used[i]] for i in chosen]))

    learn(head, loss_of, [len(train.targets[number]) for number in used], training=training, seed=seed)
    return head


def name_frames(head: Head, frames: Tensor) -> Tensor:
    """(n, L, D) -> (n, labels) float32 scores."""
    found: Tensor = head(frames[None], torch.tensor([len(frames)]))[0]
    return found


@torch.no_grad()
def count_hits(head: Head, test: Labelled) -> list[int]:
    """Of each item, how many labelled frames get their label."""
    return [
        int((name_frames(head, test.clips[number]).argmax(-1) == target).sum())
        for number, target in enumerate(test.targets)
    ]


def _open(frames: Frames, items: Items, fold: Fold) -> tuple[Labelled, Labelled]:
    learned, measured = (FrameLabels(frames, items, rows) for rows in (fold.train, fold.test))
    if not learned.num_labelled or not measured.num_labelled:
        raise ConfigError(
            f"{fold.name} must have frames inside segments to learn from and to measure on, it has "
            f"{learned.num_labelled} and {measured.num_labelled}; see labels.ctm and the task's split"
        )
    alphabet = sorted({label for own in learned.labels for label in own})
    unseen = sorted({label for own in measured.labels for label in own} - set(alphabet))
    index = {label: number for number, label in enumerate((*alphabet, *unseen))}
    standard, _ = standard_of(frames, fold.train)
    notes = [part.note(f"{fold.name}, {name}") for name, part in (("train", learned), ("test", measured))]
    if unseen:
        notes.append(f"{fold.name}: frames of labels that training lacks are errors: {', '.join(unseen[:10])}")

    def labelled(rows: Rows, own: FrameLabels) -> Labelled:
        targets = [torch.tensor([index[label] for label in labels], dtype=torch.int64) for labels in own.labels]
        return Labelled(rows, Held(frames, rows, standard, kept=own.places), targets, len(alphabet), tuple(notes))

    return labelled(fold.train, learned), labelled(fold.test, measured)
