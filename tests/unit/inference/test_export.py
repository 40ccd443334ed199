"""Models in files for other runtimes: the same numbers from raw recordings, in any batch, or no file."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import Tensor
from torch.export import ExportedProgram
from typer.testing import CliRunner

from audio_ssl.cli.export import export as export_verb
from audio_ssl.config import ModelConfig
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioSSLError, CheckpointError, ConfigError, MissingExtraError
from audio_ssl.inference import export, export_onnx
from audio_ssl.inference.export_graph import INPUTS, ExportedModel, normalize_rows, trace
from audio_ssl.inference.models import open_encoder, open_recogniser
from audio_ssl.model.ctc import CTCModel
from audio_ssl.model.encoder import build_encoder
from audio_ssl.model.files import ctc_document, encoder_document, save_model_dir, with_conditions

SYMBOLS = ("<pad>", "<unk>", "|", "ä")
SMALL = {
    "dim": 12, "num_layers": 2, "num_heads": 3, "ffn_dim": 17, "pos_conv_kernel": 4, "pos_conv_groups": 2,
    "conv_dims": (8, 7), "conv_kernels": (10, 8), "conv_strides": (5, 4),
}  # fmt: skip
FIELD, HOP = 45, 20  # (8 - 1) * 5 + 10 and 5 * 4, by hand
needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="the extra 'export' is not installed",
)
app = typer.Typer()
app.command()(export_verb)


TRACED: dict[tuple[str, ...], ExportedProgram] = {}


def traced_once(graph: ExportedModel) -> ExportedProgram:
    """Seconds go into each graph, so one file's tests share them; outputs tell the models here apart."""
    if graph.outputs not in TRACED:
        TRACED[graph.outputs] = trace(graph)
    return TRACED[graph.outputs]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(export, "trace", traced_once)
    logging.disable(logging.INFO)  # torch logs thousands of lines of its tracing, which pytest would keep
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Group norm, waveforms normalised, adapters, local convolutions, blocks told what is recognised below them."""
    config = ModelConfig(**{**SMALL, "num_layers": 2}, normalize_waveform=True, adapter_dim=3, block_conv_kernel=3)
    torch.manual_seed(2)
    model = CTCModel(build_encoder(config), len(SYMBOLS), conditioned_after=(1,))
    path = tmp_path_factory.mktemp("model") / "ctc"
    model.head.weight.data.mul_(30)
    for fresh in (model.condition.weight, *(block.adapter.up.weight for block in model.encoder.context_network.blocks)):
        torch.nn.init.normal_(fresh)  # they begin as nothing
    document = with_conditions(ctc_document(config, symbols=SYMBOLS), (1,))
    save_model_dir(path, document, {"encoder": model.encoder, "head": model.head, "condition": model.condition})
    return path


@pytest.fixture(scope="module")
def slow_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layer norm, pre-LN, blocks at a third of the rate; nothing is normalised."""
    config = ModelConfig(**SMALL, feature_norm="layer", norm_order="pre", context_stride=3)
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("model") / "encoder"
    save_model_dir(path, encoder_document(config), {"encoder": build_encoder(config)})
    return path


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, AudioSSLError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def recordings(*lengths: int) -> tuple[Tensor, Tensor]:
    """Far from zero, unlike loud, and noise where there is padding."""
    waveforms = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(7))
    return waveforms * torch.logspace(-1, 1, len(lengths))[:, None] + 0.3, torch.tensor(lengths)


BATCHES = ((1603,), (FIELD + HOP,), (807, 1603, FIELD, FIELD - 1, 0), (641, 641))


