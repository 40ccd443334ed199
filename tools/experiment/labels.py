"""Little, some and all of the labels of a corpus whose held-out speakers are on a list, and speech without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from audio_ssl.data.manifest import Manifest
from audio_ssl.probe.heard import heard_manifests
from audio_ssl.probe.split_lists import find_list, read_list
from benchmarks.report import BenchError, note
from experiment import held_out
from experiment.corpora import CORPORA, LABELLED, describe, scan_corpus

AMOUNTS = {"10min": 600.0, "1h": 3600.0, "all": math.inf}  # seconds of labels, each part of the next


@dataclass(frozen=True)
class Labels:
    """What :func:`prepare` leaves in a folder.

    Attributes:
        folder: it.
    """

    folder: Path

    def train(self, amount: str) -> Path:
        """So many labels of the train speakers."""
        return self.folder / f"train_{amount}.arrow"

    @property
    def valid(self) -> Path:
        """Speakers on whom settings are chosen."""
        return self.folder / "valid.arrow"

    @property
    def test(self) -> Path:
        """Speakers on whom nothing is chosen."""
        return self.folder / "test.arrow"

    @property
    def unlabelled(self) -> Path:
        """All that pre-training may hear: the train speakers, and every other corpus."""
        return self.folder / "unlabelled.arrow"

    def check(self) -> Labels:
        """Itself.

        Raises:
            BenchError: a file is missing.
        """
        files = (*map(self.train, AMOUNTS), self.valid, self.test, self.unlabelled)
        missing = [path for path in files if not path.is_file()]
        if missing:
            raise BenchError(
                f"--data {self.folder} must hold what `asr.py data` makes, but {missing[0].name} is missing; make it "
                f"with `asr.py data --corpora DIR --out {self.folder}`"
            )
        return self


def prepare(corpora: Path, out: Path) -> Labels:
    """Scan the corpora, split the labelled one by its list, and take nested amounts of the train speakers' labels.

    Raises:
        BenchError: the labelled corpus is not there, or is not that of the list.
        ManifestError: a corpus holds no usable audio.
    """
    if not (corpora / LABELLED).is_dir():
        raise BenchError(f"--corpora {corpora} must hold {LABELLED}")
    made, others = Labels(out), []
    for corpus in CORPORA:
        if corpus.folder == LABELLED:
            parts = held_out.split(scan_corpus(corpus, corpora), read_list(find_list(LABELLED)))
        elif (corpora / corpus.folder).is_dir():
            others.append(scan_corpus(corpus, corpora))
        else:
            note(f"left out: there is no {corpora / corpus.folder}")
    manifests = {made.valid: parts["valid"], made.test: parts["test"]}
    for amount, seconds in AMOUNTS.items():
        manifests[made.train(amount)] = held_out.nested(parts["train"], seconds)
    manifests[made.unlabelled] = Manifest.concat([parts["train"], *others])
    for path, manifest in manifests.items():
        manifest.write(path)
        describe(path.stem, manifest)
    return made


def refuse_heard(model: Path, data: Labels) -> None:
    """Nobody who is held out may have been heard in pre-training, with or without labels.

    Looked up are the manifests that the model's run names in its settings; where there are none, that is told.

    Raises:
        BenchError: audio of a held-out speaker was in them.
    """
    manifests = heard_manifests(model)
    if not manifests:
        note(
            f"{model}: what it has heard is not known (no run folder with its manifests); held-out speakers must not be"
        )
        return
    kept = {place for path in (data.valid, data.test) for place in _places(path)}
    for path in manifests:
        heard = kept & _places(path)
        if heard:
            raise BenchError(
                f"{model} must not have heard held-out speakers, but {path} holds {len(heard)} of their recordings, "
                f"such as {min(heard)}; pre-train on {data.unlabelled}"
            )


def _places(path: Path) -> set[str]:
    manifest = Manifest.read(path)
    return {str(manifest.audio_path(row)) for row in range(len(manifest))}
