"""``torch.save`` files as data, never as code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.pickled import STAND_INS, plain

_ZIP = b"PK\x03\x04"  # torch's format since 1.6; older files are bare pickles, which cannot be mapped
# From the messages of torch's weights-only reader. It leaves "builtins." out of names.
_WANTED = re.compile(r"GLOBAL (\S+) (?:was not an allowed|whose module)")
_DETAIL = re.compile(r"WeightsUnpickler error:\s*([^\n]+)")


def read_pt(path: Path) -> dict[str, Any]:
    """A ``torch.save`` dictionary, read as data: nothing in the file is run.

    Objects of fairseq, omegaconf and argparse become what they hold (:mod:`audio_ssl.interop.pickled`). Tensors stay in
    the file until they are used where its layout allows.

    Raises:
        CheckpointError: unreadable, not a dictionary, or with objects other than tensors, plain values and those.
    """
    try:
        loaded = _load(path)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        detail = str(error).split("\n")[0].split(". ")[0][:200]
        raise _damaged(path, f"{type(error).__name__}{': ' * bool(detail)}{detail}") from error
    content = plain(loaded, source=str(path))
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a dictionary of tensors, got {type(content).__name__}")
    return content


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    with torch.serialization.safe_globals(list(STAND_INS)), warnings.catch_warnings(action="ignore"):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _refusal(path: Path, message: str) -> CheckpointError:
    """The error for what torch's weights-only reader refused, without torch's advice to run the file's code."""
    wanted = _WANTED.search(message)
    if wanted is None:
        detail = _DETAIL.search(message)
        found = detail[1] if detail else "its pickle is damaged"
        return _damaged(path, found)
    name = wanted[1] if "." in wanted[1] else f"builtins.{wanted[1]}"
    return CheckpointError(
        f"{path} must hold tensors, plain values and fairseq's settings alone, but it wants {name}, which would run "
        'its code, so it is not read. Where you trust it, load it with the program that wrote it and save its "model", '
        "and its settings as a dictionary"
    )


def _damaged(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} must be a whole torch file, but it cannot be read as one ({found}). It is damaged or something else: "
        "copy or download it again"
    )


def only_tensors(values: Mapping[str, Any], *, source: Path) -> dict[str, Tensor]:
    """The dictionary, known to hold tensors only.

    Raises:
        CheckpointError: naming what is no tensor.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{source} must hold tensors by name, got {type(values).__name__}")
    strays = [str(name) for name, value in values.items() if not isinstance(value, Tensor) or not isinstance(name, str)]
    if strays:
        raise CheckpointError(
            f"{source} must hold tensors by name, but these are none: {', '.join(strays[:10])}; save its state "
            "dict alone"
        )
    return dict(values)


def save_pt(path: Path, content: Mapping[str, Any]) -> None:
    """Write a ``torch.save`` file.

    Raises:
        OSError: it cannot be written.
    """
    try:
        torch.save(dict(content), path)
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(str(error)) from error
