"""Labels as files: ``NAME.txt`` with ids, or fairseq's ``NAME.km`` with its ``NAME.tsv`` and ``dict.km.txt``.

Every file is written beside its place; the labels come last, so that where they stand all else stands, too.

Reference: fairseq, examples/hubert/simple_kmeans/dump_km_label.py and fairseq/data/audio/hubert_dataset.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from audio_ssl.data.formats.fairseq import refuse_unsayable, write_fairseq
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.output import write_text
from audio_ssl.inference.source import Refusal
from audio_ssl.inference.units.codebook import Units
from audio_ssl.inference.units.statistics import runs_of

DICTIONARY_FILE = "dict.km.txt"


class LabelFiles:
    """What an assignment writes. A context manager: without :meth:`finish` nothing is left.

    Args:
        out: ``NAME.txt`` or ``NAME.km``.
        units: whose labels they are.
        manifest: all utterances of the input.
        dedup: runs as one label, with their lengths beside them; ``.txt`` only.

    Raises:
        ConfigError: another extension, ``dedup`` of a ``.km``, or a place that holds something.
        ManifestError: utterances that the format cannot say; all are named.
    """

    def __init__(self, out: Path, units: Units, manifest: Manifest, *, dedup: bool) -> None:
        self._out, self._units, self._manifest, self._dedup = out, units, manifest, dedup
        self._is_km = out.suffix == ".km"
        if out.suffix not in (".txt", ".km"):
            raise ConfigError(
                f"OUT must end in .txt (id, tab, labels) or .km (fairseq's, for HuBERT training), got {out.name}"
            )
        if self._is_km and dedup:
            raise ConfigError("--dedup must go to a .txt file: a .km file has a label for each frame")
        self.tsv = out.with_suffix(".tsv")
        for path in (out, self.tsv) if self._is_km else (out,):
            if path.exists():
                beside = "; a .km gets a .tsv of its own" if path == self.tsv else ""
                raise ConfigError(
                    f"{path} must not be there yet, nothing is written over{beside}: remove it, or choose another OUT"
                )
        if self._is_km:
            self._check_km()
        else:
            faults = [repr(name) for name in manifest.column("id") if any(ord(c) < 32 for c in name)]
            if faults:
                raise ManifestError(
                    listed("ids of a .txt file must have no tab, line break or other control character", faults)
                )
        self._rows: list[int] = []

    @property
    def statistics_file(self) -> Path:
        """Where the figures go."""
        return self._out.with_name(f"{self._out.name}.stats.json")

    @property
    def errors_file(self) -> Path:
        """Where utterances without labels go."""
        return self._out.with_name(f"{self._out.name}.errors.jsonl")

    def __enter__(self) -> Self:
        self._draft = self._out.with_name(f".{self._out.name}.{os.getpid()}.tmp")
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._draft.open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk was told already
            self._file.close()
        self._draft.unlink(missing_ok=True)

    def write(self, row: int, labels: NDArray[np.int32]) -> None:
        """Write an utterance's labels (T,); rows come in ascending order."""
        fields = [labels]
        if self._dedup:
            starts, lengths = runs_of(labels)
            fields = [labels[starts], lengths.astype(np.int32)]
        cells = [" ".join(map(str, field.tolist())) for field in fields]
        name = [] if self._is_km else [self._manifest[row].id]
        self._file.write("\t".join([*name, *cells]) + "\n")
        self._rows.append(row)

    def finish(self, statistics: Mapping[str, Any], refused: Sequence[Refusal]) -> None:
        """Put everything in place.

        Raises:
            ConfigError: a place that cannot be written.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self.errors_file.unlink(missing_ok=True)
        if refused:
            lines = [{key: value for key, value in asdict(one).items() if key != "row"} for one in refused]
            write_text(self.errors_file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        head = {"units_hash": self._units.hash, "labels": self._out.name, "deduplicated": self._dedup}
        write_text(self.statistics_file, json.dumps({**head, **statistics}, indent=2) + "\n")
        if self._is_km:
            write_text(self._out.with_name(DICTIONARY_FILE), self._dictionary())
            write_fairseq(self._manifest.select(self._rows), self.tsv)
        self._draft.replace(self._out)

    def _dictionary(self) -> str:
        """A symbol and a count a line, as fairseq reads it; every unit is in it, used or not."""
        return "".join(f"{unit} 1\n" for unit in range(self._units.num_units))

    def _check_km(self) -> None:
        refuse_unsayable(self._manifest, with_text=False)
        rate = self._units.document["model_rate_hz"]
        others = [
            f"{name}: {own} Hz"
            for name, own in zip(self._manifest.column("id"), self._manifest.column("sample_rate"), strict=True)
            if own != rate
        ]
        if others:
            raise ManifestError(
                listed(f"files of a .km file must be at the model's {rate} Hz, since fairseq does not resample", others)
            )
        dictionary = self._out.with_name(DICTIONARY_FILE)
        if dictionary.exists() and dictionary.read_text(encoding="utf-8") != self._dictionary():
            raise ConfigError(
                f"{dictionary} must be that of these {self._units.num_units} units, it is another; a folder of .km "
                "files is for one codebook: choose another"
            )
        for other in sorted(self._out.parent.glob("*.km.stats.json")):
            _check_same_units(other, self._units)


def _check_same_units(statistics: Path, units: Units) -> None:
    try:
        document = json.loads(statistics.read_text(encoding="utf-8"))
        name, theirs = document["labels"], document["units_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no file of ours
    if theirs != units.hash:
        raise ConfigError(
            f"a folder of .km files is for one codebook; {statistics.with_name(name)} is of units {theirs}, "
            f"{units.path} has {units.hash}: choose another folder"
        )
