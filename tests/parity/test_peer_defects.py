"""Defects of other implementations that could be ours too: one law each, checked where users meet it.

Laws of the same kind that have their own file: a killed run goes on with the same batches (tests/e2e/test_console.py),
no key of a checkpoint is lost or unknown (tests/parity/test_convert.py), labels lie inside the vocabulary
(tests/unit/train/test_transcripts.py).
"""

from __future__ import annotations

import ast
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import random_config, random_encoder
from real_runs import (
    LENGTHS,
    RATE,
    UtteranceDraws,
    fresh_module,
    in_float64,
    noise,
    one_update,
    padded_batch,
    run_pretraining,
    settings_of,
    use_float64,
    watch,
    write_speech,
)
from rich.console import Console
from typer.testing import CliRunner

import audio_ssl
from audio_ssl.cli.evaluate_tables import tables
from audio_ssl.cli.manifest import app
from audio_ssl.config import (
    FinetuneConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    TextRules,
    load_config,
    shipped_configs,
)
from audio_ssl.data.loader import Loader
from audio_ssl.data.manifest import Manifest, Utterance
from audio_ssl.data.scan import scan
from audio_ssl.data.text import Vocabulary
from audio_ssl.evaluate.document import report_document
from audio_ssl.evaluate.scores import Evaluation, score_utterance
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import encoder_document, save_model_dir
from audio_ssl.objective import wav2vec2
from audio_ssl.tensors import Batch
from audio_ssl.train.ctc_validation import CTCValidation
from audio_ssl.train.datasets import open_training_data
from audio_ssl.train.distributed import World
from audio_ssl.train.schedules import learning_rate
from audio_ssl.train.session import Session
from audio_ssl.train.sinks import JsonLines
from audio_ssl.train.start import announce
from audio_ssl.train.state import Progress
from audio_ssl.train.stepper import Stepper
from audio_ssl.train.terminal import Lines
from audio_ssl.train.updates import open_updates

