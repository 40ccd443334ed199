"""``audio-ssl extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from audio_ssl.cli.inference import (
    BatchOption,
    DeviceOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    PrecisionOption,
    StrictOption,
    WorkersOption,
    audio_progress,
    say,
    spoken,
    stream_settings,
    warn_refused,
)
from audio_ssl.cli.invariance import CheckOption, check_and_tell, required_out


def extract(
    model: ModelArgument,
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="An audio file, a folder, or a manifest.")],
    out: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="Folder for the .npy files and index.jsonl.", show_default=False),
    ] = None,
    *,
    layer: Annotated[
        str,
        typer.Option(
            "--layer", help="last (output of the network), N (output of block N, 0 is its input), or all (every N)."
        ),
    ] = "last",
    dtype: Annotated[Literal["fp32", "fp16"], typer.Option("--dtype", help="Number format of the files.")] = "fp32",
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    strict: StrictOption = False,
    check_invariance: CheckOption = False,
) -> None:
    """Write frame embeddings: one .npy of shape (T, D) an utterance, and index.jsonl with frame times.

    Run again, it goes on where it stopped. What cannot be read is named in refused.tsv, and the rest goes on.
    With --layer all the files have shape (L, T, D).

    Example: audio-ssl extract runs/first speech/ embeddings/ --layer 4
    """
    from audio_ssl.inference.extract import REFUSED_FILE, Extractor, ExtractSettings
    from audio_ssl.inference.layers import choose_layer
    from audio_ssl.inference.models import open_encoder, open_runtime
    from audio_ssl.inference.source import ManifestSource, open_input
    from audio_ssl.interop.source import weights_hash

    console = say()
    folder = None if check_invariance else required_out(out)
    runtime = open_runtime(device, precision)
    encoder = open_encoder(model).to(runtime.device)
    settings = ExtractSettings(
        layer=choose_layer(layer, num_layers=encoder.num_layers),
        dtype=dtype,
        stream=stream_settings(batch_s, max_s, overlap_s, workers=workers),
        strict=strict,
    )
    opened = open_input(input_)
    if folder is None:
        source = ManifestSource(opened.manifest)
        raise typer.Exit(
            check_and_tell(encoder, source, layer=settings.layer, settings=settings.stream, runtime=runtime)
        )
    with audio_progress(console, "extract", float(opened.manifest.durations_s().sum())) as advance:
        extractor = Extractor(encoder, weights_hash(model), settings, runtime)
        summary = extractor.to_folder(opened, folder, on_progress=advance)
    warn_refused(console, summary.refused, listed_in=folder / REFUSED_FILE)
    before = f"; {summary.num_present} were there already" if summary.num_present else ""
    console.print(
        f"{summary.num_written} utterances ({spoken(summary.audio_s)}, {summary.num_frames} frames) written to "
        f"{folder}{before}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    if summary.refused and not summary.num_written + summary.num_present:
        raise typer.Exit(1)
