"""The exceptions that users meet: one family, caught in one place (the command line).

A message says *what* must hold, *what* was found, *where* (file:line, dotted key, manifest row) and *what to do*.
This module knows nothing of the rest of the package.
"""

from __future__ import annotations


class AudioSSLError(Exception):
    """Base of every error that a user can cause and mend; the command line prints it without a traceback.

    Attributes:
        exit_status: of the command line; ``docs/runbook.md`` tells which are worth another try.
    """

    exit_status = 2


class ConfigError(AudioSSLError):
    """A configuration file or ``--set`` value is wrong; the message lists every fault by its dotted name."""


class ManifestError(AudioSSLError):
    """A manifest or a label file is wrong; the message names file and row."""


class AudioError(AudioSSLError):
    """An audio file cannot be read as the manifest says; the message names the file and the reason."""


class CheckpointError(AudioSSLError):
    """A model or training state cannot be read or written; what was there before is intact."""


class TrainingError(AudioSSLError):
    """A run must not go on (non-finite loss, too many bad rows, a run folder in use)."""


class PeerError(TrainingError):
    """Another rank of the run ended, so this one ends, too; going on with ``--resume auto`` is worth a try."""

    exit_status = 75  # "temporary failure" of sysexits.h


class MissingExtraError(AudioSSLError):
    """An optional package is needed; the message names the extra that installs it."""
