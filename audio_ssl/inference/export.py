"""A model as one file for other runtimes, which takes its place only once it gives our numbers."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from audio_ssl import __version__
from audio_ssl.config.text import with_text_rules
from audio_ssl.data.waveform import normalize
from audio_ssl.errors import AudioSSLError, CheckpointError, ConfigError
from audio_ssl.inference.export_graph import ExportedModel, trace
from audio_ssl.inference.invariance import relative_difference
from audio_ssl.inference.layers import LayerChoice, choose_layer
from audio_ssl.interop.source import read_model, weights_hash
from audio_ssl.model.files import ctc_from, encoder_from
from audio_ssl.model.kernels import freeze_linears
from audio_ssl.model.positional import fold_weight_norm

TOLERANCE = 1e-4
METADATA_FILE = "audio_ssl.json"
"""What describes a model in a ``.pt2``: ``torch.export.load(path, extra_files={METADATA_FILE: ""})`` fills it in."""

Arrays: TypeAlias = Sequence[NDArray[Any]]
Run: TypeAlias = Callable[[Tensor, Tensor], Arrays]
"""(B, S) waveforms and (B,) lengths to the outputs, in the order of their names."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: the file.
        outputs: names, in order.
        metadata: as it is in the file.
        runtime: what it was read back and run with.
        difference: largest relative difference from ours.
    """

    path: Path
    outputs: tuple[str, ...]
    metadata: dict[str, Any]
    runtime: str
    difference: float


def export_model(model: Path, out: Path, *, layer: str = "last") -> Export:
    """Write a model as ``.onnx`` or ``.pt2``, read it back, run it beside ours, and put it in place.

    Args:
        model: as the MODEL of the command line.
        out: ends in ``.onnx`` or ``.pt2``; replaced if it is there.
        layer: ``last``, or a block's number: blocks above it, and a recogniser's head, are left out.

    Raises:
        CheckpointError: no usable model, or the file gives other numbers; ``out`` is then as it was.
        ConfigError: no such layer or format, or ``out`` cannot be written.
        MissingExtraError: what ONNX needs is not installed.
    """
    if out.suffix not in (".onnx", ".pt2"):
        raise ConfigError(f"OUT must end in .onnx or .pt2 (torch.export), got {out}")
    if out.suffix == ".onnx":
        from audio_ssl.inference.export_onnx import require_onnx

        require_onnx()
    files = read_model(model)
    loaded = ctc_from(files) if files.kind == "ctc" else encoder_from(files)
    fold_weight_norm(loaded)
    choice = _one_layer(layer, num_layers=files.model.num_layers)
    graph = ExportedModel(loaded, None if choice.name == "last" else int(choice.name))
    if graph.max_layer is not None:
        del graph.encoder.context_network.blocks[graph.max_layer :]
    metadata = _metadata(graph, choice, weights_hash(model), files.document.get("ctc") if graph.recogniser else None)
    with _draft_of(out) as draft:
        runtime, run = _written(graph, draft, metadata)
        freeze_linears(loaded)  # ours as extract has it, after the graph was taken of plain layers
        difference = _compare(graph, run, out=out, runtime=runtime)
    return Export(out, graph.outputs, metadata, runtime, difference)


def _one_layer(layer: str, *, num_layers: int) -> LayerChoice:
    choice = choose_layer(layer, num_layers=num_layers)
    if choice.name != "last" and not choice.name.isdigit():
        raise ConfigError(f"--layer must be last or one number from 0 to {num_layers} for export, got {layer!r}")
    return choice


def _metadata(graph: ExportedModel, choice: LayerChoice, model_hash: str, ctc: dict[str, Any] | None) -> dict[str, Any]:
    encoder = graph.encoder
    geometry, rate = encoder.geometry, encoder.sample_rate_hz
    text = {} if ctc is None else {"symbols": ctc["symbols"], "blank": 0, "text": with_text_rules(ctc)["text"]}
    return {
        "audio_ssl_version": __version__,
        "model_hash": model_hash,
        "sample_rate_hz": rate,
        "hop_samples": geometry.hop_samples,
        "receptive_field_samples": geometry.receptive_field_samples,
        "first_centre_s": geometry.frame_centre_s(0, sample_rate_hz=rate),
        "min_width_samples": graph.min_width_samples,
        "normalizes": encoder.normalize_waveform,
        "layer": choice.name,
        "layer_convention": choice.convention,
        **text,
    }


def _written(graph: ExportedModel, draft: Path, metadata: dict[str, Any]) -> tuple[str, Run]:
    try:
        return _write(trace(graph), graph.outputs, draft, metadata)
    except (AudioSSLError, OSError):
        raise
    except Exception as error:  # torch's own exporters, in a version that the tests have not seen
        raise CheckpointError(
            f"torch {torch.__version__} must be able to make the graph of this model, but it cannot: "
            f"{type(error).__name__}: {error!s:.500}; nothing is kept. The versions in constraints.txt can"
        ) from error


def _write(program: ExportedProgram, outputs: Sequence[str], draft: Path, metadata: dict[str, Any]) -> tuple[str, Run]:
    """Write the file, read it back; what it was read with, and how to run it."""
    if draft.suffix == ".onnx":
        from audio_ssl.inference.export_onnx import run_onnx, write_onnx

        write_onnx(program, outputs, draft, metadata)
        return run_onnx(draft)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch reading its own buffers
        torch.export.save(program, draft, extra_files={METADATA_FILE: json.dumps(metadata)})
        loaded = torch.export.load(draft).module()

    def run(waveforms: Tensor, num_samples: Tensor) -> Arrays:
        return [output.numpy() for output in loaded(waveforms, num_samples)]

    return f"torch {torch.__version__}", run


@contextmanager
def _draft_of(out: Path) -> Iterator[Path]:
    """A file beside ``out`` that takes its place at the end, and is gone if there is none."""
    draft = out.with_name(f".{out.stem}.{os.getpid()}.tmp{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(out)
    except OSError as error:
        raise ConfigError(f"{out} must be writable with room to spare: {error}; choose another place") from error
    finally:
        with suppress(OSError):  # of a folder that could not be made
            draft.unlink()


@torch.inference_mode()
def _compare(graph: ExportedModel, run: Run, *, out: Path, runtime: str) -> float:
    """The largest relative difference of any row of the examples.

    Raises:
        CheckpointError: it exceeds :data:`TOLERANCE`, or lengths or padding are not ours.
    """
    worst = 0.0
    for waveforms, num_samples in _examples(graph):
        found, ours = run(waveforms, num_samples), _ours(graph, waveforms, num_samples)
        counts = ours[1].tolist()
        fault = "" if found[1].tolist() == counts else f"num_frames are {found[1].tolist()}, not {counts}"
        for name, theirs, expected in zip(graph.outputs, found, ours, strict=True):
            if name == "num_frames" or fault:
                continue
            for row, count in enumerate(counts):
                difference = relative_difference(expected[row, :count], theirs[row, :count]) if count else 0.0
                worst = float(np.maximum(worst, difference))
                if not difference <= TOLERANCE:
                    fault = f"{name} of row {row} differ by {difference:.1e} of the largest value"
            if name == "frames" and not fault and any(theirs[row, n:].any() for row, n in enumerate(counts)):
                fault = "frames beyond num_frames are not zero"
        if fault:
            raise CheckpointError(
                f"{out} must give in {runtime} what the model gives here (to {TOLERANCE:g}), but for a batch of "
                f"lengths {num_samples.tolist()} {fault}; nothing is kept. Another version of it may do better"
            )
    return worst


def _ours(graph: ExportedModel, waveforms: Tensor, num_samples: Tensor) -> Arrays:
    """The same outputs as ``extract`` and ``transcribe`` compute them."""
    encoder, ready = graph.encoder, torch.zeros_like(waveforms)
    for row, (waveform, length) in enumerate(zip(waveforms.numpy(), num_samples.tolist(), strict=True)):
        own = waveform[:length]
        ready[row, :length] = torch.from_numpy(normalize(own) if encoder.normalize_waveform and length else own)
    output = encoder(ready, num_samples, max_layer=graph.max_layer)
    results = [output.frames, output.num_frames]
    if graph.recogniser is not None:
        results.append(graph.recogniser.log_probs(output.frames))
    return [result.numpy() for result in results]


def _examples(graph: ExportedModel) -> Iterator[tuple[Tensor, Tensor]]:
    """Raw recordings: alone and together, padded and not, from the least width to 250 frames; unlike loud, off zero."""
    geometry, least = graph.encoder.geometry, graph.min_width_samples
    field, hop, of = geometry.receptive_field_samples, geometry.hop_samples, geometry.samples_for_frames
    batches = (
        [least], [least + hop - 1, field], [of(50) + 1], [of(100), of(17), field - 1, least, of(100), 0, of(51)],
        [of(250) + 7, of(100)],
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for lengths in batches:
        width = max(*lengths, least)
        waveforms = torch.randn(len(lengths), width, generator=generator)
        waveforms *= torch.logspace(-2, 0, len(lengths))[:, None]
        yield waveforms + 0.01, torch.tensor(lengths)  # also where there is padding, which must not matter
