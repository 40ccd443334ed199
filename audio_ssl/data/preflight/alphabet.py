"""Symbols beside the transcripts: what the vocabulary lacks, what is seen once, and whether it is too large."""

from __future__ import annotations

from collections import Counter, defaultdict

from audio_ssl.config.preflight import PreflightConfig
from audio_ssl.data.preflight.characters import name_of
from audio_ssl.data.preflight.notices import Notice, Split, limit_of, passed
from audio_ssl.data.text import Vocabulary

NUM_NAMED = 10  # characters


def unknown_characters(split: Split, vocabulary: Vocabulary, limits: PreflightConfig) -> list[Notice]:
    """Characters that the vocabulary lacks: the model learns ``<unk>`` for them, and cannot answer with them."""
    counts: Counter[str] = Counter()
    rows: dict[int, str] = {}
    for row, text in enumerate(split.texts):
        missing = [c for c in text if c != " " and vocabulary.lacks(c)]
        if missing:
            counts.update(missing)
            rows[row] = " ".join(map(repr, dict.fromkeys(missing)))
    if not rows:
        return []
    named = [f"{c!r} ({name_of(c)}) {n} times" for c, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(named) - NUM_NAMED} more" if len(named) > NUM_NAMED else ""
    what = f"{len(counts)} character{'s' * (len(counts) > 1)} that the vocabulary lacks"
    message = f"{what}: {', '.join(named[:NUM_NAMED])}{more}; in {len(rows)} of {split.num_texts} transcripts"
    advice = (
        "They are learned as <unk>. Correct the transcripts, change the rules of [text], or lower vocabulary.min_count"
        if split.name == "train"
        else "The rows stay in, and the error rate counts them. Let data.train have them, or change the rules of [text]"
    )
    limit = passed(len(rows) / split.num_texts, limit_of(limits, "warn_odd_share"))
    return [Notice("unknown_characters", split.name, message, advice, rows, split.manifest, limit)]


def rare_characters(split: Split) -> list[Notice]:
    """Characters that stand in one transcript only, which a model can hardly learn."""
    seen: dict[str, int] = {}
    again: set[str] = set()
    for row, text in enumerate(split.texts):
        for character in set(text):
            if seen.setdefault(character, row) != row:
                again.add(character)
    rows: defaultdict[int, list[str]] = defaultdict(list)
    for character in sorted(seen.keys() - again - {" "}):
        rows[seen[character]].append(character)
    if not rows:
        return []
    rare = sorted(character for characters in rows.values() for character in characters)
    listed = " ".join(map(repr, rare[: 3 * NUM_NAMED]))
    more = f" and {len(rare) - 3 * NUM_NAMED} more" if len(rare) > 3 * NUM_NAMED else ""
    what = f"{len(rare)} character{'s' * (len(rare) > 1)} stand in one transcript only: {listed}{more}"
    about = {row: " ".join(map(repr, characters)) for row, characters in sorted(rows.items())}
    advice = "A model can hardly learn them. Look whether they are slips; vocabulary.min_count makes them <unk>"
    return [Notice("rare_characters", split.name, what, advice, about, split.manifest)]


def vocabulary_size(split: Split, vocabulary: Vocabulary, limits: PreflightConfig) -> list[Notice]:
    """Whether there are enough labels to learn each symbol from."""
    if split.fit is None:
        return []
    num_labels = int(split.fit.num_labels.sum())
    least = limit_of(limits, "warn_labels_per_symbol")
    if num_labels >= least.value * len(vocabulary):
        return []
    average = f"{num_labels / len(vocabulary):.1f} labels a symbol, on average"
    message = f"{len(vocabulary)} symbols for {num_labels} labels: {average}"
    advice = (
        "So few hardly suffice to learn them. Give more transcripts, let rare characters be <unk> "
        "(vocabulary.min_count), or take fewer pieces"
    )
    return [Notice("vocabulary_size", split.name, message, advice, {}, split.manifest, least)]
