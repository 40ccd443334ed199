"""What pre-training is worth to a recogniser: labels of 10 minutes, an hour and all, from both starts.

usage:
    python tools/asr.py data  --corpora DIR --out DATA
    python tools/asr.py tune  MODEL --start pretrained --labels 1h --data DATA --out TUNED --minutes M
                              --try 'optim.lr=[3e-4, 1e-3]' --try 'ctc.mask_prob=[0.05, 0.2]' [--trials N]
    python tools/asr.py train MODEL --start pretrained random --labels 10min 1h all --seed 1 2 3 --data DATA --out RUNS
                              --minutes M [--config FILE] [--set section.key=value ...] [--device cuda] [--threads N]
    python tools/asr.py table RUNS/* --data DATA --out TABLE.json [--decode '--decoder decoder.toml']
    python tools/asr.py plot  RUNS/* --out FILE.png

`data` splits speechocean762 by the list in manifests/splits (test, validation and train speakers, never changed), takes
nested amounts of the train speakers' labels, and puts together what pre-training may hear. `tune` chooses settings on
the validation speakers alone, for each start by itself; its tuned.toml is a --config. `train` fine-tunes from the
pre-trained MODEL and from random weights of its shape on an equal budget, minutes of processor time in updates (how it
is held equal: tools/experiment/recognisers.py), one run after another into RUNS/LABELS_START_seedN. What was stopped
goes on when it is started again, and what is complete is left alone. `table` transcribes the test speakers with the
model of each run that was best on the validation speakers, and compares the starts (tools/experiment/asr_table.py).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from itertools import product
from pathlib import Path

from rich.console import Console

from audio_ssl.errors import AudioSSLError
from benchmarks.report import BenchError, note
from experiment import asr_curves, asr_table, asr_tuning, labels, recognisers
from experiment.labels import AMOUNTS, Labels

# Alike but for where the encoder comes from.
CONFIGS: dict[recognisers.Start, str] = {"pretrained": "finetune/small", "random": "finetune/fresh"}


def main(words: list[str] | None = None) -> int:
    """Do what is asked for; the exit status."""
    arguments = _parse(words)
    try:
        arguments.run(arguments)
    except (BenchError, AudioSSLError) as error:
        note(f"error: {error}")
        return 2
    return 0


def _data(arguments: argparse.Namespace) -> None:
    labels.prepare(arguments.corpora, arguments.out)


def _train(arguments: argparse.Namespace) -> None:
    data = _checked(arguments, arguments.start)
    for amount, seed, start in product(arguments.labels, arguments.seed, arguments.start):
        asked = _asked(arguments, start, labels=amount, seed=seed)
        recognisers.train(asked, data, arguments.out / f"{amount}_{start}_seed{seed}")


def _tune(arguments: argparse.Namespace) -> None:
    data = _checked(arguments, [arguments.start])
    points = asr_tuning.drawn(asr_tuning.grid(arguments.tried), arguments.trials, seed=arguments.seed)
    asked = _asked(arguments, arguments.start, labels=arguments.labels, seed=arguments.seed)
    best = asr_tuning.tune(asked, data, arguments.out, points=points)
    note(f"best: {best.folder}, CER {best.best.cer:.1%} on valid; its settings: {arguments.out / asr_tuning.BEST}")


def _checked(arguments: argparse.Namespace, starts: list[recognisers.Start]) -> Labels:
    data = Labels(arguments.data).check()
    if "pretrained" in starts:
        labels.refuse_heard(arguments.model, data)
    return data


def _asked(arguments: argparse.Namespace, start: recognisers.Start, *, labels: str, seed: int) -> recognisers.Asked:
    return recognisers.Asked(
        arguments.model, start, labels, arguments.config or CONFIGS[start], tuple(arguments.set), seed=seed,
        updates=arguments.updates, minutes=arguments.minutes, device=arguments.device, threads=arguments.threads,
    )  # fmt: skip


def _table(arguments: argparse.Namespace) -> None:
    data, words = Labels(arguments.data).check(), shlex.split(arguments.decode)
    manifest = data.test if arguments.part == "test" else data.valid
    curves = [asr_curves.read_curve(folder) for folder in arguments.run_dir]
    scores = {
        curve.folder: asr_table.score(
            curve.folder, manifest, words=words, device=arguments.device, threads=arguments.threads
        )
        for curve in curves
    }
    told = asr_table.document(curves, scores, part=arguments.part, words=words)
    arguments.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 160).print(asr_table.table(told))


def _plot(arguments: argparse.Namespace) -> None:
    asr_curves.plot([asr_curves.read_curve(folder) for folder in arguments.run_dir], arguments.out)


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data", help="manifests of the experiment")
    data.add_argument("--corpora", type=Path, required=True, help="folder of the corpora")
    data.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    data.set_defaults(run=_data)

    train = verbs.add_parser("train", help="runs, one after another")
    train.add_argument("--start", choices=recognisers.STARTS, nargs="+", required=True)
    train.add_argument("--labels", choices=tuple(AMOUNTS), nargs="+", required=True)
    train.add_argument("--seed", type=int, nargs="+", default=[1])
    _add_run(train)
    train.set_defaults(run=_train)

    tune = verbs.add_parser("tune", help="choose settings on the validation speakers")
    tune.add_argument("--start", choices=recognisers.STARTS, required=True)
    tune.add_argument("--labels", choices=tuple(AMOUNTS), required=True)
    tune.add_argument("--seed", type=int, default=1)
    tune.add_argument("--try", action="append", default=[], dest="tried", metavar="SECTION.KEY=[VALUE, VALUE ...]")
    tune.add_argument("--trials", type=int, help="so many points of the grid, drawn by chance; all without it")
    _add_run(tune)
    tune.set_defaults(run=_tune)

    table = verbs.add_parser("table", help="error rates of held-out speakers, with intervals")
    table.add_argument("run_dir", type=Path, nargs="+", metavar="RUN")
    table.add_argument("--data", type=Path, required=True, help="--out of `data`")
    table.add_argument("--out", type=Path, required=True, help="JSON file to write")
    table.add_argument("--part", choices=("test", "valid"), default="test")
    table.add_argument("--decode", default="", metavar="WORDS", help="options of `audio-ssl transcribe`, in quotes")
    _add_machine(table)
    table.set_defaults(run=_table)

    plot = verbs.add_parser("plot", help="learning curves")
    plot.add_argument("run_dir", type=Path, nargs="+", metavar="RUN")
    plot.add_argument("--out", type=Path, required=True, help="picture to write")
    plot.set_defaults(run=_plot)
    return parser.parse_args(words)


def _add_run(verb: argparse.ArgumentParser) -> None:
    """What a run is told, whichever verb makes it."""
    verb.add_argument("model", type=Path, metavar="MODEL", help="pre-trained model; a random start takes its shape")
    verb.add_argument("--data", type=Path, required=True, help="--out of `data`")
    verb.add_argument("--out", type=Path, required=True, help="folder of the runs")
    verb.add_argument(
        "--config", help="a TOML file or a shipped configuration (without it finetune/small, and fresh for random)"
    )
    verb.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="wins over --config")
    budget = verb.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of processor time in updates; of real time with --device cuda")
    budget.add_argument("--updates", type=int)
    _add_machine(verb)


def _add_machine(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    verb.add_argument("--threads", type=int, default=1, help="of a process; with 1, as many as cores go side by side")


if __name__ == "__main__":
    sys.exit(main())