def assert_as_ours(model: Path, run: Callable[[Tensor, Tensor], Any]) -> None:
    """Each row beside the recogniser's own answer for it alone."""
    ours = open_recogniser(model).model
    for lengths in BATCHES:
        waveforms, num_samples = recordings(*lengths)
        with torch.inference_mode():
            frames, num_frames, log_probs = (np.asarray(x) for x in run(waveforms, num_samples))
        assert num_frames.tolist() == [max((n - FIELD) // HOP + 1, 0) for n in lengths]
        assert frames.shape[:2] == log_probs.shape[:2] == (len(lengths), max(num_frames))
        for row, (length, count) in enumerate(zip(lengths, num_frames, strict=True)):
            assert not frames[row, count:].any()
            if count:
                own = torch.from_numpy(normalize(waveforms[row, :length].numpy()))[None]
                with torch.inference_mode():
                    alone = ours.frames(own, torch.tensor([length])).frames[0]
                    scores, _ = ours(own, torch.tensor([length]))
                np.testing.assert_allclose(frames[row, :count], alone, atol=1e-4 * float(alone.abs().max()))
                np.testing.assert_allclose(log_probs[row, :count], scores[0], atol=1e-4 * float(scores.abs().max()))


def test_a_recogniser_as_torchs_program(recogniser: Path, tmp_path: Path) -> None:
    said = call(recogniser, tmp_path / "new" / "m.pt2")
    assert "waveforms (B, S >= 65) float32 at 16000 Hz" in said
    assert "frames, num_frames, log_probs" in said
    extra = {export.METADATA_FILE: ""}
    program = torch.export.load(tmp_path / "new" / "m.pt2", extra_files=extra)
    known = json.loads(extra[export.METADATA_FILE])
    assert (known["hop_samples"], known["receptive_field_samples"], known["normalizes"]) == (HOP, FIELD, True)
    assert (known["symbols"], known["blank"], known["text"]["case"]) == (list(SYMBOLS), 0, "lower")
    assert len(known["model_hash"]) == 16
    assert_as_ours(recogniser, program.module())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.pt2"]
    sizes = [size for node in program.graph.nodes if node.name in INPUTS for size in node.meta["val"].shape]
    assert [isinstance(size, torch.SymInt) for size in sizes] == [True] * 3  # none of the example's
    # plain operations alone, so that other runtimes and compilers know them
    called = {str(node.target).split(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    assert called <= {"aten", "<built-in function floordiv>", "<built-in function getitem>"} | {
        f"<built-in function {name}>" for name in ("add", "sub", "mul", "neg", "mod")
    }


@needs_onnx
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_a_recogniser_as_onnx(recogniser: Path, tmp_path: Path) -> None:
    import onnxruntime

    (tmp_path / "m.onnx").write_text("an older one")
    assert "checked in onnxruntime" in call(recogniser, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert {x.name: x.shape for x in session.get_inputs()} == {
        "waveforms": ["batch", "samples"], "num_samples": ["batch"],
    }  # fmt: skip
    assert [(x.name, x.shape) for x in session.get_outputs()] == [
        ("frames", ["batch", "frames", 12]), ("num_frames", ["batch"]), ("log_probs", ["batch", "frames", 4])
    ]  # fmt: skip
    known = session.get_modelmeta().custom_metadata_map
    assert (known["layer"], known["sample_rate_hz"], json.loads(known["symbols"])) == ("last", "16000", list(SYMBOLS))
    assert_as_ours(recogniser, lambda w, n: session.run(None, {"waveforms": w.numpy(), "num_samples": n.numpy()}))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_layer_of_blocks_at_a_lower_rate(slow_blocks: Path, tmp_path: Path) -> None:
    assert "give frames, num_frames\n" in call(slow_blocks, tmp_path / "m.pt2", "--layer", "1")
    loaded = torch.export.load(tmp_path / "m.pt2")
    assert {name.split("blocks.")[1][0] for name in loaded.state_dict if "blocks." in name} == {"0"}
    run, encoder = loaded.module(), open_encoder(slow_blocks)
    for lengths in ((1603,), (1623,), (1643, 105, FIELD)):  # frames of every remainder by 3
        waveforms, num_samples = recordings(*lengths)
        frames, num_frames = run(waveforms, num_samples)
        with torch.inference_mode():
            expected = encoder(waveforms, num_samples, max_layer=1)
        assert torch.equal(num_frames, expected.num_frames)
        torch.testing.assert_close(frames, expected.frames, rtol=1e-4, atol=1e-4)


def spoilt(spoil: Callable[[list[np.ndarray]], object]) -> Callable[..., Any]:
    """In place of writing and reading back: our own numbers, changed."""

    def written(graph: ExportedModel, draft: Path, metadata: dict[str, Any]) -> Any:
        draft.write_bytes(b"a graph")

        def run(waveforms: Tensor, num_samples: Tensor) -> list[np.ndarray]:
            with torch.no_grad():
                outputs = [output.numpy().copy() for output in graph(waveforms, num_samples)]
            spoil(outputs)
            return outputs

        return "runtime 1.2", run

    return written


def nothing(outputs: list[np.ndarray]) -> None:
    pass


def shift(output: int, by: float) -> Callable[[list[np.ndarray]], None]:
    return lambda outputs: np.add(outputs[output][:, :1], by, out=outputs[output][:, :1], casting="unsafe")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (shift(0, 0.01), "frames of row 0 differ by"),
        (shift(0, np.nan), "frames of row 0 differ by nan"),
        (shift(2, 0.05), "log_probs of row 0 differ by"),
        (lambda outputs: np.add(outputs[1], 1, out=outputs[1]), r"num_frames are \[3\], not \[2\]"),
        (lambda outputs: np.copyto(outputs[0], 1e-3, where=outputs[0] == 0), "beyond num_frames are not zero"),
    ],
)
def test_other_numbers_leave_what_was_there(
    recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, why: str
) -> None:
    (tmp_path / "m.pt2").write_text("an older one")
    monkeypatch.setattr(export, "_written", spoilt(spoil))
    with pytest.raises(CheckpointError, match=rf"m\.pt2 must give in runtime 1\.2 .*{why}.*nothing is kept"):
        call(recogniser, tmp_path / "m.pt2")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m.pt2", "an older one")]
    monkeypatch.setattr(export, "_written", spoilt(nothing))
    call(recogniser, tmp_path / "m.pt2")
    assert (tmp_path / "m.pt2").read_bytes() == b"a graph"


def test_a_graph_that_cannot_be_made_is_told(recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: ExportedModel) -> None:
        raise NotImplementedError("aten::new_thing")

    monkeypatch.setattr(export, "trace", fail)
    with pytest.raises(CheckpointError, match=r"it cannot: NotImplementedError: aten::new_thing; nothing is kept"):
        call(recogniser, tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_refused(recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"OUT must end in \.onnx or \.pt2 \(torch\.export\), got .*m\.pt"):
        call(recogniser, tmp_path / "m.pt")
    for layer in ("all", "conv", "3"):
        with pytest.raises(ConfigError, match="--layer must be"):
            call(recogniser, tmp_path / "m.pt2", "--layer", layer)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(export, "_written", spoilt(nothing))
    with pytest.raises(ConfigError, match="must be writable"):
        call(recogniser, tmp_path / "file" / "m.pt2")
    monkeypatch.setattr(export_onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingExtraError, match=r"must have onnxscript .* pip install 'audio_ssl\[export\]'; a \.pt2"):
        call(recogniser, tmp_path / "m.onnx")


@needs_onnx
def test_more_than_one_file_can_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Program:
        state_dict = {"a": torch.zeros(3, dtype=torch.float64), "b": torch.zeros(1)}  # noqa: RUF012 -- 28 bytes

    monkeypatch.setattr(export_onnx, "_MOST_BYTES", 27)
    with pytest.raises(CheckpointError, match=r"one file of 2 GiB, .* export it as \.pt2"):
        export_onnx.write_onnx(Program(), (), tmp_path / "m.onnx", {})  # type: ignore[arg-type]


def test_rows_are_normalised_as_extract_normalises_them() -> None:
    waveforms, num_samples = recordings(4001, 400, 1, 0)
    waveforms[0] = 0.9 + 1e-4 * waveforms[0]  # far from zero
    normed = normalize_rows(waveforms, num_samples)
    for row, length in enumerate(num_samples.tolist()):
        assert not normed[row, length:].any()
        if length:
            np.testing.assert_allclose(normed[row, :length], normalize(waveforms[row, :length].numpy()), atol=2e-3)
    assert float(normed[0].mean().abs()) < 1e-6
    assert float(normed[1, :400].square().mean()) == pytest.approx(1.0, abs=1e-5)
