"""Models of our own as :class:`Imported`, read as strictly as anyone else's: people edit files and copy halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from audio_ssl.checkpoint import CONFIG_FILE
from audio_ssl.config import Wav2Vec2Config, validate_config
from audio_ssl.data.vocabulary import vocabulary_in
from audio_ssl.errors import CheckpointError
from audio_ssl.interop.foreign import Imported
from audio_ssl.interop.report import KeyReport
from audio_ssl.interop.shapes import compare_shapes, expected_shapes, refuse_absurd
from audio_ssl.interop.sidecar import own_sections
from audio_ssl.interop.symbols import check_symbols
from audio_ssl.model.files import ModelFiles, read_model_dir


def read_ours(path: Path) -> Imported:
    """A model directory, checkpoint or run folder of ours.

    Raises:
        CheckpointError: not a model, or tensors missing, left over or misshapen (all named).
        ConfigError: its settings are not valid.
    """
    files = read_model_dir(path)
    _check_settings(files)
    shapes = expected_shapes(files.document, source=files.path / CONFIG_FILE)
    known = {name: tensor for name, tensor in files.tensors.items() if name in shapes}
    missing, misshapen = compare_shapes(known, shapes)
    strays = tuple(name for name in files.tensors if name not in known)
    KeyReport({name: name for name in known}, missing=missing, unexpected=strays, misshapen=misshapen).refuse_faults(
        files.path
    )
    return Imported(files)


def _check_settings(files: ModelFiles) -> None:
    place = files.path / CONFIG_FILE
    sections = own_sections(files.document, source=place)
    refuse_absurd(files.model, files.tensors, source=place)
    if files.kind == "pretraining":
        if not sections["objective"]:
            raise CheckpointError(
                f"{place} must have an [objective] section, as its kind is pretraining; copy it again"
            )
        validate_config(Wav2Vec2Config, sections["objective"], source=f"{place} [objective]")
    if files.kind == "ctc":
        symbols = sections["ctc"].get("symbols")
        check_symbols(symbols, source=place)
        if not symbols:
            raise CheckpointError(
                f"{place} must have a [ctc] section with the symbols of its head, got {symbols!r:.80}; copy it again"
            )
        vocabulary_in(sections["ctc"], source=place)
        _check_conditions(sections["ctc"].get("conditioned_after", []), files.model.num_layers, place)


def _check_conditions(blocks: Any, num_layers: int, place: Path) -> None:
    is_list = isinstance(blocks, list) and all(isinstance(n, int) and 1 <= n < num_layers for n in blocks)
    if not is_list or blocks != sorted(set(blocks)):
        raise CheckpointError(
            f"{place}: ctc.conditioned_after must be a rising list of blocks from 1 to {num_layers - 1}, got "
            f"{blocks!r:.80}; copy it again"
        )
