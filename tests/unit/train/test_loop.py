"""The loop's laws, on a task that can be worked out apart from it."""

import math
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from audio_ssl.errors import TrainingError
from audio_ssl.train import loop, meters
from audio_ssl.train.distributed import World, of_ranks
from audio_ssl.train.loop import train
from audio_ssl.train.meters import Clock, Moment
from audio_ssl.train.state import Progress
from tests.unit.train.toy import OPTIM, Collect, Line, Source, make_batch, make_task, surroundings

WHOLE, UNEVEN = [(0, 6)], [(0, 1), (1, 4), (4, 6)]


def run(tmp_path, *, split=WHOLE, progress=None, module=None, num_updates=10, **settings):
    sink = Collect()
    task = make_task(module or Line(), Source(split))
    outcome = train(task, progress or Progress(), surroundings(tmp_path, [sink], num_updates=num_updates, **settings))
    return outcome, task.module, sink


def test_training_equals_plain_torch_on_the_mean_loss(tmp_path):
    _, module, _ = run(tmp_path, num_updates=9)
    plain = Line()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.05, betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=0.01)
    for update in range(9):
        epoch, place = divmod(update, 7)
        batch = make_batch(tuple(range(100 * epoch + 10 * place, 100 * epoch + 10 * place + 6)))
        for group in optimizer.param_groups:  # no warm-up, straight line to 0 over 9 updates (warm-up lasts 1)
            group["lr"] = 0.05 * (1.0 if update == 0 else 1 - update / 8)
        optimizer.zero_grad()
        (plain.linear(batch.waveforms).squeeze(1) - batch.waveforms.sum(1)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(module.linear.weight, plain.linear.weight)
    torch.testing.assert_close(module.linear.bias, plain.linear.bias)


def test_uneven_micro_batches_equal_the_whole_batch(tmp_path):
    _, whole, whole_sink = run(tmp_path / "a")
    _, split, split_sink = run(tmp_path / "b", split=UNEVEN)
    torch.testing.assert_close(whole.linear.weight, split.linear.weight)
    assert [loss for _, loss in split_sink.figure("loss")] == pytest.approx(
        [loss for _, loss in whole_sink.figure("loss")], rel=1e-5
    )


@pytest.mark.parametrize("stop_at", [4, 8])
def test_a_resumed_run_equals_one_that_never_stopped_to_the_last_bit(tmp_path, stop_at):
    noisy = {"noise": 0.3, "dropout": 0.2}
    torch.manual_seed(0)
    _, straight, straight_sink = run(tmp_path / "a", module=Line(**noisy), split=UNEVEN, num_updates=11)
    torch.manual_seed(1)
    first = make_task(Line(**noisy), Source(UNEVEN))
    around = surroundings(tmp_path / "b", [Collect()], num_updates=11, keep_last=9)
    train(first, Progress(), around)
    for name in around.folder.names():  # as if killed before the later ones
        if int(name.removeprefix("step_")) > stop_at:
            for path in sorted((around.folder.folder / name).rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            (around.folder.folder / name).rmdir()
    torch.rand(13)  # whatever happens in between
    again, sink = make_task(Line(**noisy), Source(UNEVEN)), Collect()
    around = surroundings(tmp_path / "b", [sink], num_updates=11)
    progress = around.folder.restore(again)
    assert (progress.update, progress.epoch, progress.update_in_epoch) == (stop_at, stop_at // 7, stop_at % 7)
    train(again, progress, around)
    assert torch.equal(straight.linear.weight, again.module.linear.weight)
    assert sink.figure("loss") == straight_sink.figure("loss")[stop_at:]
    assert sink.rows[-1]["audio_h"] == straight_sink.rows[-1]["audio_h"]


def test_the_window_of_a_log_line_is_the_mean_over_its_targets(tmp_path):
    _, _, fine = run(tmp_path / "a", num_updates=6)
    _, _, coarse = run(tmp_path / "b", num_updates=6, log_every=3)
    losses = [loss for _, loss in fine.figure("loss")]
    assert [u for u, _ in coarse.figure("loss")] == [3, 4, 6]  # update 4 saves, so it is a line of its own
    assert coarse.figure("loss")[0][1] == pytest.approx(sum(losses[:3]) / 3)
    assert coarse.figure("loss")[2][1] == pytest.approx(sum(losses[4:6]) / 2)


def test_audio_heard_counts_real_seconds(tmp_path):
    outcome, _, sink = run(tmp_path, num_updates=3)
    assert outcome.progress.audio_s == pytest.approx(18.0)  # 3 updates of 6 rows of 5 samples at 5 Hz
    assert sink.rows[-1]["audio_h"] == pytest.approx(18 / 3600)


def test_padding_is_the_share_of_samples_that_no_row_owns(tmp_path):
    class Padded(Source):
        def epoch(self, epoch, first):
            for (batch,) in super().epoch(epoch, first):
                yield (replace(batch, num_samples=torch.tensor([5, 5, 3, 5, 2, 4])),)

    sink = Collect()
    train(make_task(Line(), Padded(WHOLE)), Progress(), surroundings(tmp_path, [sink], num_updates=3))
    assert [share for _, share in sink.figure("padding_share")] == pytest.approx([6 / 30] * 3)


def test_seconds_of_a_checkpoint_are_told_with_the_next_figures_and_once():
    clock = Clock(torch.device("cpu"))
    clock.add_update(1.0)
    clock.add_checkpoint(0.5)
    clock.add_checkpoint(0.25)
    assert clock.read() == {}  # no update is timed yet
    clock.add_update(1.0)
    assert "checkpoint_s" not in clock.read(restart=False)  # the first telling of the speed leaves it for the figures
    assert clock.read()["checkpoint_s"] == 0.75
    clock.add_update(1.0)
    assert "checkpoint_s" not in clock.read()


def test_processor_time_is_that_of_updates_and_leaves_pauses_out(monkeypatch):
    now = SimpleNamespace(wall=100.0, processor=10.0)
    monkeypatch.setattr(
        meters, "time", SimpleNamespace(perf_counter=lambda: now.wall, process_time=lambda: now.processor)
    )

    def spend(wall, processor):
        now.wall, now.processor = now.wall + wall, now.processor + processor

    clock = Clock(torch.device("cpu"))
    spend(50, 50)  # the first update warms up
    clock.add_update(1.0)
    spend(2, 3)
    clock.add_update(6.0)
    paused = Moment.now()
    spend(1000, 500)
    clock.skip(paused)
    spend(4, 6)
    clock.add_update(6.0)
    figures = clock.read()
    assert (figures["update_s"], figures["processor_update_s"], figures["audio_s_per_s"]) == (3.0, 4.5, 2.0)


def test_the_wait_for_data_is_that_of_the_rank_that_waits_longest(tmp_path, monkeypatch):
    class Everything(Collect):
        def write(self, row):
            self.rows.append(dict(row))

    def with_others(sums, world):
        """As if two more ranks had added theirs."""
        if "waits" not in sums:
            return dict(sums)
        assert sums["waits"].tolist() == [0.25]
        return {**sums, "waits": torch.tensor([0.25, 0.625, 0.125])}

    speed = {"audio_s_per_s": 3.0, "update_s": 2.0, "data_wait_share": 0.25}
    monkeypatch.setattr(Clock, "read", lambda self, restart=True: dict(speed))
    monkeypatch.setattr(loop, "all_reduce_sums", with_others)
    sink = Everything()
    train(make_task(Line(), Source(WHOLE)), Progress(), surroundings(tmp_path, [sink], num_updates=3, save_every=99))
    assert [row["data_wait_share"] for row in sink.rows if row["split"] == "train"] == [0.625] * 3
    assert "waits" not in sink.rows[0]


def test_every_rank_has_its_place():
    world = World(2, 4, torch.device("cpu"))
    assert of_ranks(0.25, world).tolist() == [0, 0, 0.25, 0]


def test_a_signal_saves_after_the_update_in_hand_and_ends(tmp_path):
    class Interrupting(Source):
        def epoch(self, epoch, first):
            for update, batches in enumerate(super().epoch(epoch, first)):
                if update == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batches

    task = make_task(Line(), Interrupting(WHOLE))
    outcome = train(task, Progress(), surroundings(tmp_path, [Collect()], save_every=1000))
    assert (outcome.progress.update, outcome.stopped_by) == (3, signal.SIGTERM)
    assert outcome.checkpoint == tmp_path / "checkpoints" / "step_00000003"


def test_a_signal_does_not_wait_for_validation(tmp_path):
    class Interrupting(Source):
        def epoch(self, epoch, first):
            for batches in super().epoch(epoch, first):
                os.kill(os.getpid(), signal.SIGTERM)
                yield batches

    task = make_task(Line(), Interrupting(WHOLE), validate=lambda update: pytest.fail("validated"))
    outcome = train(task, Progress(), surroundings(tmp_path, [Collect()], validate_every=1))
    assert (outcome.progress.update, outcome.stopped_by) == (1, signal.SIGTERM)


def test_a_signal_after_the_last_update_of_a_pass_is_not_lost(tmp_path):
    def interrupt(update: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)  # while the checks after the update are running
        return {"loss": 1.0}

    task = make_task(Line(), Source(WHOLE), validate=interrupt)
    outcome = train(task, Progress(), surroundings(tmp_path, [Collect()], validate_every=7, save_every=100))
    assert outcome.stopped_by == signal.SIGTERM
    assert outcome.checkpoint == tmp_path / "checkpoints" / f"step_{outcome.progress.update:08d}"
    assert outcome.progress.update == 8


def test_a_validation_figure_that_is_not_finite_is_never_the_best(tmp_path):
    values = iter([math.nan, 2.0, 3.0])
    sink = Collect()
    task = make_task(Line(), Source(WHOLE), validate=lambda update: {"loss": next(values)})
    train(task, Progress(), surroundings(tmp_path, [sink], num_updates=6, validate_every=2, save_every=100))
    assert sink.figure("is_best", "valid") == [(2, False), (4, True), (6, False)]


def patient(tmp_path, values, *, progress=None, **settings):
    """Validations every second update with these results; the outcome, and what was validated."""
    values, sink = iter(values), Collect()
    task = make_task(Line(), Source(WHOLE), validate=lambda update: {"loss": next(values)})
    around = surroundings(
        tmp_path, [sink], **{"num_updates": 20, "validate_every": 2, "save_every": 100, "patience": 2, **settings}
    )
    return train(task, progress or Progress(), around), sink.figure("loss", "valid"), around


def test_a_run_ends_when_validations_no_longer_improve(tmp_path):
    outcome, valid, around = patient(tmp_path, [3.0, 2.0, 2.5, 1.9, 1.9, 2.0, 0.1])
    assert valid[-1] == (12, 2.0)  # the second in a row that is no better than 1.9
    assert (outcome.progress.update, outcome.stopped_by) == (12, None)
    assert outcome.checkpoint == tmp_path / "checkpoints" / "step_00000012"
    assert outcome.checkpoint.is_dir()
    assert around.folder.best().name == "step_00000008"


def test_patience_counts_on_in_a_resumed_run_and_a_run_that_ended_by_it_stays_ended(tmp_path):
    saved = Progress(best=1.0, stale_validations=1)
    outcome, valid, _ = patient(tmp_path, [2.0], progress=saved)
    assert (outcome.progress.update, len(valid)) == (2, 1)
    outcome, valid, _ = patient(tmp_path, [], progress=outcome.progress)
    assert (outcome.progress.update, outcome.stopped_by, valid) == (2, None, [])


def test_without_patience_a_run_goes_through(tmp_path):
    outcome, valid, _ = patient(tmp_path, [1.0] * 10, patience=None)
    assert (outcome.progress.update, len(valid)) == (20, 10)
    assert outcome.progress.stale_validations == 9


class Poisoned(Line):
    def __init__(self, bad_updates) -> None:
        super().__init__()
        self.bad_updates = bad_updates

    def forward(self, batch, *, update, generator):
        terms = super().forward(batch, update=update, generator=generator)
        poison = math.nan if update in self.bad_updates else 1.0
        return type(terms)(terms.loss_sum * poison, terms.num_targets, {})


def test_one_broken_update_is_skipped_and_counted(tmp_path):
    task, sink = make_task(Poisoned({2}), Source(WHOLE)), Collect()
    task = type(task)(**{**task.__dict__, "summarize": lambda sums: {"loss": 1.0}})
    train(task, Progress(), surroundings(tmp_path, [sink], num_updates=6, log_every=6, save_every=6))
    assert sink.rows[-1]["skipped_updates"] == 1
    assert torch.isfinite(task.module.linear.weight).all()


def test_a_run_whose_every_update_is_broken_stops_and_names_the_update(tmp_path):
    task = make_task(Poisoned(set(range(99))), Source(WHOLE))
    task = type(task)(**{**task.__dict__, "summarize": lambda sums: {"loss": math.nan}})
    with pytest.raises(TrainingError, match="the 12 updates up to update 12 "):
        train(task, Progress(), surroundings(tmp_path, [Collect()], num_updates=20, log_every=3, save_every=100))
    assert torch.isfinite(task.module.linear.weight).all()


def test_validation_picks_the_best_checkpoint(tmp_path):
    values = iter([3.0, 1.0, 2.0, 5.0])
    sink = Collect()
    task = make_task(Line(), Source(WHOLE), validate=lambda update: {"loss": next(values)})
    around = surroundings(tmp_path, [sink], num_updates=8, validate_every=2, save_every=100, keep_last=1)
    train(task, Progress(), around)
    assert sink.figure("is_best", "valid") == [(2, True), (4, True), (6, False), (8, False)]
    assert around.folder.best().name == "step_00000004"
    assert around.folder.names() == ["step_00000004", "step_00000008"]
