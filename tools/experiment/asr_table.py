"""What recognisers reach on held-out speakers, and what the pre-trained start is worth.

The speakers are the units: utterances of one speaker rise and fall together. An interval is of a bootstrap that draws
speakers with replacement and, where a cell has several seeds, seeds as well; both starts are compared on the same draw
of speakers. Nothing is chosen here: the model of a run is the one that was best on the validation speakers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from audio_ssl.data.manifest import Manifest
from audio_ssl.evaluate.error_rate import Unit, count_edits
from audio_ssl.inference.models import open_recogniser
from audio_ssl.interop.source import weights_hash
from audio_ssl.rng import numpy_generator
from benchmarks.report import BenchError
from experiment.asr_curves import Curve, by_cell
from experiment.curves import minutes_to_reach
from experiment.recognisers import call_audio_ssl

NUM_RESAMPLES = 10_000
RATES: dict[str, Unit] = {"cer": "character", "wer": "word"}
SCHEMA = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Edits:
    """Errors and lengths of references, summed over the utterances of each speaker.

    Attributes:
        errors: (..., S) of each speaker.
        lengths: (..., S) units of its references.
    """

    errors: Floats
    lengths: Floats

    @property
    def rate(self) -> float:
        """Over everything."""
        return float(self.errors.sum() / self.lengths.sum())

    @classmethod
    def stacked(cls, several: Sequence[Edits]) -> Edits:
        """(K, S) of K seeds."""
        return cls(np.stack([e.errors for e in several]), np.stack([e.lengths for e in several]))


def score(run: Path, manifest_path: Path, *, words: Sequence[str], device: str, threads: int) -> dict[str, Edits]:
    """Edits by rate, each (S,), of the speakers of a manifest in the order of their names.

    Args:
        run: of a recogniser.
        manifest_path: utterances with text and speaker.
        words: options of ``audio-ssl transcribe``.
        device: where it runs.
        threads: of its process.

    Raises:
        BenchError: an utterance got no transcript.
    """
    found = hypotheses(run, manifest_path, words=words, device=device, threads=threads)
    manifest, normalize = Manifest.read(manifest_path), open_recogniser(run).vocabulary.normalize
    missing = [name for name in manifest.column("id") if name not in found]
    if missing:
        raise BenchError(f"{run}: every utterance must get a transcript, {len(missing)} have none: {missing[:5]}")
    speakers = manifest.column("speaker")
    place = {speaker: i for i, speaker in enumerate(sorted(set(speakers)))}
    edits = {}
    for rate, unit in RATES.items():
        sums = np.zeros((2, len(place)))
        for name, speaker, text in zip(manifest.column("id"), speakers, manifest.column("text"), strict=True):
            counts = count_edits(normalize(text), found[name], unit=unit)
            sums[:, place[speaker]] += counts.errors, counts.reference_length
        edits[rate] = Edits(sums[0], sums[1])
    return edits


def hypotheses(run: Path, manifest: Path, *, words: Sequence[str], device: str, threads: int) -> dict[str, str]:
    """Text of each utterance by its id; made once for a model and a way of decoding, and kept in the run's folder."""
    key = hashlib.sha256(json.dumps([weights_hash(run), *words]).encode()).hexdigest()[:12]
    file = run / f"{manifest.stem}_{key}.jsonl"
    if not file.is_file():
        draft = run / f"{manifest.stem}_{key}.part.jsonl"
        place = ("--device", device, "--format", "jsonl", "-o", str(draft))
        call_audio_ssl("transcribe", str(run), str(manifest), *place, *words, threads=threads)
        draft.rename(file)
    lines = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["text"] for line in lines}


def document(
    curves: Sequence[Curve], scores: Mapping[Path, Mapping[str, Edits]], *, part: str, words: Sequence[str]
) -> dict[str, Any]:
    """Everything that is told, as JSON-able values.

    Args:
        curves: the runs.
        scores: edits by rate of each run's folder.
        part: of the data that was scored.
        words: how it was decoded.
    """
    cells = by_cell(curves)
    some = next(iter(scores.values()))["cer"]
    return {
        "schema_version": SCHEMA, "part": part, "decoding": " ".join(words) or "greedy",
        "num_speakers": len(some.lengths), "num_characters": int(some.lengths.sum()),
        "bootstrap": f"{NUM_RESAMPLES} draws of speakers (and of seeds) with replacement, percentiles 2.5 and 97.5",
        "runs": [_run(curve, scores[curve.folder]) for own in cells.values() for curve in own],
        "cells": [_cell(cell, own, scores) for cell, own in cells.items()],
        "comparisons": [
            _comparison(labels, cells[labels, "pretrained"], cells[labels, "random"], scores)
            for labels in dict.fromkeys(labels for labels, _ in cells)
            if (labels, "pretrained") in cells and (labels, "random") in cells
        ],
    }  # fmt: skip