NORMS = (0, 1, 2, 3)  # both conv norms by both norm orders
SPEECH = (16_001, 4_001, 9_973, 12_007, 523)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small run fastest on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of_metrics(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def relative_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Length of the difference of two gradients against the length of the second."""
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([grads[name].double().flatten() for name in sorted(theirs)]) for grads in (ours, theirs))
    return float((a - b).norm() / b.norm())


# Objective


def test_distractors_are_other_masked_frames_of_their_utterance(monkeypatch):
    """speechbrain: negatives of row b drift by b frames into the utterance before it, and can equal the positive."""
    seen, packed = watch(monkeypatch), []
    pack = wav2vec2.pack_masked
    monkeypatch.setattr(wav2vec2, "pack_masked", lambda *a, **k: packed.append(pack(*a, **k)) or packed[-1])
    module, model, _ = fresh_module(num_distractors=307)
    for seed in range(5):
        module(padded_batch(), update=0, generator=torch.Generator().manual_seed(seed))
    num_frames = [model.geometry.num_frames(n) for n in LENGTHS]
    num_checked = 0
    for masks, frames, distractors in zip(seen.masks, packed, seen.distractors, strict=True):
        for row, position in frames.is_target.nonzero().tolist():
            masked = set(masks[row].nonzero().flatten().tolist())
            positive = int(frames.frame_idx[row, position])
            drawn = set(frames.frame_idx[row, distractors[row, position]].tolist())
            assert max(masked) < num_frames[row]
            assert positive in masked
            assert drawn == masked - {positive}  # 307 draws of at most 30: each of them comes up
            num_checked += 1
    assert num_checked == sum(int(mask.sum()) for mask in seen.masks) > 100


def test_the_contrastive_loss_of_a_row_knows_no_other_row(monkeypatch):
    """speechbrain: negatives come from the utterance before, so that a loss depends on who is beside it."""
    UtteranceDraws(monkeypatch)
    module, _, _ = fresh_module()

    def loss(*rows: int) -> float:
        return float(module(padded_batch(rows=rows), update=0, generator=torch.Generator()).sums["contrastive"])

    alone = [loss(i) for i in range(5)]
    assert min(alone[:4]) > 1
    for rows in ((0, 1, 2, 3, 4), (3, 0), (2, 1, 4), (4, 3, 2)):
        assert loss(*rows) == pytest.approx(sum(alone[i] for i in rows), rel=1e-5)


def test_masks_and_distractors_follow_seed_and_update_alone(monkeypatch, tmp_path):
    """fairseq: masks come from numpy's global generator, which nobody seeds."""
    speech = write_speech(tmp_path / "speech", SPEECH)

    def drawn(name: str, *, seed: int, meddles: bool) -> list[torch.Tensor]:
        with monkeypatch.context() as patch:
            seen = watch(patch)
            forward = wav2vec2.Wav2Vec2Objective.forward

            def meddled(*args, **kwargs):
                np.random.seed(7), random.seed(7), torch.manual_seed(7)
                return forward(*args, **kwargs)

            if meddles:
                patch.setattr(wav2vec2.Wav2Vec2Objective, "forward", meddled)
            run_pretraining(tmp_path / name, speech, run={"num_updates": 3, "seed": seed})
        return [*seen.masks, *seen.distractors]

    plain, again, other = (
        drawn("a", seed=1, meddles=False),
        drawn("b", seed=1, meddles=True),
        drawn("c", seed=2, meddles=False),
    )
    assert len(plain) == 6
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    for first, second in [*zip(plain, other, strict=True), *itertools.pairwise(plain[:3])]:  # seeds, then updates
        assert first.shape != second.shape or not torch.equal(first, second)


# Updates


def test_the_temperature_advances_once_an_update(monkeypatch, tmp_path):
    """fairseq2: a counter of forward passes drives it, k times too fast with k micro-batches an update."""
    seen = watch(monkeypatch)
    speech = write_speech(tmp_path / "speech", (16_001,) * 7)
    data = {"micro_batch_s": 2.0, "batch_s": 6.0}
    run_pretraining(tmp_path / "run", speech, data=data, run={"num_updates": 5}, objective={"gumbel_decay": 0.75})
    passes = itertools.groupby(seen.events, lambda event: event == "step")
    updates = [list(temperatures) for is_step, temperatures in passes if not is_step]
    assert [updates[i][0] for i in range(5)] == pytest.approx([2, 1.5, 1.125, 0.84375, 0.6328125])
    assert all(len(set(temperatures)) == 1 for temperatures in updates)
    assert max(map(len, updates)) > 1
    assert seen.events.count("step") == 5


SPLITS = [[(0,), (1, 2, 3), (4,)], [(4, 3, 2), (1, 0)], [(0,), (1,), (2,), (3,), (4,)]]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("split", SPLITS)
def test_accumulated_contrastive_gradients_are_those_of_the_whole_batch(monkeypatch, tmp_path, split, seed):
    """transformers: gradients are divided after every micro-batch, so that earlier ones are divided repeatedly.

    Exact for the contrastive term, however targets are spread over micro-batches (row 4 has none). In float64:
    float32 leaves 1e-6 to the rounding of convolutions of different widths.
    """
    UtteranceDraws(monkeypatch)
    use_float64(monkeypatch)
    given = {"whole": [(0, 1, 2, 3, 4)], "split": split}
    grads = {}
    for name, parts in given.items():
        module, *configs = fresh_module(seed, diversity_weight=0.0, feature_penalty_weight=0.0)
        with monkeypatch.context() as patch:
            seen = watch(patch)
            one_update(module.double(), *configs, [in_float64(padded_batch(rows=p)) for p in parts], tmp_path / name)
        (grads[name],) = seen.gradients
    assert relative_difference(grads["split"], grads["whole"]) < 1e-10


def test_accumulated_gradients_weigh_each_micro_batch_by_its_targets(monkeypatch, tmp_path):
    """transformers: as above; here with all terms.

    Code use and feature energy are averages, not sums: they are taken over a micro-batch and weighed by its targets.
    What is exact is then the mean over micro-batches, not the whole batch's value.
    """
    UtteranceDraws(monkeypatch)
    module, *configs = fresh_module(diversity_weight=0.7, feature_penalty_weight=3.0)
    batches = [padded_batch(rows=rows) for rows in SPLITS[0]]
    terms = [module(batch, update=0, generator=torch.Generator()) for batch in batches]
    num_targets = sum(float(term.num_targets) for term in terms)
    mean = sum(float(t.num_targets) / num_targets * (t.loss_sum / t.num_targets.clamp(min=1)) for t in terms)
    names, parameters = zip(*module.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(mean, parameters), strict=True))
    seen = watch(monkeypatch)
    one_update(module, *configs, batches, tmp_path)
    assert relative_difference(seen.gradients[0], expected) < 1e-6
    whole = module(padded_batch(), update=0, generator=torch.Generator()).sums["diversity"] / num_targets
    parts = sum(term.sums["diversity"] for term in terms) / num_targets
    assert abs(float(whole - parts)) > 1e-4


