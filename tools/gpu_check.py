"""The first thing to run on a GPU: does training there give the CPU's numbers, without waiting, and how fast?

usage: python tools/gpu_check.py [--only NAME ...] [--json] [--list]

Each check runs in a process of its own, for a limited time, and one that fails does not stop the others. At the end
there is one table; with --json there is a JSON object a check on stdout instead: check, verdict, reason, figures,
seconds. Exit status: 0 all passed or were skipped with a reason, 1 one failed, 3 there is no GPU.

`--device cpu` runs the same checks with minute models on a CPU: it shows that the checks themselves run, and says
nothing about a GPU. Audio for `loader` is LibriSpeech's where AUDIO_SSL_CORPORA is set, as for the tests.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from gpu import embeddings, equality, parity, ranks, runs, saving, sharded, speed, waits
from gpu.outcome import Result, table_of
from gpu.place import Place
from gpu.runner import Check, run_apart, run_here, words_for

NO_GPU = 3
# Together under ten minutes on an H100; the limits are for what goes wrong.
CHECKS = {
    "parity_small": Check(parity.of_preset("small", 4), 90),
    "parity_base": Check(parity.of_preset("wav2vec2_base", 4), 120),
    "parity_large": Check(parity.of_preset("wav2vec2_large", 2), 180),
    "parity_variants": Check(parity.variants, 90),
    "parity_ctc": Check(parity.ctc, 90),
    "bf16": Check(equality.bf16, 90),
    "fp16": Check(equality.fp16, 90),
    "compile": Check(equality.compiled, 180),
    "embeddings": Check(embeddings.invariance, 120),
    "compiled_embeddings": Check(embeddings.compiled, 180),
    "checkpoint_activations": Check(equality.recomputed, 120),
    "ema": Check(equality.average, 90),
    "checkpoint": Check(saving.checkpoint, 90),
    "fsdp2": Check(sharded.fsdp2, 120),
    "host_waits": Check(waits.host_waits, 180),
    "resume": Check(runs.resume, 180),
    "nccl": Check(ranks.nccl, 480),
    "loader": Check(runs.loader, 180),
    "speed_base": Check(speed.of_preset("wav2vec2_base", rows=32, seconds=15), 180),
    "speed_large": Check(speed.of_preset("wav2vec2_large", rows=16, seconds=15), 240),
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit status."""
    arguments = _parse(words)
    if arguments.list:
        for name, check in CHECKS.items():
            print(f"{name:22} {check.told}")
        return 0
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was checked (--device cpu tries the checks themselves out)", file=sys.stderr)
        return NO_GPU
    place = Place(torch.device("cuda", 0) if device.type == "cuda" else device)
    if arguments.run_one:
        warnings.simplefilter("ignore")
        result = run_here(arguments.run_one, CHECKS[arguments.run_one], place)
        arguments.answer.write_text(result.line(), encoding="utf-8")
        return 0
    results = _run(arguments.only or list(CHECKS), place, is_json=arguments.json)
    if not arguments.json:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(table_of(results, title=title_of(place)))
    if not place.is_gpu:
        print("nothing was measured on a GPU: these checks ran on a CPU, with minute models", file=sys.stderr)
    return int(any(result.verdict == "failed" for result in results))


def _run(names: Sequence[str], place: Place, *, is_json: bool) -> list[Result]:
    results = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, end=" ", flush=True)
        words = words_for(Path(__file__), name, place)
        result = run_apart(name, limit_s=CHECKS[name].limit_s, words=words)
        print(f"{result.verdict} ({result.seconds:.0f} s)", file=sys.stderr, flush=True)
        results.append(result)
        if is_json:
            print(result.line(), flush=True)
    return results


def title_of(place: Place) -> str:
    """The machine."""
    if not place.is_gpu:
        return f"minute models on a CPU, torch {torch.__version__}: NOT a GPU"
    memory = torch.cuda.get_device_properties(place.device).total_memory / 2**30
    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name(place.device)
    return f"{count} x {name}, {memory:.0f} GiB, torch {torch.__version__}, CUDA {torch.version.cuda}"


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=tuple(CHECKS), metavar="NAME", help="this check; repeat")
    parser.add_argument("--json", action="store_true", help="one JSON object a check on stdout, and nothing else there")
    parser.add_argument("--list", action="store_true", help="name the checks and end")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--run-one", choices=tuple(CHECKS), help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
