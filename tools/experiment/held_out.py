"""Which speakers of a corpus are held out: a list that was drawn once and is kept with the project.

``manifests/splits/NAME.tsv`` names every speaker of a corpus with its part (``probe/split_lists.py`` reads it).
The list decides, not the rule: results of years can be compared only while nobody moves. The rule is kept so that
anybody can see that nobody chose.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audio_ssl.config.probe import PARTS
from audio_ssl.data.manifest import Manifest
from benchmarks.report import BenchError

HEADER = ("speaker", "part", "age", "gender")
_IN_TEN = {2: "test", 4: "valid", 7: "test"}  # places among ten neighbours; all others are train


@dataclass(frozen=True)
class Person:
    """A speaker, and what the list is balanced by."""

    speaker: str
    age: int
    gender: str


def deal(people: Iterable[Person]) -> dict[str, str]:
    """Part of each speaker, in the order of the rule.

    Speakers stand in a row by gender, age, and the SHA-256 of their name; of every ten neighbours the third and the
    eighth are test and the fifth is valid. So each part has its share of every age and both genders.
    """
    row = sorted(people, key=lambda p: (p.gender, p.age, _digest(p.speaker)))
    return {person.speaker: _IN_TEN.get(i % 10, "train") for i, person in enumerate(row)}


def read_kaldi_people(corpus: Path) -> list[Person]:
    """Speakers of a Kaldi data directory that has ``spk2age`` and ``spk2gender``."""
    ages, genders = (
        dict(line.split() for line in (corpus / name).read_text(encoding="utf-8").splitlines())
        for name in ("spk2age", "spk2gender")
    )
    return [Person(speaker, int(age), genders[speaker]) for speaker, age in ages.items()]


def list_text(people: Iterable[Person], *, title: str) -> str:
    """The list as it is kept: a remark, a header, and a line a speaker in the order of their names."""
    people = sorted(people, key=lambda p: p.speaker)
    parts = deal(people)
    lines = ["\t".join((p.speaker, parts[p.speaker], str(p.age), p.gender)) for p in people]
    return "\n".join((f"# {title}", "\t".join(HEADER), *lines)) + "\n"


def split(manifest: Manifest, parts: Mapping[str, str]) -> dict[str, Manifest]:
    """The manifest's rows, a manifest a part.

    Raises:
        BenchError: the list does not know a speaker, or a part gets no row: this is another corpus.
    """
    speakers = manifest.column("speaker")
    strangers = sorted({str(s) for s in speakers if s not in parts})
    if strangers:
        raise BenchError(
            f"every speaker must be on the list of held-out speakers, {len(strangers)} are not: "
            f"{', '.join(strangers[:5])}; the list is of another corpus, or of another version of it"
        )
    of_row = np.array([parts[s] for s in speakers])
    found: dict[str, Manifest] = {part: manifest.select(np.flatnonzero(of_row == part)) for part in PARTS}
    for part, rows in found.items():
        if not len(rows):
            raise BenchError(f"the corpus must have speakers of every part of the list, it has none of {part}")
    return found


def nested(manifest: Manifest, seconds: float) -> Manifest:
    """So much of a manifest, spread over all its speakers; what a smaller amount holds, a larger one holds too.

    Every speaker's rows stand in an order drawn by the SHA-256 of their ids, and speakers by that of their names: first
    everybody's first row is taken, then everybody's second, as long as the sum stays within ``seconds``.

    Args:
        manifest: rows with speakers.
        seconds: most audio.
    """
    ids, speakers = manifest.column("id"), manifest.column("speaker")
    drawn = sorted(range(len(ids)), key=lambda i: _digest(ids[i]))
    turns, num_had = np.zeros(len(ids), dtype=np.int64), Counter[str]()
    for i in drawn:
        turns[i] = num_had[speakers[i]]
        num_had[speakers[i]] += 1
    order = sorted(drawn, key=lambda i: (turns[i], _digest(speakers[i])))
    fits = np.cumsum(manifest.durations_s()[order]) <= seconds
    return manifest.select(sorted(np.asarray(order)[fits].tolist()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
