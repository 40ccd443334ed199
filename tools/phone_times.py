"""When is each phone of speechocean762 said? A CTM file for probes of frames, units and ABX.

usage: python tools/phone_times.py --corpora DIR --out phones.ctm

The corpus tells the phones of each word and no times; monophone models from a flat start find them
(tools/experiment/monophones.py): some minutes on one core. Nothing of these models reaches a probe but the times, which
are the same for all candidates; they are an estimate, with frames of 10 ms, and no bar can be read from them but the
difference of two candidates. Then:

    audio-ssl probe MODEL --task phone_frames --set labels.ctm=$PWD/phones.ctm -o OUT
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from audio_ssl.data.formats.sidecar_files import read_numbered_pairs
from audio_ssl.errors import AudioSSLError
from audio_ssl.inference.output import write_text
from audio_ssl.probe.candidates import CPU, mfcc
from audio_ssl.probe.frames import compute
from audio_ssl.probe.label_files import bare_phones
from audio_ssl.probe.tasks import open_task
from benchmarks.report import note
from experiment.monophones import Phone, align

HOP_MS = 10.0
TASK = "phones"


def words_of(path: Path) -> dict[str, list[list[str]]]:
    """Phones of each word of each utterance, from a ``text-phone`` file that a task has read before."""
    words = defaultdict[str, list[list[str]]](list)
    for key, (_, phones) in read_numbered_pairs(path).items():
        words[key.rpartition(".")[0]].append(list(bare_phones(phones)))
    return dict(words)


def ctm(aligned: Mapping[str, Sequence[Phone]]) -> str:
    """Lines of a CTM file: ``ID CHANNEL START DURATION PHONE``, in seconds."""

    def seconds(frames: int) -> str:
        return f"{frames * HOP_MS / 1000:.2f}"

    return "".join(
        f"{name} 1 {seconds(phone.start)} {seconds(phone.end - phone.start)} {phone.name}\n"
        for name, phones in aligned.items()
        for phone in phones
    )


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="the folder that holds speechocean762")
    parser.add_argument("--out", type=Path, required=True, help="the CTM file to write")
    args = parser.parse_args(arguments)
    try:
        items = open_task(TASK, corpora=args.corpora, overrides=["split.hours=99"]).items
        manifest = items.manifest
        words = words_of(Path(str(manifest.root)) / "text-phone")
        found = compute(mfcc(HOP_MS).open(CPU), manifest, range(len(items)), name="MFCC")
        ids = [Path(manifest[row].path).stem for row in range(len(manifest))]
        frames = {ids[row]: values[0] for row, values in found}
    except AudioSSLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = sorted(frames)
    note(f"{len(names)} recordings, {sum(map(len, frames.values())) * HOP_MS / 3.6e6:.2f} h")
    together = np.concatenate([frames[name] for name in names])
    mean, std = together.mean(0), together.std(0)
    aligned = align([(frames[name] - mean) / std for name in names], [words[name] for name in names], tell=note)
    write_text(args.out, ctm(dict(zip(names, aligned, strict=True))))
    note(f"{sum(map(len, aligned))} phones: {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
