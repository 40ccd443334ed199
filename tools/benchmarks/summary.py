"""From times to rows: what ``step`` and ``forward`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from benchmarks.cases import PRECISIONS, Case
from benchmarks.measure import Spread, Times, Work, fastest, gemm_peak, speed_ratio
from benchmarks.ours import Ours
from benchmarks.report import Row


class Named(Protocol):
    """Something with a candidate's name."""

    @property
    def name(self) -> str:
        """As it is written in cases."""


Candidate = TypeVar("Candidate", bound=Named)


def named_works(systems: Sequence[Candidate], work: Callable[[Candidate, str], Work]) -> dict[str, Work]:
    """A candidate for every system and precision: ``audio_ssl bf16``."""
    return {f"{s.name} {precision}": work(s, precision) for s in systems for precision in PRECISIONS}


def speed_rows(bench: str, case: Case, times: Times, names: Iterable[str]) -> list[Row]:
    """``audio_s_per_s`` of candidates; the quartiles of the speed are those of the times, turned over."""
    rows = []
    for name in names:
        spread = Spread.of(times[name])
        speed = Spread(*(case.audio_s / seconds for seconds in (spread.median, spread.high, spread.low)))
        rows.append(Row.of((bench, f"{case.name}/{name}", "audio_s_per_s"), speed, "audio-s/s"))
    return rows


def best_ratio(
    bench: str,
    case: Case,
    times: Times,
    *,
    metric: str,
    peers: Sequence[str],
    precisions: Sequence[str] = PRECISIONS,
) -> list[Row]:
    """How many times as fast our best mode is as the peers' best; no row where no peer took part."""
    ours = fastest(times, [f"{Ours.name} {p}" for p in precisions])
    theirs = fastest(times, [name for peer in peers for p in precisions if (name := f"{peer} {p}") in times])
    if ours is None or theirs is None:
        return []
    return [Row.of((bench, case.name, metric), speed_ratio(times[ours], times[theirs]), "ratio")]


def peak_rows(bench: str, case: Case, times: Times) -> list[Row]:
    """The machine's own matrix products."""
    peaks = {precision: gemm_peak(times, precision, case.gemm_shapes) for precision in PRECISIONS}
    return [Row.of((bench, case.name, f"gemm_peak_{p}"), peak, "GFLOP/s") for p, peak in peaks.items()]


def share_row(place: tuple[str, str, str], *, flops: float, time_s: Spread, peak: float) -> Row:
    """Share of the machine's peak (GFLOP/s) that ``flops`` in ``time_s`` make."""
    share = Spread(*(flops / seconds / (peak * 1e9) for seconds in (time_s.median, time_s.high, time_s.low)))
    return Row.of(place, share, "share")
