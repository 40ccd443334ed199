"""Pickled objects of fairseq, omegaconf and numpy are read as what they hold; whatever would run code is refused."""

from __future__ import annotations

import argparse
import builtins
import functools
import operator
import os
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from pickling import Call, foreign

from audio_ssl.errors import CheckpointError
from audio_ssl.interop.pickled import STAND_INS
from audio_ssl.interop.pt_file import read_pt

# fairseq 0.12.2 and omegaconf 2.0.6: OmegaConf.create(settings) with set_struct, a Dictionary with | and A, and an
# AverageMeter(round=3) after update(2.5, 2), written by torch.save of torch 1.12.1.
GOLDEN = Path(__file__).parents[1] / "golden" / "fairseq_omegaconf.pt"
SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "|", "E", "T"]


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_become_what_they_hold(tmp_path, zipped):
    with foreign("fairseq.data.dictionary.Dictionary", "fairseq.meters.AverageMeter") as (
        dictionary_class,
        meter_class,
    ):
        meters = OrderedDict(loss=meter_class(val=3.0, count=2))
        big = Call(np.float64(1).__reduce__()[0], np.dtype(">i4"), bytes([0, 0, 0, 9]))
        content = {
            "args": argparse.Namespace(lr=[0.1], arch="wav2vec2", betas=(0.9, 0.98)),
            "extra_state": {"train_meters": meters, "val_loss": np.float64(1.5), "best": np.float32(0.25)},
            "task_state": {"dictionaries": [dictionary_class(symbols=SYMBOLS, indices={"<s>": 0})]},
            "counts": defaultdict(list, {3: np.int64(-7), "is": np.bool_(True), "big": big}),
            "model": {"w": torch.arange(3)},
        }
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    read = read_pt(tmp_path / "a.pt")
    assert torch.equal(read.pop("model")["w"], torch.arange(3))
    assert read == {
        "args": {"lr": [0.1], "arch": "wav2vec2", "betas": [0.9, 0.98]},
        "extra_state": {"train_meters": {"loss": {"val": 3.0, "count": 2}}, "val_loss": 1.5, "best": 0.25},
        "task_state": {"dictionaries": [{"symbols": SYMBOLS, "indices": {"<s>": 0}}]},
        "counts": {3: -7, "is": True, "big": 9},
    }
    assert read["counts"]["is"] is True
    assert {type(read["counts"][3]), type(read["extra_state"]["val_loss"]), type(read["args"])} == {int, float, dict}


