"""The main job on the corpus that ships with the project: ``make demo``.

Speech folder -> manifest -> pre-trained encoder -> embeddings -> recogniser, by the same commands that users type,
each printed before it runs. The recogniser is trained twice on the same labels: from the pre-trained encoder and from
random weights. The figures at the end are measured on voices and sentences that neither training has seen.

usage: python tools/demo.py [--out runs/demo] [--fresh] [--quick]

A demo that was stopped goes on where it was; --fresh starts anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from audio_ssl.evaluate.report.figures import MelExample, TranscriptExample, demo_figure

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "manifests" / "demo"
SPLITS = ("pretrain", "finetune", "valid", "test")
NUM_TRANSCRIPTS = 4
QUICK = {"pretrain": 20, "finetune": 10}  # updates, to see whether everything runs
console = Console(width=None if sys.stdout.isatty() else 160)


@dataclass(frozen=True)
class Places:
    """The demo's folders and files."""

    out: Path

    def manifest(self, split: str) -> Path:
        """Manifest of a split."""
        return self.out / "manifests" / f"{split}.arrow"

    def run(self, name: str) -> Path:
        """Run folder."""
        return self.out / name

    def report(self, name: str) -> Path:
        """Evaluation of a recogniser."""
        return self.out / f"{name}.json"


def main() -> None:
    """Run every step, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=None, help="where everything goes (default: runs/demo)")
    parser.add_argument("--fresh", action="store_true", help="start anew; without it a stopped demo goes on")
    parser.add_argument("--quick", action="store_true", help="a few updates only: shows that everything runs")
    arguments = parser.parse_args()
    out = (arguments.out or ROOT / "runs" / ("demo_quick" if arguments.quick else "demo")).resolve()
    if arguments.fresh:
        shutil.rmtree(out, ignore_errors=True)
    places, started = Places(out), time.monotonic()
    build_manifests(places)
    pretrain(places, quick=arguments.quick)
    audio_ssl("extract", places.run("pretrain"), places.manifest("test"), places.out / "embeddings", "--layer", "last")
    for name, beside in (("from_random", None), ("from_pretrained", "from_random")):
        finetune(places, name, quick=arguments.quick)
        compare: list[str | Path] = [] if beside is None else ["--compare", places.report(beside)]
        audio_ssl("evaluate", places.run(name), places.manifest("test"), "-o", places.report(name), *compare)
    picture = draw(places)
    console.print(results(places))
    console.print(f"picture: {picture}\neverything else: {places.out}", highlight=False)
    console.print(f"took {(time.monotonic() - started) / 60:.1f} minutes", highlight=False)


def audio_ssl(*arguments: str | Path) -> None:
    """Run the console script beside this Python; its failure is ours."""
    words = ["audio-ssl", *map(str, arguments)]
    console.rule(" ".join(words[:3]), align="left")
    console.print(" ".join(words), style="cyan", highlight=False, soft_wrap=True)
    script = Path(sys.executable).with_name("audio-ssl")
    with subprocess.Popen([str(script), *words[1:]], cwd=ROOT) as child:
        while True:
            try:
                status = child.wait()
                break
            except KeyboardInterrupt:  # the child has had the same signal: it saves and ends, which we wait for
                continue
    if status:
        sys.exit(status)


def sets(*settings: str) -> list[str]:
    """``--set`` before each setting."""
    return [part for setting in settings for part in ("--set", setting)]


def build_manifests(places: Places) -> None:
    """One manifest a split; texts and speakers come from the tables beside the audio."""
    for split in SPLITS:
        if not places.manifest(split).is_file():
            audio_ssl("manifest", "build", CORPUS / split, "-o", places.manifest(split))


def pretrain(places: Places, *, quick: bool) -> None:
    """Pre-train on the audio of two splits; their transcripts are not looked at."""
    train = [str(places.manifest(split)) for split in ("pretrain", "finetune")]
    settings = [
        f"data.train={train}",
        f"data.valid={[str(places.manifest('valid'))]}",
        f"run.dir={places.run('pretrain')}",
    ]
    if quick:
        settings += [f"run.num_updates={QUICK['pretrain']}", "run.log_every=5"]
    audio_ssl("pretrain", "pretrain/demo", *sets(*settings), "--resume", "auto")


def finetune(places: Places, name: str, *, quick: bool) -> None:
    """Train a recogniser on the labelled split; ``from_random`` is the same model without what was learned before."""
    settings = [
        f"data.train={[str(places.manifest('finetune'))]}",
        f"data.valid={[str(places.manifest('valid'))]}",
        f"run.dir={places.run(name)}",
    ]
    if quick:
        settings += [f"run.num_updates={QUICK['finetune']}"]
    if name == "from_pretrained":
        settings.append(f"init_from={places.run('pretrain')}")
    audio_ssl("finetune", f"finetune/demo_{name}", *sets(*settings), "--resume", "auto")


def results(places: Places) -> Table:
    """The table of the issue: what was learned, and what it is worth on unseen voices."""
    rows = read_rows(places.run("pretrain") / "metrics.jsonl")
    first = rows[0]
    valid = [row for row in rows if row["split"] == "valid"]
    scores = {name: json.loads(places.report(name).read_text(encoding="utf-8")) for name in RECOGNISERS}
    embedded = sum(1 for _ in (places.out / "embeddings" / "index.jsonl").open(encoding="utf-8"))
    newest = last_train(rows)
    table = Table("measured", "value", title="demo: synthetic voices; no claim on real speech", title_style="bold")
    table.add_row("audio heard in pre-training", f"{newest['audio_h']:.2f} h")
    for key, label, form in PRETEXT:
        table.add_row(f"{label}, train first -> last", f"{form.format(first[key])} -> {form.format(newest[key])}")
        table.add_row(f"{label}, unseen voices", form.format(valid[-1][key]))
    table.add_row("embeddings written", f"{embedded} utterances")
    for name, label in RECOGNISERS.items():
        table.add_row(f"CER / WER, {label}", rates(scores[name]["overall"]))
    table.add_row("the same in points, pre-trained - random", differences(scores["from_pretrained"]["comparison"]))
    return table


PRETEXT = (
    ("contrastive_loss", "contrastive loss (chance ln 101 = 4.615)", "{:.3f}"),
    ("accuracy", "contrastive accuracy", "{:.1%}"),
    ("code_perplexity", "code perplexity", "{:.0f}"),
)
RECOGNISERS = {"from_pretrained": "pre-trained encoder", "from_random": "random encoder"}


def rates(score: dict[str, Any]) -> str:
    """CER and WER with their intervals."""
    told = []
    for unit in ("characters", "words"):
        ends = score[unit].get("interval_95")  # none where all have the same rate
        told.append(f"{score[unit]['rate']:.1%}" + ("" if ends is None else f" ({ends[0]:.1%}-{ends[1]:.1%})"))
    return " / ".join(told)


def differences(comparison: dict[str, Any]) -> str:
    """Of CER and WER in points, paired, with their intervals over voices."""
    told = []
    for unit in ("characters", "words"):
        found = comparison[unit]["difference"]
        low, high = found["interval_95"]
        told.append(f"{100 * found['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})")
    return " / ".join(told)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def last_train(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The newest row of training figures."""
    return next(row for row in reversed(rows) if row["split"] == "train")


