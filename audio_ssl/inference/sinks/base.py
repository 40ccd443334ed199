"""What a format of embeddings is to the rest: shards are opened, filled piece by piece, and put in place as a whole.

A format knows nothing of models, of ranks or of the index; the index takes down what :meth:`ShardWriter.commit` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from audio_ssl.inference.output import DRAFTS_FOLDER
from audio_ssl.inference.stream import Piece


@dataclass(frozen=True)
class PlannedRow:
    """What is known of an utterance before it is computed.

    Attributes:
        row: of the manifest.
        id: of the utterance.
        num_frames: exact, from its length; 1 for pooled vectors.
    """

    row: int
    id: str
    num_frames: int


class ShardWriter(Protocol):
    """A shard on its way; used by one thread.

    Drafts stand in :func:`draft_folder`, which the next run clears when this one is killed.
    """

    def take(self, utterance_id: str, piece: Piece) -> str | None:
        """Keep a piece; those of one utterance come in order, those of several may mix.

        Returns:
            None, or why the utterance cannot be kept; its draft is then gone.

        Raises:
            OSError: no room; the shard must then be abandoned.
        """

    def drop(self, utterance_id: str) -> None:
        """Take back an utterance that will not be complete, if anything of it is here."""

    def commit(self) -> dict[str, dict[str, Any]]:
        """Put everything in place (flushed to the disk, then renamed) and leave no draft.

        Returns:
            The index keys of each kept utterance, by id: ``file`` (relative to the folder) and what the format needs.
        """

    def abandon(self) -> None:
        """Take back every draft."""


class Sink(Protocol):
    """A format at work on an output folder."""

    def open_shard(self, name: str, rows: Sequence[PlannedRow]) -> ShardWriter:
        """Begin a shard.

        Args:
            name: usable as a file name; the same rows, tried again, have the same name, other rows another.
            rows: of the manifest, in its order; not all of them need to come.
        """

    def finish(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write what the format keeps beside the index once all shards are in place; done again, it changes nothing.

        Args:
            lines: of the whole index; read only by formats that need them.
        """


def open_sink(
    format: str,  # noqa: A002 - as the option
    folder: Path,
    *,
    dtype: str,
    all_rows: Sequence[PlannedRow] | None = None,
    layers: Sequence[str] = (),
    pool: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Sink:
    """The sink of a format.

    Args:
        format: as ``--format``.
        folder: exists.
        dtype: number format of what is written; ``int32`` is for codes.
        all_rows: of the manifest: what a format must know that lays out everything at once, or checks all ids.
        layers: names of the layers where pieces have an axis of them, else empty.
        pool: as ``--pool``; None keeps frames.
        about: what formats with room for it say of themselves in each file: the document of ``embeddings.json``.

    Raises:
        ConfigError: no such format, one that has no such dtype, or no such pooling.
        ManifestError: an id that the format cannot have, or files laid out for other rows.
    """
    from audio_ssl.inference.sinks.formats import sink_of
    from audio_ssl.inference.sinks.numbers import choose_dtype
    from audio_ssl.inference.sinks.pooling import PoolingSink
    from audio_ssl.inference.sinks.writer import Form

    choose_dtype(format, dtype, holds_codes=dtype == "int32")
    form = Form(dtype, is_pooled=pool is not None, layers=tuple(layers))
    sink = sink_of(format, folder, form, all_rows=all_rows or (), about=about or {})
    return sink if pool is None else PoolingSink(sink, pool)


def draft_folder(folder: Path, name: str) -> Path:
    """Where the drafts of a shard stand: on the disk of their place, and nobody else's."""
    path = folder / DRAFTS_FOLDER / name
    path.mkdir(parents=True, exist_ok=True)
    return path