OPTIM_CHANGES = {
    "lr": 3e-4, "betas": (0.7, 0.98), "eps": 1e-3, "weight_decay": 0.5, "clip_norm": 1e-4, "schedule": "cosine",
    "warmup_share": 0.6, "hold_share": 0.4, "final_scale": 0.5, "optimizer": "muon", "decay_share": 0.6, "power": 3.0,
}  # fmt: skip
OPTIM_BASES = {
    "hold_share": {"schedule": "tri_stage"}, "decay_share": {"schedule": "wsd"}, "power": {"schedule": "polynomial"},
}  # fmt: skip


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech") / "speech", SPEECH)


def weights_after(run_dir: Path, speech: Path, monkeypatch, *, num_updates: int, **optim) -> tuple[dict, dict]:
    """Weights before and after a run."""
    with monkeypatch.context() as patch:
        seen = watch(patch)
        run_pretraining(run_dir, speech, optim=optim, run={"num_updates": num_updates})
    return seen.first_weights, {name: p.detach() for name, p in seen.module.named_parameters()}


# An average of the weights leaves the weights alone: tests/unit/train/test_averaging.py.
@pytest.mark.parametrize("flag", [flag for flag in OptimConfig.model_fields if flag != "ema_decay"])
def test_every_optimizer_flag_changes_the_weights(monkeypatch, tmp_path, speech, flag):
    """transformers: --weight_decay is parsed and never reaches AdamW."""
    base = OPTIM_BASES.get(flag, {})
    changed = {**base, flag: OPTIM_CHANGES[flag]}
    runs = [
        weights_after(tmp_path / name, speech, monkeypatch, num_updates=5, **optim)[1]
        for name, optim in (("base", base), ("changed", changed))
    ]
    assert any(not torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_takes_its_share_of_every_weight(monkeypatch, tmp_path, speech, optimizer):
    """transformers: --weight_decay never reaches AdamW. Ours decays norms and biases too, as fairseq does."""
    optim = {"lr": 0.01, "optimizer": optimizer}
    before, plain = weights_after(tmp_path / "a", speech, monkeypatch, num_updates=1, weight_decay=0.0, **optim)
    _, decayed = weights_after(tmp_path / "b", speech, monkeypatch, num_updates=1, weight_decay=0.5, **optim)
    for name, weight in before.items():
        torch.testing.assert_close(plain[name] - decayed[name], 0.01 * 0.5 * weight, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("schedule", ["linear", "polynomial", "tri_stage", "cosine", "wsd"])
def test_the_schedule_ends_with_the_run(tmp_path, speech, schedule):
    """fairseq: HuBERT's base_10h decays over 72 thousand updates, and ends before the rate is down."""
    optim = {"lr": 0.02, "schedule": schedule, "warmup_share": 0.3, "final_scale": 0.05}
    run_pretraining(tmp_path / "run", speech, optim=optim, run={"num_updates": 7})
    rates = [row["lr"] for row in rows_of_metrics(tmp_path / "run")]
    assert len(rates) == 7
    assert max(rates) == pytest.approx(0.02)
    assert rates[-1] == pytest.approx(0.001)
    assert min(rates[1:-1]) > 0.0011


@pytest.mark.parametrize("name", sorted(name for name in shipped_configs() if not name.startswith("probe/")))
def test_the_schedule_of_a_shipped_configuration_ends_with_its_run(name):
    """fairseq: HuBERT's base_10h is shipped with a decay that is longer than the run."""
    schema, given = (PretrainConfig, []) if name.startswith("pretrain") else (FinetuneConfig, ["init_from=x"])
    given = given if "[model]" not in shipped_configs()[name].read_text() else []
    config = load_config(schema, shipped_configs()[name], ["data.train=['a.tsv']", "run.dir=x", *given])
    optim, num_updates = config.optim, config.run.num_updates
    rates = [learning_rate(u, config=optim, num_updates=num_updates) for u in (num_updates - 2, num_updates - 1)]
    assert rates[0] > rates[1] == pytest.approx(optim.final_scale * optim.lr)


# Audio


def test_waveforms_reach_the_encoder_normalised_over_their_own_samples(monkeypatch, tmp_path):
    """fairseq2: its SSL recipe's normalize_audio does nothing; speechbrain: one mean and variance for a batch."""
    speech = write_speech(tmp_path / "speech", SPEECH)
    files = {n: tmp_path / "speech" / f"u{i}.flac" for i, n in enumerate(SPEECH)}
    model = {"normalize_waveform": True}
    seen = watch(monkeypatch)
    run_pretraining(tmp_path / "run", speech, model=model, data={"valid": [speech]}, run={"num_updates": 2})
    audio_ssl.load(tmp_path / "run").extract([str(path) for path in files.values()])
    assert len(seen.inputs) >= 4  # training, validation, extraction
    for waveforms, num_samples in seen.inputs:
        for waveform, length in zip(waveforms.double().numpy(), num_samples.tolist(), strict=True):
            kept = waveform[:length]
            samples = sf.read(files[length])[0]
            assert abs(kept.mean()) < 1e-5
            assert kept.var() == pytest.approx(1, abs=1e-3)
            np.testing.assert_allclose(kept, (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7), atol=1e-4)
            assert not waveform[length:].any()


@pytest.mark.parametrize("seed", NORMS)
def test_valid_frames_depend_neither_on_padding_nor_on_batch_mates(seed):
    """fairseq, transformers: the conv group norm averages over padding (off by 1.7 and 2.1 at twice the width)."""
    encoder = random_encoder(random_config(seed))
    batch = padded_batch()
    wide = torch.nn.functional.pad(batch.waveforms, (0, batch.waveforms.shape[1]))
    for mates in ([0, 1, 2, 3, 4], [2, 3], [1, 0]):
        together = encoder(wide[mates], batch.num_samples[mates], return_layers=True)
        for place, row in enumerate(mates):
            n = LENGTHS[row]
            alone = encoder(batch.waveforms[row : row + 1, :n], torch.tensor([n]), return_layers=True)
            (frames,) = alone.num_frames.tolist()
            assert together.num_frames[place] == frames
            for ours, theirs in zip((together.frames, *together.layers), (alone.frames, *alone.layers), strict=True):
                torch.testing.assert_close(ours[place, :frames], theirs[0], rtol=1e-5, atol=1e-5)


def test_corrupt_files_are_named_counted_and_replaced(tmp_path, monkeypatch, caplog):
    """fairseq2: one corrupt file ends the run, and nothing says which."""
    speech = write_speech(tmp_path / "speech", (16_001,) * 7)
    (tmp_path / "speech" / "u2.flac").write_bytes(b"")
    content = (tmp_path / "speech" / "u5.flac").read_bytes()
    (tmp_path / "speech" / "u5.flac").write_bytes(content[: len(content) // 2])
    seen = watch(monkeypatch)
    # micro-batches of one row each
    data = {"micro_batch_s": 1.1, "max_s": 1.1, "batch_s": 2.2, "max_bad_share": 0.5, "num_workers": 2}
    outcome, said = run_pretraining(tmp_path / "run", speech, data=data, run={"num_updates": 13})
    assert (outcome.progress.update, outcome.stopped_by) == (13, None)
    assert "2 utterances could not be read and were left out" in said
    told = "\n".join(sorted(record.getMessage() for record in caplog.records))
    assert len(caplog.records) == 2
    assert told.index("speech.tsv:5 (u2, u2.flac)") < told.index("speech.tsv:8 (u5, u5.flac)")
    heard = set(itertools.chain.from_iterable(seen.rows))
    assert heard == {0, 1, 3, 4, 6}
    assert seen.events.count("step") == 13
    assert all(len(rows) == 1 for rows in seen.rows)


def sine(frequency_hz: int, rate: int) -> np.ndarray:
    """One second."""
    return 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(rate) / rate)


def test_other_rates_and_channels_are_converted_and_never_read_as_they_are(tmp_path):
    """fairseq2, fairseq: nothing resamples; in fairseq2 8 kHz and stereo train silently wrong."""
    low, left, right = sine(440, 8000), sine(300, RATE), sine(700, RATE)
    (tmp_path / "audio").mkdir()
    sf.write(tmp_path / "audio" / "a.wav", low, 8000, subtype="FLOAT")
    sf.write(tmp_path / "audio" / "b.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    manifest = scan(tmp_path / "audio").manifest
    loader = Loader(manifest, sample_rate_hz=RATE, normalize=False, engine="threads")
    (batch,) = loader.batches([(0, 1)])
    assert batch.waveforms.shape == (2, RATE)
    assert batch.num_samples.tolist() == [RATE, RATE]
    spectrum = torch.fft.rfft(batch.waveforms[0]).abs()
    assert int(spectrum.argmax()) == 440  # of one second: the bin is the frequency
    torch.testing.assert_close(batch.waveforms[1].double(), torch.from_numpy((left + right) / 2), atol=1e-6, rtol=0)
    sf.write(tmp_path / "audio" / "a.wav", sine(440, RATE), RATE, subtype="FLOAT")  # not what the manifest says
    (rest,) = loader.batches([(0, 1)])
    assert rest.rows == (1,)
    assert "must have the manifest's rate of 8000 Hz, got 16000 Hz" in loader.bad_rows.summary()


def test_clips_that_are_left_out_are_counted_and_named(monkeypatch, tmp_path):
    """fairseq2: clips below 32000 samples are dropped in silence, and the others cropped to the shortest."""
    lengths = (31_999, 16_001, 1_999, 4_001, 997, 23_003, 32_003)
    speech = write_speech(tmp_path / "speech", lengths)
    seen = watch(monkeypatch)
    data = {"min_s": 0.2, "max_s": 2.1, "batch_s": 5.0, "micro_batch_s": 5.0}
    _, said = run_pretraining(tmp_path / "run", speech, data=data, run={"num_updates": 3})
    assert "train data: 5 of 7 utterances, 0.00 h; left out 2 (shorter than 0.2 s): u2, u4" in said
    epochs = [row["epoch"] for row in rows_of_metrics(tmp_path / "run")]  # one micro-batch an update
    first = [rows for rows, epoch in zip(seen.rows, epochs, strict=True) if epoch == 0]
    assert sorted(itertools.chain.from_iterable(first)) == [0, 1, 3, 5, 6]
    for rows, (_, num_samples) in zip(seen.rows, seen.inputs, strict=True):
        assert num_samples.tolist() == [lengths[row] for row in rows]


def test_clips_that_ranks_cannot_share_are_told(tmp_path):
    """fairseq2: as above; here three rows for two ranks, none of which fits beside another."""
    speech = write_speech(tmp_path / "speech", (31_999, 16_001, 23_003))
    config = settings_of(tmp_path / "run", speech, data={"batch_s": 8.0, "micro_batch_s": 2.0})
    world, said = World(0, 2, torch.device("cpu")), StringIO()
    needs = {"sample_rate_hz": RATE, "normalize": False, "min_samples": 400, "seed": 1, "is_train": True}
    data = open_training_data(config.data.train, config.data, **needs)
    updates = open_updates(data, config.data, seed=1, world=world)
    told = Session(SimpleNamespace(module=torch.nn.Linear(2, 3)), updates, data, None, [])
    around = SimpleNamespace(
        run=config.run, world=world, sample_rate_hz=RATE, precision="fp32", stepper=Stepper()
    )  # fmt: skip
    announce(told, Progress(), around, config=config, console=Console(file=said, width=400))
    assert "each pass leaves out 1 of them, which cannot be shared out over 2 ranks" in said.getvalue()


def test_validation_speakers_are_in_no_other_part(tmp_path):
    """fairseq: a random share of the files is for validation, and its speakers are trained on."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        speakers = [f"s{k}" for k in generator.zipf(1.5, 211) % 23]  # few with much, many with little
        rows = [
            Utterance(f"u{i}", f"u{i}.wav", 0, int(generator.integers(8_000, 90_000)), RATE, speaker=speaker)
            for i, speaker in enumerate(speakers)
        ]
        Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "all.tsv")
        command = ["split", tmp_path / "all.tsv", "-o", tmp_path, "--seed", seed, "--parts", "train=0.8,valid=0.2"]
        assert CliRunner().invoke(app, [str(part) for part in command]).exit_code == 0
        train, valid = (Manifest.read(tmp_path / f"{name}.tsv") for name in ("train", "valid"))
        assert not set(train.column("speaker")) & set(valid.column("speaker"))
        assert sorted([*train.column("id"), *valid.column("id")]) == sorted(row.id for row in rows)
        assert min(len(train), len(valid)) > 0


# Scores


def fewest_edits(reference: Sequence[str], hypothesis: Sequence[str]) -> int:
    """By the recursive definition, trying all ways."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        kept = distance(i - 1, j - 1) + (reference[i - 1] != hypothesis[j - 1])
        return min(kept, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(reference), len(hypothesis))


def validated(references: Sequence[str], hypotheses: Sequence[str]) -> dict:
    """Error rates as training measures them, of a model that says ``hypotheses``."""
    vocabulary = Vocabulary.from_texts([*references, *hypotheses], rules=TextRules())
    labels = [vocabulary.encode(text) for text in hypotheses]
    frames = [[frame for label in ids for frame in (label, 0)] or [0] for ids in labels]  # a blank after each
    scores = torch.zeros(len(frames), max(map(len, frames)), len(vocabulary))
    for row, ids in enumerate(frames):
        scores[row, range(len(ids)), ids] = 1.0
    rows = tuple(range(len(frames)))
    lengths = torch.tensor([len(ids) for ids in frames])
    loader = SimpleNamespace(batches=lambda *_, **__: [Batch(torch.zeros(len(rows), 1), lengths, rows)])
    manifest = [SimpleNamespace(id=str(row)) for row in rows]
    data = SimpleNamespace(eval_batches=lambda _: [rows], loader=loader, manifest=manifest)
    model = lambda *_: (scores, lengths)  # noqa: E731
    world, console = World(0, 1, torch.device("cpu")), Console(quiet=True)
    return CTCValidation(model, data, vocabulary, references, micro_batch_s=1.0, world=world, console=console)(0)


words = st.lists(st.sampled_from(["a", "bb", "abc", "ba", "день"]), max_size=5).map(" ".join)
pairs = st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=3)


def report_of(pairs):
    evaluation = Evaluation()
    for number, (reference, hypothesis) in enumerate(pairs):
        evaluation.add(score_utterance(str(number), reference, hypothesis))
    return evaluation.report()


@given(pairs=pairs)
@settings(max_examples=60)
def test_error_rates_are_those_of_the_fewest_edits(pairs):
    """fairseq2: its UER compares the references with themselves, and is about 0 whatever the model says."""
    references, hypotheses = zip(*pairs, strict=True)
    report = report_of(pairs)
    in_training = validated(references, hypotheses)
    for name, found, units in (("wer", report.overall.words, str.split), ("cer", report.overall.characters, list)):
        edits = sum(fewest_edits(units(r), units(h)) for r, h in pairs)
        rate = edits / sum(len(units(r)) for r in references)
        assert found.rate == pytest.approx(rate)
        assert in_training[name] == pytest.approx(rate)


@pytest.mark.parametrize(("num_wrong", "shown"), [(0, "0.0%"), (1, "0.3%")])
def test_a_low_word_error_rate_is_reported_as_it_is(tmp_path, num_wrong, shown):
    """fairseq2: its ASR recipe publishes WER and UER only where both are at least 1."""
    references = ["ab"] * 331
    hypotheses = ["ba"] * num_wrong + ["ab"] * (331 - num_wrong)
    figures = validated(references, hypotheses)
    assert figures["wer"] == pytest.approx(num_wrong / 331)
    said, row = StringIO(), {"update": 3, "split": "valid", **figures}
    for sink in (JsonLines(tmp_path / "metrics.jsonl", keep_until=0), Lines(Console(file=said), num_updates=3)):
        sink.write(row)
        sink.close()
    assert rows_of_metrics(tmp_path)[0]["wer"] == figures["wer"]
    assert f"WER {shown}" in said.getvalue()
    scored = zip(references, hypotheses, strict=True)
    report = report_of(scored)
    Console(file=said, width=200).print(*tables(report, None, worst=0))
    assert f"{num_wrong / 331:.2%}" in said.getvalue()
    assert report_document(report)["overall"]["words"]["rate"] == figures["wer"]


# Layers


@pytest.mark.parametrize("seed", NORMS)
def test_the_last_layer_is_the_last_block_and_frames_are_the_networks_output(seed):
    """transformers: hidden_states[-1] is not the output of the last block in pre-LN models."""
    encoder = random_encoder(random_config(seed))
    waveform = noise(5003, seed=1)
    e = audio_ssl.Embedder(encoder)
    layers, last = (e.extract(waveform, layers=layers).frames for layers in ("all", "last"))
    number, outputs = encoder.num_layers, []
    encoder.context_network.blocks[-1].register_forward_hook(lambda _module, _args, out: outputs.append(out[0]))
    np.testing.assert_allclose(e.extract(waveform, layers=number).frames, layers[number], atol=1e-6)
    np.testing.assert_allclose(layers[number], outputs[0].detach().numpy(), atol=1e-6)
    norm = encoder.context_network.norm
    is_pre = encoder.context_network.norm_order == "pre"
    with torch.inference_mode():
        expected = norm(torch.from_numpy(layers[number])).numpy() if is_pre else layers[number]
    np.testing.assert_allclose(last, expected, atol=1e-5)
    assert (np.abs(last - layers[number]).max() > 1e-2) == is_pre  # the two differ where a norm stands between


def test_every_layer_is_there_whatever_layer_drop_says(tmp_path):
    """s3prl: layer drop stays on, and layers are missing from what is extracted."""
    config = random_config(1)
    torch.manual_seed(2)
    encoder = build_encoder(config)
    folders = []
    for rate in (0.0, 0.97):
        folders.append(tmp_path / f"{rate}")
        document = encoder_document(config.model_copy(update={"layer_drop": rate}))
        save_model_dir(folders[-1], document, {"encoder": encoder})
    plain, dropping = (audio_ssl.load(folder) for folder in folders)
    waveform = noise(5003, seed=1)
    dropping.encoder.train()  # left so by its user
    expected, found = (e.extract(waveform, layers="all").frames for e in (plain, dropping))
    assert len(found) == config.num_layers + 1
    np.testing.assert_array_equal(found, expected)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(found))


# No compiler


def compile_calls(tree: ast.AST) -> Iterator[tuple[int, bool]]:
    """(line, whether asked for) of each call that may need a compiler; ``re.compile`` is none.

    Asked for is what stands under ``if ...run.compile``, ``if compiled`` or ``if ...is_compiled``, or in
    ``compile_blocks`` or ``compile_encoder``, whose calls must stand there.
    """
    compilers = ("compile_blocks", "compile_encoder")
    asked = {
        inner
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and ast.unparse(node.test).endswith(("run.compile", "compiled")))
        or (isinstance(node, ast.FunctionDef) and node.name in compilers)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        names = ast.unparse(node) if isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute) else names
        last = names.rsplit(".", 1)[-1]
        is_compiling = isinstance(node, ast.Call) and last in ("compile", *compilers) and names != "re.compile"
        if (
            is_compiling
            or names == "torch.compile"
            or any(word in names for word in ("torch.jit", "_dynamo", "cpp_extension"))
        ):
            yield node.lineno, node in asked


def test_training_needs_no_compiler(monkeypatch, tmp_path, speech):
    """fairseq2: torch.compile inside every forward pass; training needs a C++ compiler and waits for it."""
    unasked = []
    for path in sorted(Path(audio_ssl.__file__).parent.rglob("*.py")):
        calls = compile_calls(ast.parse(path.read_text(encoding="utf-8")))
        unasked += [f"{path.name}:{line}" for line, is_asked in calls if not is_asked]
    assert not unasked
    assert RunConfig(dir=tmp_path).compile is False
    assert not any("compile" in path.read_text() for path in shipped_configs().values())
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: pytest.fail("compiled"))
    monkeypatch.setenv("PATH", "")
    outcome, _ = run_pretraining(tmp_path / "run", speech, run={"num_updates": 2})
    assert outcome.progress.update == 2
