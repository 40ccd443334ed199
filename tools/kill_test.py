"""Kill training runs at random moments and resume them: the end must be that of a run that was never interrupted.

usage: python tools/kill_test.py [--kills 20] [--rank-kills 4] [--seed 1] [--out runs/kill_test] [--set KEY=VALUE ...]

Real runs of `python -m audio_ssl pretrain` (the preset tiny_cpu on speech of AUDIO_SSL_CORPORA/librispeech_mini, or on
the shipped voices where that is not set) get SIGKILL and are started again with the same command and `--resume auto`,
until they are done:

- one process, at `--kills` moments: a quarter or more while a checkpoint is being written, the rest at any time of its
  life;
- two ranks, with torchrun and without it, at `--rank-kills` moments each: one rank is killed, and the other must end by
  itself within `--peer-s` seconds with exit status 75, saying which rank is gone; then both start again.

After each kill every file under a final name must be whole: each checkpoint there equals that of the uninterrupted run.
At the end so do weights, optimizer, progress, figures (speeds and times apart) and the list of files; no process is
left over. Prints a JSON line a kill and a table; exit status 1 where anything differs. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from audio_ssl.data.scan import scan
from survival import folders
from survival.processes import POLL_S, Family

NUM_UPDATES, SAVE_EVERY, VALIDATE_EVERY, KEEP_LAST = 40, 5, 8, 2
RHYTHM = [f"run.num_updates={NUM_UPDATES}", f"run.save_every={SAVE_EVERY}", f"run.validate_every={VALIDATE_EVERY}"]
DATA = ["data.max_s=4", "data.batch_s=8", "data.micro_batch_s=4"]
SMALL = [*RHYTHM, *DATA, "run.log_every=2", "run.device=cpu", "model.num_layers=2"]
NUM_TRAIN, NUM_VALID = 40, 8  # utterances: three passes
WRITING_SHARE = 0.25  # of the kills, at least
PEER_DIED = 75
LIFE_S = 600  # more than any life of a run
SAYS_PEER = r"\brank\s*:?\s*{rank}\b"  # in words of ours, or in torchrun's list of failures


@dataclass
class Scenario:
    """A way to run, and what came of its kills.

    Attributes:
        launcher: see :class:`survival.processes.Family`.
        settings: of the command line.
        out: a folder of its own.
        wanted: number of kills.
        peer_s: longest time that a rank may outlive another.
    """

    launcher: str
    settings: Sequence[str]
    out: Path
    wanted: int
    peer_s: float
    kills: list[dict[str, object]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    num_runs: int = 0
    life_s: float = 0.0
    write_s: float = 0.0

    @property
    def num_ranks(self) -> int:
        """That take part."""
        return 1 if self.launcher == "one process" else 2

    @property
    def wants_writing(self) -> bool:
        """Whether too few kills came while a checkpoint was written."""
        return _writing_kills(self) < WRITING_SHARE * self.wanted

    @property
    def wants_more(self) -> bool:
        """Whether there are kills to make."""
        return len(self.kills) < self.wanted or (self.wants_writing and len(self.kills) < 2 * self.wanted)

    @property
    def whole(self) -> Path:
        """The uninterrupted run, which keeps every checkpoint."""
        return self.out / "whole"

    def start(self, run_dir: Path, *, keep_last: int) -> Family:
        """Start the run, or go on with it."""
        places = [*self.settings, f"run.dir='{run_dir}'", f"run.keep_last={keep_last}"]
        arguments = ["pretrain", "pretrain/conv_tiny", "--resume", "auto", *(x for s in places for x in ("--set", s))]
        logs = self.out / "logs" / f"{len(self.kills)}"
        return Family(arguments, launcher=self.launcher, num_ranks=self.num_ranks, logs=logs)


def main() -> int:
    """Run all scenarios; the exit status."""
    arguments = _parse()
    out: Path = arguments.out.resolve()
    if out.exists():
        print(f"error: {out} must not be there yet, got a folder; remove it or give another --out", file=sys.stderr)
        return 2
    out.mkdir(parents=True)
    os.environ["TMPDIR"] = str(out / "tmp")  # what a killed process leaves there is found
    (out / "tmp").mkdir()
    settings = [*SMALL, *_data(out), *arguments.set]
    wanted = {"one process": arguments.kills, "ranks": arguments.rank_kills, "torchrun": arguments.rank_kills}
    scenarios = [
        Scenario(name, settings, out / name.replace(" ", "_"), num_kills, arguments.peer_s)
        for name, num_kills in wanted.items()
        if num_kills
    ]
    generator = random.Random(arguments.seed)  # noqa: S311 - moments, not secrets
    for scenario in scenarios:
        uninterrupted(scenario)
        while scenario.wants_more and not scenario.faults:
            killed_until_done(scenario, generator)
    show(scenarios)
    is_good = not any(scenario.faults for scenario in scenarios)
    if is_good and not arguments.keep:
        shutil.rmtree(out)
    return 0 if is_good else 1


def uninterrupted(scenario: Scenario) -> None:
    """The run that all others are compared with; measures a life and how long a checkpoint is written."""
    family = scenario.start(scenario.whole, keep_last=NUM_UPDATES)
    durations = list(_writing_times(scenario.whole, family))
    scenario.life_s = time.monotonic() - family.started
    if family.wait(LIFE_S) is None or set(family.statuses()) != {0} or not durations:
        raise SystemExit(f"error: the uninterrupted run must end by itself:\n{_tail(family)}")
    scenario.write_s = statistics.median(durations)
    _tell({
        "launcher": scenario.launcher, "uninterrupted_s": round(scenario.life_s, 2),
        "writing_s": round(scenario.write_s, 4), "checkpoints": len(folders.checkpoints(scenario.whole)),
    })  # fmt: skip


def killed_until_done(scenario: Scenario, generator: random.Random) -> None:
    """One run, killed until all wanted kills are made or it is done sooner, and compared with the uninterrupted one."""
    run_dir = scenario.out / f"killed_{scenario.num_runs}"
    scenario.num_runs += 1
    while True:
        before = folders.drafts(run_dir)  # of an earlier life
        family = scenario.start(run_dir, keep_last=KEEP_LAST)
        is_due, is_late = scenario.wants_more, len(scenario.kills) >= scenario.wanted
        asks_writing = scenario.wants_writing and (generator.random() < 0.5 or is_late)
        rank = generator.randrange(scenario.num_ranks) if scenario.num_ranks > 1 else None
        if is_due and asks_writing:
            _wait_for_draft(run_dir, family, generator, scenario.write_s)
        elif is_due:
            _sleep_unless_over(family, generator.uniform(0, scenario.life_s))
        if is_due and _kill_once_there(run_dir, family, rank=rank, waits=scenario.launcher == "ranks"):
            after_s = time.monotonic() - family.started
            note_kill(scenario, run_dir, family, rank=rank, after_s=after_s, before=before)
            continue
        if family.wait(LIFE_S) is None or set(family.statuses()) != {0}:
            scenario.faults.append(f"a resumed run must end by itself with status 0:\n{_tail(family)}")
            return
        break
    differences = folders.different_runs(run_dir, scenario.whole, keep_last=KEEP_LAST)
    left = folders.left_behind(run_dir, scenario.whole)
    _tell({"launcher": scenario.launcher, "run": scenario.num_runs, "differs": differences, "left_behind": left})
    scenario.faults += [*differences, *(f"left behind: {name}" for name in left)]
    if not scenario.faults:
        shutil.rmtree(run_dir)


def note_kill(
    scenario: Scenario,
    run_dir: Path,
    family: Family,
    *,
    rank: int | None,
    after_s: float,
    before: Mapping[Path, int],
) -> None:
    """Wait for the others, then look at what is left: processes and files; ``before``: drafts of an earlier life."""
    is_writing = bool(folders.drafts(run_dir).items() - before.items())
    outlived_s = family.wait(scenario.peer_s if scenario.num_ranks > 1 else LIFE_S)
    faults = folders.half_written(run_dir, scenario.whole) if run_dir.is_dir() else []
    kill: dict[str, object] = {
        "launcher": scenario.launcher, "kill": len(scenario.kills) + 1, "after_s": round(after_s, 3),
        "while_writing": is_writing, "newest": (folders.checkpoints(run_dir) or ["none"])[-1],
    }  # fmt: skip
    if scenario.num_ranks > 1:
        kill |= {"rank": rank, "peer_outlived_s": outlived_s, "statuses": family.statuses()}
        faults += _faults_of_peer(scenario, family, rank=rank, outlived_s=outlived_s)
    _tell({**kill, "faults": faults})
    scenario.kills.append(kill)
    scenario.faults += faults


def _faults_of_peer(scenario: Scenario, family: Family, *, rank: int | None, outlived_s: float | None) -> list[str]:
    if outlived_s is None:
        return [f"the peers of rank {rank} did not end within {scenario.peer_s:g} s:\n{_tail(family)}"]
    said = "\n".join(family.said().values())
    faults = ["a traceback of ours"] if "Traceback" in said and scenario.launcher == "ranks" else []
    if scenario.launcher == "ranks" and not {-9, PEER_DIED} >= set(family.statuses()):
        faults.append(f"exit statuses are {family.statuses()}, not -9 and {PEER_DIED}")
    if not re.search(SAYS_PEER.format(rank=rank), said):
        faults.append(f"rank {rank} is not named")
    return [f"{fault}:\n{_tail(family)}" for fault in faults]


def show(scenarios: Sequence[Scenario]) -> None:
    """The table."""
    table = Table("run", "kills", "while writing", "runs", "peer ended within", "result", title="SIGKILL and resume")
    for one in scenarios:
        outlived = [s for kill in one.kills if isinstance(s := kill.get("peer_outlived_s"), float)]
        table.add_row(
            f"{one.launcher} x {one.num_ranks}", str(len(one.kills)), str(_writing_kills(one)), str(one.num_runs),
            f"{max(outlived):.2f} s" if outlived else "–", f"{len(one.faults)} faults" if one.faults else "identical",
        )  # fmt: skip
    console = Console()
    console.print(table)
    for fault in [fault for one in scenarios for fault in one.faults]:
        console.print(f"- {fault}", style="red", markup=False, highlight=False)


def _writing_kills(scenario: Scenario) -> int:
    return sum(bool(kill["while_writing"]) for kill in scenario.kills)


def _writing_times(run_dir: Path, family: Family) -> Iterator[float]:
    """Seconds from the first to the last sight of each draft of a checkpoint, until the run is over."""
    seen: dict[Path, float] = {}
    while True:
        is_over = family.is_over()
        there = folders.drafts(run_dir).keys()
        now = time.monotonic()
        for path in [path for path in seen if path not in there]:
            yield now - seen.pop(path)
        seen |= dict.fromkeys(there - seen.keys(), now)
        if is_over:
            return
        time.sleep(POLL_S)


def _wait_for_draft(run_dir: Path, family: Family, generator: random.Random, write_s: float) -> None:
    """Return at a random moment of the writing of one of the next three checkpoints."""
    left, known = generator.randint(1, 3), folders.drafts(run_dir).keys()
    while left > 0 and not family.is_over():
        there = folders.drafts(run_dir).keys()
        left, known = left - len(there - known), there
        time.sleep(POLL_S)
    time.sleep(generator.uniform(0, write_s))


def _kill_once_there(run_dir: Path, family: Family, *, rank: int | None, waits: bool) -> bool:
    """Kill as soon as there is something to kill; False where the run is over first.

    Args:
        run_dir: of the run.
        family: its processes.
        rank: which of them.
        waits: until the ranks have met. Who waits for a rank that has not come cannot know that it is dead.
    """
    while not family.is_over():
        lock = run_dir / ".lock"
        has_met = lock.is_file() and lock.read_text(encoding="utf-8") in map(str, family.members())
        if (has_met or not waits) and family.kill(rank):
            return True
        time.sleep(POLL_S)
    return False


def _sleep_unless_over(family: Family, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not family.is_over():
        time.sleep(POLL_S)


def _data(out: Path) -> list[str]:
    """Two manifests of real speech, or of the voices that come with the project."""
    corpora = os.environ.get("AUDIO_SSL_CORPORA")
    speech = Path(corpora) / "librispeech_mini" if corpora else Path(__file__).parents[1] / "manifests/demo/pretrain"
    manifest = scan(speech).manifest
    for name, rows in (("train", range(NUM_TRAIN)), ("valid", range(NUM_TRAIN, NUM_TRAIN + NUM_VALID))):
        manifest.select(rows).write(out / f"{name}.tsv")
    return [f"data.train=['{out / 'train.tsv'}']", f"data.valid=['{out / 'valid.tsv'}']"]


def _tail(family: Family) -> str:
    return "\n".join(f"[{name}] ...{text[-1500:]}" for name, text in family.said().items())


def _tell(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rank-kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peer-s", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill_test"))
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs that are identical, too")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
