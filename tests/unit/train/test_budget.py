"""A run's length from hours of audio or wall time: fitted by hand-worked sums, measured without a trace, kept."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from torch import nn

from audio_ssl.config import OptimConfig, RunConfig
from audio_ssl.config.duration import duration_s
from audio_ssl.errors import TrainingError
from audio_ssl.train import budget
from audio_ssl.train.budget import Speed, fit_updates, settle_length
from audio_ssl.train.checkpoints import CheckpointFolder
from audio_ssl.train.loop import train
from audio_ssl.train.optim import build_optimizer
from audio_ssl.train.state import Progress
from tests.unit.train.toy import Collect, Line, Source, make_task, surroundings

UPDATE_S, VALIDATION_S, SAVE_S, WRITE_S = 2.0, 30.0, 4.0, 6.0
FROZEN_UPDATES = 100_000
OPTIM = {"lr": 0.05, "clip_norm": 1e6, "schedule": "constant"}
WHOLE = [(0, 6)]  # 6 s of audio in one forward pass


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1d12h", 129600), ("45s", 45), ("1.5h", 5400), ("1h30m15s", 5415)],
)
def test_durations(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "2h1d", "2 h", "-2h", "1h1h", "2hours"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="must be a length of time such as 2h, 90m or 1d12h"):
        duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "first", "expected"),
    [
        # Validations at 50 and 100 and at the end, each of which may save; saves at 100 and at the end.
        (2 * 200 + 4 * 30 + 4 * 4, 0, 200),
        (2 * 200 + 4 * 30 + 4 * 4 - 0.5, 0, 199),
        (2 * 201 + 5 * 30 + 5 * 4 - 0.5, 0, 200),
        (2 * 201 + 5 * 30 + 5 * 4, 0, 201),
        (2 * 1 + 30 + 4, 0, 1),
        (2 * 1 + 30 + 3, 0, 0),
        (-5, 0, 0),
        (2 * 21 + 30 + 4 + 30 + 4, 130, 151),  # at 150, and at the end
        (3, 130, 130),
    ],
)
def test_updates_that_fit_beside_validations_and_checkpoints(seconds, first, expected):
    run = RunConfig(dir="x", validate_every=50, save_every=100)
    assert fit_updates(seconds, Speed(UPDATE_S, VALIDATION_S, SAVE_S), run, first=first) == expected


def test_updates_that_fit_where_nothing_is_validated():
    run = RunConfig(dir="x", validate_every=50, save_every=100)
    assert fit_updates(2 * 300 + 3 * 4, Speed(UPDATE_S, 0.0, SAVE_S), run) == 300
    assert fit_updates(2 * 301 + 4 * 4 - 1, Speed(UPDATE_S, 0.0, SAVE_S), run) == 300


class Average:
    """Something beside the weights, which an update might change."""

    def __init__(self) -> None:
        self.value = torch.tensor([1.0])

    def tensors(self):
        return {"value": self.value}

    def load_tensors(self, tensors) -> None:
        self.value = tensors["value"]


class Slow(Line):
    """Takes :data:`UPDATE_S` a forward pass on a clock of the test's own, but half of it while something is frozen.

    It has a buffer and something beside the weights that every pass changes.
    """

    def __init__(self, clock, **settings) -> None:
        super().__init__(**settings)
        self.clock = clock
        self.average = Average()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, batch, *, update, generator):
        self.clock.now += UPDATE_S if update >= FROZEN_UPDATES else UPDATE_S / 2
        self.passes += 1
        self.average.value = self.average.value + 1
        return super().forward(batch, update=update, generator=generator)


@pytest.fixture
def clock(monkeypatch):
    """Stands still but for what updates, validations and checkpoints take."""
    clock = SimpleNamespace(now=1000.0)

    class SlowFolder(CheckpointFolder):
        def save(self, *args, **kwargs):
            clock.now += SAVE_S
            return super().save(*args, **kwargs)

        def finish(self):
            clock.now += WRITE_S * (self._writing is not None)
            super().finish()

    monkeypatch.setattr(budget, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(budget, "CheckpointFolder", SlowFolder)
    return clock


def slow_task(clock, *, optimizer="adamw", **settings):
    module = Slow(clock, **settings)
    config = OptimConfig(**OPTIM, optimizer=optimizer)
    adam = build_optimizer([(list(module.parameters()), 1.0)], config, matrices=[module.linear.weight])
    task = make_task(module, Source(WHOLE), validate=lambda update: validate(clock))
    return replace(task, optimizer=adam, extras={"average": module.average})


def validate(clock):
    clock.now += VALIDATION_S
    return {"loss": 1.0}


def within(tmp_path, progress, task, console=None, **run):
    around = surroundings(tmp_path, [], **{"validate_every": 50, "save_every": 100, **run})
    around = replace(around, console=console or Console(quiet=True), optim=OptimConfig(**OPTIM))
    settings = settle_length(task, progress, around, update_audio_s=lambda: 6.0, started=995.0)
    return replace(around, run=settings)


def test_wall_time_is_measured_told_and_fitted(tmp_path, clock):
    progress, said = Progress(), Console(record=True, width=200)
    around = within(tmp_path, progress, slow_task(clock), said, num_updates=None, budget="10m")
    # 5 s before; 3 updates to warm up, 5 timed ones, 6 more in 2 % of the time; a validation and a checkpoint.
    assert clock.now == 1000 + (3 + 5 + 6) * UPDATE_S + VALIDATION_S + SAVE_S + WRITE_S
    # 600 - 73 = 527 s: 192 updates, 4 validations, 4 checkpoints, of which one is waited for; 193 would take 528 s.
    assert around.run.num_updates == progress.fitted_updates == 192
    assert progress.fitted_to == "10m"
    told = said.export_text()
    assert "2 s an update (of 11), 30 s a validation, 4 s a checkpoint (and 6 s beside the updates)" in told
    assert "0:01:13 of 0:10:00 are spent" in told
    assert "fitted: 192 updates" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_fitted_run_is_the_run_of_that_many_updates_bit_for_bit(tmp_path, clock, optimizer):
    ends = []
    for length in ({"num_updates": None, "budget": "2m"}, {"num_updates": 8}):
        task, sink = slow_task(clock, optimizer=optimizer, noise=0.3, dropout=0.2), Collect()
        around = within(tmp_path / str(len(ends)), Progress(), task, **length)
        assert around.run.num_updates == 8  # 120 - 5 - (3 + 5 + 1) * 2 - 2 * (30 + 4 + 6) = 17 s: 8 take 16 s
        around = replace(around, sinks=[sink], optim=OptimConfig(**OPTIM, optimizer=optimizer))
        train(task, Progress(), around)
        ends.append((task, [(row["loss"], row["lr"]) for row in sink.rows if row["split"] == "train"]))
    (ours, our_rows), (theirs, their_rows) = ends
    assert our_rows == their_rows
    for a, b in zip(ours.module.state_dict().values(), theirs.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for p, q in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        assert all(torch.equal(ours.optimizer.state[p][k], v) for k, v in theirs.optimizer.state[q].items())


def test_measuring_gives_moments_buffers_and_extras_back(tmp_path, clock):
    task = slow_task(clock)
    train(task, Progress(), surroundings(tmp_path / "before", [], num_updates=3, validate_every=100))
    kept = [t.clone() for t in everything(task)]
    frozen = nn.Parameter(torch.zeros(2))
    task.optimizer.add_param_group({"params": [frozen], "lr": 0.5, "lr_scale": 1.0})
    task.extras["average"].load_tensors({"value": torch.tensor([7.0])})
    around = within(tmp_path, Progress(update=3, update_in_epoch=3), task, num_updates=None, budget="10m")
    assert around.run.num_updates > 3
    assert all(torch.equal(a, b) for a, b in zip(everything(task), kept, strict=True))
    assert task.extras["average"].value.item() == 7
    assert task.optimizer.param_groups[1]["lr"] == 0.5
    assert frozen not in task.optimizer.state


def everything(task):
    states = [task.optimizer.state[p] for p in task.module.parameters()]
    return [*task.module.state_dict().values(), *itertools.chain(*(s.values() for s in states))]


class Untouched:
    """A source that nobody may ask."""

    def epoch(self, epoch, first):
        raise AssertionError("an update was measured")


def test_a_resumed_run_keeps_the_fitted_number(tmp_path, clock):
    task = replace(slow_task(clock), source=Untouched())
    said = Console(record=True, width=200)
    progress = Progress(update=40, fitted_to="10m", fitted_updates=198)
    around = within(tmp_path, progress, task, said, num_updates=None, budget="10m")
    assert around.run.num_updates == 198
    assert "198 updates, as fitted to 10m when the run began" in said.export_text()


def test_another_budget_is_the_time_from_now_on(tmp_path, clock):
    progress = Progress(update=40, fitted_to="10m", fitted_updates=198)
    around = within(tmp_path, progress, slow_task(clock), num_updates=None, budget="2m")
    assert around.run.num_updates == progress.fitted_updates
    # 17 s as above, a validation and a checkpoint, from update 40 on.
    assert around.run.num_updates == 40 + 8
    assert progress.fitted_to == "2m"


@pytest.mark.parametrize(("heard_s", "update", "expected"), [(0.0, 0, 1200), (3600.0, 590, 1190), (9000.0, 1500, 1500)])
def test_hours_of_audio_are_of_the_whole_run(tmp_path, clock, heard_s, update, expected):
    task = replace(slow_task(clock), source=Untouched())
    progress = Progress(update=update, audio_s=heard_s)
    assert within(tmp_path, progress, task, num_updates=None, audio_hours=2).run.num_updates == expected
    assert (progress.fitted_to, progress.fitted_updates) == ("2 h of audio", expected)


def test_updates_stay_as_they_are_given(tmp_path, clock):
    task = replace(slow_task(clock), source=Untouched())
    progress = Progress(fitted_to="10m", fitted_updates=198)
    assert within(tmp_path, progress, task, num_updates=77).run.num_updates == 77
    assert progress.fitted_to == ""


def test_a_budget_without_room_for_an_update_is_refused(tmp_path, clock):
    said = (
        r"run\.budget must have room for an update .* got 80s, of which 61 s went .* 2 s an update \(of 5\), 30 s a v"
    )
    with pytest.raises(TrainingError, match=said):
        within(tmp_path, Progress(), slow_task(clock), num_updates=None, budget="80s")
