"""What a MODEL argument means: a model of ours or of any peer, recognised by content and read into memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from audio_ssl.checkpoint import CONFIG_FILE, WEIGHTS_FILE
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.fairseq import read_fairseq
from audio_ssl.interop.fairseq2 import read_fairseq2
from audio_ssl.interop.foreign import Foreign, Imported, settle
from audio_ssl.interop.huggingface_files import CONFIG, read_huggingface, weight_files
from audio_ssl.interop.own import read_ours
from audio_ssl.interop.pt_file import read_pt
from audio_ssl.interop.torchaudio import read_torchaudio
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.files import ModelFiles, conditioned_after, ctc_from, encoder_from, resolve_model_dir

Format = Literal["audio_ssl", "transformers", "torchaudio", "fairseq2", "fairseq"]

logger = logging.getLogger(__name__)
_READ: dict[str, Callable[[Path, Mapping[str, Any]], Foreign]] = {
    "torchaudio": read_torchaudio,
    "fairseq2": read_fairseq2,
    "fairseq": read_fairseq,
}
# A part of a name that only this system's files have.
_SIGNS: tuple[tuple[Format, str], ...] = (
    ("fairseq2", "encoder_frontend."),
    ("torchaudio", "encoder.transformer."),
    ("fairseq", "post_extract_proj."),
    ("fairseq", ".fc1."),
)
_PARTS_OF_DIRECTORIES = (CONFIG, ".safetensors", ".bin", ".index.json")


@dataclass(frozen=True)
class Source:
    """A checkpoint whose system is known.

    Attributes:
        system: whose it is.
        path: the directory or file itself.
        content: of a ``.pt`` file, which is opened only once.
    """

    system: Format
    path: Path
    content: Mapping[str, Any] = field(default_factory=dict)


def open_source(path: Path) -> Source:
    """Whose checkpoint ``path`` is, by what it holds.

    Args:
        path: a model directory, checkpoint or run folder of ours, a transformers directory (or a file in it), or a
            ``.pt`` file of torchaudio, fairseq or fairseq2.

    Raises:
        CheckpointError: nobody's, or unreadable.
    """
    path = _whole(path)
    if path.is_dir():
        return Source("transformers" if _is_huggingface(path) else _ours(path), path)
    content = read_pt(path)
    return Source(_system_of(path, content), path, content)


def read_source(source: Source, overrides: Mapping[str, Any] | None = None) -> Imported:
    """Read a model of any format into memory, strictly.

    Args:
        source: from :func:`open_source`.
        overrides: values of ``ModelConfig`` that win over what a foreign checkpoint says or its shapes tell.

    Raises:
        CheckpointError: unreadable, or tensors that do not fit.
        ConfigError: the settings of the model are not valid.
    """
    if source.system == "transformers":
        return settle(read_huggingface(source.path), overrides or {})
    if source.system == "audio_ssl":
        if overrides:
            raise CheckpointError(f"{source.path} holds its settings, which cannot be overridden; leave --set out")
        return read_ours(source.path)
    return settle(_READ[source.system](source.path, source.content), overrides or {})


def read_any(path: Path, overrides: Mapping[str, Any] | None = None) -> Imported:
    """:func:`open_source`, then :func:`read_source`."""
    return read_source(open_source(path), overrides)


def read_model(path: Path | str) -> ModelFiles:
    """The settings and tensors of any model; a setting that had to be guessed is logged as a warning.

    Raises:
        CheckpointError: see :func:`read_any`.
        ConfigError: the settings of the model are not valid.
    """
    imported = read_any(Path(path))
    if imported.report.guessed:
        logger.warning(
            "%s does not say %s, taken as in the published models; `audio-ssl convert --set` sets them otherwise",
            path,
            ", ".join(imported.report.guessed),
        )
    return imported.files


def load_encoder(path: Path | str) -> Encoder:
    """The encoder of any model, in eval mode on the CPU; that of a self-conditioned recogniser is alone, and a warning.

    Raises:
        CheckpointError: see :func:`read_any`.
        ConfigError: the settings of the model are not valid.
    """
    files = read_model(path)
    if blocks := conditioned_after(files.document):
        logger.warning(
            "%s is a self-conditioned recogniser: its encoder alone is not told what is recognised after blocks %s and "
            "gives other frames above them than those that are transcribed from",
            path,
            ", ".join(map(str, blocks)),
        )
    return encoder_from(files)


def load_ctc(path: Path | str) -> tuple[CTCModel, dict[str, Any]]:
    """A recogniser in eval mode on the CPU, and its document (``document["ctc"]["symbols"]`` names the head's rows).

    Raises:
        CheckpointError: see :func:`read_any`, or not a recogniser.
        ConfigError: the settings of the model are not valid.
    """
    files = read_model(path)
    return ctc_from(files), files.document


def weights_hash(path: Path | str) -> str:
    """16 hex digits that name a model's weights (blake2b of their files), for indexes and reports.

    Raises:
        CheckpointError: nobody's model.
    """
    path = _whole(Path(path))
    if not path.is_dir():
        weights: tuple[Path, ...] = (path,)
    else:
        weights = weight_files(path) if _is_huggingface(path) else (resolve_model_dir(path) / WEIGHTS_FILE,)
    digest = hashlib.blake2b(digest_size=8)
    for file_path in weights:
        with file_path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _whole(path: Path) -> Path:
    """The directory, where ``path`` is a file that is only part of one.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} must be a model directory, a checkpoint or a run folder, a transformers directory, or a .pt file "
            "of torchaudio, fairseq or fairseq2, but there is no such file or directory"
        )
    if path.is_file() and path.name.endswith(_PARTS_OF_DIRECTORIES):
        if any((path.parent / name).is_file() for name in (CONFIG, CONFIG_FILE)):
            return path.parent
        if path.suffix != ".bin":  # which may be any torch file
            raise CheckpointError(
                f"{path} must have the settings of its model beside it: {CONFIG} (transformers) or {CONFIG_FILE} (ours)"
            )
    return path


def _is_huggingface(directory: Path) -> bool:
    return (directory / CONFIG).is_file()


def _ours(directory: Path) -> Format:
    resolve_model_dir(directory)
    return "audio_ssl"


def _system_of(path: Path, content: Mapping[str, Any]) -> Format:
    names = content["model"] if isinstance(content.get("model"), dict) else content
    for system, sign in _SIGNS:
        if any(sign in str(name) for name in names):
            return system
    raise CheckpointError(
        f"{path} must be a wav2vec 2.0 or HuBERT checkpoint of audio_ssl, transformers, torchaudio, fairseq2 or "
        f"fairseq; its tensors are none of theirs, starting with {', '.join(map(str, list(names)[:3]))}"
    )
