"""Standard error that may go away under a run: a terminal that is closed, a pipe whose reader has died, a full disk."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Iterable

_GONE_FOR_GOOD = (errno.EPIPE, errno.EIO, errno.EBADF)


class _LastingStream:
    """Passes everything on to a stream but for its errors: what a run says is worth less than the run.

    Args:
        stream: what to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._pass_over(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each, or lose it."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or lose what is left."""
        try:
            self._stream.flush()
        except OSError as error:
            self._pass_over(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _pass_over(self, error: OSError) -> None:
        """Nobody will read what is written from now on, unless there is only no room: that may come back."""
        if error.errno in _GONE_FOR_GOOD:
            with suppress(OSError, ValueError):  # a stream without a file
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


def lasting_stderr() -> TextIO:
    """Standard error whose loss does not end the process; a training run outlives its terminal."""
    return cast("TextIO", _LastingStream(sys.stderr))
