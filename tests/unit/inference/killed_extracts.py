"""Extractions that are killed at a given moment: each rank is a process that is forked here.

``python -m tests.unit.inference.killed_extracts MODEL MANIFEST`` reads jobs from standard input, a JSON object a line,
and does one after the other; it is started once, since starting Python with torch takes longer than all its runs.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

import torch

from audio_ssl.inference.extract import Extractor, ExtractSettings
from audio_ssl.inference.layers import choose_layer
from audio_ssl.inference.models import Runtime, open_encoder
from audio_ssl.inference.ranks import Rank
from audio_ssl.inference.source import open_input
from audio_ssl.inference.stream import StreamSettings
from audio_ssl.inference.windows import WindowSettings
from tests.unit.changes import Changes

SETTINGS = StreamSettings(batch_s=2.0, windows=WindowSettings(2.0, 0.5), num_threads=1)


def main(model: Path, manifest: Path) -> None:
    torch.set_num_threads(1)
    encoder = open_encoder(model)
    for line in sys.stdin:
        job = json.loads(line)
        settings = ExtractSettings(
            choose_layer(None, num_layers=encoder.num_layers),
            format=job["format"], stream=SETTINGS, shard_mib=job["shard_mib"],
        )  # fmt: skip
        extractor = Extractor(encoder, "h", settings, Runtime(torch.device("cpu")))
        pids = [_forked(extractor, manifest, job, rank) for rank in range(job["ranks"])]
        if job["kill_after_s"] is not None:
            time.sleep(job["kill_after_s"])
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)  # noqa: T201 - the answer


def _forked(extractor: Extractor, manifest: Path, job: dict, rank: int) -> int:
    pid = os.fork()
    if not pid:
        _child(extractor, manifest, job, rank)
    return pid


def _child(extractor: Extractor, manifest: Path, job: dict, rank: int) -> NoReturn:
    out = Path(job["out"])
    try:
        opened = open_input(manifest)
        if job["kill_at_change"] is not None:
            sys.addaudithook(Changes(out, Path(f"{out}.log{rank}"), kill_at=job["kill_at_change"][rank]))
        summary = extractor.to_folder(opened, out, rank=Rank(rank, job["ranks"]))
        Path(f"{out}.written{rank}").write_text(str(summary.tally.num_written))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
