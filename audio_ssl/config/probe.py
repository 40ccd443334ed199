"""Settings of a probe: a task's data, labels, split and heads, as ``configs/probe/*.toml`` hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from audio_ssl.config.section import Count, NonNegative, Positive, Section

Kind = Literal["classify", "verify", "recognise", "frames", "abx", "units", "retrieve"]
SplitKind = Literal["leave_one_speaker_out", "speakers", "list", "utterances", "paths", "files", "given"]
Part = Literal["train", "valid", "test"]
Listed = Literal["valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
HEADS: dict[str, tuple[str, ...]] = {
    "classify": ("linear", "mlp"), "frames": ("linear", "mlp"), "recognise": ("linear", "recurrent"),
    "verify": (), "abx": (), "units": (), "retrieve": (),
}  # fmt: skip
WITH_SEGMENTS = ("frames", "units")
SOURCES = ("pattern", "column", "json_file", "csv", "table", "phones", "ctm")


def _expression(pattern: str, *, group: str | None = None) -> str:
    """The same expression, if it is one; with the group where one is asked for."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"must be a regular expression, got {pattern!r}: {error}") from error
    if group is not None and group not in found.groupindex:
        raise ValueError(f"must have a group named {group}, such as '^(?P<{group}>[^/]+)/', got {pattern!r}")
    return pattern


class ProbeLabels(Section):
    """Where the labels stand; exactly one of the sources.

    File names are relative to ``data.root``; with ``data.manifest``, to the folder that its audio lies in.
    """

    one_of: ClassVar[tuple[str, ...]] = SOURCES
    pattern: str | None = None
    """A regular expression with a group ``label``, looked for in the path of each row."""
    column: Literal["speaker", "language", "text"] | None = None
    """A column of the manifest."""
    json_file: str | None = None
    """A JSON object from file name (or id) to an object of labels; ``json_key`` names the label."""
    json_key: str | None = None
    """``intent``; of an object in an object, ``slots.drink``."""
    csv: str | None = None
    """Tables with a header, parted by commas (``.tsv``: by tabs); ``data/*.csv`` means all files of such a name."""
    csv_key: str | None = None
    """The column that names the recording: its id or its file."""
    csv_label: tuple[str, ...] = ()
    """The column of the label; of several, all of them together are the label."""
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

    @field_validator("pattern")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        return None if pattern is None else _expression(pattern, group="label")

    @model_validator(mode="after")
    def _has_one_source(self) -> ProbeLabels:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"must have exactly one of {', '.join(SOURCES)}, got {', '.join(given) or 'none'}")
        if (self.json_file is None) != (self.json_key is None):
            raise ValueError("must have json_file and json_key together")
        if len({self.csv is None, self.csv_key is None, not self.csv_label}) > 1:
            raise ValueError("must have csv, csv_key and csv_label together")
        return self


