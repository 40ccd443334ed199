"""Measure how long a system must train until its representations are good: ours, and transformers beside it.

usage:
    python tools/quality.py data  --corpora DIR --out DIR
    python tools/quality.py train --system audio_ssl --minutes 10 --data DIR --out RUN [--set key=value ...]
    python tools/quality.py plot  RUN... --reach NAME --out FILE.png [--json]
    python tools/quality.py probe MODEL... --data DIR --out FILE.json

`data` makes manifests, a split by speaker (train 0.8, valid 0.08, test 0.12) and phones. `train` trains one system and
measures it on the unseen speakers of `valid` at points of its budget, always with the same code, masks and distractors;
the clock stands still meanwhile. The learning rate is a function of the share of the budget that is used, so that each
run comes to its end. `--audio-hours` in place of `--minutes` compares variants of a configuration at equal audio; where
these change the pretext task itself (masks, frame rate, codes), only the probes compare them. `plot` draws the curves
and tells when each came down to what the run NAME (a folder's name) ended with. `probe` measures frozen encoders on
digits (leave one speaker out: the labels of the others alone, but pre-training has heard all of them, in every system)
and phones (test speakers, who were heard nowhere), beside log-mel and random weights.

The experiment, on two cores that nobody else uses, for each seed:
    OUT=runs/quality
    python tools/quality.py data --corpora "$AUDIO_SSL_CORPORA" --out $OUT/data
    python tools/quality.py train --system transformers --minutes 30 --data $OUT/data --out $OUT/transformers_30
    python tools/quality.py train --system audio_ssl --minutes 10 --data $OUT/data --out $OUT/audio_ssl_10
    python tools/quality.py plot $OUT/transformers_30 $OUT/audio_ssl_10 --reach transformers_30 --out $OUT/quality.png
    python tools/quality.py probe $OUT/transformers_30 $OUT/audio_ssl_10 --data $OUT/data --out $OUT/probes.json
(another seed: --set run.seed=2; a variant at equal audio: --audio-hours 5 --set objective.KEY=VALUE)
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.errors import AudioSSLError
from benchmarks.measure import pin
from benchmarks.report import BenchError, Row, note
from experiment import curves, probes, training
from experiment.budget import Budget
from experiment.corpora import Prepared, prepare
from experiment.learners import LEARNERS

DEFAULT_CONFIG = "pretrain/conv_small"


def main(words: list[str] | None = None) -> int:
    """Do what is asked for; the exit status."""
    arguments = _parse(words)
    warnings.simplefilter("ignore")  # of peers, about themselves
    pin(arguments.threads, keep_kernels=True)
    try:
        arguments.run(arguments)
    except (BenchError, AudioSSLError) as error:
        note(f"error: {error}")
        return 2
    return 0


def _data(arguments: argparse.Namespace) -> None:
    prepare(arguments.corpora, arguments.out)


def _train(arguments: argparse.Namespace) -> None:
    data, out = Prepared(arguments.data).check(), arguments.out
    ours = [f"data.train=['{data.unlabelled}']", f"data.valid=['{data.part('valid')}']", f"run.dir='{out}'"]
    config = load_config(PretrainConfig, find_config(arguments.config), [*ours, *arguments.set])
    budget = Budget(arguments.minutes) if arguments.minutes else Budget(arguments.audio_hours, "audio hours")
    training.run(training.Run(arguments.system, config, budget, arguments.points), out)


def _probe(arguments: argparse.Namespace) -> None:
    probes.show(probes.run(arguments.model, Prepared(arguments.data).check(), arguments.out))


def _plot(arguments: argparse.Namespace) -> None:
    runs = [curves.read_curve(folder) for folder in arguments.run_dir]
    reference = curves.named(runs, arguments.reach)
    rows = curves.rows(runs, reference)
    curves.plot(runs, reference, arguments.out)
    if arguments.json:
        for row in rows:
            print(*row.lines(), sep="\n")
    else:
        _show(rows, reach=arguments.reach)


def _show(rows: list[Row], *, reach: str) -> None:
    """A row a run, a column a figure."""
    figures = {(row.case, row.metric): f"{row.value:.4g}" for row in rows}
    metrics = list(dict.fromkeys(row.metric for row in rows))
    table = Table("run", *metrics, title=f"reach: what {reach} ended with")
    for case in dict.fromkeys(row.case for row in rows):
        table.add_row(case, *(figures.get((case, metric), "–") for metric in metrics))
    Console(width=160).print(table)


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True, metavar="data|train|plot|probe")
    data = parts.add_parser("data", help="manifests, split and phones")
    data.add_argument("--corpora", type=Path, required=True, help="folder of the corpora")
    data.set_defaults(run=_data)
    train = parts.add_parser("train", help="train a system on a budget, and measure it at points of it")
    train.add_argument("--system", choices=tuple(LEARNERS), required=True)
    train.add_argument("--data", type=Path, required=True, help="what `data` made")
    budget = train.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=_positive, help="of training, validation left out")
    budget.add_argument("--audio-hours", type=_positive, help="heard, repeated passes included")
    train.add_argument("--config", default=DEFAULT_CONFIG, help="as `audio-ssl pretrain` takes it")
    train.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `audio-ssl pretrain`")
    train.add_argument("--points", type=_points, default=12, help="measurements, each later by the same factor")
    train.set_defaults(run=_train)
    probe = parts.add_parser("probe", help="digits and phones from frozen encoders")
    probe.add_argument("model", type=Path, nargs="+", help="model directory or run folder")
    probe.add_argument("--data", type=Path, required=True, help="what `data` made")
    probe.set_defaults(run=_probe)
    plot = parts.add_parser("plot", help="curves in one picture, and when they reach the reference")
    plot.add_argument("run_dir", type=Path, nargs="+", help="--out of `train`")
    plot.add_argument("--reach", required=True, help="name of the folder of the reference run")
    plot.add_argument("--json", action="store_true", help="one JSON object a line, and nothing else, on stdout")
    plot.set_defaults(run=_plot)
    for part in (data, train, probe, plot):
        part.add_argument("--out", type=Path, required=True)
        part.add_argument("--threads", type=int, default=2)
    return parser.parse_args(words)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be > 0, got {text}")
    return value


def _points(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
