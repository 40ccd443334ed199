"""What pre-training is worth to a recogniser: labels of 10 minutes, an hour and all, from both starts.

usage:
    python tools/asr.py data  --corpora DIR --out DATA
    python tools/asr.py train MODEL --start pretrained|random --labels 10min|1h|all --data DATA --out RUN
                        (--minutes M | --updates N) [--config NAME] [--set section.key=value ...] [--seed N]
                        [--device cuda] [--threads N]

`data` splits speechocean762 by the list in manifests/splits (test, validation and train speakers, never changed), takes
nested amounts of the train speakers' labels, and puts together what pre-training may hear. `train` fine-tunes from the
pre-trained MODEL, or from random weights of its shape, on an equal budget: minutes of processor time in updates (see
tools/experiment/recognisers.py). A run that was stopped goes on when it is started again; a complete one is left alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audio_ssl.errors import AudioSSLError
from benchmarks.report import BenchError, note
from experiment import labels, recognisers
from experiment.labels import AMOUNTS, Labels


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
    data = Labels(arguments.data).check()
    if arguments.start == "pretrained":
        labels.refuse_heard(arguments.model, data)
    recognisers.train(_asked(arguments), data, arguments.out)


def _asked(arguments: argparse.Namespace) -> recognisers.Asked:
    return recognisers.Asked(
        arguments.model, arguments.start, arguments.labels, arguments.config, tuple(arguments.set),
        seed=arguments.seed, updates=arguments.updates, minutes=arguments.minutes,
        device=arguments.device, threads=arguments.threads,
    )  # fmt: skip


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    data = verbs.add_parser("data", help="manifests of the experiment")
    data.add_argument("--corpora", type=Path, required=True, help="folder of the corpora")
    data.add_argument("--out", type=Path, required=True, help="folder for the manifests")
    data.set_defaults(run=_data)
    train = verbs.add_parser("train", help="one run")
    _add_run(train)
    train.add_argument("--start", choices=recognisers.STARTS, required=True)
    train.add_argument("--seed", type=int, default=1)
    train.set_defaults(run=_train)
    return parser.parse_args(words)


def _add_run(verb: argparse.ArgumentParser) -> None:
    """What a run is told, whichever verb makes it."""
    verb.add_argument("model", type=Path, metavar="MODEL", help="pre-trained model; a random start takes its shape")
    verb.add_argument("--labels", choices=tuple(AMOUNTS), required=True)
    verb.add_argument("--data", type=Path, required=True, help="--out of `data`")
    verb.add_argument("--out", type=Path, required=True, help="folder of the run")
    verb.add_argument("--config", default="finetune/small", help="a TOML file or a shipped configuration")
    verb.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="wins over --config")
    budget = verb.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of processor time in updates; of real time with --device cuda")
    budget.add_argument("--updates", type=int)
    verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    verb.add_argument("--threads", type=int, default=1, help="of a run; with 1, as many runs as cores go side by side")


if __name__ == "__main__":
    sys.exit(main())