def test_a_file_of_fairseq_and_omegaconf_themselves():
    modules = set(sys.modules)
    read = read_pt(GOLDEN)
    inner = {"encoder_attention_heads": 3, "latent_temp": [2.0, 0.5, 0.999995], "final_dim": None}
    model = {"_name": "wav2vec_ctc", "encoder_embed_dim": 768, "normalize": "${task.normalize}", "data": "???"}
    assert read["cfg"] == {
        "model": {**model, "w2v_args": {"model": inner, "task": {"normalize": True}}},
        "task": {"_name": "audio_finetuning", "normalize": True, "labels": "ltr"},
    }
    assert read["task_state"]["target_dictionary"]["symbols"] == [*SYMBOLS[:5], "A"]
    assert read["extra_state"] == {"meter": {"val": 2.5, "sum": 5.0, "count": 2, "round": 3}, "val_loss": 1.5}
    assert not [m for m in set(sys.modules) - modules if m.startswith(("fairseq", "omegaconf"))]


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("true",), "posix.system"), (builtins.eval, ("1",), "builtins.eval"),
        (builtins.getattr, ("", "join"), "builtins.getattr"), (builtins.open, ("x", "w"), "open"),
        (functools.partial, (print,), "functools.partial"), (operator.attrgetter, ("x",), "operator.attrgetter"),
        (np.frombuffer, (b"",), "numpy.frombuffer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_by_name(tmp_path, monkeypatch, function, arguments, name, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "x": Call(function, *arguments)}, "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=rf"wants (\w+\.)?{name}, which would run its code") as error:
        read_pt(Path("a.pt"))
    assert "weights_only" not in str(error.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.pt"]


def test_objects_in_numpy_are_refused(tmp_path):
    torch.save({"x": np.array([{}], dtype=object)}, tmp_path / "array.pt")
    with pytest.raises(CheckpointError, match=r"wants numpy\._core\.multiarray\._reconstruct"):
        read_pt(tmp_path / "array.pt")
    scalar = np.float64(1).__reduce__()[0]
    torch.save({"x": [Call(scalar, np.dtype("O"), {})]}, tmp_path / "scalar.pt")
    with pytest.raises(CheckpointError, match=r"at x\.0 must hold numpy numbers only"):
        read_pt(tmp_path / "scalar.pt")


def test_what_has_no_plain_form_is_refused(tmp_path):
    for value, message in (
        (torch.arange(2).untyped_storage(), r"at x must hold tensors and plain values, got \w*Storage"),
        ({(1, 2): 3}, "at x must have names or numbers as keys, got tuple"),
    ):
        torch.save({"x": value}, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=rf"a\.pt {message}"):
            read_pt(tmp_path / "a.pt")


def test_stand_ins_keep_what_they_are_given_and_do_nothing(tmp_path):
    before = {cls: dict(vars(cls)) for cls, _ in STAND_INS}
    with foreign("fairseq.data.dictionary.Dictionary") as (dictionary_class,):
        state = {"__class__": "int", "__dict__": {"a": 1}, "__setstate__": "x", "symbols": ["a"]}
        torch.save({"x": Call(dictionary_class, "rm", 2, state=state)}, tmp_path / "a.pt")
        torch.save({"x": Call(OrderedDict, [["a", 1]], state={"items": "mine"})}, tmp_path / "ordered.pt")
        torch.save({"x": Call(dictionary_class, state=({"a": 1}, {"__class__": dict}))}, tmp_path / "slots.pt")
    assert read_pt(tmp_path / "a.pt") == {"x": state}
    assert read_pt(tmp_path / "ordered.pt") == {"x": {"a": 1}}
    with pytest.raises(CheckpointError, match=r"at x must hold a whole fairseq\.data\.dictionary\.Dictionary"):
        read_pt(tmp_path / "slots.pt")
    assert {cls: dict(vars(cls)) for cls, _ in STAND_INS} == before


def test_loops_depth_and_sharing_do_no_harm(tmp_path):
    loop: list = []
    loop.append(loop)
    deep: list = []
    shared: list = [1]
    for _ in range(150):
        deep = [deep]
    for _ in range(60):
        shared = [shared, shared]  # 2 ** 60 leaves, were they copied
    for name, value, message in (("loop", loop, "holds itself"), ("deep", deep, "at most 100 deep")):
        torch.save({"x": value}, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=message):
            read_pt(tmp_path / f"{name}.pt")
    wide = [[n] for n in range(300)]
    torch.save({"x": shared, "wide": wide}, tmp_path / "shared.pt")
    read = read_pt(tmp_path / "shared.pt")
    assert read["x"][0] is read["x"][1]
    assert read["wide"] == wide


def test_damaged_files_are_named(tmp_path):
    torch.save({"model": {"w": torch.arange(1000)}}, tmp_path / "a.pt")
    torch.save({"model": {"w": torch.arange(1000)}}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    whole, legacy = (tmp_path / "a.pt").read_bytes(), (tmp_path / "b.pt").read_bytes()
    faulty = {f"cut{n}": whole[:n] for n in (3, 40, 900, len(whole) - 30)}
    faulty |= {f"old{n}": legacy[:n] for n in (1, 30, 200, len(legacy) - 30)}
    faulty |= {"empty": b"", "text": b"model: 7\n", "noise": bytes(range(256)) * 9, "stack": b"\x80\x02u."}
    for name, content in faulty.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{name} must be a whole torch file, but .* \(\w") as error:
            read_pt(tmp_path / name)
        assert "weights_only" not in str(error.value)
    with pytest.raises(CheckpointError, match="whole torch file"):
        read_pt(tmp_path)
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "script.pt")
    with pytest.raises(CheckpointError, match="TorchScript") as error:
        read_pt(tmp_path / "script.pt")
    assert "to `False`" not in str(error.value)  # torch's advice, which would run the file's code
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="must hold a dictionary of tensors, got list"):
        read_pt(tmp_path / "list.pt")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_tensors_stay_in_the_file(tmp_path):
    torch.save({"model": {"w": torch.arange(5)}}, tmp_path / "mapped.pt")
    content = read_pt(tmp_path / "mapped.pt")
    assert "mapped.pt" in Path("/proc/self/maps").read_text()
    content["model"]["w"].zero_()  # in memory only
    assert read_pt(tmp_path / "mapped.pt")["model"]["w"].tolist() == [0, 1, 2, 3, 4]
