"""Settings of a probe: a task's data, labels, split and heads, as ``configs/probe/*.toml`` hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

from pydantic import field_validator, model_validator

from audio_ssl.config.section import Count, NonNegative, Positive, Section

Kind = Literal["classify", "verify", "recognise", "frames", "abx", "units", "retrieve"]
SplitKind = Literal["leave_one_speaker_out", "speakers", "list", "utterances", "given"]
HEADS: dict[str, tuple[str, ...]] = {
    "classify": ("linear", "mlp"), "frames": ("linear", "mlp"), "recognise": ("linear", "recurrent"),
    "verify": (), "abx": (), "units": (), "retrieve": (),
}  # fmt: skip
WITH_SEGMENTS = ("frames", "units")
SOURCES = ("pattern", "column", "json_file", "table", "phones", "ctm")


class ProbeLabels(Section):
    """Where the labels stand; exactly one of the sources. File names are relative to ``data.root``."""

    pattern: str | None = None
    """A regular expression with a group ``label``, looked for in the path of each row."""
    column: Literal["speaker", "language", "text"] | None = None
    """A column of the manifest."""
    json_file: str | None = None
    """A JSON object from file name to an object of labels; ``json_key`` names the label."""
    json_key: str | None = None
    table: str | None = None
    """Lines of an id (or a file name), white space, and the label; of ``recognise``, the symbols parted by spaces."""
    phones: str | None = None
    """A Kaldi ``text-phone`` file: a line a word, ``ID.NUMBER PHONE PHONE ...``; without marks of place and stress."""
    ctm: str | None = None
    """Labels with times: ``ID CHANNEL START DURATION LABEL``, of ``frames``, ``units`` and ``abx``."""
    unit: Literal["character", "word"] = "character"
    """What ``column = "text"`` is cut into where symbols are wanted."""
    min_count: Count = 1
    """Labels of fewer utterances are left out, with their utterances, and counted."""

    @model_validator(mode="after")
    def _has_one_source(self) -> ProbeLabels:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of {', '.join(SOURCES)}, got {', '.join(given) or 'none'}")
        if (self.json_file is None) != (self.json_key is None):
            raise ValueError("must have json_file and json_key together")
        return self


class ProbeData(Section):
    """Which recordings."""

    root: str | None = None
    """A folder of recordings below ``--corpora``, which is scanned as ``audio-ssl manifest build`` does it."""
    manifest: str | None = None
    """Or a manifest, relative to ``--corpora`` or absolute; of ``split.kind = "given"`` the one to learn from."""
    test_manifest: str | None = None
    valid_manifest: str | None = None
    speaker_from: str | None = None
    """As ``manifest build --speaker-from``."""
    language: str | None = None
    max_s: Positive = 30.0
    """Longer rows are left out and counted: a probe of them is one of windows."""
    only: str | None = None
    """A regular expression: rows whose path does not have it are left out, and not counted as lost."""

    @model_validator(mode="after")
    def _has_one_source(self) -> ProbeData:
        if (self.root is None) == (self.manifest is None):
            raise ValueError("must have either root or manifest")
        return self

    @field_validator("root")
    @classmethod
    def _is_inside(cls, root: str | None) -> str | None:
        if root is not None and (PurePosixPath(root).is_absolute() or ".." in PurePosixPath(root).parts):
            raise ValueError(f"must be a folder below --corpora, got {root!r}; another place is given by --corpora")
        return root


class ProbeSplit(Section):
    """Who is learned from and who is measured; nobody is both, but where the speaker is the label."""

    kind: SplitKind = "speakers"
    """``leave_one_speaker_out``; ``speakers``: drawn by :attr:`shares`; ``list``: a file of speakers and parts;
    ``utterances``: drawn by :attr:`shares` within each label (where the speaker is the label, or unknown);
    ``given``: the manifests say it."""
    shares: Mapping[Literal["train", "valid", "test"], NonNegative] = {"train": 0.7, "valid": 0.1, "test": 0.2}
    """Of utterances in ``utterances``, of hours in ``speakers``."""
    file: str | None = None
    """Of ``list``: the name of a list of ``manifests/splits`` that comes with the package, or a path."""
    hours: Positive | None = None
    """At most so many hours are learned from: every n-th utterance, so that all speakers take part."""
    seed: int = 0

    @model_validator(mode="after")
    def _is_whole(self) -> ProbeSplit:
        if (self.kind == "list") != (self.file is not None):
            raise ValueError('must have a file with kind = "list", and only then')
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"shares must add up to 1, got {sum(self.shares.values()):g}")
        return self


class ProbeTraining(Section):
    """How heads learn. One setting for all candidates, fixed before anything is measured."""

    epochs: Count = 20
    batch: Count = 16
    """Utterances an update; of ``frames`` the frames of so many utterances."""
    lr: Positive = 1e-2
    hidden: Count = 128
    """Width of the MLP, and of each direction of the recurrent head."""
    penalty: Positive = 1.0
    """Of the linear head of ``classify``: scikit-learn's 1 / C."""


class ProbeTask(Section):
    """A task: ``configs/probe/NAME.toml``."""

    kind: Kind
    """``classify``: one label an utterance; ``verify``: same speaker or not; ``recognise``: symbols in order by CTC;
    ``frames``: a label a frame; ``abx``: is X nearer to A or B; ``units``: PNMI of k-means units; ``retrieve``: nearest
    utterances of others."""
    title: str
    """What is asked, in tables: ``digits, speakers held out``."""
    data: ProbeData
    labels: ProbeLabels
    split: ProbeSplit = ProbeSplit()
    training: ProbeTraining = ProbeTraining()
    heads: tuple[str, ...] = ()
    """Of ``classify`` and ``frames``: linear, mlp; of ``recognise``: linear, recurrent. All of the kind without it."""
    across: Literal["speaker", "language"] = "speaker"
    """Of ``abx`` and ``retrieve``: whose items count as others."""
    clusters: Count = 100
    """Of ``units``."""
    trials: str | None = None
    """Of ``verify``: a file of lines ``1 a b`` or ``0 a b`` with ids or file names; else all pairs of ``test``."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ProbeTask:
        odd = [head for head in self.heads if head not in HEADS[self.kind]]
        if odd:
            known = ", ".join(HEADS[self.kind]) or "none"
            raise ValueError(f"heads must be among {known} for kind {self.kind!r}, got {', '.join(odd)}")
        if self.kind in WITH_SEGMENTS and self.labels.ctm is None:
            raise ValueError(f"labels.ctm must be given for kind {self.kind!r}, which needs times")
        if self.trials is not None and self.kind != "verify":
            raise ValueError('trials must be left out but for kind "verify"')
        return self

    @property
    def heads_used(self) -> tuple[str, ...]:
        """The heads that learn."""
        return self.heads or HEADS[self.kind]
