"""The formats by name: who writes each, and who reads it back. Heavy packages are imported with their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from audio_ssl.inference.sinks.base import PlannedRow, Sink
from audio_ssl.inference.sinks.writer import Form


class Reader(Protocol):
    """A format read back."""

    def read(self, line: Mapping[str, Any]) -> NDArray[Any]:
        """The frames of an utterance.

        Args:
            line: of the index.

        Returns:
            (T, D) float32 or int32, with L in front for several layers, without T for pooled vectors.
        """


def sink_of(name: str, folder: Path, form: Form, *, all_rows: Sequence[PlannedRow], about: Mapping[str, Any]) -> Sink:
    """The writer of a format; arguments as of :func:`audio_ssl.inference.sinks.base.open_sink`."""
    if name == "npy":
        from audio_ssl.inference.sinks.npy import NpySink

        return NpySink(folder, form, all_rows)
    if name == "matrix":
        from audio_ssl.inference.sinks.matrix import MatrixSink

        return MatrixSink(folder, form, all_rows)
    if name == "safetensors":
        from audio_ssl.inference.sinks.safetensors_shards import SafetensorsSink

        return SafetensorsSink(folder, form, all_rows, about=about)
    if name == "kaldi":
        from audio_ssl.inference.sinks.kaldi import KaldiSink

        return KaldiSink(folder, form, all_rows)
    from audio_ssl.inference.sinks.tables import TableSink

    return TableSink(folder, form, name, about=about)


def reader_of(name: str, folder: Path, form: Form) -> Reader:
    """The reader of a format."""
    if name == "npy":
        from audio_ssl.inference.sinks.npy import NpyReader

        return NpyReader(folder, form)
    if name == "matrix":
        from audio_ssl.inference.sinks.matrix import MatrixReader

        return MatrixReader(folder, form)
    if name == "safetensors":
        from audio_ssl.inference.sinks.safetensors_shards import SafetensorsReader

        return SafetensorsReader(folder, form)
    if name == "kaldi":
        from audio_ssl.inference.sinks.kaldi import KaldiReader

        return KaldiReader(folder, form)
    from audio_ssl.inference.sinks.tables import TableReader

    return TableReader(folder, form, name)
