"""``audio-ssl extract``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from audio_ssl.cli.inference import (
    NUM_NAMED,
    BatchOption,
    DeviceOption,
    ExactOption,
    FastPrecisionOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    StrictOption,
    WorkersOption,
    audio_progress,
    say,
    spoken,
    stream_settings,
    warn_refused,
)
from audio_ssl.cli.invariance import CheckOption, check_and_tell, required_out
from audio_ssl.cli.memory import tell_memory

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.inference.extract import ExtractSummary
    from audio_ssl.inference.precision_error import PrecisionError
    from audio_ssl.inference.ranks import Rank

BUSY_STATUS = 75  # "temporary failure" of sysexits.h


OutArgument: TypeAlias = Annotated[
    Path | None,
    typer.Argument(metavar="OUT", help="Folder for the embeddings and their index.", show_default=False),
]
LayerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--layer",
        help="last (output of the network; the default), N (output of block N, 0 is the input of block 1), several as "
        "6,9, all (every N), conv (latents) or codes (the quantizer's).",
    ),
]
LayerWeightsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--layer-weights", help="A JSON file of weights: their sum of all layers, as a probe learned it."),
]
FormatOption: TypeAlias = Annotated[
    Literal["npy", "matrix", "safetensors", "parquet", "arrow", "kaldi"],
    typer.Option(
        "--format",
        help="npy: a file an utterance; matrix: one for the whole corpus, with offsets; the others: a file a shard.",
    ),
]
DtypeOption: TypeAlias = Annotated[
    Literal["fp32", "fp16", "bf16", "int8", "int32"] | None,
    typer.Option(
        "--dtype", help="Number format of the files; the error of fp16, bf16 and int8 is stated.", show_default="fp32"
    ),
]
PoolOption: TypeAlias = Annotated[
    Literal["mean", "mean+std"] | None,
    typer.Option("--pool", help="One vector an utterance, over its frames.", show_default="frames"),
]
CompileOption: TypeAlias = Annotated[
    bool,
    typer.Option("--compile", help="Compile the transformer blocks; on a GPU, for runs of hours: it takes a minute."),
]
ShardOption: TypeAlias = Annotated[
    float,
    typer.Option("--shard-mib", help="About what is put in place at once (an hour of audio at most); a kill loses it."),
]


def extract(
    model: ModelArgument,
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="An audio file, a folder, or a manifest.")],
    out: OutArgument = None,
    *,
    layer: LayerOption = None,
    layer_weights: LayerWeightsOption = None,
    format_: FormatOption = "npy",
    dtype: DtypeOption = None,
    pool: PoolOption = None,
    shard_mib: ShardOption = 256.0,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    exact: ExactOption = False,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    precision: FastPrecisionOption = "fp32",
    compile_: CompileOption = False,
    strict: StrictOption = False,
    check_invariance: CheckOption = False,
) -> None:
    """Write frame embeddings: (T, D) numbers an utterance, and index.jsonl that says where they are and what they mean.

    With several layers they are (L, T, D). Run again, it goes on where it stopped. What cannot be read is named in
    errors.jsonl. Under torchrun each process does its share: torchrun --nproc-per-node 2 -m audio_ssl extract ...

    Exit status: 0 done, with what has no result named; 1 nothing has a result; 2 something to mend, which the message
    names; 75 another process is at work on a part, so run it again; 130 Ctrl-C. docs/embeddings.md tells more.

    Example: audio-ssl extract runs/first speech/ embeddings/ --layer 4
    """
    from audio_ssl.inference.extract import Extractor, ExtractSettings
    from audio_ssl.inference.layers import open_layer
    from audio_ssl.inference.models import open_encoder, open_runtime
    from audio_ssl.inference.ranks import Rank
    from audio_ssl.inference.sinks.numbers import choose_dtype
    from audio_ssl.inference.source import open_input
    from audio_ssl.interop.source import weights_hash

    console, rank = say(), Rank.of_environment()
    folder = None if check_invariance else required_out(out)
    runtime = open_runtime(rank.device(device), precision, compiles=compile_)
    encoder = open_encoder(model, runtime)
    choice = open_layer(model, layer, layer_weights, encoder=encoder)
    settings = ExtractSettings(
        layer=choice, format=format_, dtype=choose_dtype(format_, dtype, holds_codes=choice.name == "codes"),
        pool=pool, shard_mib=shard_mib, strict=strict,
        stream=stream_settings(batch_s, max_s, overlap_s, workers=workers, exact=exact),
    )  # fmt: skip
    opened, said = open_input(input_), partial(_say_error, console)
    if folder is None:
        raise typer.Exit(check_and_tell(encoder, opened, layer=choice, settings=settings.stream, runtime=runtime))
    tell_memory(console, encoder, opened, layer=choice, stream=settings.stream_of_layer, runtime=runtime)
    with audio_progress(console, "extract", float(opened.manifest.durations_s().sum()) / rank.size) as advance:
        extractor = Extractor(encoder, weights_hash(model), settings, runtime)
        summary = extractor.to_folder(opened, folder, rank=rank, on_progress=advance, on_precision_error=said)
    _tell(console, summary, folder, rank=rank)
    raise typer.Exit(_status(summary))


def _say_error(console: Console, error: PrecisionError) -> None:
    console.print(str(error), markup=False, highlight=False, soft_wrap=True)


def _status(summary: ExtractSummary) -> int:
    if summary.busy:
        return BUSY_STATUS
    return 1 if summary.is_complete and summary.is_empty else 0


def _tell(console: Console, summary: ExtractSummary, out: Path, *, rank: Rank) -> None:
    """What was done, for people."""
    from audio_ssl.inference.folder import ERRORS_FILE, INDEX_FILE

    tally, who = summary.tally, f"rank {rank.index} of {rank.size}: " if rank.size > 1 else ""
    warn_refused(console, tally.refused, listed_in=out / ERRORS_FILE, num=tally.num_refused)
    before = f"; {tally.num_present} were there already" if tally.num_present else ""
    lines = [
        f"{who}{tally.num_written} utterances ({spoken(tally.audio_s)}, {tally.num_frames} frames) written to "
        f"{out}{before}"
    ]
    if tally.errors.count:
        lines.append(f"{who}error of the number format: {tally.errors}")
    if tally.window_error is not None:
        lines.append(f"{who}worst of the measured: {tally.window_error}")
    if summary.busy:
        lines.append(
            f"{who}{len(summary.busy)} of {summary.num_shards} shards are left to another process, which is at work on "
            f"them (rows {', '.join(summary.busy[:NUM_NAMED])}); run the same command again when it has ended"
        )
    elif not summary.is_complete:
        lines.append(f"{who}other ranks are not done; the last one writes {out / INDEX_FILE}")
    if summary.num_shards <= rank.index:
        lines.append(
            f"{who}there are {summary.num_shards} shards for {rank.size} ranks; a smaller --shard-mib makes more"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
