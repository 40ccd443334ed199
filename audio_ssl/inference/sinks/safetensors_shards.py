"""A ``.safetensors`` file a shard: a tensor an utterance under its id; int8 has its scales under ``ID//scale``.

Written here, because the library's writer holds all tensors in memory; read by the library, which maps the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audio_ssl.errors import ConfigError, ManifestError
from audio_ssl.inference.sinks.base import PlannedRow, ShardWriter
from audio_ssl.inference.sinks.numbers import Encoded, decode
from audio_ssl.inference.sinks.shard_file import Layout, ShardFile, lay_out_bare
from audio_ssl.inference.sinks.writer import Form, check_ids

SCALE_SUFFIX = "//scale"
_NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "int8": "I8", "int32": "I32"}
_MAX_HEADER_BYTES = 100_000_000  # the library reads no larger one
_FILES_OPEN = 32


class SafetensorsSink:
    """See :class:`audio_ssl.inference.sinks.base.Sink`.

    Args:
        folder: exists.
        form: of what is written.
        all_rows: whose ids are checked.
        about: what the files say of themselves.

    Raises:
        ManifestError: ids that cannot name a tensor.
    """

    def __init__(
        self, folder: Path, form: Form, all_rows: Sequence[PlannedRow], *, about: Mapping[str, Any] | None = None
    ) -> None:
        check_ids((row.id for row in all_rows), _check_id)
        self._folder, self._form = folder, form
        about = about or {}
        self._about = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
        if form.dtype == "int8":
            self._about["int8"] = f"a number is its value times the float32 scale of its frame, in ID{SCALE_SUFFIX}"

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""
        return _SafetensorsShard(
            self._folder, name, rows, form=self._form, lay_out=partial(_lay_out, about=self._about)
        )

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """See :class:`audio_ssl.inference.sinks.base.Sink`."""


class _SafetensorsShard(ShardFile):
    def _finish(self, draft: Path, layout: Layout, kept: Sequence[PlannedRow]) -> dict[str, dict[str, Any]]:  # noqa: ARG002 - the base's
        file = f"{self._name}.safetensors"
        self._drafts.publish([(draft, file)])
        return {row.id: {"file": file} for row in kept}


class SafetensorsReader:
    """See :class:`audio_ssl.inference.sinks.formats.Reader`."""

    def __init__(self, folder: Path, form: Form) -> None:
        self._folder, self._form = folder, form
        self._opened = lru_cache(_FILES_OPEN)(self._open)

    def read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        """See :class:`audio_ssl.inference.sinks.formats.Reader`."""
        import torch

        opened, name = self._opened(line["file"]), line["id"]
        tensor = opened.get_tensor(name)
        if self._form.dtype == "bf16":
            tensor = tensor.to(torch.float32)  # numpy has no bf16
            return np.asarray(tensor.numpy())
        scales = opened.get_tensor(name + SCALE_SUFFIX).numpy() if self._form.dtype == "int8" else None
        return decode(Encoded(tensor.numpy(), scales), self._form.dtype)

    def _open(self, file: str) -> Any:
        from safetensors import safe_open

        return safe_open(self._folder / file, framework="pt")


def _lay_out(rows: Sequence[PlannedRow], form: Form, dim: int, *, about: Mapping[str, str]) -> Layout:
    bare = lay_out_bare(rows, form, dim)
    header: dict[str, Any] = {"__metadata__": dict(about)}
    for row in rows:
        first, count = bare.runs[row.id][0], row.num_frames * form.num_runs
        shape = form.shape(row.num_frames, dim)
        if first.scales is not None:
            header[row.id + SCALE_SUFFIX] = _entry("F32", shape[:-1], first.scales, 4 * count)
        header[row.id] = _entry(_NAMES[form.dtype], shape, first.values, form.frame_bytes(dim) * count)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that numbers are aligned
    if len(text) > _MAX_HEADER_BYTES:
        raise ConfigError(
            f"a safetensors file must name at most {_MAX_HEADER_BYTES // 10**6} MB of tensors, a shard of {len(rows)} "
            "utterances needs more: use a smaller --shard-mib, or --format matrix"
        )
    head = len(text).to_bytes(8, "little") + text
    placed = lay_out_bare(rows, form, dim, start=len(head))
    return Layout(placed.num_bytes, [(0, head)], placed.runs)


def _entry(dtype: str, shape: Sequence[int], start: int, num_bytes: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + num_bytes]}


def _check_id(name: str) -> None:
    if name == "__metadata__" or name.endswith(SCALE_SUFFIX):
        raise ManifestError(
            f"id {name!r} must be usable as the name of a tensor: {name!r} is taken in safetensors; change the id in "
            "the manifest, or use --format matrix"
        )
