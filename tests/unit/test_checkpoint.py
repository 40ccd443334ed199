"""The file format: whole or not at all, strict by name, no code run on loading."""

import pytest
import torch
from torch import nn

from audio_ssl.checkpoint import (
    load_strict,
    load_tensors,
    read_document,
    remove_drafts,
    remove_whole,
    replaced_directory,
    save_model,
    save_tensors,
    write_text,
)
from audio_ssl.errors import CheckpointError


def test_a_model_directory_reads_back_equal(tmp_path):
    tensors = {"encoder.a": torch.arange(6.0).view(2, 3), "head.b": torch.tensor([1, 2, 3])}
    with replaced_directory(tmp_path / "m") as draft:
        save_model(draft, document={"kind": "ctc", "model": {"dim": 7}}, tensors=tensors)
    assert read_document(tmp_path / "m") == {"format_version": 1, "kind": "ctc", "model": {"dim": 7}}
    found = load_tensors(tmp_path / "m" / "model.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == tensors[k].dtype for k in tensors)


def test_a_failed_write_leaves_the_old_directory_and_no_litter(tmp_path):
    place = tmp_path / "m"
    with replaced_directory(place) as draft:
        (draft / "x").write_text("old")

    def fail() -> None:
        with replaced_directory(place) as draft:
            (draft / "x").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left on device.*Earlier checkpoints are intact"):
        fail()
    assert (place / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_new_directory_replaces_the_old_whole(tmp_path):
    for name in ("one", "two"):
        with replaced_directory(tmp_path / "m") as draft:
            (draft / name).write_text(name)
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_truncated_weights_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"model\.safetensors must be a whole safetensors file"):
        load_tensors(path)


def test_a_pickle_is_refused_not_run(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError):
        load_tensors(path)


@pytest.mark.parametrize("text", ["format_version = 99\n", "kind = 'ctc'\n", "= 3", None])
def test_a_wrong_document_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.toml"):
        read_document(tmp_path)


def test_strict_load_lists_every_fault_and_changes_nothing():
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(CheckpointError) as caught:
        load_strict(module, {"weight": torch.zeros(2, 5), "extra": torch.zeros(1)}, source="here")
    message = str(caught.value)
    assert "missing: bias" in message
    assert "unexpected: extra" in message
    assert "shape of weight must be (2, 3), got (2, 5)" in message
    assert torch.equal(module.weight, before)


def test_shared_storage_is_written_twice(tmp_path):
    shared = torch.arange(4.0)
    save_tensors(tmp_path / "t.safetensors", {"a": shared, "b": shared[1:3]})
    found = load_tensors(tmp_path / "t.safetensors")
    assert found["b"].tolist() == [1.0, 2.0]


def test_a_directory_is_removed_whole(tmp_path, monkeypatch):
    (tmp_path / "step_3").mkdir()
    monkeypatch.setattr("audio_ssl.checkpoint.shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError("killed")))
    remove_whole(tmp_path / "step_3")
    monkeypatch.undo()
    assert not (tmp_path / "step_3").exists()
    remove_drafts(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_stays_as_it_was_and_leaves_no_draft(tmp_path, monkeypatch):
    write_text(tmp_path / "config.toml", "before")
    monkeypatch.setattr("audio_ssl.checkpoint._sync_path", lambda path: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_text(tmp_path / "config.toml", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    assert (tmp_path / "config.toml").read_text() == "before"


def test_what_a_kill_left_half_done_is_undone(tmp_path):
    """Killed while one directory took another's place: the old one, the new one's draft, or both are there."""
    for name, kept in (("a", "old"), ("b", "new")):
        for directory, text in ((f".{name}.7.tmp", "draft"), (f".{name}.7.old", "old")):
            (tmp_path / directory).mkdir()
            (tmp_path / directory / "x").write_text(text)
        if kept == "new":
            (tmp_path / name).mkdir()
            (tmp_path / name / "x").write_text("new")
    remove_drafts(tmp_path)
    assert {path.name: (path / "x").read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "new"}
