"""Lhotse's manifests as JSON lines: cuts, or recordings with their supervisions in a file beside them.

A row is a cut; or a supervision, as a part of its recording. What a row of ours cannot be is refused by name: cuts that
are mixed, of several channels or with several supervisions, audio that is a command or changed on reading.

Reference: Lhotse, docs/corpus.rst and docs/cuts.rst; lhotse/serialization.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audio_ssl.data.addresses import Address, is_address, shown
from audio_ssl.data.audio import AudioInfo
from audio_ssl.data.formats.common import (
    Imported,
    count_extras,
    headers_of_rows,
    span_in_file,
    to_samples,
    with_distinct_ids,
)
from audio_ssl.data.formats.jsonl import Values, audio_path, count, number, parse_rows, seconds, string, write_jsonl
from audio_ssl.data.table import Utterance, listed, table_from_rows
from audio_ssl.errors import ManifestError

if TYPE_CHECKING:
    from audio_ssl.data.manifest import Manifest

OUTSIDE_SLACK_S = 0.1  # times of transcripts are rounded in many corpora
_CUT = frozenset({"id", "type", "start", "duration", "channel", "supervisions", "recording"})
_RECORDING = frozenset({"id", "sources", "sampling_rate", "num_samples", "duration", "channel_ids", "transforms"})
_SUPERVISION = frozenset({"id", "recording_id", "start", "duration", "channel", "text", "speaker", "language"})
_KINDS = ("recordings", "supervisions")


@dataclass(frozen=True, slots=True)
class _Recording:
    id: str
    path: str
    num_samples: int
    sample_rate: int


@dataclass(frozen=True, slots=True)
class _Supervision:
    id: str
    recording_id: str
    start_s: float
    duration_s: float
    text: str | None
    speaker: str | None
    language: str | None


@dataclass
class _Reader:
    """Reads one set of manifests; relative audio paths start from ``folder`` or, as in Lhotse, where the command runs.

    Attributes:
        folder: of the manifest, absolute.
        extras: fields that a row of ours has no place for.
    """

    folder: Path
    extras: Counter[str]

    def cut(self, values: Values) -> Utterance:
        kind = values.get("type", "MonoCut")
        if kind != "MonoCut":
            raise ValueError(f"is a {kind}; rows are read from MonoCuts alone: write what it sounds like to a file")
        if not isinstance(values.get("recording"), dict):
            raise ValueError("must hold its recording (a cut of features alone has no audio)")
        self._count(values, _CUT, "")
        recording = self.recording(values["recording"], prefix="recording.")
        identity, start_s = string(values, "id"), number(values, "start")
        duration_s = seconds(values, "duration")
        if identity is None or start_s is None or duration_s is None:
            raise ValueError("must have id, start and duration")
        start, length = _span(recording, start_s, duration_s)
        found = values.get("supervisions") or []
        if not isinstance(found, list):
            raise ValueError(f"supervisions must be a list, got {str(found)[:80]}")
        if len(found) > 1:
            raise ValueError(
                f"{identity} must have one supervision or none, got {len(found)}; "
                "`lhotse cut trim-to-supervisions` makes a cut of each"
            )
        if not found:
            return _row(identity, recording, (start, length))
        known = self.supervision(found[0], prefix="supervisions.")
        stop_s = known.start_s + known.duration_s
        if known.start_s < -OUTSIDE_SLACK_S or stop_s > duration_s + OUTSIDE_SLACK_S:
            raise ValueError(
                f"{identity} must hold its supervision, got {known.start_s} s to {stop_s} s of {duration_s} s: the "
                "text says more than is heard; `lhotse cut trim-to-supervisions` makes them fit"
            )
        return _row(identity, recording, (start, length), known)

    def recording(self, values: Any, *, prefix: str = "") -> _Recording:
        if not isinstance(values, dict):
            raise ValueError(f"a recording must be a JSON object, got {str(values)[:80]}")
        self._count(values, _RECORDING, prefix)
        identity, sources = string(values, "id"), values.get("sources")
        if identity is None or not isinstance(sources, list) or not all(isinstance(s, dict) for s in sources):
            raise ValueError("a recording must have an id and a list of sources")
        channels = [channel for source in sources for channel in source.get("channels") or [0]]
        if len(sources) != 1 or len(channels) != 1:
            raise ValueError(
                f"recording {identity} has {len(channels)} channels in {len(sources)} files; only one channel in one "
                "file is read: write the channel that you want to a file of its own"
            )
        if (kind := sources[0].get("type")) not in ("file", "url"):
            raise ValueError(
                f"recording {identity} comes from a source of type {kind!r}; only files and addresses (`url`) are "
                "read, and commands are never run: write the audio to a file"
            )
        if values.get("transforms"):
            raise ValueError(
                f"recording {identity} is changed on reading (transforms); `lhotse` can save the changed audio "
                "(CutSet.save_audios), which can then be read"
            )
        path = self._found(audio_path(sources[0].get("source"), name="source"))
        if kind == "url" and not is_address(path):
            raise ValueError(f"recording {identity} has a source of type 'url', which must be an address, got {path!r}")
        rate, num_samples = count(values, "sampling_rate"), count(values, "num_samples")
        duration_s = seconds(values, "duration")
        if duration_s is not None and abs(to_samples(duration_s, rate) - num_samples) > 1:
            raise ValueError(
                f"recording {identity}: duration must be num_samples / sampling_rate = {num_samples / rate} s to one "
                f"sample, got {duration_s} s; make the manifest again from the file"
            )
        return _Recording(identity, path, num_samples, rate)

    def supervision(self, values: Any, *, prefix: str = "") -> _Supervision:
        if not isinstance(values, dict):
            raise ValueError(f"a supervision must be a JSON object, got {str(values)[:80]}")
        self._count(values, _SUPERVISION, prefix)
        identity, recording = string(values, "id"), string(values, "recording_id")
        start_s, duration_s = number(values, "start"), seconds(values, "duration")
        if identity is None or recording is None or start_s is None or duration_s is None:
            raise ValueError("a supervision must have id, recording_id, start and duration")
        if isinstance(values.get("channel"), list):
            raise ValueError(f"supervision {identity} is about several channels; only one channel is read")
        known = (string(values, name) for name in ("text", "speaker", "language"))
        return _Supervision(identity, recording, start_s, duration_s, *known)

    def _count(self, values: Values, known: frozenset[str], prefix: str) -> None:
        self.extras.update(f"{prefix}{name}" for name in set(values) - known)

    def _found(self, path: str) -> str:
        if path.startswith("/") or is_address(path) or (self.folder / path).exists() or not Path(path).exists():
            return path
        return Path(path).absolute().as_posix()


def read_lhotse(path: Path, first: Values) -> Imported:
    """Read cuts; or recordings and supervisions, either of which finds the other beside it by its name.

    Rates and lengths are the recordings' (``audio-ssl manifest validate`` compares them with the files).

    Args:
        path: the file.
        first: its first line, which tells what it holds.

    Returns:
        Rows, root, and what was not read.

    Raises:
        ManifestError: rows that cannot be read; all in one message.
    """
    reader = _Reader(Path(os.path.normpath(path.parent.absolute())), Counter())
    notes: tuple[str, ...] = ()
    first_line = None
    if "recording_id" in first:
        rows, notes = _joined(reader, _beside(path, "supervisions", must=True), path)
    elif "sources" in first:
        rows, notes = _joined(reader, path, _beside(path, "recordings"))
    else:
        rows, first_line = parse_rows(path, reader.cut), 1
    table = table_from_rows(with_distinct_ids(rows))
    return Imported(table, reader.folder, (*notes, *count_extras(reader.extras)), first_line)


def write_lhotse(manifest: Manifest, path: Path) -> tuple[str, ...]:
    """Write cuts, whole or not at all; paths are absolute, since Lhotse's start from where a command runs.

    Returns:
        What is lost, by field: nothing, in this format.

    Raises:
        ManifestError: audio that cannot be read, that its row disagrees with or that has several channels; or the
            place cannot be written.
    """
    from audio_ssl.data.manifest_io import replaced_file

    why = "a cut of Lhotse's is one of them, and a row of ours their mean: write that to a file"
    infos = headers_of_rows(manifest, what="Lhotse's cuts", mono=why)
    with replaced_file(path) as draft:
        write_jsonl(draft, _cuts(manifest, infos), is_gzipped=path.suffix == ".gz")
    return ()


def _joined(
    reader: _Reader, recordings: Path | None, supervisions: Path | None
) -> tuple[list[Utterance], tuple[str, ...]]:
    """A row a supervision; recordings without any are rows of unknown text behind them."""
    assert recordings is not None
    by_id: dict[str, _Recording] = {}
    for recording in parse_rows(recordings, reader.recording):
        if by_id.setdefault(recording.id, recording) is not recording:
            raise ManifestError(f"{recordings} must name each recording once, but has {recording.id} twice")
    known = parse_rows(supervisions, reader.supervision) if supervisions is not None else []
    rows, faults = [], []
    for line, supervision in enumerate(known, start=1):
        try:
            if supervision.recording_id not in by_id:
                raise ValueError(f"recording {supervision.recording_id} must be in {recordings}")
            recording = by_id[supervision.recording_id]
            span = _span(recording, supervision.start_s, supervision.duration_s)
            rows.append(_row(supervision.id, recording, span, supervision))
        except ValueError as error:
            faults.append(f"{supervisions}:{line}: {error}")
    if faults:
        raise ManifestError(listed(f"{supervisions}: {len(faults)} of {len(known)} rows cannot be read", faults))
    named = {supervision.recording_id for supervision in known}
    whole = [_row(r.id, r, (0, r.num_samples)) for r in by_id.values() if r.id not in named]
    note = f"read with {supervisions}; {len(whole)} recordings that it does not name are rows without text"
    return [*rows, *whole], (note,) if supervisions is not None and whole else ()


def _beside(path: Path, kind: str, *, must: bool = False) -> Path | None:
    """The file of the other kind: ``recordings`` in the name for ``supervisions`` or the reverse, gzipped or not."""
    other = _KINDS[1 - _KINDS.index(kind)]
    before, found, after = path.name.rpartition(kind)
    plain = f"{before}{other}{after}".removesuffix(".gz")
    for name in (plain, f"{plain}.gz") if found else ():
        if (path.parent / name).is_file():
            return path.parent / name
    if must:
        raise ManifestError(
            f"{path} holds {kind}, which need their {other} beside them: a file of the same name with {other} in the "
            f"place of {kind}, such as train_{other}.jsonl for train_{kind}.jsonl"
        )
    return None


def _span(recording: _Recording, start_s: float, duration_s: float) -> tuple[int, int]:
    return span_in_file(
        start_s=start_s,
        duration_s=duration_s,
        num_samples=recording.num_samples,
        rate_hz=recording.sample_rate,
    )


def _row(identity: str, recording: _Recording, span: tuple[int, int], known: _Supervision | None = None) -> Utterance:
    labels = (known.text, known.speaker, known.language) if known is not None else (None, None, None)
    return Utterance(identity, recording.path, *span, recording.sample_rate, *labels)


def _cuts(manifest: Manifest, infos: list[AudioInfo]) -> Iterator[dict[str, Any]]:
    for i, (row, info) in enumerate(zip(manifest, infos, strict=True)):
        place = manifest.audio_path(i)
        is_remote = isinstance(place, Address)
        path = place.text if isinstance(place, Address) else os.path.normpath(place.absolute())
        recording = {
            "id": shown(row.path),
            "sources": [{"type": "url" if is_remote else "file", "channels": [0], "source": path}],
            "sampling_rate": info.sample_rate,
            "num_samples": info.num_samples,
            "duration": info.num_samples / info.sample_rate,
            "channel_ids": [0],
        }
        duration_s = row.num_samples / row.sample_rate
        labels = {"text": row.text, "language": row.language, "speaker": row.speaker}
        known = {name: value for name, value in labels.items() if value is not None}
        about = {
            "id": row.id,
            "recording_id": shown(row.path),
            "start": 0.0,
            "duration": duration_s,
            "channel": 0,
            **known,
        }
        yield {
            "id": row.id,
            "start": row.start / row.sample_rate,
            "duration": duration_s,
            "channel": 0,
            "supervisions": [about] if known else [],
            "recording": recording,
            "type": "MonoCut",
        }
