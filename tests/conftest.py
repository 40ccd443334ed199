"""What holds for all tests."""

import io
import logging
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings

# No test is judged by its time, for the machine may be busy.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def say() -> Callable[..., str]:
    """What the console script's entry point says, in this process; any exception but its own ending fails the test.

    This process has torch already, whose import is most of a child's time.
    """

    from audio_ssl.cli.main import run

    def call(*args: str | Path, status: int = 0) -> str:
        # strict, as in most locales of users: a character that cannot be printed must not end in a traceback
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with (
            mock.patch.object(sys, "argv", ["audio-ssl", *map(str, args)]),
            mock.patch.dict(os.environ, COLUMNS="200", NO_COLOR="1"),
            # the script adds its own where there are none; pytest's are
            mock.patch.object(logging.root, "handlers", [*logging.root.handlers, logging.StreamHandler(err)]),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            run()
        said = "".join(stream.buffer.getvalue().decode() for stream in (out, err))
        assert (ended.value.code or 0) == status, said
        assert "Traceback" not in said
        return said

    return call
