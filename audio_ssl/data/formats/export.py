"""Writing a manifest in another tool's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from audio_ssl.data.formats.fairseq import write_fairseq
from audio_ssl.data.formats.kaldi_dir import write_kaldi
from audio_ssl.data.formats.lhotse import write_lhotse
from audio_ssl.data.formats.nemo import write_nemo
from audio_ssl.data.manifest import Manifest
from audio_ssl.data.table import listed
from audio_ssl.errors import ConfigError, ManifestError

Format = Literal["native", "fairseq", "nemo", "kaldi", "lhotse"]
_SUFFIXES = {"fairseq": (".tsv",), "nemo": (".jsonl", ".json"), "lhotse": (".jsonl", ".jsonl.gz")}


def export_manifest(manifest: Manifest, out: Path, *, to: Format, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Write a manifest, whole or not at all.

    Args:
        manifest: rows.
        out: a file with the format's extension; for Kaldi a new or empty folder.
        to: the format.
        labels: ``ltr`` and ``wrd``, beside fairseq's manifest.

    Returns:
        What is lost since the format has no place for it, by field with the number of rows.

    Raises:
        ManifestError: another extension, rows that would be wrong in the format, or a place that cannot be written.
        ConfigError: labels for another format than fairseq's, or no such format.
    """
    if to not in get_args(Format):
        raise ConfigError(f"a manifest's format must be among {', '.join(get_args(Format))}, got {to!r}")
    if labels and to != "fairseq":
        raise ConfigError("--labels must come with --to fairseq: other formats hold the text with the rows")
    if not out.name.lower().endswith(_SUFFIXES.get(to, "")):
        raise ManifestError(f"a manifest for {to} must end in {' or '.join(_SUFFIXES[to])}, got {out}")
    if to == "fairseq":
        return write_fairseq(manifest, out, labels=labels)
    if to == "native":
        manifest.write(out)
        return ()
    _refuse_packed(manifest, to=to)
    return {"nemo": write_nemo, "kaldi": write_kaldi, "lhotse": write_lhotse}[to](manifest, out)


def _refuse_packed(manifest: Manifest, *, to: Format) -> None:
    faults = [manifest.describe(row) for row, offset in enumerate(manifest.column("offset")) if offset is not None]
    if faults:
        what = f"{len(faults)} rows lie in shards, where a manifest for {to} cannot point to their audio; export the "
        raise ManifestError(listed(what + "manifest that was packed", faults))
