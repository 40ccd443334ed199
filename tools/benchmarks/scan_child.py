"""One look through a folder of audio, in a process of its own that has loaded nothing else: ours, or a peer's way.

python -m benchmarks.scan_child WHAT FOLDER OUT     with tools/ on the path; prints one JSON object
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal

from benchmarks.memory import mib_of

Look = Callable[[Path, Path], int]
EXTENSIONS = ("wav", "flac")


def ours(check: Literal["headers", "ends"]) -> Look:
    """The whole of ``audio-ssl manifest build FOLDER -o OUT.arrow --check CHECK``, but for its printing."""
    from audio_ssl.data.scan import ScanSettings, scan_to_file

    def look(folder: Path, out: Path) -> int:
        return scan_to_file(folder, out.with_suffix(".arrow"), settings=ScanSettings(check=check)).num_rows

    return look


def soundfile_loop() -> Look:
    """What fairseq's ``examples/wav2vec/wav2vec_manifest.py`` does, once for each extension as it has to be called."""
    import glob

    import soundfile

    def look(folder: Path, out: Path) -> int:
        num_rows = 0
        with out.with_suffix(".tsv").open("w", encoding="utf-8") as file:
            print(os.path.realpath(folder), file=file)
            for extension in EXTENSIONS:
                for name in glob.iglob(os.path.join(folder, f"**/*.{extension}"), recursive=True):  # noqa: PTH118, PTH207 — as there
                    path = os.path.realpath(name)
                    frames = soundfile.info(path).frames
                    print(f"{os.path.relpath(path, folder)}\t{frames}", file=file)
                    num_rows += 1
        return num_rows

    return look


def lhotse() -> Look:
    """``RecordingSet.from_dir`` with as many processes as there are processors, written as JSON lines.

    Raises:
        ImportError: lhotse is not installed.
    """
    recording_set = import_module("lhotse").RecordingSet

    def look(folder: Path, out: Path) -> int:
        num_jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
        num_rows = 0
        for extension in EXTENSIONS:
            found = recording_set.from_dir(folder, f"*.{extension}", num_jobs=num_jobs)
            found.to_file(out.with_name(f"{out.name}-{extension}.jsonl"))
            num_rows += len(found)
        return num_rows

    return look


LOOKS: dict[str, Callable[[], Look]] = {
    "ends": lambda: ours("ends"),
    "headers": lambda: ours("headers"),
    "soundfile_loop": soundfile_loop,
    "lhotse": lhotse,
}


def main(words: list[str]) -> int:
    """Look through the folder and print seconds, rows and the growth of resident memory."""
    what, folder, out = words
    try:
        look = LOOKS[what]()
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return 0
    before = mib_of("VmRSS")
    started = time.perf_counter()
    num_rows = look(Path(folder), Path(out))
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "num_rows": num_rows, "rss_growth_mib": mib_of("VmHWM") - before}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