def draw(places: Places) -> Path:
    """Curves, a mel-spectrogram with masked spans, and transcripts beside their references, in one picture."""
    reports = {label: utterances(places, name) for name, label in RECOGNISERS.items()}
    references = next(iter(reports.values()))
    transcripts = [
        TranscriptExample(row["reference"], {label: rows[i]["hypothesis"] for label, rows in reports.items()})
        for i, row in enumerate(references[:NUM_TRANSCRIPTS])
    ]
    picture = places.out / "demo.png"
    rows = read_rows(places.run("pretrain") / "metrics.jsonl")
    demo_figure(rows, masked_example(places), transcripts, out=picture, title="audio_ssl demo: synthetic voices")
    return picture


def utterances(places: Places, name: str) -> list[dict[str, Any]]:
    """Scored utterances of a recogniser, in the manifest's order."""
    from audio_ssl.evaluate.utterance_file import beside

    return [row for row in read_rows(beside(places.report(name))) if "refused" not in row]


def masked_example(places: Places) -> MelExample:
    """The first test utterance with a mask as pre-training draws it."""
    import torch

    from audio_ssl.data.audio import load_waveform
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.interop.source import read_model
    from audio_ssl.model.files import encoder_from
    from audio_ssl.objective.masking import sample_span_mask
    from audio_ssl.rng import torch_generator

    files = read_model(places.run("pretrain"))
    encoder, settings = encoder_from(files), files.document["objective"]
    waveform = load_waveform(Manifest.read(places.manifest("test")), 0, sample_rate_hz=encoder.sample_rate_hz)
    num_frames = encoder.geometry.num_frames(len(waveform))
    is_masked = sample_span_mask(
        torch.tensor([num_frames]), mask_prob=settings["mask_prob"], span=settings["mask_span_frames"],
        min_masks=settings["min_masks"], generator=torch_generator(1, "picture"), max_frames=num_frames,
    )  # fmt: skip
    return MelExample(waveform, encoder.sample_rate_hz, is_masked[0].numpy(), encoder.geometry.hop_samples)


if __name__ == "__main__":
    main()
