"""Calls a verb of ``audio-ssl manifest`` in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from audio_ssl.cli.manifest import app
from audio_ssl.errors import AudioSSLError


def call(*arguments: object) -> str:
    """Standard output of a verb; errors for users come out as they are."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout
