"""A head that goes on: what it knew it still knows, and what is new changes no answer before the first update."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from rich.console import Console

from audio_ssl.checkpoint import load_tensors, read_document
from audio_ssl.config import CTCConfig, FinetuneConfig, ModelConfig, TextRules
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.text import Vocabulary
from audio_ssl.errors import ManifestError
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, save_model_dir
from audio_ssl.train.finetune import finetune
from audio_ssl.train.growing import OldHead, chosen_vocabulary, describe_start, start_head

RATE = 16000
MODEL = {
    "preset": "tiny_cpu", "conv_dims": (8,) * 7, "dim": 24, "num_heads": 3, "num_layers": 1, "ffn_dim": 31,
    "pos_conv_groups": 4, "pos_conv_kernel": 8,
}  # fmt: skip
OLD = Vocabulary(("<pad>", "<s>", "|", "E", "T", "<unk>", "A"), TextRules(case="upper"))


def old(vocabulary: Vocabulary = OLD, *, dim: int = 24) -> OldHead:
    generator = torch.Generator().manual_seed(5)
    weight, bias = torch.randn(len(vocabulary), dim, generator=generator), torch.randn(len(vocabulary))
    return OldHead(Path("old"), vocabulary, weight, bias)


def started(head: OldHead, vocabulary: Vocabulary, **more) -> CTCModel:
    torch.manual_seed(1)
    model = CTCModel(build_encoder(ModelConfig(**MODEL)), len(vocabulary), **more)
    start_head(model, head, vocabulary)
    return model


def config(how: str, **sections) -> FinetuneConfig:
    return FinetuneConfig(
        init_from="old", ctc=CTCConfig(old_head=how), data={"train": ["a.tsv"]}, run={"dir": "run"}, **sections
    )


def test_what_becomes_of_the_vocabulary():
    texts = ["tee", "Bat ñ"]
    assert chosen_vocabulary(config("grow"), texts, old()).symbols == (*OLD.symbols, "B", "Ñ")
    assert chosen_vocabulary(config("grow", vocabulary={"min_count": 2}), [*texts, "b"], old()).symbols == (
        *OLD.symbols,
        "B",
    )
    assert chosen_vocabulary(config("grow"), ["a tea"], old()) is OLD  # nothing new: the very same
    fit = chosen_vocabulary(config("fit"), texts, old())
    assert (set(fit.symbols), fit.rules) == ({"<pad>", "<unk>", "|", "A", "B", "E", "T", "Ñ"}, OLD.rules)
    fresh = chosen_vocabulary(config("grow"), texts, None)
    assert (set(fresh.symbols), fresh.rules.case) == ({"<pad>", "<unk>", "|", "a", "b", "e", "t", "ñ"}, "lower")


def test_rows_move_by_symbol_to_the_bit_and_new_ones_are_the_mean_of_the_letters():
    head, vocabulary = old(), Vocabulary(("<pad>", "<unk>", "|", "A", "B", "T", "Ñ"), OLD.rules)
    model = started(head, vocabulary)
    for symbol in ("<pad>", "<unk>", "|", "A", "T"):
        assert torch.equal(model.head.weight[vocabulary.index[symbol]], head.weight[OLD.index[symbol]])
        assert torch.equal(model.head.bias[vocabulary.index[symbol]], head.bias[OLD.index[symbol]])
    for symbol in ("B", "Ñ"):
        row = vocabulary.index[symbol]
        torch.testing.assert_close(model.head.weight[row], (head.weight[3] + head.weight[4] + head.weight[6]) / 3)
        torch.testing.assert_close(model.head.bias[row], (head.bias[3] + head.bias[4] + head.bias[6]) / 3)
    start = describe_start(head, vocabulary, {vocabulary.index["A"]: 7, vocabulary.index["Ñ"]: 1})
    assert start.kept == ("<pad>", "<unk>", "|", "A", "T")
    assert (start.new, start.left_behind, start.unseen) == (("B", "Ñ"), ("<s>", "E"), ("T",))
    assert [line.split(": ")[-1] for line in start.remarks()[1:]] == ["B Ñ", "<s> E", "T"]


def test_the_same_vocabulary_goes_on_to_the_bit():
    head = old()
    model = started(head, OLD)
    assert torch.equal(model.head.weight, head.weight)
    assert torch.equal(model.head.bias, head.bias)


def test_growing_changes_no_answer():
    head = old()
    before, after = started(head, OLD).eval(), started(head, OLD.grown(["bñ xyz"])).eval()
    waveforms = torch.randn(5, 9001, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        old_scores = before(waveforms, torch.full((5,), 9001))[0]
        new_scores = after(waveforms, torch.full((5,), 9001))[0]
    assert new_scores.shape[-1] == old_scores.shape[-1] + 5
    assert torch.equal(old_scores.argmax(-1), new_scores.argmax(-1))
    # ... and what the old symbols score beside one another is as it was
    torch.testing.assert_close(new_scores[..., :7].log_softmax(-1), old_scores)


def test_a_symbol_that_could_never_win_starts_as_a_new_one():
    head = old()
    head.weight[OLD.index["T"]], head.bias[OLD.index["T"]] = 0.0, -1e4  # as an import fills in what a system lacks
    model = started(head, OLD)
    torch.testing.assert_close(model.head.bias[OLD.index["T"]], (head.bias[3] + head.bias[6]) / 2)
    assert describe_start(head, OLD, {}).new == ("T",)


def test_what_tells_the_blocks_goes_along_by_symbol():
    condition = torch.randn(24, len(OLD)), torch.randn(24)
    head = OldHead(Path("old"), OLD, old().weight, old().bias, condition)
    vocabulary = Vocabulary(("<pad>", "<unk>", "|", "B", "E"), OLD.rules)
    model = started(head, vocabulary, conditioned_after=(1,))
    expected = torch.stack(
        [condition[0][:, 0], condition[0][:, 5], condition[0][:, 2], torch.zeros(24), condition[0][:, 3]], 1
    )
    assert torch.equal(model.condition.weight, expected)
    assert torch.equal(model.condition.bias, condition[1])


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    texts = {"train": ("tea", "eat a", "tñ", "at", "EAT é", "tee t", "ate"), "valid": ("tea at", "eñ")}
    for split, of_split in texts.items():
        rows = []
        for i, text in enumerate(of_split):
            length = 9001 + 1003 * i + (500 if split == "valid" else 0)
            sf.write(root / f"{split}{i}.wav", 0.1 * generator.standard_normal(length), RATE)
            rows.append(Utterance(f"{split}{i}", f"{split}{i}.wav", 0, length, RATE, text=text, speaker=split))
        Manifest.from_rows(rows, root=root).write(root / f"{split}.tsv")
    return root


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory) -> Path:
    torch.manual_seed(7)
    model = CTCModel(build_encoder(ModelConfig(**MODEL)), len(OLD))
    place = tmp_path_factory.mktemp("recogniser") / "model"
    document = ctc_document(ModelConfig(**MODEL), symbols=OLD.symbols, rules=OLD.rules)
    save_model_dir(place, document, {"encoder": model.encoder, "head": model.head})
    return place


def tune(speech: Path, run_dir: Path, *, resume: str = "never", is_dry: bool = False, **sections) -> str:
    run = {"dir": run_dir, "device": "cpu", "precision": "fp32", "num_updates": 2, "log_every": 1, "save_every": 1,
           "validate_every": 2}  # fmt: skip
    data = {
        "train": [speech / "train.tsv"], "valid": [speech / "valid.tsv"], "batch_s": 4.0, "micro_batch_s": 2.0,
        "max_s": 2.0, "num_workers": 0,
    }  # fmt: skip
    settings = FinetuneConfig(**{"data": data, **sections, "run": {**run, **sections.get("run", {})}})
    console = Console(width=400, file=io.StringIO())
    finetune(settings, resume=resume, console=console, is_dry=is_dry)
    return console.file.getvalue()


def test_a_recogniser_grows_is_written_and_goes_on(speech, recogniser, tmp_path):
    said = tune(speech, tmp_path / "run", init_from=recogniser)
    assert f"head from {recogniser}: 7 symbols keep their weights" in said
    assert "new symbols, which start as the mean of the letters: É Ñ" in said
    assert f"text rules are those of {recogniser}" in said
    section = read_document(tmp_path / "run" / "model")["ctc"]
    assert tuple(section["symbols"]) == (*OLD.symbols, "É", "Ñ")
    assert section["text"]["case"] == "upper"
    found = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert found["head"]["new"] == ["É", "Ñ"]
    # Two updates with warm-up move it hardly: it did not start from nothing.
    moved = load_tensors(tmp_path / "run" / "model" / "model.safetensors")["head.weight"][:7]
    before = load_tensors(recogniser / "model.safetensors")["head.weight"]
    assert (moved - before).abs().max() < 1e-3
    assert not torch.equal(moved, before)
    again = tune(speech, tmp_path / "again", init_from=tmp_path / "run")
    assert "9 symbols keep their weights" in again
    assert "new symbols" not in again
    resumed = tune(speech, tmp_path / "run", init_from=recogniser, resume="auto", run={"num_updates": 3})
    assert "resumed from update 2" in resumed


@pytest.mark.parametrize(("how", "num_symbols", "first"), [("fit", 8, "A"), ("new", 8, "a")])
def test_other_fates_of_the_head(speech, recogniser, tmp_path, how, num_symbols, first):
    said = tune(speech, tmp_path / "run", init_from=recogniser, ctc={"old_head": how})
    section = read_document(tmp_path / "run" / "model")["ctc"]
    assert (len(section["symbols"]), section["symbols"][3]) == (num_symbols, first)
    assert ("symbols that are left behind: <s>" in said) == (how == "fit")
    weight = load_tensors(tmp_path / "run" / "model" / "model.safetensors")["head.weight"]
    of_a = load_tensors(recogniser / "model.safetensors")["head.weight"][6]
    assert ((weight[3] - of_a).abs().max() < 1e-3) == (how == "fit")


def test_the_report_is_there_before_training_and_by_a_dry_run_it_is_only_said(speech, tmp_path):
    said = tune(speech, tmp_path / "dry", model=MODEL, is_dry=True)
    assert said.startswith("before training: ")
    assert "note: data.train: 2 characters stand in one transcript only: 'é' 'ñ': " in said
    assert not (tmp_path / "dry").exists()
    assert said.index("before training") < said.index("effective batch")


def test_what_refuses_leaves_the_report_and_no_checkpoint(speech, tmp_path):
    same = {"train": [speech / "train.tsv"], "valid": [speech / "train.tsv"], "num_workers": 0}
    with pytest.raises(
        ManifestError, match=r"(?s)7 of 7 rows have audio that is in data\.train.*every row is in .*run/pre"
    ):
        tune(speech, tmp_path / "run", model=MODEL, data=same)
    found = json.loads((tmp_path / "run" / "preflight.json").read_text())
    (refused,) = (notice for notice in found["notices"] if notice["level"] == "refuse")
    assert [row["id"] for row in refused["rows"]] == [f"train{i}" for i in range(7)]
    assert not (tmp_path / "run" / "checkpoints").exists()
    said = tune(speech, tmp_path / "run", model=MODEL, data=same | {"batch_s": 4.0, "micro_batch_s": 2.0, "max_s": 2.0},
                preflight={"refuse_same_audio_share": 1.0})  # fmt: skip
    assert "note: data.valid: 7 of 7 rows have audio that is in data.train, too: " in said
    assert (tmp_path / "run" / "model").exists()
