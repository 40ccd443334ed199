"""Kind ``verify``: are two utterances of one speaker, by the cosine of their mean frames.

Nothing is learned but the mean of the items in ``train``, which is taken off first (what all utterances share would
make all cosines high), and, of a model with several layers, which one is used: that with the lowest equal error rate
over pairs of ``valid``, or of ``train`` where ``valid`` has no pairs of one speaker and of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import ProbeTask
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.probe.eer import TARGET_PRIOR, Trials, drawn_rates, rates
from audio_ssl.probe.items import Fold, Frames, Items, Rows
from audio_ssl.probe.scores import Draws, Result, Score
from audio_ssl.probe.subset import spread_labels

MOST_TO_CHOOSE_BY = 1000  # utterances whose pairs choose the layer: half a million pairs
_PORTION = 100_000  # pairs at once
Pairs = NDArray[np.int64]
Floats = NDArray[np.float64]


def run(
    frames: Frames,
    items: Items,
    folds: Sequence[Fold],
    *,
    task: ProbeTask,
    seeds: Sequence[int],
    heads: Sequence[str],  # noqa: ARG001 - the kind has none
) -> list[Result]:
    """Equal error rate over trials, and the least detection cost.

    Args:
        frames: of the items.
        items: whose label says who speaks.
        folds: trials are within the ``test`` of a fold, and those of all folds count together.
        task: its ``trials`` is a file of them; else they are all pairs.
        seeds: the first names the result, for nothing is drawn.
        heads: none.

    Raises:
        ConfigError: labels that are no single names.
        ManifestError: trials that cannot be used, or none of one speaker or of two.
    """
    voices = _Voices.of(frames, items)
    given = None if task.trials is None else read_trials(Path(task.trials), items)
    layer = voices.best_layer(folds)
    pairs = [all_pairs(fold.test) if given is None else _within(given, fold.test) for fold in folds]
    if given is not None:
        _refuse_strays(given, pairs, items)
    trials = voices.joined([voices.trials(own, fold, layer) for own, fold in zip(pairs, folds, strict=True)])
    if not trials.are_both_kinds:
        num = int(trials.is_target.sum())
        raise ManifestError(
            f"trials must be of one speaker and of two, got {num} of one and {len(trials.is_target) - num} of two: "
            "the items to test on must have two speakers or more, and two utterances or more of one"
        )
    return [_result(trials, voices.names, seed=seeds[0], layer=layer if frames.num_layers > 1 else None)]


@dataclass(frozen=True)
class _Voices:
    """Mean frames and who speaks.

    Attributes:
        means: (N, L, D).
        labels: (N,) whose voice it is, as a number.
        blocks: (N,) whom intervals draw, as places in ``names``.
        names: of blocks.
    """

    means: Floats
    labels: NDArray[np.int64]
    blocks: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, frames: Frames, items: Items) -> _Voices:
        if any(not isinstance(label, str) for label in items.labels):
            raise ConfigError("labels of kind 'verify' must be one name each: who speaks")
        means = frames.pooled()[..., : frames.dim].double().numpy()  # (N, L, 2D) -> (N, L, D)
        labels = np.unique(np.array(items.labels), return_inverse=True)[1]
        names, blocks = np.unique(np.array(items.speakers), return_inverse=True)
        return cls(means, labels.reshape(-1), blocks.reshape(-1), tuple(names.tolist()))

    def trials(self, pairs: Pairs, fold: Fold, layer: int) -> Trials:
        """Cosines of pairs, centred by those that the fold learns from."""
        own = self.means[:, layer]
        centred = own - own[fold.train].mean(0) if len(fold.train) else own
        return Trials(cosines(centred, pairs), self.labels[pairs[:, 0]] == self.labels[pairs[:, 1]], self.blocks[pairs])

    def best_layer(self, folds: Sequence[Fold]) -> int:
        """The layer with the lowest error rate over pairs that are not tested; the first of equal ones."""
        num_layers = self.means.shape[1]
        if num_layers == 1:
            return 0
        totals = np.zeros(num_layers)
        for fold in folds:
            pairs = self._pairs_to_choose_by(fold)
            totals += [rates(self.trials(pairs, fold, layer)).eer()[0] for layer in range(num_layers)]
        return int(totals.argmin())

    def _pairs_to_choose_by(self, fold: Fold) -> Pairs:
        for rows in (fold.valid, fold.train):
            some = spread_labels(rows, self.labels[rows], np.arange(len(rows)), most=MOST_TO_CHOOSE_BY)
            pairs = all_pairs(some)
            if self.trials(pairs, fold, 0).are_both_kinds:
                return pairs
        raise ManifestError(
            f"the layer must be chosen without the test items, but neither valid nor train of fold {fold.name!r} has "
            "two speakers, and two utterances of one"
        )

    def joined(self, parts: Sequence[Trials]) -> Trials:
        """The trials of all folds."""
        return Trials(*(np.concatenate([getattr(own, name) for own in parts]) for name in _PARTS))


_PARTS = ("scores", "is_target", "blocks")


def all_pairs(rows: Rows) -> Pairs:
    """(M, 2) every two of the rows once."""
    first, second = np.triu_indices(len(rows), k=1)
    return np.stack((rows[first], rows[second]), axis=1)


def cosines(vectors: Floats, pairs: Pairs) -> Floats:
    """(M,) of the vectors (N, D) of each pair; 0 where one is zero."""
    lengths = np.sqrt(np.square(vectors).sum(1, keepdims=True))
    unit = vectors / np.where(lengths > 0, lengths, 1.0)
    found = np.empty(len(pairs))
    for first in range(0, len(pairs), _PORTION):
        own = pairs[first : first + _PORTION]
        found[first : first + _PORTION] = np.einsum("md,md->m", unit[own[:, 0]], unit[own[:, 1]])
    return found


def read_trials(path: Path, items: Items) -> Pairs:
    """(M, 2) rows of items from lines ``1 a b`` or ``0 a b``, with ids or file names.

    Args:
        path: of the file; a relative one is looked for below the items' root first.
        items: whose rows are meant.

    Raises:
        ManifestError: naming the line that is none, whose items are not there, or that the labels contradict.
    """
    root = items.manifest.root
    found = root / path if isinstance(root, Path) and (root / path).is_file() else path
    try:
        lines = found.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"trials must be a readable file of lines `1 a b` or `0 a b`: {error}") from error
    rows = _rows_by_name(items.manifest)
    pairs = [
        _trial(line.split(), items, rows, where=f"{found}:{number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not pairs:
        raise ManifestError(f"{found} must hold trials, lines `1 a b` or `0 a b`, it has none")
    return np.array(pairs, dtype=np.int64)


def _trial(words: Sequence[str], items: Items, rows: dict[str, int], *, where: str) -> tuple[int, int]:
    if len(words) != 3 or words[0] not in ("0", "1"):
        raise ManifestError(f"{where} must read `1 a b` or `0 a b`, got {' '.join(words)!r:.80}")
    for name in words[1:]:
        if rows.get(name, -1) < 0:
            why = "names several" if name in rows else "is none of the task"
            raise ManifestError(f"{where} must name items by id or by file name, but {name!r} {why}")
    first, second = rows[words[1]], rows[words[2]]
    if (items.labels[first] == items.labels[second]) != (words[0] == "1"):
        raise ManifestError(
            f"{where} must agree with the labels, got {words[0]}, but {words[1]} is of {items.labels[first]} and "
            f"{words[2]} of {items.labels[second]}"
        )
    return first, second


def _rows_by_name(manifest: Manifest) -> dict[str, int]:
    """Row by id, and by path and the ends of it (``a/b.wav``, ``b.wav``); -1 where a name is of several."""
    rows: dict[str, int] = {}
    for row, path in enumerate(manifest.column("path")):
        parts = path.split("/")
        for name in {"/".join(parts[first:]) for first in range(len(parts))}:
            rows[name] = -1 if name in rows else row
    return rows | {name: row for row, name in enumerate(manifest.column("id"))}


def _within(pairs: Pairs, rows: Rows) -> Pairs:
    return pairs[np.isin(pairs, rows).all(1)]


def _refuse_strays(given: Pairs, used: Sequence[Pairs], items: Items) -> None:
    known = {tuple(pair) for own in used for pair in own.tolist()}
    stray = [pair for pair in given.tolist() if tuple(pair) not in known]
    if stray:
        names = " and ".join(items.manifest[row].id for row in stray[0])
        raise ManifestError(
            f"every trial must be of two test items of one fold, {len(stray)} of {len(given)} are not, such as "
            f"{names}; put all items of the trials into test"
        )


def _result(trials: Trials, names: Sequence[str], *, seed: int, layer: int | None) -> Result:
    used = np.unique(trials.blocks)
    place = np.zeros(len(names), dtype=np.int64)
    place[used] = np.arange(len(used))
    own = Trials(trials.scores, trials.is_target, place[trials.blocks])
    draws = Draws.of([names[block] for block in used], 1)
    exact, drawn = rates(own), drawn_rates(own, draws.blocks)
    eer, cost = (
        Score(metric, float(value[0]), resamples, len(used), {seed: float(value[0])}, higher_is_better=False)
        for metric, value, resamples in (
            ("eer", exact.eer(), drawn.eer()), ("min_dcf", exact.min_dcf(), drawn.min_dcf()),
        )
    )  # fmt: skip
    return Result("cosine", eer, {f"minDCF {TARGET_PRIOR:g}": cost}, layer=layer)
