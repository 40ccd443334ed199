"""``audio-ssl units fit|assign``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from audio_ssl.cli.inference import (
    BatchOption,
    DeviceOption,
    MaxOption,
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
from audio_ssl.cli.memory import tell_memory

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.inference.models import Runtime
    from audio_ssl.inference.stream import StreamSettings
    from audio_ssl.inference.units.assign import Labelled
    from audio_ssl.inference.units.codebook import Units

app = typer.Typer(
    name="units", no_args_is_help=True, help="Cluster frame embeddings by k-means, and label speech with the clusters."
)
UnitsArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="UNITS", help="A folder that `units fit` wrote.")]
InputArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="An output folder of `audio-ssl extract`; with --model an audio file, a folder or a manifest.",
    ),
]
LabelsArgument: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="NAME.txt (id, tab, labels) or NAME.km (fairseq's, with NAME.tsv and dict.km.txt beside it).",
    ),
]
ThroughOption: TypeAlias = Annotated[
    Path | None, typer.Option("--model", help="Label audio through this model, the one that the units are of.")
]
DedupOption: TypeAlias = Annotated[
    bool, typer.Option("--dedup", help="Runs of a unit as one, their lengths in frames in a third column.")
]


@app.command()
def fit(
    embeddings: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="An output folder of `audio-ssl extract`, of any format.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for units.safetensors and units.json.")],
    *,
    clusters: Annotated[int, typer.Option("--clusters", "-k", help="Number of units.")],
    layer: Annotated[
        str | None, typer.Option("--layer", help="Which of the folder's layers, where it has several.")
    ] = None,
    frames: Annotated[
        str, typer.Option("--frames", help="Frames that an epoch draws: a number, a share such as 10%, or all.")
    ] = "20000000",
    epochs: Annotated[int, typer.Option("--epochs", help="Epochs; each draws its frames anew.")] = 3,
    restarts: Annotated[
        int, typer.Option("--restarts", help="Starts on a sample; the best on held-out frames goes on.")
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw.")] = 0,
) -> None:
    """Fit units: k-means over frame embeddings, in memory that is stated beforehand and does not grow with the corpus.

    The same seed gives the same units, with any number of threads. Run again, it does nothing.

    Example: audio-ssl units fit embeddings/ units/ --clusters 500
    """
    from audio_ssl.inference.units.fit import frames_wanted, lay_out
    from audio_ssl.inference.units.kmeans import KMeansSettings
    from audio_ssl.inference.units.stored import StoredFrames

    console = say()
    stored = StoredFrames(embeddings, layer=layer)
    wanted = frames_wanted(frames, int(stored.num_frames.sum()))
    job = lay_out(stored, KMeansSettings(clusters, wanted, epochs, restarts, seed), out)
    if job.is_present:
        _tell(console, f"{out} holds these units already")
        return
    plan = job.plan
    _tell(
        console,
        f"{plan.per_epoch} of {int(stored.num_frames.sum())} frames an epoch, {plan.held_out.total} held out; "
        f"about {plan.memory_bytes / 2**20:.0f} MiB of memory beside the program",
    )
    total_s = plan.per_epoch * (epochs + 1) * stored.hop_s
    with audio_progress(console, "fit", total_s) as advance:
        figures = job.run(
            on_read=lambda num: advance(num * stored.hop_s),
            on_stage=lambda stage, distance: _tell(console, f"{stage}: {distance:.6g} a held-out frame"),
        )
    dead = f"; {figures['dead_clusters']} have no frame" if figures["dead_clusters"] else ""
    _tell(
        console,
        f"{clusters} units of layer {stored.origin['layer']} written to {out}: squared distance "
        f"{figures['distance_per_frame']:.6g} a frame, {figures['held_out_distance_per_frame']:.6g} held out; "
        f"perplexity {figures['cluster_perplexity']:.1f}{dead}",
    )


@app.command()
def assign(
    units: UnitsArgument,
    input_: InputArgument,
    out: LabelsArgument,
    *,
    model: ThroughOption = None,
    dedup: DedupOption = False,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    strict: StrictOption = False,
) -> None:
    """Label every frame with its nearest unit, from stored embeddings or from audio, and say how units are used.

    Counts of labels are checked against the audio. What has no labels is named in OUT.errors.jsonl; figures are in
    OUT.stats.json.

    Example: audio-ssl units assign units/ train.tsv labels/train.km --model runs/first
    """
    from audio_ssl.errors import ConfigError
    from audio_ssl.inference.folder import SETTINGS_FILE
    from audio_ssl.inference.models import open_runtime
    from audio_ssl.inference.units.assign import StoredLabels
    from audio_ssl.inference.units.assign import assign as run
    from audio_ssl.inference.units.codebook import load_units
    from audio_ssl.inference.units.stored import StoredFrames

    console = say()
    opened = load_units(units)
    if model is None and not (input_ / SETTINGS_FILE).is_file():
        raise ConfigError(
            "INPUT must be an output folder of `audio-ssl extract`, or audio with --model MODEL; "
            f"{input_} has no {SETTINGS_FILE}"
        )
    labelled: Labelled
    if model is None:
        stored = StoredFrames(input_, layer=opened.document["layer"])
        labelled = StoredLabels(opened, stored, open_runtime(device, "fp32").device)
    else:
        settings = stream_settings(batch_s, max_s, overlap_s, workers=workers)
        runtime = open_runtime(device, precision)
        labelled = _through(console, model, input_, units=opened, settings=settings, runtime=runtime, out=out)
    with audio_progress(console, "label", float(labelled.manifest.durations_s().sum())) as advance:
        summary = run(opened, labelled, out, dedup=dedup, strict=strict, on_progress=advance)
    has_labels = bool(summary.statistics["utterances"])
    warn_refused(console, summary.refused, listed_in=summary.files.errors_file if has_labels else None)
    if not has_labels:
        raise typer.Exit(1)
    _tell_statistics(console, summary.statistics, out)
    if out.suffix == ".km":
        rate = 1 / opened.document["hop_s"]
        _tell(
            console,
            f'fairseq: task.data={out.parent} task.label_dir={out.parent} task.labels=["km"] task.label_rate={rate:g}',
        )


def _through(
    console: Console, model: Path, input_: Path, *, units: Units, settings: StreamSettings, runtime: Runtime, out: Path
) -> Labelled:
    from audio_ssl.inference.models import open_encoder
    from audio_ssl.inference.source import open_input
    from audio_ssl.inference.units.assign import AudioLabels
    from audio_ssl.interop.source import weights_hash

    encoder, opened = open_encoder(model).to(runtime.device), open_input(input_)
    labelled = AudioLabels(
        units, encoder, weights_hash(model), opened, settings=settings, runtime=runtime, scratch=out.parent
    )
    tell_memory(console, encoder, opened, layer=labelled.layer, stream=settings, runtime=runtime)
    return labelled


def _tell_statistics(console: Console, figures: dict[str, Any], out: Path) -> None:
    _tell(
        console,
        f"{figures['utterances']} utterances ({spoken(figures['audio_s'])}, {figures['frames']} frames) "
        f"labelled: {out}",
    )
    _tell(
        console,
        f"{figures['units_used']} of {figures['units']} units used, perplexity {figures['perplexity']:.1f}; mean run "
        f"{figures['mean_run_frames']:.2f} frames ({figures['mean_run_s'] * 1000:.0f} ms); "
        f"{figures['bits_per_s']:.0f} bits/s, {figures['bits_per_s_deduplicated']:.0f} deduplicated",
    )


def _tell(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