class ProbeData(Section):
    """Which recordings."""

    one_of: ClassVar[tuple[str, ...]] = ("root", "manifest")
    root: str | None = None
    """A folder of recordings below ``--corpora``, which is scanned as ``audio-ssl manifest build`` does it."""
    manifest: str | None = None
    """Or a manifest, relative to ``--corpora`` or absolute; of ``split.kind = "given"`` the one to learn from."""
    test_manifest: str | None = None
    valid_manifest: str | None = None
    speaker_from: str | None = None
    """As ``manifest build --speaker-from``."""
    language: str | None = None
    """Of rows that name none."""
    max_s: Positive = 30.0
    """Longer rows are left out and counted: a probe of them is one of windows."""
    only: str | None = None
    """A regular expression: rows whose path does not have it are left out, and not counted as lost."""

    @field_validator("only")
    @classmethod
    def _is_expression(cls, only: str | None) -> str | None:
        return None if only is None else _expression(only)

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
    ``paths``: by what stands in the path; ``files``: lists of recordings; ``given``: the manifests say it."""
    shares: Mapping[Part, NonNegative] = {"train": 0.7, "valid": 0.1, "test": 0.2}
    """Of utterances in ``utterances``, of hours in ``speakers``."""
    folds: Count = 1
    """Of ``utterances``: above 1, each utterance is tested once, in one of so many folds; ``shares`` are of a fold."""
    file: str | None = None
    """Of ``list``: the name of a list of ``manifests/splits`` that comes with the package, or a path."""
    paths: Mapping[Part, str] = {}
    """Of ``paths``: a regular expression a part; rows whose path has none of them are left out, and counted."""
    files: Mapping[Listed, str] = {}
    """Of ``files``: lists of file names below ``data.root``, a line each; all other rows are train."""
    hours: Positive | None = None
    """At most so many hours are learned from: utterances at equal distances, so that all speakers take part."""
    seed: int = 0

    @field_validator("paths")
    @classmethod
    def _are_expressions(cls, paths: Mapping[Part, str]) -> Mapping[Part, str]:
        return {part: _expression(pattern) for part, pattern in paths.items()}

    @model_validator(mode="after")
    def _is_whole(self) -> ProbeSplit:
        for kind, key in (("list", "file"), ("paths", "paths"), ("files", "files")):
            if (self.kind == kind) != bool(getattr(self, key)):
                raise ValueError(f'must have {key} with kind = "{kind}", and only then')
        if self.kind == "paths" and not {"train", "test"} <= set(self.paths):
            raise ValueError(f"must have paths of train and test, got {', '.join(self.paths)}")
        if self.kind == "files" and "test" not in self.files:
            raise ValueError("must have a list of test in files")
        if abs(sum(self.shares.values()) - 1) > 1e-6 or not (self.share("train") and self.share("test")):
            told = ", ".join(f"{part} {share:g}" for part, share in self.shares.items())
            raise ValueError(f"shares must be above 0 for train and test, and add up to 1, got {told}")
        if self.folds > 1 and (self.kind != "utterances" or abs(self.folds * self.share("test") - 1) > 1e-6):
            raise ValueError(
                f'folds above 1 must go with kind = "utterances" and shares.test = 1 / folds, got {self.folds} folds, '
                f'kind "{self.kind}" and {self.share("test"):g}'
            )
        return self

    def share(self, part: Part) -> float:
        """Share of a part; 0 where it is not named."""
        return self.shares.get(part, 0.0)


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
        if len(set(self.heads)) < len(self.heads):
            raise ValueError(f"heads must be named once each, got {', '.join(self.heads)}")
        if self.kind in WITH_SEGMENTS and self.labels.ctm is None:
            raise ValueError(f"labels.ctm must be given for kind {self.kind!r}, which needs times")
        if self.labels.ctm is not None and self.kind not in (*WITH_SEGMENTS, "abx"):
            raise ValueError(f"labels.ctm must be left out for kind {self.kind!r}, which has one answer an utterance")
        is_spelled = self.labels.phones is not None or self.labels.table is not None or self.labels.column == "text"
        if self.kind == "recognise" and not is_spelled:
            raise ValueError('labels must be phones, table or column = "text" for kind "recognise": symbols in order')
        if self.kind != "recognise" and self.labels.phones is not None:
            raise ValueError(f'labels.phones must be left out but for kind "recognise", got kind {self.kind!r}')
        if self.trials is not None and self.kind != "verify":
            raise ValueError('trials must be left out but for kind "verify"')
        return self

    @model_validator(mode="after")
    def _has_its_parts(self) -> ProbeTask:
        is_given = self.split.kind == "given"
        if is_given != (self.data.test_manifest is not None):
            raise ValueError('data.test_manifest must be given with split.kind = "given", and only then')
        if self.data.valid_manifest is not None and not is_given:
            raise ValueError('data.valid_manifest must be left out but with split.kind = "given"')
        if is_given and self.data.manifest is None:
            raise ValueError('data.manifest must be given with split.kind = "given": the rows to learn from')
        if self.split.kind == "files" and self.data.root is None:
            raise ValueError('data.root must be given with split.kind = "files"')
        return self

    @property
    def heads_used(self) -> tuple[str, ...]:
        """The heads that learn."""
        return self.heads or HEADS[self.kind]
