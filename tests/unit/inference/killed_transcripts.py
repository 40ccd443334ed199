"""Transcriptions that are killed at a given moment: each rank is a process that is forked here.

``python -m tests.unit.inference.killed_transcripts MODEL MANIFEST`` reads jobs from standard input, a JSON object a
line, and does one after the other, as :mod:`tests.unit.inference.killed_extracts` does.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import torch

from audio_ssl.inference.decoding import GreedyDecoder
from audio_ssl.inference.models import Runtime, open_recogniser
from audio_ssl.inference.ranks import Rank
from audio_ssl.inference.source import open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.text_formats import FORMATS, Writer
from audio_ssl.inference.transcribe import Transcriber, one_by_one
from audio_ssl.inference.transcript_folder import TranscriptFolder
from audio_ssl.inference.windows import WindowSettings
from tests.unit.changes import Changes

SETTINGS = StreamSettings(batch_s=4.0, windows=WindowSettings(2.0, 0.5), num_threads=1)


def main(model: Path, manifest: Path) -> None:
    torch.set_num_threads(1)
    recogniser = open_recogniser(model)
    decode = one_by_one(GreedyDecoder(recogniser.vocabulary))
    transcriber = Transcriber(
        recogniser, decode, SETTINGS, Runtime(torch.device("cpu")), times=True, max_frames=60
    )  # fmt: skip
    for line in sys.stdin:
        job = json.loads(line)
        pids = [_forked(transcriber, manifest, job, rank) for rank in range(job["ranks"])]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)  # noqa: T201 - the answer


def _forked(transcriber: Transcriber, manifest: Path, job: dict, rank: int) -> int:
    pid = os.fork()
    if not pid:
        _child(transcriber, manifest, job, rank)
    return pid


def _child(transcriber: Transcriber, manifest: Path, job: dict, rank: int) -> NoReturn:
    out = Path(job["out"])
    try:
        opened = open_input(manifest)
        if job["kill_at_change"] is not None:
            sys.addaudithook(Changes(out.parent, Path(f"{out.parent}.log{rank}"), kill_at=job["kill_at_change"][rank]))
        writer = Writer(
            FORMATS[job["format"]], lambda transcript: transcript.to_document(), is_alone=job["into_folder"]
        )
        folder = TranscriptFolder(transcriber, writer, job["settings"], shard_s=2.0)
        write = folder.to_folder if job["into_folder"] else folder.to_file
        write(opened, out, rank=Rank(rank, job["ranks"]))
    except BaseException:
        Path(f"{out.parent}.error").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
