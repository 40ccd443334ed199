"""Transcripts of many recordings into a file or a folder: shard by shard, by any number of processes, restartable.

Lines of what is done stand in a folder as those of embeddings do (:mod:`audio_ssl.inference.folder`, ``.index``). One
file is put together from them at the end, and the folder goes; of a folder with a file each they are the index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from audio_ssl.errors import ConfigError
from audio_ssl.inference.decoding import DecodeSettings
from audio_ssl.inference.folder import ERRORS_FILE, FolderKind, OutputFolder
from audio_ssl.inference.index import FolderIndex
from audio_ssl.inference.output import DRAFTS_FOLDER, file_name, write_lines
from audio_ssl.inference.passage_journal import PassageJournal
from audio_ssl.inference.ranks import Rank
from audio_ssl.inference.rows import Rows
from audio_ssl.inference.shard_work import NUM_KEPT, stopped
from audio_ssl.inference.shards import Shard, cut, name_of
from audio_ssl.inference.sinks.drafts import Drafts
from audio_ssl.inference.sinks.writer import check_ids
from audio_ssl.inference.source import ManifestSource, OpenedInput, Refusal
from audio_ssl.inference.text_formats import TextFormat, Writer
from audio_ssl.inference.transcribe import GROUP_S, Transcriber
from audio_ssl.inference.transcripts import Transcript

FOLDER = FolderKind("transcribe", "transcripts", "transcripts.json")
WORK = FolderKind("transcribe", "part of a run's transcripts", "transcripts.json", has_data=False, is_passing=True)
PASSAGES_FOLDER = "passages"


@dataclass
class Summary:
    """What was done so far.

    Attributes:
        num_written: utterances.
        num_present: utterances that an earlier run, or another process, has done.
        num_refused: without a result.
        refused: the first of them.
        num_shards: of the whole input.
        busy: shards that another process is at work on.
        is_complete: whether every utterance of the input was tried, by whatever rank, so that the output is there.
        is_empty: whether none of them has a result.
    """

    num_written: int = 0
    num_present: int = 0
    num_refused: int = 0
    refused: list[Refusal] = field(default_factory=list)
    num_shards: int = 0
    busy: tuple[str, ...] = ()
    is_complete: bool = False
    is_empty: bool = False

    def refuse(self, refused: Sequence[Refusal]) -> None:
        """Count these."""
        self.num_refused += len(refused)
        self.refused += refused[: NUM_KEPT - len(self.refused)]


@dataclass(frozen=True)
class TranscriptFolder:
    """A recogniser that writes transcripts.

    Attributes:
        transcriber: recogniser and decoder.
        writer: the format.
        settings: what makes texts what they are; a run goes on only with the same.
        strict: stop at the first utterance that cannot be done.
        shard_s: seconds of audio that are in place at once.
    """

    transcriber: Transcriber
    writer: Writer
    settings: Mapping[str, Any]
    strict: bool = False
    shard_s: float = GROUP_S

    def to_folder(self, opened: OpenedInput, folder: Path, **run: Any) -> Summary:
        """A file an utterance, named by its id, and an index; as :meth:`to_file`.

        Raises:
            ManifestError: as there, and ids that are no file names.
        """
        rows = Rows(opened.manifest)
        suffix = self.writer.form.suffix
        check_ids((rows.id(row) for row in range(len(rows))), lambda name: file_name(name, suffix, reserved=_RESERVED))
        return self._run(opened, rows, folder, FOLDER, **run)

    def to_file(self, opened: OpenedInput, path: Path, **run: Any) -> Summary:
        """All utterances in one file, in input order; what has none in ``PATH.errors.jsonl``.

        Args:
            opened: the input.
            path: written when the last utterance is done; till then ``.NAME.work`` beside it holds what is. That
                folder goes at the end, unless several processes have worked: one may be late.
            run: ``rank``, this process among those of the run, and ``on_progress``, called with the seconds of audio
                that are done; those of earlier runs come first.

        Returns:
            Counts, and the refused ones by name.

        Raises:
            ManifestError: what an earlier run has left was made with another input, model or settings, or another
                process is at work on that.
            AudioError: in strict mode, the first utterance that cannot be done.
            ConfigError: the place cannot be written.
        """
        return self._run(opened, Rows(opened.manifest), work_folder(path), WORK, to=path, **run)

    def _run(
        self,
        opened: OpenedInput,
        rows: Rows,
        folder: Path,
        kind: FolderKind,
        *,
        to: Path | None = None,
        rank: Rank = Rank(),  # noqa: B008 - frozen
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> Summary:
        if self.strict and opened.refused:
            raise stopped(opened.refused[0])
        source, seconds = ManifestSource(opened.manifest), opened.manifest.durations_s()
        shards, summary = cut(seconds, seconds, shard_bytes=self.shard_s), Summary()
        own, summary.num_shards = shards[rank.index :: rank.size], len(shards)
        if rank.index and not own:  # the others may have put the file in place already
            return summary
        digest = rows.digest()
        settings = {**self.settings, **({"input": digest} if kind.is_passing else {})}
        plan = hashlib.blake2b(f"{digest} {shards}".encode(), digest_size=16).hexdigest()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with OutputFolder(folder, settings, plan, kind=kind) as output:
                index = FolderIndex(output, rows)
                work = _Work(self, output, index, source, rows, summary, on_progress)
                summary.refuse(opened.refused if rank.index == 0 else ())
                summary.busy = tuple(shard.name for shard in work.do(own))
                finish = (lambda _: None) if to is None else (lambda lines: self._put_together(lines, folder, to))
                summary.is_complete = index.merge(opened.refused, finish=finish)
                # one of several that comes late must see that all is done, or it would begin anew
                output.is_complete = summary.is_complete and rank.size == 1
        except OSError as error:
            raise ConfigError(
                f"{to or folder} must be writable with room to spare: {error}. What is finished is kept; free space or "
                "choose another place, then run the same command again"
            ) from error
        summary.is_empty = bool(len(rows) or opened.refused) and not index.is_done.any()
        return summary

    def _put_together(self, lines: Iterable[Mapping[str, Any]], folder: Path, to: Path) -> None:
        texts = (self.writer(Transcript.of_document(line, row=row)) for row, line in enumerate(lines))
        drafts = folder / DRAFTS_FOLDER  # where the next run clears up after one that was killed
        write_lines(to, texts, drafts=drafts)
        errors, refused = to.with_name(f"{to.name}.errors.jsonl"), folder / ERRORS_FILE
        if refused.exists():
            with refused.open(encoding="utf-8") as stream:
                write_lines(errors, stream, drafts=drafts)
        else:
            errors.unlink(missing_ok=True)


_RESERVED = ("transcripts.json",)


def settings_of(
    transcriber: Transcriber, *, model_hash: str, decoding: DecodeSettings, writer: Writer | None
) -> dict[str, Any]:
    """What makes texts what they are.

    Args:
        transcriber: recogniser and windows.
        model_hash: names the weights.
        decoding: the decoder; its files are known by place and size.
        writer: where each utterance has its file, what these are.
    """
    windows = transcriber.settings.windows
    decoder = {name: _known_by(value) if isinstance(value, Path) else value for name, value in asdict(decoding).items()}
    files = {} if writer is None else {"format": writer.form.name, "subtitles": asdict(writer.subtitles)}
    document = {
        "model_hash": model_hash, "decoder": decoder, "times": transcriber.times,
        "precision": transcriber.runtime.name, "max_s": windows.max_s, "overlap_s": windows.overlap_s, **files,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(document))  # as it is read again
    return plain


def _known_by(path: Path) -> str:
    return f"{path} ({path.stat().st_size} bytes)"


def without_times(result: Transcript | Refusal, form: TextFormat) -> Transcript | Refusal:
    """A refusal in place of a transcript that the format cannot hold, for its words have no times."""
    if isinstance(result, Transcript) and result.words is None and form.has_times:
        return Refusal(result.id, result.path, f"its words have no times: {result.times_error}", result.row)
    return result


def work_folder(path: Path) -> Path:
    """Where what is done of a file stands until all is."""
    return path.with_name(f".{path.name}.work")


@dataclass
class _Begun:
    """A shard that is being done: its lock is held."""

    shard: Shard
    left: list[int]
    lock: ExitStack
    results: list[Transcript | Refusal] = field(default_factory=list)


@dataclass
class _Work:
    """One rank's shards through one stream: the model begins the next one while texts of the one before are decoded."""

    how: TranscriptFolder
    folder: OutputFolder
    index: FolderIndex
    source: ManifestSource
    rows: Rows
    summary: Summary
    on_progress: Callable[[float], None]
    begun: list[_Begun] = field(default_factory=list)
    busy: list[Shard] = field(default_factory=list)

    def do(self, shards: Sequence[Shard]) -> list[Shard]:
        """Do what is left of them; gives those that another process still holds at the end."""
        journal = PassageJournal(self.folder.path / PASSAGES_FOLDER, self.rows)
        results = self.how.transcriber.run(
            self.source, self._groups(shards), journal=journal, on_progress=self.on_progress
        )
        try:
            for result in results:
                current, own = self.begun[0], without_times(result, self.how.writer.form)
                current.results.append(own)
                is_end = self.how.strict and isinstance(own, Refusal)
                if len(current.results) == len(current.left) or is_end:
                    self._commit(self.begun.pop(0), journal)
                if self.how.strict and isinstance(own, Refusal):
                    raise stopped(own)
        finally:
            results.close()
            for begun in self.begun:
                begun.lock.close()
        return self.busy

    def _groups(self, shards: Sequence[Shard]) -> Iterator[list[int]]:
        """The rows that are left of each shard; those that another process holds are tried again at the end."""
        left = list(shards)
        for _ in range(2):
            some, self.busy = left, []
            for shard in some:
                rows = self._begin(shard)
                if rows:
                    yield rows
            left = self.busy

    def _begin(self, shard: Shard) -> list[int]:
        if not self.index.is_done[shard.rows].all():
            with ExitStack() as stack:
                if not stack.enter_context(self.folder.locked(shard.name)):
                    self.busy.append(shard)
                    return []
                self.index.refresh()  # another process may have done it since
                left = (shard.first + np.flatnonzero(~self.index.is_done[shard.rows])).tolist()
                if left:
                    self.begun.append(_Begun(shard, left, stack.pop_all()))
                    self._count_present(shard)
                    return list(left)
        self._count_present(shard)
        return []

    def _count_present(self, shard: Shard) -> None:
        present = shard.first + np.flatnonzero(self.index.is_done[shard.rows])
        self.summary.num_present += len(present)
        self.on_progress(sum(map(self.source.seconds, present.tolist())))

    def _commit(self, begun: _Begun, journal: PassageJournal) -> None:
        """Files first, then the lines that name them, then what is no longer needed."""
        name = name_of(self.rows, begun.left)
        refused = [result for result in begun.results if isinstance(result, Refusal)]
        done = [result for result in begun.results if isinstance(result, Transcript)]
        files = self._publish(done, name) if self.folder.kind.has_data else {}
        self.index.write_part(name, (self._line(result, files) for result in begun.results))
        journal.forget([result.row for result in begun.results if result.row is not None])
        begun.lock.close()
        self.summary.num_written += len(done)
        self.summary.refuse(refused)

    def _publish(self, done: Sequence[Transcript], name: str) -> dict[int, str]:
        files = {result.row: file_name(result.id, self.how.writer.form.suffix) for result in done}
        drafts = Drafts(self.folder.path, name)
        for result in done:
            drafts.path(str(result.row)).write_text(
                self.how.writer(result), encoding="utf-8", errors="backslashreplace"
            )
        drafts.publish([(drafts.path(str(row)), file) for row, file in files.items()])
        drafts.clear()
        return files

    def _line(self, result: Transcript | Refusal, files: Mapping[int, str]) -> dict[str, Any]:
        if isinstance(result, Refusal):
            return {"id": result.id, "path": result.path, "reason": result.reason}
        file = {"file": files[result.row]} if files else {}
        return {**self.rows.identity(result.row), **file, **result.to_document()}
