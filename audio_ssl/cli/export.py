"""``audio-ssl export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from audio_ssl.cli.inference import ModelArgument


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write: .onnx, or .pt2 (torch.export).")],
    *,
    layer: Annotated[
        str, typer.Option("--layer", help="last, or N: blocks above N (and a recogniser's head) are left out.")
    ] = "last",
) -> None:
    """Write a model as one file for other runtimes: recordings of any number and length in, frames out.

    Inputs are waveforms (B, S) float32, as recorded at the model's rate, and num_samples (B,) int64; outputs frames
    (B, T, D), num_frames (B,), and of a recogniser log_probs (B, T, A). Normalisation is in the graph where the model
    wants it, and padding does not matter. The file is read back and run beside our own model on several lengths and
    batches; where they differ by more than 1e-4, nothing is kept. .onnx needs the extra `export`.

    Example: audio-ssl export runs/first model.onnx --layer 6
    """
    from audio_ssl.inference.export import export_model

    written = export_model(model, out, layer=layer)
    known = written.metadata
    typer.echo(f"wrote {written.path} ({written.path.stat().st_size / 1e6:.1f} MB): {known['layer_convention']}")
    typer.echo(
        f"  waveforms (B, S >= {known['min_width_samples']}) float32 at {known['sample_rate_hz']} Hz and num_samples "
        f"(B,) int64 give {', '.join(written.outputs)}"
    )
    typer.echo(f"  checked in {written.runtime}: differs by at most {written.difference:.1e} of the largest value")
