"""Real corpora to manifests, a split by speaker, and the phones of each utterance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from audio_ssl.data.manifest import Manifest
from audio_ssl.data.partition import split_rows
from audio_ssl.data.scan import scan
from audio_ssl.probe.label_files import read_phones
from benchmarks.report import BenchError, note

LABELLED, DIGITS = "speechocean762", "fsdd"
PARTS = {"train": 0.8, "valid": 0.08, "test": 0.12}
PHONE_FILE = "text-phone"


@dataclass(frozen=True)
class Corpus:
    """A folder of the corpora, and what its manifest needs to be told.

    Attributes:
        folder: its name.
        speaker_from: as ``audio-ssl manifest build``.
        language: of rows that name none.
    """

    folder: str
    speaker_from: str = "none"
    language: str | None = None


# As tools/real_speech.sh builds them.
CORPORA = (
    Corpus(LABELLED, language="en"),
    Corpus("librispeech_mini", speaker_from=r"(?P<speaker>\d+)-\d+-\d+"),
    Corpus(DIGITS, speaker_from=r"_(?P<speaker>[a-z]+)_"),
    Corpus("ljspeech_mini"),
    Corpus("speech_to_intent"),
)
NEEDED = (LABELLED, DIGITS)  # by the probes; the others take part in training where they are there


@dataclass(frozen=True)
class Prepared:
    """What :func:`prepare` leaves in a folder.

    Attributes:
        folder: it.
    """

    folder: Path

    @property
    def unlabelled(self) -> Path:
        """All that is heard in pre-training: the train speakers, and every other corpus."""
        return self.folder / "unlabelled.arrow"

    @property
    def digits(self) -> Path:
        """Utterances of one digit each."""
        return self.folder / f"{DIGITS}.arrow"

    @property
    def phones(self) -> Path:
        """Id and phones of each utterance of the split."""
        return self.folder / "phones.tsv"

    def part(self, name: str) -> Path:
        """``train``, ``valid`` or ``test``: no speaker is in two of them."""
        return self.folder / "split" / f"{name}.arrow"

    def check(self) -> Prepared:
        """Itself.

        Raises:
            BenchError: a file is missing.
        """
        files = (self.unlabelled, self.digits, self.phones, *map(self.part, PARTS))
        missing = [str(path) for path in files if not path.is_file()]
        if missing:
            raise BenchError(
                f"--data {self.folder} must hold what `quality.py data` makes, but {missing[0]} is missing; make it "
                f"with `quality.py data --corpora DIR --out {self.folder}`"
            )
        return self


def prepare(corpora: Path, out: Path) -> Prepared:
    """Scan the corpora and split the labelled one by speaker.

    Raises:
        BenchError: a corpus that the probes need is not there, or phones of an utterance are.
        ManifestError: a corpus holds no usable audio, or an utterance has no speaker.
    """
    missing = [name for name in NEEDED if not (corpora / name).is_dir()]
    if missing:
        raise BenchError(f"--corpora {corpora} must hold {' and '.join(NEEDED)}, but has no {missing[0]}")
    made = Prepared(out)
    manifests = {c.folder: scan_corpus(c, corpora) for c in CORPORA if (corpora / c.folder).is_dir()}
    for corpus in CORPORA:
        if corpus.folder not in manifests:
            note(f"left out: there is no {corpora / corpus.folder}")
    labelled = manifests.pop(LABELLED)
    parts = {name: labelled.select(rows) for name, rows in split_rows(labelled, parts=PARTS).items()}
    _write_phones(made.phones, read_phones(corpora / LABELLED / PHONE_FILE), ids=labelled.column("id"))
    for name, part in parts.items():
        part.write(made.part(name))
        describe(name, part)
    manifests[DIGITS].write(made.digits)
    unlabelled = Manifest.concat([parts["train"], *manifests.values()])
    unlabelled.write(made.unlabelled)
    describe("unlabelled", unlabelled)
    return made


def scan_corpus(corpus: Corpus, corpora: Path) -> Manifest:
    """A corpus' manifest; what is refused is counted and told."""
    found = scan(corpora / corpus.folder, speaker_from=corpus.speaker_from, language=corpus.language)
    for reason, count in found.refusal_counts().items():
        note(f"{corpus.folder}: {count} files refused: {reason}")
    return found.manifest


def describe(name: str, manifest: Manifest) -> None:
    """Say how much a manifest holds."""
    speakers = len({speaker for speaker in manifest.column("speaker") if speaker is not None})
    hours = float(manifest.durations_s().sum()) / 3600
    note(f"{name}: {len(manifest)} utterances, {hours:.2f} h, {speakers} named speakers")


def _write_phones(path: Path, phones: dict[str, tuple[str, ...]], *, ids: list[str]) -> None:
    without = [name for name in ids if name not in phones]
    if without:
        raise BenchError(f"every utterance must have phones, but {len(without)} have none: {', '.join(without[:5])}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\t{' '.join(phones[name])}\n" for name in ids), encoding="utf-8")


def load_phones(path: Path) -> dict[str, tuple[str, ...]]:
    """Phones of each utterance as :func:`prepare` wrote them."""
    rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    return {name: tuple(phones.split()) for name, phones in rows}
