"""Updates that were written down are run again: same rows, same draws, and where numbers stop being finite."""

import io
import json
import math
import shutil
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
from guard_check import LOWERED, changed_forward, make_audio

from audio_ssl.config import PretrainConfig, find_config, load_config
from audio_ssl.data.manifest import Manifest
from audio_ssl.errors import TrainingError
from audio_ssl.model.transformer import Block
from audio_ssl.rng import derive_seed
from audio_ssl.train.distributed import World
from audio_ssl.train.dumps import BrokenUpdates, read_dump
from audio_ssl.train.pretrain import PretrainModule, build_module, open_data, pretrain
from audio_ssl.train.replay import Probe
from audio_ssl.train.state import Progress
from audio_ssl.train.updates import open_updates
from tests.unit.train.test_guarded_runs import TINY
from tests.unit.train.toy import make_batch

BROKEN = 10  # updates done before the one that breaks
SETTINGS = ("run.num_updates=12", "run.log_every=4", "run.save_every=10", "model.dropout=0.1", "data.batch_s=5")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return make_audio(tmp_path_factory.mktemp("audio"), "speech", num_files=24, seconds=1.5)


def configured(manifest: Path, run_dir: Path, *more: str) -> PretrainConfig:
    settings = [f"data.train=['{manifest}']", f"run.dir={run_dir}", *LOWERED, *TINY, *SETTINGS, *more]
    return load_config(PretrainConfig, find_config("pretrain/conv_tiny"), settings)


def replayed(config: PretrainConfig, dump: Path, **how) -> str:
    console = Console(record=True, width=1000, file=io.StringIO())
    assert pretrain(config, resume="never", init_from=how.get("init_from"), console=console, dump=dump) is None
    return console.export_text()


def broken_run(config: PretrainConfig, heard: list | None = None):
    """Pre-train; the loss of one update turns NaN, its sums do not. What it heard and gave goes to ``heard``."""
    with noted([] if heard is None else heard):
        pretrain(config, resume="never", init_from=None, console=Console(quiet=True))


@contextmanager
def noted(heard: list):
    forward = PretrainModule.forward

    def noting(self, batch, *, update, generator):
        seeds = (generator.initial_seed(), torch.initial_seed())
        terms = forward(self, batch, update=update, generator=generator)
        if update != BROKEN:
            return terms
        heard.append((batch.rows, batch.waveforms.sum().item(), seeds, terms.sums["loss"].item()))
        return type(terms)(terms.loss_sum * math.nan, terms.num_targets, terms.sums)

    with mock.patch.object(PretrainModule, "forward", noting):
        yield


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture(scope="module")
def broken(manifest, tmp_path_factory) -> tuple[PretrainConfig, Path, list]:
    """A run with one broken update, its dump, and what was heard in it."""
    config, heard = configured(manifest, tmp_path_factory.mktemp("run") / "run"), []
    broken_run(config, heard)
    (dump,) = (config.run.dir / "dumps").iterdir()
    assert dump.name == "update_00000011.json"
    return config, dump, heard


def test_the_dump_names_the_rows(broken):
    config, path, heard = broken
    dump = read_dump(path)
    assert (dump.update, dump.epoch, dump.ranks, dump.rollbacks, dump.seed) == (11, 2, 1, 0, config.run.seed)
    assert dump.rows == [[list(rows) for rows, *_ in heard]]
    assert dump.ids == [[[f"speech{row}" for row in rows] for rows, *_ in heard]]
    assert dump.manifests == [str(path) for path in config.data.train]
    assert len(heard) > 1  # micro-batches


def test_a_replay_hears_and_draws_the_same_to_the_last_bit_and_leaves_the_run_alone(broken):
    config, path, heard = broken
    before, again = snapshot(config.run.dir), []
    with noted(again):
        text = replayed(config, path)
    assert again == heard
    assert "update 11, pass 2 over the data, 1 rank; weights: of update 10, as it had them" in text
    assert "contrastive_loss" in text
    assert snapshot(config.run.dir) == before


def test_rows_that_are_not_to_blame_are_told(broken):
    config, path, _ = broken
    text = replayed(config, path)  # without the sabotage
    assert "every number is finite" in text
    assert "first" not in text


def test_the_part_and_the_row_where_it_begins_are_named(broken):
    config, path, heard = broken
    row = heard[1][0][1]  # the second row of the second micro-batch
    forward, place = Block.forward, []

    def look(self, module, batch, update):
        place[:] = [batch.rows.index(row)] if row in batch.rows else []
        return 1.0

    def breaking(self, *args, **kwargs):
        output = forward(self, *args, **kwargs).clone()
        for index in place:
            output[index, 2] = math.inf
        return output

    with mock.patch.object(Block, "forward", breaking), changed_forward(partial(look, None)):
        text = replayed(config, path)
    lines = text.splitlines()
    (number,) = (line for line in lines if "first number" in line)
    assert f"what comes out of encoder.context_network.blocks.0, in row {row} (speech{row})" in number
    assert any("first gradient" in line for line in lines)
    assert lines.index(number) == next(i for i, line in enumerate(lines) if "micro-batch 1" in line) + 1
    assert "every number is finite" not in text


