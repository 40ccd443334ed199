"""Measure audio_ssl on this machine beside its peers: training steps, the encoder, and how both grow.

usage:
    python tools/bench.py step     [--case tiny_cpu]   a whole update, beside transformers and fairseq2
    python tools/bench.py forward  [--case base]       the encoder in inference, beside these and torchaudio
    python tools/bench.py widths   [--case tiny_cpu]   what the number of batch widths costs
    python tools/bench.py profile  [--case base] [--system transformers] [--of forward]   where the time goes
    python tools/bench.py roofline [--case base]       a step on A100 and H100, on paper: nothing is measured
    python tools/bench.py gpu      [--case base] [--rows 8]   an update and the encoder on a GPU, beside the peers
    python tools/bench.py plan     [--utterances 10000000]    opening a large manifest, planning an epoch, resuming
    python tools/bench.py load                         files to batches, beside bare decoding and other loaders
    python tools/bench.py scan     [--files 20000]     a folder of small files to a manifest, beside peers' ways
    python tools/bench.py extract  [--files 40]      real files to files of embeddings, beside the peers
    python tools/bench.py extract  --short [--case tiny_cpu]   10,000 short files, beside the same audio in long ones
    python tools/bench.py decode   [--model MODEL --manifest TEST]   log-probabilities to text, beside the peers
    python tools/bench.py scale    [--case tiny_cpu] [--plot FILE.png]   ours against audio, model size and batch

Candidates take turns, and ratios are medians over rounds of ratios within a round: other work on the machine slows both
of their sides. What each metric means stands in the module of that name in tools/benchmarks (`plan`: planning.py,
`load`: loading.py, `scan`: scanning.py, `decode`: decoding.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    decoding,
    extracting,
    forward,
    gpu,
    loading,
    planning,
    profile,
    roofline,
    scale,
    scanning,
    short,
    step,
    widths,
)
from benchmarks.candidates import SYSTEMS, find_system, measure_memory
from benchmarks.cases import CASES, Case
from benchmarks.measure import pin
from benchmarks.memory import Ask
from benchmarks.peers import PEERS
from benchmarks.report import BenchError, Row, note, read_record, record, regressions, show
from benchmarks.worker import WorkerAsk, serve

DEFAULT_CASES = {
    "step": "tiny_cpu", "forward": "base", "widths": "tiny_cpu", "profile": "base", "roofline": "base",
    "gpu": "base", "plan": "base", "load": "base",
    "extract": "base", "scan": "base", "scale": "tiny_cpu", "decode": "base",
}  # fmt: skip
SYSTEM_NAMES = tuple(system.name for system in SYSTEMS)


def main(words: list[str] | None = None) -> int:
    """Measure what is asked for, print it, and compare it with the record; the exit status."""
    arguments = _parse(words)
    warnings.simplefilter("ignore")  # of peers, about themselves
    if arguments.memory_child:
        ask = Ask(**json.loads(arguments.memory_child))
        print(measure_memory(ask, CASES[ask.case]))
        return 0
    if arguments.worker:
        serve(WorkerAsk(**json.loads(arguments.worker)))
        return 0
    if arguments.plan_child:
        print(json.dumps(planning.measure(arguments.plan_child)))
        return 0
    if arguments.load_child:
        print(json.dumps(loading.measure(loading.Ask(**json.loads(arguments.load_child))).plain()))
        return 0
    try:
        known = read_record(arguments.check) if arguments.check else None  # before minutes of measuring
        rows = _run(arguments)
        if arguments.what == "roofline" and not arguments.json:
            print(roofline.table(_case(arguments)))
        else:
            show(rows, is_json=arguments.json, repeats=arguments.repeats)
        if arguments.record:
            record(rows, arguments.record)
        faults = regressions(rows, known) if known is not None else []
    except BenchError as error:
        note(f"error: {error}")
        return 2
    for fault in faults:
        note(f"slower than its record: {fault}")
    return int(bool(faults))


def _run(arguments: argparse.Namespace) -> list[Row]:
    # `widths` asks what preparing kernels costs, so it does not keep more of them than torch does by itself.
    pin(arguments.threads, keep_kernels=arguments.what != "widths")
    case = _case(arguments)
    peers, repeats, threads = arguments.peer, arguments.repeats, arguments.threads
    simple: dict[str, Callable[[], list[Row]]] = {
        "step": lambda: step.run(
            case, peers=peers, repeats=repeats, threads=threads, peers_keep_memory=arguments.peers_keep_memory
        ),
        "forward": lambda: forward.run(case, peers=peers, repeats=repeats),
        "widths": lambda: widths.run(case, repeats=repeats),
        "profile": lambda: profile.run(find_system(arguments.system), case, of=arguments.of, repeats=repeats),
        "roofline": lambda: roofline.run(case),
        "plan": lambda: planning.run(num_rows=arguments.utterances, repeats=repeats),
        "load": lambda: loading.run(repeats=repeats, threads=threads),
        "extract": lambda: _extract(arguments, case),
        "scan": lambda: scanning.run(num_files=arguments.files or scanning.FILES, repeats=repeats),
        "decode": lambda: decoding.run(
            repeats=repeats,
            threads=threads,
            model=arguments.model,
            manifest=arguments.manifest,
            num_utterances=arguments.files,
        ),
        "gpu": lambda: gpu.run(case, peers=peers, repeats=repeats, device=gpu.find_gpu()),
    }
    if arguments.what in simple:
        return simple[arguments.what]()
    points = scale.run(case, repeats=repeats, threads=threads)
    if arguments.plot:
        scale.plot(points, arguments.plot)
    return [point.row for point in points] + scale.growth_rows(points)


def _extract(arguments: argparse.Namespace, case: Case) -> list[Row]:
    repeats, threads, num_files = arguments.repeats, arguments.threads, arguments.files
    if arguments.short:
        return short.run(case, num_files=num_files or short.FILES, repeats=repeats, threads=threads)
    return extracting.run(case, peers=arguments.peer, num_files=num_files, repeats=repeats, threads=threads)


def _case(arguments: argparse.Namespace) -> Case:
    case = CASES[arguments.case or DEFAULT_CASES[arguments.what]]
    if arguments.what in ("roofline", "gpu"):
        return case.of_size(rows=arguments.rows, seconds=roofline.SECONDS)
    return case


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=tuple(DEFAULT_CASES))
    parser.add_argument("--case", choices=tuple(CASES))
    parser.add_argument(
        "--peer", action="append", default=[], choices=[peer.name for peer in PEERS], help="all if none"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7, help="rounds that count, after one that does not")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout, and nothing else there")
    parser.add_argument("--rows", type=int, default=roofline.ROWS, help="gpu and roofline only: rows of 15 s")
    parser.add_argument("--system", choices=SYSTEM_NAMES, default=SYSTEM_NAMES[0], help="profile only: whose")
    parser.add_argument("--of", choices=("step", "forward"), default="step", help="profile only")
    parser.add_argument("--plot", type=Path, help="scale only: draw the curves into this file")
    parser.add_argument("--record", type=Path, help="put the ratios into this JSON file")
    parser.add_argument("--check", type=Path, help="exit 1 when a ratio is below 0.9 of this file's")
    parser.add_argument(
        "--peers-keep-memory", action="store_true",
        help="step only: peers' processes keep freed pages, as ours does and their own scripts do not",
    )  # fmt: skip
    parser.add_argument("--utterances", type=int, default=10_000_000, help="plan only: rows of the manifest")
    parser.add_argument("--files", type=int, help="scan, extract: files in the folder; decode: utterances timed")
    parser.add_argument("--short", action="store_true", help="extract only: short files instead of the peers")
    parser.add_argument("--model", type=Path, help="decode only: a recogniser, instead of made-up log-probabilities")
    parser.add_argument("--manifest", type=Path, help="decode only: recordings with text for --model")
    parser.add_argument("--plan-child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--load-child", help=argparse.SUPPRESS)
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.what is None and not _is_child(arguments):
        parser.error("say what to measure: " + ", ".join(DEFAULT_CASES))
    return arguments


def _is_child(arguments: argparse.Namespace) -> bool:
    return bool(arguments.memory_child or arguments.worker or arguments.plan_child or arguments.load_child)


if __name__ == "__main__":
    sys.exit(main())
