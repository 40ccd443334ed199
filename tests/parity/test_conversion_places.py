"""Where a conversion writes: whole or not at all, over nothing, and what other verbs say of a broken MODEL."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from checkpoints import SYSTEMS
from models import edit_tensors, tree, weights_of

from audio_ssl.cli.main import run
from audio_ssl.interop import convert as conversion
from audio_ssl.interop import fairseq, fairseq2, huggingface_files, torchaudio

OUT = {"transformers": "out", "torchaudio": "out.pt", "fairseq": "out.pt", "fairseq2": "out.pt"}
# the last thing that each writer writes
LAST = {
    "audio_ssl": (conversion, "write_origin"),
    "transformers": (huggingface_files, "write_json"),
    "torchaudio": (torchaudio, "write_sidecar"),
    "fairseq": (fairseq, "save_pt"),
    "fairseq2": (fairseq2, "write_sidecar"),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("sort", ["file", "folder", "dangling link"])
def test_a_destination_that_exists_stays(whole, tmp_path, refused, system, sort):
    out = tmp_path / OUT[system]
    if sort == "file":
        out.write_text("precious")
    elif sort == "folder":
        (out / "deep").mkdir(parents=True)
        (out / "deep" / "notes.txt").write_text("precious")
    else:
        out.symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    said = refused("convert", whole["ctc"]["audio_ssl"], out, "--to", system)
    assert f"{out} must not exist yet; remove it or choose another name" in said
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("system", "name", "content"),
    [
        ("fairseq", "dict.ltr.txt", "x 1\n"),
        ("torchaudio", "out.toml", "mine"),
        ("torchaudio", "out.rest.safetensors", "mine"),
        ("fairseq2", "out.toml", "mine"),
    ],
)
def test_what_stands_beside_the_destination_stays(whole, tmp_path, refused, system, name, content):
    (tmp_path / name).write_text(content)
    before = tree(tmp_path)
    said = refused("convert", whole["ctc"]["audio_ssl"], tmp_path / "out.pt", "--to", system)
    assert f"{tmp_path / name} stands where {name} of this conversion must go; choose another directory" in said
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["out", "out.toml", "out.safetensors"])
def test_a_file_must_be_named_as_one(whole, tmp_path, refused, name):
    said = refused("convert", whole["ctc"]["audio_ssl"], tmp_path / name, "--to", "torchaudio")
    assert f"must have the name of a torch file, such as {tmp_path / 'out.pt'}" in said
    assert not list(tmp_path.iterdir())


def test_a_place_below_a_file(whole, tmp_path, refused):
    (tmp_path / "file").write_text("precious")
    said = refused("convert", whole["ctc"]["audio_ssl"], tmp_path / "file" / "sub" / "out.pt", "--to", "fairseq")
    assert f"{tmp_path / 'file' / 'sub' / 'out.pt'} must be writable" in said
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(whole, tmp_path, refused):
    (tmp_path / "locked").mkdir(mode=0o555)
    said = refused("convert", whole["ctc"]["audio_ssl"], tmp_path / "locked" / "out.pt", "--to", "fairseq")
    assert "must be writable with room to spare" in said
    assert not list((tmp_path / "locked").iterdir())


@pytest.fixture
def stopped(whole, tmp_path, monkeypatch):
    """Converts with one step replaced by an error, first done in part; gives the folder before it."""

    def call(system: str, place: tuple[object, str], error: BaseException) -> tuple[list[str | Path], dict[str, str]]:
        real = getattr(*place)

        def half(*args, **kwargs):
            real(*args, **kwargs)
            raise error

        monkeypatch.setattr(*place, half)
        (tmp_path / "there").mkdir()
        source = whole["ctc"]["fairseq2" if system == "audio_ssl" else "audio_ssl"]
        return ["convert", source, tmp_path / "there" / "new" / "out.pt", "--to", system], tree(tmp_path)

    return call


@pytest.mark.parametrize("system", LAST)
def test_a_disk_that_fills_up_leaves_nothing(stopped, tmp_path, refused, system):
    args, before = stopped(system, LAST[system], OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    said = refused(*args)
    assert "out.pt must be writable with room to spare: [Errno 28] No space left on device" in said
    assert tree(tmp_path) == before


@pytest.mark.parametrize("system", LAST)
@pytest.mark.parametrize("when", ["writing", "moving"])
def test_an_interruption_leaves_nothing(stopped, tmp_path, monkeypatch, system, when):
    place = LAST[system] if when == "writing" else (Path, "rename")
    args, before = stopped(system, place, KeyboardInterrupt())
    monkeypatch.setattr("sys.argv", ["audio-ssl", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
    assert tree(tmp_path) == before


@pytest.fixture
def sound(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    return tmp_path / "a.wav"


@pytest.mark.parametrize("system", ["audio_ssl", *SYSTEMS])
def test_every_verb_tells_of_a_broken_model(whole, tmp_path, refused, sound, system):
    shutil.copytree(whole["ctc"][system].parent, tmp_path / "copy")
    model = tmp_path / "copy" / whole["ctc"][system].name
    edit_tensors(model, lambda tensors: tensors.update({"classifier.weight": tensors.pop(a_bias(tensors))}))
    before = tree(tmp_path)
    for args in verbs(model, sound, tmp_path):
        said = refused(*args)
        assert "1 missing:\n" in said
        assert "1 unexpected:\n    - classifier.weight" in said
    weights_of(model).write_bytes(b"")
    for args in verbs(model, sound, tmp_path):
        assert "must be a whole" in refused(*args)
    shutil.rmtree(model) if model.is_dir() else model.unlink()
    for args in verbs(model, sound, tmp_path):
        assert "there is no such file" in refused(*args)
    assert tree(tmp_path).keys() - before.keys() <= {"run", "run/.lock"}  # of a run that never started


def a_bias(tensors: dict) -> str:
    return next(
        name
        for name in tensors
        if name.endswith(("0.attention.key.bias", "0.attention.k_proj.bias", "0.self_attn.k_proj.bias"))
    )


def verbs(model: Path, sound: Path, folder: Path) -> list[list[str | Path]]:
    data = [f"data.train=['{sound.parent}']", f"run.dir={folder / 'run'}"]
    sets = [part for setting in [f"init_from={model}", *data] for part in ("--set", setting)]
    return [
        ["extract", model, sound, folder / "embeddings"],
        ["transcribe", model, sound],
        ["finetune", "finetune/small", *sets],
    ]
