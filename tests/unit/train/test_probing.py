"""Probes in the middle of a run: when they come, whose weights they see, and that the run is the same without them."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from audio_ssl.config import RunConfig
from audio_ssl.errors import AudioError, ConfigError
from audio_ssl.train import meters, probing
from audio_ssl.train.averaging import WeightAverage
from audio_ssl.train.budget import Speed, fit_updates
from audio_ssl.train.distributed import World
from audio_ssl.train.loop import train
from audio_ssl.train.probing import Probing
from audio_ssl.train.sinks import JsonLines
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper
from tests.unit.train.test_sinks import rows
from tests.unit.train.toy import Collect, Line, Source, make_task, surroundings

ALONE = World(0, 1, torch.device("cpu"))
NOISY = {"noise": 0.3, "dropout": 0.2}


class Draws:
    """Measures nothing, draws as it likes, and remembers the weights."""

    def __init__(self, act: Callable[[int], None] = lambda number: None) -> None:
        self.seen: list[float] = []
        self.act = act

    def describe(self):
        return ()

    def prepare(self, tell) -> None:
        tell("ready")

    def __call__(self, weights):
        torch.rand(7)
        torch.manual_seed(5)
        self.seen.append(float(weights["weight"][0, 0]))
        self.act(len(self.seen))
        return {"toy_accuracy": self.seen[-1], "probe_s": 0.5, "tasks": {}}


def probed_run(
    tmp_path, measurer, *, every=4, module=None, progress=None, sink=None, source=None, validate=None, **settings
):
    module, sink = module or Line(**NOISY), sink or Collect()
    around = surroundings(tmp_path, [sink], **{"num_updates": 10, **settings})
    probe = None if measurer is None else Probing(every, module.linear, ALONE, measurer)
    task = replace(make_task(module, source or Source([(0, 6)]), validate=validate), probe=probe)
    return train(task, progress or Progress(), around), module, sink, around


def test_probes_come_before_the_first_update_every_so_many_and_after_the_last(tmp_path):
    measurer = Draws()
    _, module, sink, _ = probed_run(tmp_path, measurer)
    assert [update for update, _ in sink.figure("toy_accuracy", "probe")] == [0, 4, 8, 10]
    assert measurer.seen[0] == pytest.approx(0.1)  # as Line begins
    assert measurer.seen[-1] == float(module.linear.weight[0, 0].detach())
    assert len(set(measurer.seen)) == 4


def test_a_run_is_the_same_to_the_last_bit_with_and_without_probes(tmp_path):
    torch.manual_seed(0)
    _, plain, plain_sink, _ = probed_run(tmp_path / "a", None, validate_every=3)
    torch.manual_seed(0)
    _, probed, sink, _ = probed_run(tmp_path / "b", Draws(), every=1, validate_every=3)
    assert torch.equal(plain.linear.weight, probed.linear.weight)
    assert torch.equal(plain.linear.bias, probed.linear.bias)
    assert [row for row in sink.rows if row["split"] != "probe"] == plain_sink.rows


def test_draws_of_a_probe_do_not_move_the_global_generator():
    module = Line().linear
    before = torch.random.get_rng_state()
    assert Probing(1, module, ALONE, Draws()).measure() is not None
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_average_of_the_weights_is_what_is_probed_and_the_run_goes_on_with_its_own(tmp_path):
    measurer, module = Draws(), Line()
    task = make_task(module, Source([(0, 6)]))
    average = WeightAverage(module, 0.5)
    around = surroundings(tmp_path, [Collect()], num_updates=6)
    around = replace(around, stepper=Stepper(average=average))
    probe = Probing(3, module.linear, ALONE, measurer)
    train(replace(task, probe=probe), Progress(), around)
    assert measurer.seen[-1] == float(average.tensors()["weights/linear.weight"][0, 0])
    assert measurer.seen[-1] != float(module.linear.weight[0, 0].detach())
    _, plain, _, _ = probed_run(tmp_path / "plain", None, module=Line(), num_updates=6)
    assert torch.equal(plain.linear.weight, module.linear.weight)


def test_a_probe_that_fails_is_a_warning_and_leaves_no_row(tmp_path, caplog):
    def fail_once(number: int) -> None:
        if number == 2:
            raise AudioError("a.wav has gone")

    outcome, _, sink, _ = probed_run(tmp_path, Draws(fail_once))
    assert [update for update, _ in sink.figure("toy_accuracy", "probe")] == [0, 8, 10]
    assert outcome.progress.update == 10
    assert "a probe was left out, the run goes on: a.wav has gone" in caplog.text


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(AudioError("a.wav has gone"), AudioError), (torch.OutOfMemoryError("CUDA out of memory"), ConfigError)],
)
def test_a_fault_before_the_first_update_ends_the_run_and_a_later_one_does_not(tmp_path, caplog, fault, raised):
    def fail_at(wanted: int) -> Draws:
        def act(number: int) -> None:
            if number == wanted:
                raise fault

        return Draws(act)

    module, sink = Line(**NOISY), Collect()
    before = module.linear.weight.detach().clone()
    with pytest.raises(raised, match=str(fault)):
        probed_run(tmp_path / "first", fail_at(1), module=module, sink=sink)
    assert torch.equal(module.linear.weight, before)
    assert sink.rows == []
    outcome, *_ = probed_run(tmp_path / "later", fail_at(2))
    assert outcome.progress.update == 10
    assert f"a probe was left out, the run goes on: {fault}" in caplog.text


def test_time_of_a_probe_is_not_that_of_updates(tmp_path, monkeypatch):
    now = SimpleNamespace(wall=100.0)
    clock = SimpleNamespace(perf_counter=lambda: now.wall, process_time=lambda: now.wall)
    monkeypatch.setattr(meters, "time", clock)

    class Slow(Source):
        def epoch(self, epoch, first):
            for batches in super().epoch(epoch, first):
                now.wall += 2.0
                yield batches

    class Everything(Collect):
        def write(self, row):
            self.rows.append(dict(row))

    def rest(_: int) -> None:
        now.wall += 1000.0

    sink = Everything()
    probed_run(tmp_path, Draws(rest), every=3, sink=sink, source=Slow([(0, 6)]), num_updates=7, log_every=2)
    assert [row["update_s"] for row in sink.rows if "update_s" in row] == [2.0] * 4  # 2, 4, 6, 7
    assert {row["audio_s_per_s"] for row in sink.rows if "update_s" in row} == {3.0}  # 6 rows of a second in 2 s


def interrupted_at(update: int) -> Source:
    class Interrupting(Source):
        def epoch(self, epoch, first):
            for number, batches in enumerate(super().epoch(epoch, first), start=7 * epoch + first + 1):
                if number == update:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batches

    return Interrupting([(0, 6)])


def test_a_signal_does_not_wait_for_a_probe_which_is_made_up_for_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    outcome, _, _, _ = probed_run(
        tmp_path, Draws(), sink=JsonLines(path, keep_until=0), source=interrupted_at(4), save_every=4
    )  # fmt: skip
    assert (outcome.progress.update, outcome.progress.probed) == (4, 0)
    assert [row["update"] for row in rows(path) if row["split"] == "probe"] == [0]
    for _ in range(2):  # the second time as if killed after the probe and before a checkpoint knew of it
        resumed = make_task(Line(**NOISY), Source([(0, 6)]))
        progress = surroundings(tmp_path, []).folder.restore(resumed)
        assert (progress.update, progress.probed) == (4, 0)
        sink = JsonLines(path, keep_until=4, probed=progress.probed)
        probed_run(tmp_path, Draws(), module=resumed.module, progress=progress, sink=sink, num_updates=5, save_every=99)
        for place in (tmp_path / "checkpoints").glob("step_00000005"):
            shutil.rmtree(place)
    assert [row["update"] for row in rows(path) if row["split"] == "probe"] == [0, 4, 5]


@pytest.mark.parametrize(("signalled", "probes", "last"), [(4, [0, 5, 8, 10], 5), (10, [0, 4, 8, 10], 10)])
def test_a_signal_in_a_validation_does_not_wait_for_the_probe_behind_it(tmp_path, signalled, probes, last):
    def validate(update):
        if update == signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0}

    outcome, module, sink, _ = probed_run(tmp_path, Draws(), validate=validate, validate_every=2)
    before = [update for update, _ in sink.figure("toy_accuracy", "probe")]
    assert (outcome.stopped_by, outcome.progress.update) == (signal.SIGTERM, last)
    assert before == [update for update in probes if update < signalled]
    outcome, _, sink, _ = probed_run(tmp_path, Draws(), module=module, progress=outcome.progress)
    assert outcome.stopped_by is None
    assert before + [update for update, _ in sink.figure("toy_accuracy", "probe")] == probes


def test_a_signal_in_a_validation_that_is_made_up_for_does_not_wait_for_the_first_probe(tmp_path):
    def validate(update):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0}

    progress = Progress(update=2, update_in_epoch=2, owes_validation=True)
    outcome, _, sink, _ = probed_run(tmp_path, Draws(), progress=progress, validate=validate, num_updates=3)
    assert (outcome.stopped_by, outcome.progress.probed) == (signal.SIGTERM, -1)
    assert sink.figure("toy_accuracy", "probe") == []


def test_a_resumed_run_does_not_probe_twice(tmp_path):
    *_, around = probed_run(tmp_path, Draws(), num_updates=8)
    task = make_task(Line(**NOISY), Source([(0, 6)]))
    progress = around.folder.restore(task)
    assert (progress.update, progress.probed) == (8, 8)
    _, _, sink, _ = probed_run(tmp_path, Draws(), module=task.module, progress=progress, num_updates=10)
    assert [row["update"] for row in sink.rows if row["split"] == "probe"] == [10]


def test_what_is_owed():
    probe = Probing(10, Line(), ALONE, None)
    owed = [
        probe.is_owed(Progress(update=update, probed=probed), is_over=is_over)
        for update, probed, is_over in [(0, -1, False), (10, 9, False), (19, 10, False), (19, 10, True), (19, 19, True)]
    ]
    assert owed == [True, True, False, True, False]


def test_ranks_other_than_the_main_one_measure_nothing_and_wait(monkeypatch):
    waited = []
    monkeypatch.setattr(probing, "barrier", waited.append)
    world = World(1, 2, torch.device("cpu"))
    assert Probing(1, Line(), world, None).measure() is None
    assert waited == [world]


def test_a_budget_counts_probes_before_the_first_update_and_after_the_last(tmp_path):
    run = RunConfig(dir=tmp_path, num_updates=1, save_every=1000, validate_every=1000)
    speed = Speed(update_s=1.0, validation_s=0.0, save_s=0.0, probe_s=5.0, probe_every=10)
    assert fit_updates(40.0, speed, run) == 20  # 0, 10 and 20: 35 s; one update more is a fourth probe, and 41 s
    assert fit_updates(40.0, speed, run, first=30) == 55  # 40, 50 and the last: 15 s beside 25 updates
    assert fit_updates(40.0, Speed(1.0, 0.0, 0.0), run) == 40


def test_rows_of_probes_that_will_be_made_again_are_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    sink = JsonLines(path, keep_until=0)
    for update, split in ((0, "probe"), (5, "train"), (5, "probe"), (5, "valid")):
        sink.write({"update": update, "split": split})
    sink.close()
    JsonLines(path, keep_until=5, probed=5).close()
    assert len(rows(path)) == 4
    JsonLines(path, keep_until=5, probed=0).close()
    assert [(row["update"], row["split"]) for row in rows(path)] == [(0, "probe"), (5, "train"), (5, "valid")]
