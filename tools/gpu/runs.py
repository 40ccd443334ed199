"""Real runs of ``audio-ssl pretrain`` on the GPU: killed and resumed, and fed from files as fast as it learns."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from audio_ssl.checkpoint import load_tensors
from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.scan import scan
from audio_ssl.rng import numpy_generator
from audio_ssl.train.distributed import World
from audio_ssl.train.pretrain import open_data
from audio_ssl.train.updates import open_updates
from gpu.outcome import CheckFailed, CheckSkipped, Figures, require
from gpu.place import MINUTE, SEED, Place, pretrain_module, python

RATE_HZ = 16_000
KILLED_AFTER, NUM_UPDATES = 11, 18  # a checkpoint every fourth
SAME_RUN = 0.01  # of a loss, between a run and the same run resumed: kernels add in no fixed order on a GPU
WAIT_SHARE = 0.1  # of the time, that updates may wait for audio; copying it into page-locked memory is in it
CORPORA = "AUDIO_SSL_CORPORA"


def write_corpus(folder: Path, *, num_files: int, seconds: float, num_rows: int) -> Path:
    """A manifest of ``num_rows`` rows over FLAC files of noise under a slow envelope; rows share files in turn."""
    generator = numpy_generator(SEED, "corpus")
    length = round(seconds * RATE_HZ)
    envelope = 0.1 * (1.1 + np.sin(np.arange(length) * (2 * np.pi * 3 / RATE_HZ)))
    rows = []
    for i in range(num_files):
        own = round(length * (0.6 + 0.4 * (i + 1) / num_files))
        sf.write(folder / f"{i}.flac", (envelope * generator.standard_normal(length))[:own].clip(-1, 1), RATE_HZ)
        rows.append((f"{i}.flac", own))
    utterances = [
        Utterance(f"u{i}", rows[i % num_files][0], 0, rows[i % num_files][1], RATE_HZ) for i in range(num_rows)
    ]
    manifest = folder / "corpus.arrow"
    Manifest.from_rows(utterances, root=folder).write(manifest)
    return manifest


def _command(place: Place, manifest: Path, run_dir: Path, *settings: str) -> list[str]:
    """``audio-ssl pretrain`` with the tiny model; on a CPU with a minute one."""
    shape = [] if place.is_gpu else [f"model.{key}={json.dumps(value)}" for key, value in MINUTE.items()]
    given = [
        f"data.train=['{manifest}']", f"run.dir={run_dir}", f"run.device={place.device.type}", "run.precision=fp32",
        f"run.num_updates={NUM_UPDATES}", "run.save_every=4", "run.log_every=1", *shape, *settings,
    ]  # fmt: skip
    sets = [word for setting in given for word in ("--set", setting)]
    return [python(), "-m", "audio_ssl", "pretrain", "pretrain/conv_tiny", *sets, "--resume", "auto"]


def resume(place: Place) -> Figures:
    """A run that is killed and resumed hears the same audio, and its losses are those of the uninterrupted run."""
    with tempfile.TemporaryDirectory(prefix="gpu_resume_") as name:
        folder = Path(name)
        size = ["data.batch_s=24", "data.micro_batch_s=12"] if place.is_gpu else ["data.batch_s=6", "data.max_s=2",
                                                                                   "data.micro_batch_s=3"]  # fmt: skip
        manifest = write_corpus(folder, num_files=24, seconds=6 if place.is_gpu else 1.5, num_rows=48)
        runs = {which: folder / which for which in ("first", "second", "killed")}
        children = {
            which: subprocess.Popen(
                _command(place, manifest, run, *size), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for which, run in runs.items()
        }  # fmt: skip
        _kill_after(children["killed"], runs["killed"] / "metrics.jsonl", KILLED_AFTER)
        for which in ("first", "second"):
            _must_end(children[which])
        again = subprocess.Popen(
            _command(place, manifest, runs["killed"], *size), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        said = _must_end(again)
        return _compare_runs(runs["first"], runs["second"], runs["killed"], said=said)


def _kill_after(child: subprocess.Popen[str], metrics: Path, update: int) -> None:
    """SIGKILL once the update is in the metrics.

    Raises:
        CheckFailed: the run ended before.
    """
    while not (metrics.is_file() and len(metrics.read_text(encoding="utf-8").splitlines()) >= update):
        if child.poll() is not None:
            raise CheckFailed(f"the run must reach update {update} and be killed there, it ended: {_tail(child)}")
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()


def _must_end(child: subprocess.Popen[str]) -> str:
    """What it said.

    Raises:
        CheckFailed: its status is not 0.
    """
    _, said = child.communicate()
    if child.returncode:
        raise CheckFailed(f"the run must end with status 0, got {child.returncode}: {said[-500:]}")
    return said


def _tail(child: subprocess.Popen[str]) -> str:
    return child.communicate()[1][-500:]


def _compare_runs(first: Path, second: Path, resumed: Path, *, said: str) -> Figures:
    rows = [_train_rows(run) for run in (first, second, resumed)]
    if "resumed from update" not in said:
        raise CheckFailed(f"the second start must go on from a checkpoint; it said: {said[-300:]}")
    heard = [[(row["update"], row["audio_h"]) for row in run] for run in rows]
    if heard[0] != heard[2]:
        raise CheckFailed(f"the resumed run must hear the same audio: {heard[0]} hours by update, got {heard[2]}")
    losses = [np.array([row["loss"] for row in run]) for run in rows]
    weights = [load_tensors(run / "model" / "model.safetensors") for run in (first, second, resumed)]
    figures: Figures = {}
    for told, other in (("run_to_run", 1), ("resumed", 2)):
        difference = np.abs(losses[other] - losses[0]) / np.abs(losses[0])
        is_equal = all(torch.equal(weights[other][key], value) for key, value in weights[0].items())
        figures |= {
            f"{told}_largest_loss_difference": float(difference.max()),
            f"{told}_weights": "equal to the last bit" if is_equal else "differ",
        }
    value = float(figures["resumed_largest_loss_difference"])
    require("difference of a loss between the run and the resumed one", value, at_most=SAME_RUN, figures=figures)
    return figures


def _train_rows(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == "train"]


def loader(place: Place) -> Figures:
    """Files are read, decoded and brought to the GPU faster than base learns from them."""
    with tempfile.TemporaryDirectory(prefix="gpu_loader_") as name:
        folder = Path(name)
        manifest, told = _some_audio(folder, place)
        updates, batch_s = (60, 480) if place.is_gpu else (4, 12)
        preset = ["model.preset=wav2vec2_base"] if place.is_gpu else []
        settings = [
            *preset, f"data.batch_s={batch_s}", f"data.micro_batch_s={batch_s}", "data.max_s=12",
            f"run.num_updates={updates}", "run.log_every=10" if place.is_gpu else "run.log_every=2",
            "run.save_every=10000", "run.precision=bf16",
        ]  # fmt: skip
        figures: Figures = {"audio": told, "loader_audio_s_per_s": _reading_speed(manifest, place, batch_s=batch_s)}
        command = _command(place, manifest, folder / "run", *settings)
        _must_end(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        rows = _train_rows(folder / "run")[1:]  # the first window starts the readers
        figures |= {
            "training_audio_s_per_s": statistics.median(row["audio_s_per_s"] for row in rows),
            "data_wait_share": statistics.median(row["data_wait_share"] for row in rows),
        }
        if place.is_gpu:
            share = float(figures["data_wait_share"])
            require("share of the time in which updates wait for audio", share, at_most=WAIT_SHARE, figures=figures)
        return figures


def _some_audio(folder: Path, place: Place) -> tuple[Path, str]:
    """LibriSpeech's utterances where they are, else files of noise; each many times, so that an epoch is long."""
    corpora = os.environ.get(CORPORA)
    speech = Path(corpora) / "librispeech_mini" if corpora else None
    if speech is None or not speech.is_dir():
        rows, seconds = (4000, 14) if place.is_gpu else (60, 2)
        manifest = write_corpus(folder, num_files=60, seconds=seconds, num_rows=rows)
        return manifest, f"noise in FLAC ({CORPORA} is not set)"
    found = scan(speech).manifest
    copies = 20 if place.is_gpu else 1
    rows_of = [found[row] for _ in range(copies) for row in range(len(found))]
    utterances = [replace(utterance, id=f"u{i}") for i, utterance in enumerate(rows_of)]
    manifest = folder / "corpus.arrow"
    Manifest.from_rows(utterances, root=speech).write(manifest)
    return manifest, "librispeech_mini"


def _reading_speed(manifest: Path, place: Place, *, batch_s: float) -> float:
    """Seconds of audio a second, from files to the device, with nothing learned from it."""
    settings = [f"data.train=['{manifest}']", f"data.batch_s={batch_s}", f"data.micro_batch_s={batch_s}",
                "data.max_s=12", "run.dir=unused"]  # fmt: skip
    config = load_config(PretrainConfig, find_config("pretrain/conv_tiny"), settings)
    encoder = pretrain_module(place.case("tiny_cpu", rows=1, seconds=1)).encoder
    updates = open_updates(
        open_data(config, encoder, is_train=True), config.data, seed=SEED, world=World(0, 1, place.device)
    )  # fmt: skip
    audio_s, started = 0.0, None
    for batches in updates.epoch(0, 0):
        for batch in batches:
            batch.to(place.device)
        place.synchronize()
        if started is None:
            started = time.perf_counter()  # the first one starts the readers
            continue
        audio_s += sum(batch.seconds(RATE_HZ) for batch in batches)
        if time.perf_counter() - started > 10:
            break
    if started is None or not audio_s:
        raise CheckSkipped("there must be audio for two updates at least")
    return audio_s / (time.perf_counter() - started)
