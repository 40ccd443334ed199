"""What keeps a run from harm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audio_ssl.errors import CheckpointError, TrainingError
from audio_ssl.train.guard import StopRequest, locked_run_folder, require_disk_space


def test_a_second_process_in_the_run_folder_is_refused_with_the_owner(tmp_path):
    code = (
        "import sys; from pathlib import Path; from audio_ssl.errors import TrainingError\n"
        "from audio_ssl.train.guard import locked_run_folder\n"
        "try:\n    with locked_run_folder(Path(sys.argv[1])): print('entered')\n"
        "except TrainingError as error: print(error)\n"
    )

    def second() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
        ).stdout

    with locked_run_folder(tmp_path):
        assert f"in use by another process (pid {os.getpid()})" in second()
    assert second() == "entered\n"


def test_a_run_folder_that_cannot_be_made_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with (
        pytest.raises(TrainingError, match="file/run must be a folder that can be written"),
        locked_run_folder(blocker / "run"),
    ):
        pass


def test_too_little_disk_is_refused_before_the_start(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000_000})
    monkeypatch.setattr("audio_ssl.train.guard.shutil.disk_usage", lambda _: usage)
    require_disk_space(tmp_path, 9_000_000)
    with pytest.raises(CheckpointError, match="11 MB needed, 10 MB free"):
        require_disk_space(Path(tmp_path), 11_000_000)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_handlers_come_back(signum):
    before = signal.getsignal(signum)
    with StopRequest().listening() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
    assert signal.getsignal(signum) is before


def test_a_second_interrupt_ends_at_once():
    with StopRequest().listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
