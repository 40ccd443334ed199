"""From audio files to files of frames, the whole job, beside what users of the peers run."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import soundfile as sf
import torch
from numpy.typing import NDArray

from audio_ssl.data.waveform import normalize
from audio_ssl.inference.models import Precision
from audio_ssl.model.int8 import missing_for_int8
from benchmarks.candidates import open_systems
from benchmarks.cases import Case
from benchmarks.extractors import DOCUMENTED, Job, Speech, documented_job, encode_with, our_job, sorted_job
from benchmarks.flops import forward_flops
from benchmarks.loading import corpora_folder
from benchmarks.measure import Spread, Times, fastest, gemm_peak, gemm_works, speed_ratio, time_in_turn
from benchmarks.ours import Ours
from benchmarks.report import BenchError, Row, note
from benchmarks.summary import peak_rows, share_row
from benchmarks.system import System

CORPUS = "librispeech_mini"
LEAST_COSINE = 0.999  # of every frame with its own in fp32, for a mode that counts as ours at its fastest
OUR_PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
SORTED = {torch.float32: "fp32, sorted", torch.bfloat16: "bf16, sorted"}
Frames = NDArray[np.float32]


def run(case: Case, *, peers: Sequence[str], num_files: int | None, repeats: int, threads: int) -> list[Row]:
    """Rows of ``extract``.

    The real files of ``AUDIO_SSL_CORPORA/librispeech_mini`` (or ``num_files`` of them, evenly chosen) as they are, and
    one ``.npy`` of frames each in a fresh folder; the models are in memory before. Base is group norm, as published.

    - ``audio_s_per_s`` and ``padding_share`` of each candidate: ours through ``audio-ssl extract``'s own path, with the
      scan of the folder and the index; transformers as documented (fp32, batches of 8 in file order); each peer in
      fp32 and bf16 with batches of 8 sorted by length, read and decoded in a thread while it computes;
    - ``ratio_documented_fp32``: ours in fp32 over transformers as documented;
    - ``error_documented_fp32``: largest difference of an utterance's frames from those that transformers gives for
      it alone and unpadded, over its largest value; of all utterances the worst. ``error_documented_padding``: the
      same of transformers as documented, whose group norm and attention see padding;
    - ``ratio_documented_fast``: the same ratio of our fastest mode in which every frame's cosine with fp32 is 0.999 or
      more (``is_fast`` 1 in its row), with its ``min_cosine``; ``ratio_documented`` and ``min_cosine`` of each mode;
    - ``ratio_sorted_bf16``: ours in bf16 over transformers in bf16, sorted;
    - ``gemm_peak_fp32``, ``gemm_peak_bf16`` of this machine in this run, ``share_of_peak`` of ours in each: the
      arithmetic of valid frames alone.
    """
    with TemporaryDirectory(prefix="bench-extract-") as place:
        speech = _chosen(Path(place) / "audio", num_files)
        rate = case.model.sample_rate_hz
        label = f"{case.name}, {len(speech.num_samples)} files, {speech.total_samples / rate / 60:.1f} min"
        systems = open_systems(case, peers, trains=False)
        jobs = _jobs(systems, speech, threads)
        works = {job.name: partial(_fresh, job, Path(place)) for job in jobs}
        times = time_in_turn({**works, **gemm_works(case.gemm_shapes)}, repeats)
        cosines = {name: min_cosine(Path(place) / name, Path(place) / f"{Ours.name} fp32") for name in _ours(works)}
        rows = _speed_rows(label, jobs, times, speech.total_samples / rate) + _ratio_rows(label, times, cosines)
        rows += _share_rows(label, case, speech, times)
        return rows + _error_rows(label, systems, speech, Path(place))


def _chosen(folder: Path, num_files: int | None) -> Speech:
    found = sorted((corpora_folder() / CORPUS).rglob("*.*"))
    step = max(len(found) / (num_files or len(found)), 1.0)
    folder.mkdir(parents=True)
    for path in (found[int(i * step)] for i in range(min(num_files or len(found), len(found)))):
        shutil.copy(path, folder)
    return Speech.of(folder)


def _jobs(systems: Sequence[System], speech: Speech, threads: int) -> list[Job]:
    ours = cast(Ours, systems[0])
    missing = missing_for_int8()
    if missing is not None:
        note(f"left out: int8: {missing}")
    precisions = [p for p in OUR_PRECISIONS if p != "int8" or missing is None]
    jobs = [our_job(ours, precision, speech, num_threads=threads) for precision in precisions]
    for system in systems[1:]:
        if system.name == "transformers":
            jobs.append(documented_job(system, speech))
        for dtype, how in SORTED.items():
            jobs.append(sorted_job(system, encode_with(system, dtype), f"{system.name} {how}", speech))
    return jobs


def _fresh(job: Job, place: Path) -> None:
    out = place / job.name
    shutil.rmtree(out, ignore_errors=True)  # a moment beside the job, for each alike
    out.mkdir()
    note(f"at work: {job.name}")
    job.work(out)


def _ours(names: Mapping[str, object]) -> list[str]:
    return [name for name in names if name.startswith(Ours.name)]


def _frames(folder: Path) -> dict[str, Frames]:
    return {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}


def min_cosine(folder: Path, exact: Path) -> float:
    """The least cosine of a frame in one folder with the same frame in another, over all files.

    Raises:
        BenchError: they do not hold the same files.
    """
    found, expected = _frames(folder), _frames(exact)
    if not found or found.keys() != expected.keys():
        raise BenchError(f"{folder.name} must give what {exact.name} gives: {len(expected)} files, got {len(found)}")
    least = 1.0
    for name, frames in expected.items():
        products = (frames.astype(np.float64) * found[name]).sum(-1)
        norms = (np.linalg.norm(x.astype(np.float64), axis=-1) for x in (frames, found[name]))
        least = min(least, float((products / math.prod(norms)).min()))
    return least


def _speed_rows(label: str, jobs: Sequence[Job], times: Times, audio_s: float) -> list[Row]:
    rows = []
    for job in jobs:
        speed = Spread.of(audio_s / seconds for seconds in times[job.name])
        rows.append(Row.of(("extract", f"{label}/{job.name}", "audio_s_per_s"), speed, "audio-s/s"))
        rows.append(Row("extract", f"{label}/{job.name}", "padding_share", job.padding_share, "share"))
    return rows


def _ratio_rows(label: str, times: Times, cosines: Mapping[str, float]) -> list[Row]:
    rows = [Row("extract", f"{label}/{name}", "min_cosine", cosine, "cosine") for name, cosine in cosines.items()]
    fast = fastest(times, [name for name, cosine in cosines.items() if cosine >= LEAST_COSINE])
    ratios = {"ratio_sorted_bf16": (f"{Ours.name} bf16", f"transformers {SORTED[torch.bfloat16]}")}
    if DOCUMENTED in times and fast is not None:
        ratios |= {
            "ratio_documented_fp32": (f"{Ours.name} fp32", DOCUMENTED), "ratio_documented_fast": (fast, DOCUMENTED)
        }  # fmt: skip
        rows.append(Row("extract", label, "min_cosine", cosines[fast], "cosine"))
        for name in cosines:
            place = ("extract", f"{label}/{name}", "ratio_documented")
            rows.append(Row.of(place, speed_ratio(times[name], times[DOCUMENTED]), "ratio"))
            rows.append(Row("extract", f"{label}/{name}", "is_fast", float(name == fast), "flag"))
    for metric, (ours, theirs) in ratios.items():
        if theirs in times:
            rows.append(Row.of(("extract", label, metric), speed_ratio(times[ours], times[theirs]), "ratio"))
    return rows


def _share_rows(label: str, case: Case, speech: Speech, times: Times) -> list[Row]:
    flops = sum(forward_flops(case.model, num_samples).total for num_samples in speech.num_samples.values())
    rows = [replace(row, case=label) for row in peak_rows("extract", case, times)]
    for precision in ("fp32", "bf16"):
        place = ("extract", f"{label}/{Ours.name} {precision}", "share_of_peak")
        peak = gemm_peak(times, precision, case.gemm_shapes).median
        rows.append(share_row(place, flops=flops, time_s=Spread.of(times[f"{Ours.name} {precision}"]), peak=peak))
    return rows


@torch.inference_mode()
def _error_rows(label: str, systems: Sequence[System], speech: Speech, place: Path) -> list[Row]:
    """Against transformers on each utterance alone, which no padding has touched."""
    theirs: Any = next((system.module for system in systems if system.name == "transformers"), None)
    if theirs is None:
        return []
    normalizes = systems[0].case.model.normalize_waveform
    metrics = {"error_documented_fp32": f"{Ours.name} fp32", "error_documented_padding": DOCUMENTED}
    worst = dict.fromkeys(metrics, 0.0)
    found = {metric: _frames(place / name) for metric, name in metrics.items()}
    for path in speech.num_samples:
        waveform = sf.read(path, dtype="float32")[0]
        waveform = normalize(waveform) if normalizes else waveform
        alone = theirs(torch.from_numpy(waveform)[None]).last_hidden_state[0].numpy()
        for metric, folder in found.items():
            difference = np.abs(folder[path.stem] - alone).max() / np.abs(alone).max()
            worst[metric] = max(worst[metric], float(difference))
    return [Row("extract", label, metric, value, "share") for metric, value in worst.items()]
