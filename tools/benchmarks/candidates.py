"""Who takes part: ours and the peers that are installed, with the same weights, which is looked at first."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from torch import Tensor

from audio_ssl.train.memory import keep_freed_memory
from benchmarks.cases import CASES, CPU, Case, noise
from benchmarks.measure import Work, pin
from benchmarks.memory import Ask, of_this_process
from benchmarks.ours import Ours
from benchmarks.peers import PEERS
from benchmarks.report import BenchError, note
from benchmarks.system import System

TOLERANCE = 1e-3  # of the largest value; rounding stays below 1e-5, a model that is not the same shows at 1e-2

SYSTEMS: tuple[type[System], ...] = (Ours, *PEERS)


def find_system(name: str) -> type[System]:
    """Ours or a peer by its name."""
    return next(system for system in SYSTEMS if system.name == name)


def open_systems(case: Case, names: Sequence[str], *, trains: bool, device: torch.device = CPU) -> list[System]:
    """Ours first, then the peers of ``names`` (all when empty) that are here and can do it.

    Raises:
        BenchError: one of them gives other frames from the same weights.
    """
    ours = Ours(case, trains=trains, device=device)
    tensors = ours.tensors()
    if not trains:
        ours.fold()
    systems: list[System] = [ours]
    for peer in PEERS:
        if names and peer.name not in names:
            continue
        if trains and not peer.can_train:
            note(f"left out: {peer.name} cannot pre-train wav2vec 2.0")
            continue
        if peer.name == "fairseq2" and case.model.latent_dim == case.model.dim:
            note("left out: fairseq2 has no feature projection where latents are as wide as frames")
            continue
        try:
            peer.load()
            system = peer(case, trains=trains, device=device)
        except ImportError as error:
            note(f"left out: {peer.name}: {error}")
            continue
        system.take(tensors)
        require_same_model(ours, system)
        systems.append(system)
    return systems


def require_same_model(ours: System, theirs: System) -> None:
    """Compare frames of a second of noise: a benchmark of two different models says nothing.

    Raises:
        BenchError: they differ.
    """
    batch = noise(1, ours.case.model.sample_rate_hz)
    difference = _relative(ours.frames(batch), theirs.frames(batch))
    if not difference <= TOLERANCE:  # so that NaN is refused, too
        raise BenchError(
            f"{theirs.name} must give our frames from our weights, but they differ by {difference:.1e} of the largest "
            "value: nothing was timed. See tools/parity_report.py"
        )
    note(f"{theirs.name}: same frames within {difference:.0e}")


def _relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


def measure_memory(ask: Ask, case: Case) -> float:
    """MiB of a step of one system; run this in a process of its own, see :mod:`benchmarks.memory`."""
    pin(ask.threads, keep_kernels=True)
    if ask.keeps_memory:
        keep_freed_memory()
    system_type = find_system(ask.system)
    system_type.load()

    def build(some: Case) -> Work:
        system = system_type(some, trains=True)
        return lambda: system.step(ask.precision)

    build(CASES["smoke"])()  # the libraries' code and tables come into memory when they are first used
    gc.collect()
    return of_this_process(lambda: build(case.of_size(rows=ask.rows, seconds=ask.seconds)))
