"""What must not be on both sides of a split: a speaker, a stretch of a file, or the same audio under another name.

Only samples are compared, cheapest first: rows of equal length at an equal rate, of these the first quarter of a
second, and of those that agree all samples. So a copy in another lossless format is found; one that went through a
lossy codec again, or was cut in another place, is not.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from audio_ssl.config.probe import PARTS, Part
from audio_ssl.data.audio import read_audio
from audio_ssl.data.parallel import map_in_order
from audio_ssl.data.table import listed
from audio_ssl.errors import AudioError, ManifestError
from audio_ssl.probe.items import Fold, Items
from audio_ssl.probe.told import few

_FIRST_S = 0.25
_IN_FLIGHT = 256
Groups = Iterable[Sequence[int]]


def refuse_leaks(items: Items, folds: Sequence[Fold], *, may_share_speakers: bool, num_workers: int = 4) -> None:
    """Refuse folds whose test part is known from elsewhere.

    Args:
        items: N.
        folds: of these items.
        may_share_speakers: the speaker is what is asked for; else nobody may be learned from and tested. Stand-ins of
            speakers, one a file, are never shared.
        num_workers: threads that decode.

    Raises:
        ManifestError: naming the rows of each leak: a speaker of test who is in train or valid, a stretch of a file
            that two rows have, or two rows of different parts with the same samples.
    """
    parts = np.stack([_part_numbers(fold, len(items)) for fold in folds])
    checks: list[Callable[[], list[str]]] = [
        lambda: _same_stretches(items, folds, parts),
        lambda: _same_audio(items, folds, parts, num_workers=num_workers),
    ]
    if not may_share_speakers or not items.are_speakers:
        checks.insert(0, lambda: _same_speakers(items, folds))
    for check in checks:
        faults = check()
        if faults:
            raise ManifestError(listed("test must hold nothing that is learned from or chosen by", faults))


def told_lacks(labels: Sequence[Iterable[str]], folds: Sequence[Fold]) -> list[str]:
    """Notes on labels that are tested, but never learned.

    Args:
        labels: of each item, all that it has.
        folds: of these items.
    """
    lacking: dict[str, set[int]] = defaultdict(set)
    for fold in folds:
        learned = {label for row in fold.train.tolist() for label in labels[row]}
        for row in fold.test.tolist():
            for label in set(labels[row]) - learned:
                lacking[label].add(row)
    if not lacking:
        return []
    rows = set().union(*lacking.values())
    return [
        f"{len(rows)} utterances of test have labels that train lacks, which nothing can learn: {few(sorted(lacking))}"
    ]


def told_repeats(labels: Sequence[Hashable], folds: Sequence[Fold]) -> list[str]:
    """A note on sequences of symbols that are both learned from and tested: a head may know them by heart."""
    tested = repeated = 0
    for fold in folds:
        learned = {labels[row] for row in fold.train.tolist()}
        tested += len(fold.test)
        repeated += sum(labels[row] in learned for row in fold.test.tolist())
    told = f"{repeated} of {tested} utterances of test say what some utterance of train says, word for word"
    return [told] if repeated else []


def _part_numbers(fold: Fold, num_items: int) -> NDArray[np.int8]:
    numbers = np.full(num_items, -1, dtype=np.int8)
    for i, part in enumerate(PARTS):
        numbers[getattr(fold, part)] = i
    return numbers


def _same_speakers(items: Items, folds: Sequence[Fold]) -> list[str]:
    faults = []
    for fold in folds:
        heard: dict[str, tuple[int, Part]] = {}
        for part in ("train", "valid"):
            for row in getattr(fold, part).tolist():
                heard.setdefault(items.speakers[row], (row, part))
        tested = {items.speakers[row]: row for row in reversed(fold.test.tolist())}
        for speaker in sorted(tested.keys() & heard.keys()):
            row, part = heard[speaker]
            who = f"speaker {speaker}" if items.are_speakers else "one recording"
            faults.append(
                f"{fold.name}: {who} is in test ({items.manifest.describe(tested[speaker])}) and in {part} "
                f"({items.manifest.describe(row)})"
            )
    return faults


def _same_stretches(items: Items, folds: Sequence[Fold], parts: NDArray[np.int8]) -> list[str]:
    """Rows that have samples of one file in common: the same row twice always, others where parts tell them apart."""
    of_file: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(items.manifest.file_keys()):
        of_file[key].append(row)
    starts, lengths = items.manifest.column("start"), items.manifest.column("num_samples")
    faults = []
    for rows in of_file.values():
        rows.sort(key=lambda row: starts[row])
        for place, a in enumerate(rows):
            for b in rows[place + 1 :]:
                if starts[b] >= starts[a] + lengths[a]:
                    break
                if (starts[a], lengths[a]) == (starts[b], lengths[b]):
                    faults.append(f"{_names(items, a, b)} are the same row")
                elif (crossing := _crossing(a, b, folds, parts)) is not None:
                    faults.append(f"{_names(items, a, b)} overlap: {crossing}")
    return faults


def _same_audio(items: Items, folds: Sequence[Fold], parts: NDArray[np.int8], *, num_workers: int) -> list[str]:
    rates, lengths = items.manifest.column("sample_rate"), items.manifest.column("num_samples")
    of_length: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(zip(rates, lengths, strict=True)):
        of_length[key].append(row)
    alike: Groups = _parted(of_length, parts)
    for num_s in (_FIRST_S, None):
        alike = _parted(_by_samples(items, alike, num_s, num_workers=num_workers), parts)
    faults = []
    for rows in alike:
        found = ((a, b, _crossing(a, b, folds, parts)) for a, b in combinations(rows, 2))
        faults += [f"{_names(items, a, b)} are the same audio: {crossing}" for a, b, crossing in found if crossing]
    return faults


def _parted(groups: Mapping[Hashable, list[int]], parts: NDArray[np.int8]) -> Iterator[list[int]]:
    """Groups of which some fold has rows in two parts; nothing else can leak."""
    for rows in groups.values():
        if len(rows) > 1:
            own = parts[:, rows]  # (F, rows)
            highest = own.max(axis=1)
            lowest = np.where(own < 0, len(PARTS), own).min(axis=1)
            if (lowest < highest).any():
                yield rows


def _by_samples(
    items: Items, groups: Groups, first_s: float | None, *, num_workers: int
) -> dict[Hashable, list[int]]:  # fmt: skip
    """Groups of rows whose samples are the same, within the groups given; rows that cannot be read are in none."""
    asked = [(number, row) for number, rows in enumerate(groups) for row in rows]

    def digest(pair: tuple[int, int]) -> tuple[int, int, bytes | None]:
        return (*pair, _digest(items, pair[1], first_s))

    found: dict[Hashable, list[int]] = defaultdict(list)
    for number, row, told in map_in_order(digest, asked, num_workers=num_workers, window=_IN_FLIGHT):
        if told is not None:
            found[number, told].append(row)
    return found


def _digest(items: Items, row: int, first_s: float | None) -> bytes | None:
    utterance = items.manifest[row]
    num_samples = utterance.num_samples
    if first_s is not None:
        num_samples = min(num_samples, round(first_s * utterance.sample_rate))
    try:
        samples, _ = read_audio(
            items.manifest.audio_file(row, utterance), start=utterance.start, num_samples=num_samples
        )  # fmt: skip
    except AudioError:
        return None  # whoever reads the row for its frames says so, and names it
    return hashlib.blake2b(samples.tobytes(), digest_size=16).digest()


def _crossing(a: int, b: int, folds: Sequence[Fold], parts: NDArray[np.int8]) -> str | None:
    """In which parts two rows are, in the first fold that parts them."""
    for fold, own in zip(folds, parts, strict=True):
        if own[a] != own[b] and min(own[a], own[b]) >= 0:
            return f"{PARTS[own[a]]} and {PARTS[own[b]]} of {fold.name}"
    return None


def _names(items: Items, a: int, b: int) -> str:
    return f"{items.manifest.describe(a)} and {items.manifest.describe(b)}"
