"""A graph as ONNX, by torch's own exporter (onnxscript), and onnxruntime beside it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from audio_ssl.errors import CheckpointError, MissingExtraError
from audio_ssl.inference.export_graph import INPUTS

if TYPE_CHECKING:
    from audio_ssl.inference.export import Arrays, Run

OPSET = 18  # what torch's exporter is written for; it gets to others by conversion
_NEEDS = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = (1 << 31) - (1 << 24)  # a protobuf file ends at 2 GiB; the graph itself takes a few MB


def require_onnx() -> None:
    """Refuse to begin without the packages.

    Raises:
        MissingExtraError: naming those that are missing.
    """
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"an .onnx file must have {', '.join(missing)} to be written and checked: pip install 'audio_ssl[export]'; "
            "a .pt2 needs torch alone"
        )


def write_onnx(program: ExportedProgram, outputs: Sequence[str], path: Path, metadata: dict[str, Any]) -> None:
    """Write a graph with its weights in one file; the metadata as its properties, lists as JSON.

    Raises:
        CheckpointError: the weights are more than one file can hold.
    """
    import onnx_ir

    num_bytes = sum(tensor.nbytes for tensor in program.state_dict.values())
    if num_bytes > _MOST_BYTES:
        raise CheckpointError(
            f"{path.suffix} must hold the model in one file of 2 GiB, its weights take {num_bytes / 2**30:.1f} GiB; "
            "export it as .pt2, or with fewer blocks (--layer)"
        )
    with _quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=list(INPUTS), output_names=list(outputs), opset_version=OPSET,
            verbose=False,
        )  # fmt: skip
    assert made is not None
    graph = made.model.graph
    for value, names in zip(graph.inputs, (("batch", "samples"), ("batch",)), strict=True):
        value.shape = onnx_ir.Shape(names)
    for value in graph.outputs:  # (B,), or (B, T, width)
        sizes: Any = value.shape
        value.shape = onnx_ir.Shape((*("batch", "frames")[: len(sizes)], *sizes[2:]))
    made.model.metadata_props.update(
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    )
    made.save(path, external_data=False)


def run_onnx(path: Path) -> tuple[str, Run]:
    """Name and version of onnxruntime, and a function that runs the file in it, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(waveforms: Tensor, num_samples: Tensor) -> Arrays:
        given = dict(zip(INPUTS, (waveforms.numpy(), num_samples.numpy()), strict=True))
        return session.run(None, given)  # type: ignore[no-any-return]

    return f"onnxruntime {onnxruntime.__version__}", run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words on packages that it could use if they were there."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