def _run(curve: Curve, edits: Mapping[str, Edits]) -> dict[str, Any]:
    labels, start = curve.cell
    return {
        "run": str(curve.folder), "labels": labels, "start": start, "seed": curve.header["seed"],
        "minutes_asked": curve.header["minutes"], "minutes_spent": curve.minutes, "updates": curve.updates,
        "best_update": curve.best.update, "valid_cer": curve.best.cer, "valid_wer": curve.best.wer,
        **{rate: own.rate for rate, own in edits.items()},
    }  # fmt: skip


def _stack(curves: Sequence[Curve], scores: Mapping[Path, Mapping[str, Edits]], rate: str) -> Edits:
    return Edits.stacked([scores[curve.folder][rate] for curve in curves])


def _cell(cell: tuple[str, str], curves: Sequence[Curve], scores: Mapping[Path, Mapping[str, Edits]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "labels": cell[0], "start": cell[1], "seeds": [curve.header["seed"] for curve in curves],
        "minutes_spent": float(np.mean([curve.minutes for curve in curves])),
    }  # fmt: skip
    for rate in RATES:
        edits = _stack(curves, scores, rate)
        told[rate] = {"rate": edits.rate, "interval_95": _percentiles(resampled(edits, seeds_of=cell[1]))}
    return told


def _comparison(
    labels: str, ours: Sequence[Curve], random: Sequence[Curve], scores: Mapping[Path, Mapping[str, Edits]]
) -> dict[str, Any]:
    told: dict[str, Any] = {"labels": labels}
    for rate in RATES:
        pre, plain = (_stack(curves, scores, rate) for curves in (ours, random))
        drawn = resampled(plain, seeds_of="random") - resampled(pre, seeds_of="pretrained")
        told[rate] = {
            "random_minus_pretrained": plain.rate - pre.rate, "interval_95": _percentiles(drawn),
            "share_of_draws_not_better": float((drawn <= 0).mean()),
        }  # fmt: skip
    target = float(np.mean([curve.best.cer for curve in random]))
    reached = [
        minutes_to_reach(target, minutes=[p.minutes for p in c.points], values=[p.cer for p in c.points]) for c in ours
    ]
    told["valid_cer_of_random"] = target
    told["minutes_of_random"] = float(np.mean([curve.best.minutes for curve in random]))
    told["minutes_to_reach_it_pretrained"] = reached
    return told


def resampled(edits: Edits, *, seeds_of: str, num: int = NUM_RESAMPLES) -> Floats:
    """(B,) rates of draws with replacement: of speakers, alike for all that is called with as many, and of seeds.

    Args:
        edits: (K, S).
        seeds_of: names the draw of seeds: two starts draw apart.
        num: B.
    """
    num_seeds, num_speakers = edits.errors.shape
    speakers = _counts(num_speakers, num, "speakers")
    seeds = _counts(num_seeds, num, f"seeds of {seeds_of}")
    errors, lengths = (np.einsum("bk,ks,bs->b", seeds, values, speakers, optimize=True)
                       for values in (edits.errors, edits.lengths))  # fmt: skip
    drawn: Floats = errors / lengths
    return drawn


def _counts(size: int, num: int, name: str) -> Floats:
    """(num, size): how often each of ``size`` is among ``size`` draws."""
    rng = numpy_generator(1, f"asr table, {name}")
    return rng.multinomial(size, np.full(size, 1 / size), size=num).astype(np.float64)


def _percentiles(drawn: Floats) -> list[float]:
    return [float(value) for value in np.percentile(drawn, (2.5, 97.5))]


def table(told: Mapping[str, Any]) -> Table:
    """A row a cell; the difference beside the cell of random weights."""
    shown = Table("labels", "start", "seeds", "minutes", "CER", "95 %", "WER", "95 %", "CER, random − pretrained",
                  title=f"{told['part']}: {told['num_speakers']} speakers, {told['decoding']}")  # fmt: skip
    differences = {c["labels"]: c["cer"] for c in told["comparisons"]}
    for cell in told["cells"]:
        rates = [text for rate in RATES for text in (f"{cell[rate]['rate']:.1%}", spread(cell[rate]["interval_95"]))]
        gap = differences.get(cell["labels"]) if cell["start"] == "pretrained" else None
        said = f"{100 * gap['random_minus_pretrained']:.1f} ({spread(gap['interval_95'])})" if gap else ""
        minutes = f"{cell['minutes_spent']:.1f}"
        shown.add_row(cell["labels"], cell["start"], str(len(cell["seeds"])), minutes, *rates, said)
    return shown


def spread(interval: Sequence[float]) -> str:
    """An interval in percent."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
