"""What a run leaves about itself: starts with their surroundings, warnings with their update, and how it ended."""

import json
import logging

import pytest
import torch

from audio_ssl import __version__
from audio_ssl.errors import TrainingError
from audio_ssl.train import record as module
from audio_ssl.train.distributed import World
from audio_ssl.train.record import EVENTS_FILE, recorded

WORLD = World(0, 1, torch.device("cpu"))
LOGGER = logging.getLogger("audio_ssl.data.loader")


def events(folder):
    return [json.loads(line) for line in (folder / EVENTS_FILE).read_text().splitlines()]


def test_a_run_tells_its_start_its_warnings_and_its_end(tmp_path):
    with recorded(tmp_path) as record:
        LOGGER.warning("checkpoint %s is damaged", "step_00000008")
        record.started(4, world=World(0, 2, torch.device("cpu")), precision="bf16")
        LOGGER.info("not a warning")
        record.write({"update": 6, "split": "train"})
        LOGGER.error("row 3")
        record.ended_as_planned(9, stopped_by=None)
    LOGGER.warning("after it")
    found = events(tmp_path)
    assert [(e["event"], e["update"]) for e in found] == [("warning", 0), ("start", 4), ("error", 6), ("end", 9)]
    assert found[0]["message"] == "checkpoint step_00000008 is damaged"
    start = found[1]
    assert (start["ranks"], start["precision"]) == (2, "bf16")
    assert start["device"].startswith("cpu")
    assert start["versions"]["audio_ssl"] == __version__
    assert start["versions"]["torch"] == torch.__version__
    assert found[3]["how"] == "done"
    assert all(e["time"].endswith("+00:00") for e in found)


def test_the_error_that_ends_a_run_is_kept_and_goes_on(tmp_path):
    def run():
        with recorded(tmp_path) as record:
            record.started(4, world=WORLD, precision="fp32")
            record.write({"update": 6, "split": "train"})
            raise TrainingError("gradients must be finite")

    with pytest.raises(TrainingError):
        run()
    _, end = events(tmp_path)
    assert (end["event"], end["how"], end["update"]) == ("end", "failed", 6)
    assert end["message"] == "TrainingError: gradients must be finite"


def test_a_signal_is_named_and_a_second_start_is_added(tmp_path):
    for update in (5, 9):
        with recorded(tmp_path) as record:
            record.started(update - 1, world=WORLD, precision="fp32")
            record.ended_as_planned(update, stopped_by=15)
    assert [(e["update"], e["how"], e["message"]) for e in events(tmp_path) if e["event"] == "end"] == [
        (5, "stopped", "signal 15"), (9, "stopped", "signal 15"),
    ]  # fmt: skip


def test_a_flood_of_warnings_is_bounded_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_WARNINGS", 3)
    with recorded(tmp_path) as record:
        record.started(0, world=WORLD, precision="fp32")
        for i in range(7):
            LOGGER.warning("row %d", i)
    assert [e["message"] for e in events(tmp_path) if e["event"] == "warning"] == [
        "row 0", "row 1", "row 2 (the last of 3 warnings that are kept; later ones are on the terminal only)",
    ]  # fmt: skip


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with recorded(None) as record:
        record.started(0, world=WORLD, precision="fp32")
        LOGGER.warning("row 3")
    assert not list(tmp_path.iterdir())


def test_what_fails_before_a_new_run_has_begun_leaves_nothing(tmp_path):
    def run():
        with recorded(tmp_path):
            LOGGER.warning("row 3")
            raise TrainingError("no such model")

    with pytest.raises(TrainingError):
        run()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_does_not_end_a_run_for_a_warning(tmp_path):
    with recorded(tmp_path / "gone") as record:
        with pytest.raises(OSError, match="gone"):
            record.started(0, world=WORLD, precision="fp32")
        LOGGER.warning("row 3")