def test_without_a_checkpoint_before_it_fresh_weights_are_taken(broken, manifest, tmp_path):
    _, path, _ = broken
    elsewhere = configured(manifest, tmp_path / "nowhere")
    assert "weights: fresh ones" in replayed(elsewhere, path)
    assert not (tmp_path / "nowhere").exists()


def test_other_weights_may_be_given_and_broken_ones_are_named(broken, tmp_path):
    config, path, _ = broken
    model = tmp_path / "model"
    shutil.copytree(config.run.dir / "checkpoints" / "step_00000010", model)
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.mask_embedding"][3] = math.nan
    save_file(tensors, model / "model.safetensors")
    text = replayed(config, path, init_from=model)
    assert "weights: those given" in text
    assert "weights that are not finite: encoder.mask_embedding" in text
    assert "what goes into encoder.context_network, in every row" in text


def test_the_work_of_several_ranks_is_done_in_turn(broken, tmp_path):
    config, path, _ = broken
    encoder = build_module(config, None).encoder
    data = open_data(config, encoder, is_train=True)
    rows = []
    for rank in range(2):
        world = World(rank, 2, torch.device("cpu"))
        batches = next(iter(open_updates(data, config.data, seed=config.run.seed, world=world).epoch(1, 2)))
        rows.append([list(batch.rows) for batch in batches])
    dump = json.loads(path.read_text()) | {"ranks": 2, "rows": rows, "ids": [], "epoch": 1, "update_in_epoch": 2}
    (tmp_path / "two.json").write_text(json.dumps(dump))
    heard = []
    with noted(heard):
        text = replayed(config, tmp_path / "two.json")
    assert [list(heard_rows) for heard_rows, *_ in heard] == [batch for rank in rows for batch in rank]
    places = [(rank, i) for rank in range(2) for i in range(len(rows[rank]))]
    for (rank, i), (_, _, (draws, dropout), _) in zip(places, heard, strict=True):
        assert draws == derive_seed(config.run.seed, "objective", BROKEN, 2 * i + rank)
        assert dropout == derive_seed(config.run.seed, "dropout", BROKEN, rank)
        assert f"rank {rank}, micro-batch {i}" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "with the data, batch sizes and run.seed of its run"),
        ({"plan": "other"}, "with the data, batch sizes and run.seed of its run"),
        ({"rows": [[[0], [1]]]}, "must have had the rows"),
        ({"ranks": 3}, "which is none"),
        ({"more": 1}, "must name a file of a run's dumps/ folder"),
    ],
)
def test_a_dump_of_something_else_is_refused(broken, tmp_path, change, said):
    config, path, _ = broken
    (tmp_path / "d.json").write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TrainingError, match=said):
        replayed(config, tmp_path / "d.json")


def test_a_file_that_is_no_dump_is_refused(broken, tmp_path):
    (tmp_path / "d.json").write_text("[1]")
    with pytest.raises(TrainingError, match="must name a file"):
        replayed(broken[0], tmp_path / "d.json")
    with pytest.raises(TrainingError, match="must name a file"):
        replayed(broken[0], tmp_path / "none.json")


class Root(nn.Module):
    """The gradient of a root at 0 is infinite, the root is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(2, 2, bias=False)
        self.rest = nn.LeakyReLU()

    def forward(self, x):
        return self.rest(self.scale(x)).sqrt().sum()


def test_a_gradient_that_breaks_alone_is_found_at_its_row():
    module = Root()
    nn.init.eye_(module.scale.weight)
    probe = Probe(module, ["a", "b", "c"])
    with probe.watching():
        loss = module(torch.tensor([[1.0, 2.0], [3.0, 0.0], [4.0, 1.0]], requires_grad=True))
    with probe.watching():
        loss.backward()
    assert probe.forward is None
    assert probe.backward == "at what comes out of rest, in row b"


def test_ranks_write_one_file_together_and_only_so_many(tmp_path, monkeypatch, broken):
    config, _, _ = broken
    manifest = Manifest.concat([Manifest.read(path) for path in config.data.train])
    others = [[[[7, 8]], [[9]]]]  # of rank 1: the rows of each broken update
    monkeypatch.setattr("audio_ssl.train.dumps.of_all_ranks", lambda rows, world: [rows, *others])
    folder = tmp_path / "dumps"
    world = World(0, 2, torch.device("cpu"))
    told = BrokenUpdates(folder, most=1, manifest=manifest, manifests=["m"], seed=3, world=world)
    for update, is_broken in ((4, 0.0), (5, 0.5), (6, 0.5)):
        progress = Progress(update=update, update_in_epoch=update, parts=[(4, 2, 0)], rollbacks=1, plan="p")
        told.note(progress, [make_batch((update, 10))], torch.tensor(is_broken))
    (path,) = told.write()
    dump = read_dump(path)
    assert (dump.update, dump.update_in_epoch, dump.rollbacks, dump.parts, dump.seed) == (5, 4, 1, [[4, 2, 0]], 3)
    assert dump.rows == [[[5, 10]], [[7, 8]]]
    assert dump.ids == [[["speech5", "speech10"]], [["speech7", "speech8"]]]
    told.note(Progress(update=7, update_in_epoch=7), [make_batch((1,))], torch.tensor(1.0))
    assert told.write() == []  # the folder is full
