"""Peers that not every machine can import. fairseq2 needs a libsndfile; the one inside the soundfile wheel will do."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from models import Break, tree, write_all

from audio_ssl.cli.main import run
from audio_ssl.data.engine_fairseq2 import preload_libsndfile


@pytest.fixture(scope="session")
def installed_peers(fairseq2):
    """All peers that have modules of their own, or a skip that says which is missing."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torchaudio.models", reason="torchaudio is not installed")


@pytest.fixture(scope="session")
def fairseq2():
    """The package, or a skip that says why it cannot be imported."""
    try:
        preload_libsndfile()
        return importlib.import_module("fairseq2")
    except (ImportError, OSError) as error:
        pytest.skip(f"fairseq2 cannot be imported: {error}")


@pytest.fixture(scope="session")
def fairseq():
    """The package with its wav2vec models, or a skip that says why it cannot be imported."""
    try:
        importlib.import_module("fairseq.models.wav2vec")
        importlib.import_module("fairseq.checkpoint_utils")
        return importlib.import_module("fairseq")
    except (ImportError, OSError, ValueError) as error:  # ValueError: its settings, from Python 3.11 on
        pytest.skip(f"fairseq cannot be imported: {error}")


@pytest.fixture
def refused(monkeypatch, capfd) -> Callable[..., str]:
    """The console script's entry point, for what ends with status 2 and one message; gives the message."""

    def call(*args: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["audio-ssl", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        said = capfd.readouterr()
        assert ended.value.code == 2, said
        assert said.err.count("error: ") == 1, said.err
        assert "wrote" not in said.out
        return said.err[said.err.index("error: ") :]

    return call


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> dict[str, dict[str, Path]]:
    """A recogniser, a pre-training model and an encoder alone in every format."""
    return {kind: write_all(tmp_path_factory.mktemp(kind), kind) for kind in ("ctc", "pretraining", "encoder")}


@pytest.fixture
def told(whole, tmp_path, refused) -> Callable[..., str]:
    """Copies a model, breaks it and converts it: gives the message, once all is seen to be as it was."""

    def call(system: str, break_it: Break, *, kind: str = "ctc") -> str:
        source = whole[kind][system]
        model = tmp_path / "model folder" / source.name
        shutil.copytree(source.parent, model.parent)
        break_it(model)
        before = tree(tmp_path)
        to = "transformers" if system == "audio_ssl" else "audio_ssl"
        said = refused("convert", model, tmp_path / "new" / "deep" / "out", "--to", to)
        assert tree(tmp_path) == before
        assert str(model.parent) in said, "the message must say where"
        assert len(said) < 4000
        return said

    return call
