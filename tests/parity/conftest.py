"""fairseq2 needs a libsndfile in the process; the one inside the soundfile wheel will do."""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fairseq2():
    """The package, or a skip that says why it cannot be imported."""
    try:
        import soundfile

        for library in sorted((Path(soundfile.__file__).parent / "_soundfile_data").glob("libsndfile*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("fairseq2")
    except (ImportError, OSError) as error:
        pytest.skip(f"fairseq2 cannot be imported: {error}")
