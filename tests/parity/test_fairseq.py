"""Against fairseq itself, where it can be imported: its loader takes our files, its models give our numbers."""

from __future__ import annotations

import pytest
import torch
from peers import (
    OBJECTIVE,
    SEEDS,
    SYMBOLS,
    assert_same_frames,
    batches,
    random_config,
    random_encoder,
    random_objective,
)

from audio_ssl.interop.convert import convert
from audio_ssl.interop.source import load_ctc
from audio_ssl.model import files
from audio_ssl.model.ctc import CTCModel


def _load(fairseq, path):
    """Model, settings and task by fairseq's own strict loader, from a file that it would find its dictionary beside."""
    models, config, task = fairseq.checkpoint_utils.load_model_ensemble_and_task(
        [str(path)], arg_overrides={"data": str(path.parent)}, strict=True
    )
    return models[0].eval(), config, task


def _save(path, model, config, task):
    """As its trainer does, but with the settings as they are in memory: omegaconf's objects, not plain ones."""
    torch.save({"args": None, "cfg": config, "model": model.state_dict(), "task_state": task.state_dict()}, path)


@pytest.mark.parametrize("seed", SEEDS)
def test_pretraining_model_gives_fairseqs_frames_and_comes_back(fairseq, tmp_path, seed):
    config = random_config(seed)
    modules = {"encoder": random_encoder(config), "objective": random_objective(config)}
    files.save_model_dir(tmp_path / "ours", files.pretraining_document(config, OBJECTIVE), modules)
    convert(tmp_path / "ours", tmp_path / "theirs.pt", to="fairseq")
    model, settings, task = _load(fairseq, tmp_path / "theirs.pt")
    for waveforms, num_samples in batches(config):
        is_padding = torch.arange(waveforms.shape[1]) >= num_samples[:, None]
        with torch.no_grad():
            theirs = model(waveforms, padding_mask=is_padding, features_only=True, mask=False)
            ours = modules["encoder"](waveforms, num_samples)
        if is_padding.any():
            assert torch.equal(ours.is_valid, ~theirs["padding_mask"])
        assert_same_frames(ours.frames, theirs["x"], is_valid=ours.is_valid)
    _save(tmp_path / "again.pt", model, settings, task)
    convert(tmp_path / "again.pt", tmp_path / "back", to="audio_ssl")
    before, after = files.read_model_dir(tmp_path / "ours"), files.read_model_dir(tmp_path / "back")
    assert all(torch.equal(after.tensors[k], v) for k, v in before.tensors.items())
    assert after.document == before.document


def test_ctc_model_gives_fairseqs_letters_and_comes_back_with_its_dictionary(fairseq, tmp_path):
    config = random_config(3)
    model = CTCModel(random_encoder(config), len(SYMBOLS)).eval()
    document = files.ctc_document(config, symbols=SYMBOLS)
    files.save_model_dir(tmp_path / "ours", document, {"encoder": model.encoder, "head": model.head})
    convert(tmp_path / "ours", tmp_path / "out" / "theirs.pt", to="fairseq")
    theirs, settings, task = _load(fairseq, tmp_path / "out" / "theirs.pt")
    row_of = {"<pad>": "<s>"}  # the blank: ours, and theirs in the first row
    rows = [task.target_dictionary.index(row_of.get(symbol, symbol)) for symbol in SYMBOLS]
    _save(tmp_path / "again.pt", theirs, settings, task)  # no dict.ltr.txt beside this one
    convert(tmp_path / "again.pt", tmp_path / "back", to="audio_ssl")
    back, document = load_ctc(tmp_path / "back")
    columns = [document["ctc"]["symbols"].index(symbol) for symbol in SYMBOLS]
    for waveforms, num_samples in batches(config):
        is_padding = torch.arange(waveforms.shape[1]) >= num_samples[:, None]
        with torch.no_grad():
            expected, num_frames = model(waveforms, num_samples)
            found = theirs(source=waveforms, padding_mask=is_padding)["encoder_out"].transpose(0, 1).log_softmax(-1)
            again, _ = back(waveforms, num_samples)
        is_valid = torch.arange(expected.shape[1]) < num_frames[:, None]
        assert_same_frames(expected, found[..., rows], is_valid=is_valid)
        assert_same_frames(again[..., columns], found[..., rows], is_valid=is_valid)
