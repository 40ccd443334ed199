"""What holds for all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No test is judged by its time, for the machine may be busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture
def say(monkeypatch, capfd) -> Callable[..., str]:
    """What the console script's entry point says, in this process; any exception but its own ending fails the test."""

    from audio_ssl.cli.main import run

    def call(*args: str | Path, status: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["audio-ssl", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        said = "".join(capfd.readouterr())
        assert (ended.value.code or 0) == status, said
        assert "Traceback" not in said
        return said

    return call
