"""From [text] and [vocabulary] to a model directory that keeps them, to a run that goes on, and to text."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from rich.console import Console

import audio_ssl
from audio_ssl.checkpoint import load_tensors, read_document
from audio_ssl.config import FinetuneConfig, TextRules
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.vocabulary import vocabulary_in
from audio_ssl.errors import CheckpointError, ConfigError
from audio_ssl.inference.models import open_recogniser
from audio_ssl.train.checkpoints import _refuse_another_model
from audio_ssl.train.finetune import finetune

RATE = 16000
MODEL = {
    "preset": "tiny_cpu", "conv_dims": (8,) * 7, "dim": 24, "num_heads": 3, "num_layers": 1, "ffn_dim": 31,
    "pos_conv_groups": 4, "pos_conv_kernel": 8,
}  # fmt: skip
TEXTS = ("The CAT, the dog!", "Don’t: the dog", "the cat — привет")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    root, generator = tmp_path_factory.mktemp("spoken"), np.random.default_rng(0)
    rows = []
    for i, text in enumerate(TEXTS):
        sf.write(root / f"{i}.wav", 0.1 * generator.standard_normal(RATE), RATE)
        rows.append(Utterance(f"u{i}", f"{i}.wav", 0, RATE, RATE, text=text, language="ru" if i == 2 else "en"))
    Manifest.from_rows(rows, root=root).write(root / "list.tsv")
    return root / "list.tsv"


def tuned(manifest: Path, run_dir: Path, *, resume: str = "never", num_updates: int = 2, **sections) -> str:
    """Fine-tune for a moment; what was said."""
    data = {"train": [manifest], "batch_s": 3.0, "micro_batch_s": 3.0, "max_s": 2.0, "num_workers": 0}
    run = {"dir": run_dir, "device": "cpu", "precision": "fp32", "num_updates": num_updates, "save_every": 1}
    start = {} if "init_from" in sections else {"model": MODEL}
    console = Console(width=500, file=io.StringIO())
    finetune(FinetuneConfig(**start, data=data, run=run, **sections), resume=resume, console=console)
    return console.file.getvalue()


def test_rules_and_rare_characters_reach_the_model(manifest, tmp_path):
    text = {"punctuation": "remove", "case": "upper", "replace": {"’": "'"}}
    said = tuned(manifest, tmp_path / "run", text=text, vocabulary={"min_count": 2})
    vocabulary = open_recogniser(tmp_path / "run").vocabulary
    assert vocabulary.rules == TextRules(**text)
    assert vocabulary.symbols[3:] == tuple("ACDEGHOT")  # twice or more: N, ' and Cyrillic letters are rarer
    assert "vocabulary: 11 characters: <pad> <unk> | A C D E G H O T" in said
    assert "letters of language en: 22 Latin" in said
    assert "letters of language ru: 6 Latin, 6 Cyrillic" in said
    assert "'П' (U+041F CYRILLIC CAPITAL LETTER PE) 1 times" in said


@pytest.fixture(scope="module")
def pieces_run(manifest, tmp_path_factory) -> Path:
    pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    run = tmp_path_factory.mktemp("pieces") / "run"
    tuned(manifest, run, vocabulary={"units": "pieces", "num_pieces": 25})
    return run


def test_pieces_stand_in_every_directory_of_the_model(pieces_run):
    model = open_recogniser(pieces_run).vocabulary
    assert model.separator is None
    assert len(model) == 25
    checkpoint = sorted((pieces_run / "checkpoints").glob("step_*"))[-1]
    for place in (pieces_run / "model", checkpoint):
        assert (place / "sentencepiece.model").read_bytes() == model.model
        assert vocabulary_in(read_document(place)["ctc"], source=place) == model
    assert "  sentencepiece.model\n" in (checkpoint / "SHA256SUMS").read_text()
    waveform = np.random.default_rng(3).standard_normal(RATE).astype(np.float32)
    assert isinstance(audio_ssl.transcribe(pieces_run, [waveform], sample_rate_hz=RATE)[0], str)


def test_a_run_with_pieces_goes_on(manifest, tmp_path, pieces_run):
    pieces = {"units": "pieces", "num_pieces": 25}
    tuned(manifest, tmp_path / "run", vocabulary=pieces, num_updates=1)
    tuned(manifest, tmp_path / "run", vocabulary=pieces, num_updates=2, resume="auto")
    assert open_recogniser(tmp_path / "run").vocabulary == open_recogniser(pieces_run).vocabulary
    other = {"units": "pieces", "num_pieces": 24}
    with pytest.raises(CheckpointError, match=r"ctc.sentencepiece \(checkpoint: 'SHA-256 .*, now: 'SHA-256 "):
        tuned(manifest, tmp_path / "run", vocabulary=other, num_updates=3, resume="auto")


@pytest.mark.parametrize("how", ["grow", "fit"])
def test_a_recogniser_of_pieces_is_the_start_of_another(manifest, tmp_path, pieces_run, how):
    said = tuned(manifest, tmp_path / "run", init_from=pieces_run, optim={"lr": 1e-12}, ctc={"old_head": how})
    assert "25 symbols keep their weights" in said
    assert open_recogniser(tmp_path / "run").vocabulary == open_recogniser(pieces_run).vocabulary
    was, now = (load_tensors(run / "model/model.safetensors")["head.weight"] for run in (pieces_run, tmp_path / "run"))
    assert (was - now).abs().max() < 1e-6
    Manifest.from_rows(
        [Utterance("u", str(manifest.parent / "0.wav"), 0, RATE, RATE, text="the ñandú")], root=tmp_path
    ).write(tmp_path / "more.tsv")
    with pytest.raises(ConfigError, match="cannot grow, but they have 'ñ' 'ú'"):
        tuned(tmp_path / "more.tsv", tmp_path / "other", init_from=pieces_run)


def test_a_run_from_before_there_were_rules_goes_on():
    now = {"kind": "ctc", "ctc": {"symbols": ["a"], "text": TextRules(case="keep").model_dump(mode="json")}}
    _refuse_another_model({"format_version": 1, "kind": "ctc", "ctc": {"symbols": ["a"], "lowercase": False}}, now, "x")
    with pytest.raises(CheckpointError, match=r"ctc.text.case \(checkpoint: 'lower', now: 'keep'\)"):
        _refuse_another_model({"kind": "ctc", "ctc": {"symbols": ["a"], "lowercase": True}}, now, "x")
