"""From any system's checkpoint to any other's: read strictly, written beside its place, checked, then moved there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from audio_ssl.checkpoint import save_model
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.dictionary import DICTIONARY
from audio_ssl.interop.fairseq import write_fairseq
from audio_ssl.interop.fairseq2 import write_fairseq2
from audio_ssl.interop.foreign import Imported
from audio_ssl.interop.huggingface_files import write_huggingface
from audio_ssl.interop.origin import read_origin, write_origin
from audio_ssl.interop.report import KeyReport
from audio_ssl.interop.settings import require_known_parts
from audio_ssl.interop.source import Format, open_source, read_any, read_source
from audio_ssl.interop.torchaudio import write_torchaudio
from audio_ssl.interop.verify import Check, check_against, check_same

Writer = Callable[[Imported, Path], tuple[int, tuple[str, ...]]]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        path: file or directory written.
        kind: ``pretraining``, ``ctc`` or ``encoder``.
        num_tensors: tensors written.
        dropped: names of ours that the target has no place for.
        report: what became of each tensor of the source.
        checks: forward passes beside each peer that takes part.
    """

    path: Path
    kind: str
    num_tensors: int
    dropped: tuple[str, ...] = ()
    report: KeyReport = field(default_factory=KeyReport)
    checks: tuple[Check, ...] = ()


def _write_ours(model: Imported, out: Path) -> tuple[int, tuple[str, ...]]:
    save_model(out, document=model.files.document, tensors=model.files.tensors)
    if model.origin is not None:
        write_origin(out, model.origin)
    return len(model.files.tensors), ()


_WRITE: dict[Format, Writer] = {
    "audio_ssl": _write_ours,
    "transformers": write_huggingface,
    "torchaudio": write_torchaudio,
    "fairseq2": write_fairseq2,
    "fairseq": write_fairseq,
}
_DIRECTORIES = ("audio_ssl", "transformers")
# What stands beside a .pt file, or looks like a directory.
_NO_SUFFIXES = ("", ".toml", ".safetensors", ".json", ".txt")


def convert(
    source: Path, out: Path, *, to: Format, overrides: Mapping[str, Any] | None = None, check: bool = True
) -> Conversion:
    """Convert a checkpoint. ``out`` and what stands beside it are there whole or not at all.

    Args:
        source: see :func:`audio_ssl.interop.source.open_source`.
        out: what to write: a directory for ``audio_ssl`` and ``transformers``, else a ``.pt`` file.
        to: the format wanted.
        overrides: values of ``ModelConfig`` that win over what a foreign checkpoint says or its shapes tell.
        check: read back what was written, and run it beside each peer that takes part.

    Raises:
        CheckpointError: unreadable source, tensors that do not fit, a model that ``to`` has no place for, ``out``
            exists or cannot be written, or a check found a difference.
        ConfigError: the settings of the model are not valid.
    """
    opened = open_source(source)
    if opened.system == to:
        raise CheckpointError(f"{source} is in the format {to} already; copy it instead")
    model = read_source(opened, overrides)
    if opened.system == "audio_ssl":
        require_known_parts(model.files, system=to)
        model = replace(model, origin=read_origin(model.files.path))
    _refuse_non_finite(model, source)
    checks: list[Check] = []
    with _placed(out, is_directory=to in _DIRECTORIES) as draft:
        num_tensors, dropped = _WRITE[to](model, draft)
        if check:
            written = read_any(draft)
            check_same(written, model, dropped=dropped)
            ends = ((opened.system, source, model), (to, draft, written))
            checks = [check_against(*end) for end in ends if end[0] != "audio_ssl"]
    return Conversion(out, model.files.kind, num_tensors, dropped, model.report, tuple(checks))


def _refuse_non_finite(model: Imported, source: Path) -> None:
    name_there = {ours: theirs for theirs, ours in model.report.converted.items()}
    odd = [name_there.get(k, k) for k, v in model.files.tensors.items() if not bool(v.isfinite().all())]
    if odd:
        raise CheckpointError(
            f"{source} must hold finite numbers, but NaN or infinity stands in {len(odd)} tensors: "
            f"{', '.join(odd[:10])}; nothing is written. Its training diverged or the file is "
            "damaged: take another copy"
        )


@contextmanager
def _placed(out: Path, *, is_directory: bool) -> Iterator[Path]:
    """Give a path to write to; what was written, with all that stands beside it, is moved to ``out`` at the end.

    Raises:
        CheckpointError: ``out`` or one of the files beside it exists, or the place cannot be written.
    """
    if not is_directory and out.suffix in _NO_SUFFIXES:
        raise CheckpointError(f"{out} must have the name of a torch file, such as {out.with_suffix('.pt')}")
    refuse_existing(out)
    moved, new_folders = [], [parent for parent in out.parents if not parent.exists()]
    folder: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
        draft = folder / out.name
        if is_directory:
            draft.mkdir()
        yield draft
        beside = sorted(path for path in folder.iterdir() if path != draft)
        for path in beside:
            _refuse_other(out.parent / path.name, path)
        for path in (*beside, draft):
            if not (out.parent / path.name).exists():
                moved.append(out.parent / path.name)
            path.rename(out.parent / path.name)
        moved, new_folders = [], []
    except OSError as error:
        raise CheckpointError(f"{out} must be writable with room to spare: {error}") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        _remove(moved, new_folders)


def _remove(moved: Sequence[Path], new_folders: Sequence[Path]) -> None:
    """Take back what was put in place, and the folders made for it, the deepest first, unless others use them."""
    for path in moved:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        for path in new_folders:
            path.rmdir()


def refuse_existing(out: Path) -> None:
    """Keep what is there.

    Raises:
        CheckpointError: ``out`` exists.
    """
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} must not exist yet; remove it or choose another name")


def _refuse_other(place: Path, draft: Path) -> None:
    """Let equal dictionaries stand; never replace anything else."""
    if place.exists() and not (place.name == DICTIONARY and place.read_bytes() == draft.read_bytes()):
        raise CheckpointError(
            f"{place} stands where {draft.name} of this conversion must go; choose another directory, or remove it"
        )
