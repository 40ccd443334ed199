"""From any system's checkpoint to any other's, by way of our model directory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.directory import Conversion
from audio_ssl.interop.fairseq import export_fairseq, import_fairseq
from audio_ssl.interop.fairseq2 import export_fairseq2, import_fairseq2
from audio_ssl.interop.huggingface import export_huggingface, import_huggingface
from audio_ssl.interop.pt_file import read_pt
from audio_ssl.interop.torchaudio import export_torchaudio, import_torchaudio
from audio_ssl.model.files import resolve_model_dir

Format = Literal["audio_ssl", "transformers", "torchaudio", "fairseq2", "fairseq"]


class Importer(Protocol):
    """Writes our model directory from a foreign checkpoint."""

    def __call__(self, path: Path, out_dir: Path, /, *, overrides: Mapping[str, Any] | None = None) -> Conversion:
        """Import ``path`` to ``out_dir``."""
        ...


_IMPORT: dict[str, Importer] = {
    "transformers": import_huggingface,
    "torchaudio": import_torchaudio,
    "fairseq2": import_fairseq2,
    "fairseq": import_fairseq,
}
_EXPORT: dict[str, Callable[[Path, Path], Conversion]] = {
    "transformers": export_huggingface,
    "torchaudio": export_torchaudio,
    "fairseq2": export_fairseq2,
    "fairseq": export_fairseq,
}
# A part of a name that only this system's files have.
_SIGNS = (
    ("fairseq2", "encoder_frontend."),
    ("torchaudio", "encoder.transformer."),
    ("fairseq", "post_extract_proj."),
)


def detect_format(path: Path) -> Format:
    """Whose checkpoint ``path`` is, by what it holds.

    Raises:
        CheckpointError: nobody's.
    """
    if path.is_dir():
        if (path / "config.json").exists():
            return "transformers"
        resolve_model_dir(path)
        return "audio_ssl"
    if not path.exists():
        raise CheckpointError(f"{path} must be a checkpoint, but there is no such file or directory")
    content = read_pt(path)
    names = content["model"] if isinstance(content.get("model"), dict) else content
    for system, sign in _SIGNS:
        if any(sign in str(name) for name in names):
            return system  # type: ignore[return-value]
    raise CheckpointError(
        f"{path} must be a wav2vec 2.0 checkpoint of audio_ssl, transformers, torchaudio, fairseq2 or fairseq; "
        f"its tensors are none of theirs, starting with {', '.join(map(str, list(names)[:3]))}"
    )


def convert(source: Path, out: Path, *, to: Format, overrides: Mapping[str, Any] | None = None) -> Conversion:
    """Convert a checkpoint.

    Args:
        source: a model directory or run folder of ours, a transformers directory, or a ``.pt`` file.
        out: what to write: a directory for ``audio_ssl`` and ``transformers``, else a ``.pt`` file.
        to: the format wanted.
        overrides: values of ``ModelConfig`` that win over what a foreign checkpoint says or its shapes tell.

    Raises:
        CheckpointError: unreadable source, tensors that do not fit, or ``out`` exists.
        ConfigError: the settings of the model are not valid.
    """
    origin = detect_format(source)
    if origin == to:
        raise CheckpointError(f"{source} is in the format {to} already; copy it instead")
    if to == "audio_ssl":
        return _IMPORT[origin](source, out, overrides=overrides)
    if origin == "audio_ssl":
        if overrides:
            raise CheckpointError(f"{source} holds its settings, which cannot be overridden; leave --set out")
        return _EXPORT[to](source, out)
    with tempfile.TemporaryDirectory() as folder:
        between = _IMPORT[origin](source, Path(folder) / "model", overrides=overrides)
        return replace(_EXPORT[to](between.path, out), filled=between.filled)
