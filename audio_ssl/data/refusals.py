"""The list of what stays out of a manifest, beside the manifest: ``FILE.refused.tsv``, written as refusals come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from audio_ssl.data.checks import Refusal
from audio_ssl.data.manifest_io import escape_cell, replaced_file

_HEADER = "path\treason\tdetail\n"


def refusals_path(manifest: Path) -> Path:
    """Where the list belongs to a manifest of this name."""
    return manifest.with_name(f"{manifest.name}.refused.tsv")


@contextmanager
def listed_refusals(manifest: Path) -> Iterator[Callable[[Refusal], None]]:
    """Give a function that adds a refusal to ``FILE.refused.tsv``, which is written whole or not at all.

    An older list goes where there is nothing to list.

    Raises:
        ManifestError: the place cannot be written.
    """
    path = refusals_path(manifest)
    with replaced_file(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_HEADER)
        start = file.tell()
        yield lambda refusal: _add(file.write, refusal)
        is_empty = file.tell() == start
    if is_empty:
        path.unlink()


def write_refusals(manifest: Path, refusals: Iterable[Refusal]) -> Path:
    """Write ``FILE.refused.tsv``; see :func:`listed_refusals`.

    Returns:
        Its path, whether or not there was anything to list.
    """
    with listed_refusals(manifest) as add:
        for refusal in refusals:
            add(refusal)
    return refusals_path(manifest)


def _add(write: Callable[[str], object], refusal: Refusal) -> None:
    write("\t".join(map(escape_cell, (refusal.path, refusal.reason, refusal.detail))) + "\n")
