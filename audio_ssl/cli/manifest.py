"""``audio-ssl manifest``: from a folder of audio to the table that every other verb reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from audio_ssl.errors import ConfigError, ManifestError

app = typer.Typer(
    no_args_is_help=True,
    help="Make, check, split and convert manifests: tables with one row an utterance.\n\n"
    "The file's extension says the format: .arrow (memory-mapped; for large corpora), .parquet, or .tsv (for people). "
    "Manifests of fairseq (.tsv), NeMo and Lhotse (.jsonl) and Kaldi data directories are read everywhere too.",
)


FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A manifest.", show_default=False)]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="The manifest to write.", show_default=False)
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Threads that read files.")]


@app.command()
def build(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to scan, with all below it.", show_default=False)
    ],
    *,
    out: OutOption,
    transcripts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Tab-separated table: a header with path or id; text, speaker, language."),
    ] = None,
    speaker_from: Annotated[
        str,
        typer.Option(
            metavar="none|parent|REGEX",
            help="Speakers beyond what sidecar files say: none, the folder's name, or a regular expression on the "
            r"relative path with a group named speaker, such as '(?P<speaker>\d+)-\d+-\d+'.",
        ),
    ] = "none",
    language: Annotated[str | None, typer.Option(metavar="TAG", help="Language of rows that name none: en.")] = None,
    check: Annotated[
        Literal["headers", "ends", "full"],
        typer.Option(help="headers only; ends: the last samples too; full: decode all, and refuse silent files."),
    ] = "ends",
    max_s: Annotated[float, typer.Option(help="Say which files are longer than this many seconds.")] = 20.0,
    workers: WorkersOption = 8,
) -> None:
    """Scan a folder of audio and write its manifest.

    Every file becomes a row, or is refused with a reason: counts are printed, the list goes to FILE.refused.tsv.
    Transcripts and speakers are taken from transcripts.tsv, Kaldi data directories, LibriSpeech *.trans.txt,
    metadata.csv (Hugging Face, LJSpeech) and .txt files beside the audio.
    """
    from audio_ssl.cli.manifest_view import progress_bar, show_scan
    from audio_ssl.data.scan import ScanSettings, scan_to_file

    settings = ScanSettings(
        transcripts=transcripts,
        speaker_from=speaker_from,
        language=language,
        check=check,
        num_workers=workers,
        max_s=max_s,
    )
    with progress_bar("files") as progress:
        report = scan_to_file(folder, out, settings=settings, progress=progress)
    show_scan(report, out=out)


@app.command()
def validate(
    file: FileArgument,
    *,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every row, and find NaN and broken files.")] = False,
    workers: WorkersOption = 8,
) -> None:
    """Check a manifest's rows, and compare them with the audio files; every fault is listed."""
    from audio_ssl.cli.manifest_view import print_line, progress_bar
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.summary import find_faults
    from audio_ssl.data.table import listed

    manifest = Manifest.read(file)
    manifest.check()
    manifest.check_root()
    with progress_bar("rows") as progress:
        faults = find_faults(manifest, decode=decode, num_workers=workers, progress=progress)
    if faults:
        raise ManifestError(listed(f"{file} must agree with its audio, but {len(faults)} rows do not", list(faults)))
    print_line(
        f"{file}: all {len(manifest)} rows agree with their files ({'decoded' if decode else 'headers and ends'})"
    )


@app.command()
def stats(file: FileArgument) -> None:
    """Hours, sample rates, lengths, speakers and texts of a manifest."""
    from audio_ssl.cli.manifest_view import show_summary
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.summary import summarize

    show_summary(summarize(Manifest.read(file)), name=str(file))


@app.command()
def split(
    file: FileArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the parts.")],
    by: Annotated[
        Literal["speaker", "none"], typer.Option(help="speaker: no speaker in two parts; none: no file in two.")
    ] = "speaker",
    parts: Annotated[
        str, typer.Option(metavar="NAME=SHARE,...", help="Parts and their shares of the hours; they add up to 1.")
    ] = "train=0.9,valid=0.1",
    seed: Annotated[int, typer.Option(min=0, help="Decides among speakers of equal hours.")] = 0,
) -> None:
    """Split a manifest by hours into DIR/NAME.arrow (or .parquet or .tsv, as FILE)."""
    from audio_ssl.cli.manifest_view import show_parts
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.manifest_io import SUFFIXES
    from audio_ssl.data.partition import split_rows

    manifest = Manifest.read(file)
    shares = _shares(parts)
    chosen = split_rows(manifest, parts=shares, by=by, seed=seed)
    suffix = file.suffix if file.suffix.lower() in SUFFIXES else ".arrow"
    written = {out / f"{name}{suffix}": manifest.select(rows) for name, rows in chosen.items()}
    for path, part in written.items():
        part.write(path)
    show_parts(written, total_hours=float(manifest.durations_s().sum()) / 3600)


@app.command()
def convert(
    file: FileArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The manifest to write.", show_default=False)],
    *,
    to: Annotated[
        Literal["native", "fairseq", "nemo", "kaldi", "lhotse"],
        typer.Option(
            help="native: ours, by OUT's extension; fairseq: .tsv; nemo: .jsonl; lhotse: cuts, .jsonl or .jsonl.gz; "
            "kaldi: a new folder."
        ),
    ] = "native",
    labels: Annotated[
        str, typer.Option(metavar="ltr,wrd", help="Label files that fairseq's manifest gets beside it.")
    ] = "",
    root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|ADDRESS",
            help="Where paths start from now, such as s3://bucket/corpus for a pack that was uploaded.",
        ),
    ] = None,
) -> None:
    """Write a manifest in another format. Reads every format; says what the other one has no place for.

    What is read: our own; fairseq's .tsv with labels; NeMo's .jsonl; Lhotse's cuts, or recordings with supervisions
    beside them; Kaldi data directories.
    """
    from audio_ssl.cli.manifest_view import print_line
    from audio_ssl.data.formats.export import export_manifest
    from audio_ssl.data.manifest import Manifest

    manifest = Manifest.read(file)
    manifest = manifest if root is None else manifest.moved_to(root)
    lost = export_manifest(manifest, out, to=to, labels=[kind for kind in labels.split(",") if kind])
    print_line(f"wrote {len(manifest)} rows to {out}")
    if lost:
        print_line(f"only in {file}, since {to}'s format cannot say it: {', '.join(lost)}")


@app.command()
def segment(
    file: FileArgument,
    *,
    out: OutOption,
    min_s: Annotated[float, typer.Option(help="Shortest piece in seconds; shorter ones join a neighbour.")] = 1.0,
    max_s: Annotated[float, typer.Option(help="Longest piece in seconds; shorter rows stay as they are.")] = 20.0,
    top_db: Annotated[float, typer.Option(help="This much quieter than the loudest is silence (energy).")] = 40.0,
    trim: Annotated[bool, typer.Option("--trim", help="Also take the silence off both ends of short rows.")] = False,
    vad: Annotated[
        Literal["energy", "silero"],
        typer.Option(
            help="What silence is: energy, what is quiet; silero, all that is not speech, noise and music too (a small "
            "network; needs the extra vad)."
        ),
    ] = "energy",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Recordings that are cut at a time.")] = 2,
) -> None:
    """Cut long recordings at their silences; the pieces are rows that point into the same files.

    Rows that are cut lose their text (it cannot be cut with them); how many is printed.
    """
    from audio_ssl.cli.manifest_view import progress_bar, show_segments
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.refusals import write_refusals
    from audio_ssl.data.segment import segment_manifest
    from audio_ssl.data.silence import SegmentSettings

    manifest = Manifest.read(file)
    settings = SegmentSettings(min_s=min_s, max_s=max_s, top_db=top_db, trims=trim, vad=vad)
    with progress_bar("rows") as progress:
        result = segment_manifest(manifest, settings=settings, num_workers=workers, progress=progress)
    listed_at = write_refusals(out, result.refusals)
    result.manifest.write(out)
    show_segments(result, num_before=len(manifest), out=out, listed_at=listed_at)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Manifests, in order.", show_default=False)],
    *,
    out: OutOption,
) -> None:
    """Join manifests; where ids clash, all get the name of their file in front."""
    from audio_ssl.cli.manifest_view import print_line
    from audio_ssl.data.manifest import Manifest

    joined = Manifest.concat([Manifest.read(file) for file in files])
    joined.write(out)
    print_line(f"wrote {len(joined)} rows of {len(files)} manifests to {out}")


@app.command()
def dedupe(file: FileArgument, *, out: OutOption) -> None:
    """Drop rows that hold the same audio as an earlier row: the same samples of files with the same bytes.

    The first row stays; all others are named, each beside its twin, in OUT.refused.tsv.
    """
    from audio_ssl.cli.manifest_view import progress_bar, show_duplicates
    from audio_ssl.data.dedupe import drop_duplicates
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.refusals import write_refusals

    manifest = Manifest.read(file)
    manifest.check_root()
    with progress_bar("files") as progress:
        result = drop_duplicates(manifest, progress=progress)
    listed_at = write_refusals(out, result.refusals)
    if len(manifest) and not len(result.manifest):
        raise ManifestError(f"{file} must have at least one row whose file can be read; see {listed_at}")
    result.manifest.write(out)
    show_duplicates(result, num_before=len(manifest), out=out, listed_at=listed_at)


@app.command()
def pack(
    file: FileArgument,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="New folder for the shards.", show_default=False)
    ],
    shard_mb: Annotated[int, typer.Option(min=1, help="A shard's largest size in MB (10^6 bytes).")] = 1000,
    workers: WorkersOption = 8,
) -> None:
    """Copy a manifest's files, as they are, into few large tar shards in WebDataset's layout.

    DIR/manifest.arrow has the same rows and says where each file lies in its shard; every verb reads it like any
    other. Files that cannot be read stay out: their number is printed, the list goes to DIR/manifest.arrow.refused.tsv.
    """
    from audio_ssl.cli.manifest_view import progress_bar, show_pack
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.pack import MANIFEST_NAME, write_shards
    from audio_ssl.data.refusals import write_refusals

    manifest = Manifest.read(file)
    manifest.check_root()
    with progress_bar("steps (look, copy)") as progress:
        result = write_shards(manifest, out, shard_bytes=shard_mb * 10**6, num_workers=workers, progress=progress)
    place = out / MANIFEST_NAME
    listed_at = write_refusals(place, result.refusals)
    result.manifest.write(place)
    show_pack(result, out=place, listed_at=listed_at)


@app.command()
def show(
    file: FileArgument,
    row: Annotated[
        int | None, typer.Argument(metavar="[ROW]", min=1, help="Show this row alone; the first is 1.")
    ] = None,
    *,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows to show.")] = 10,
    play: Annotated[
        Path | None, typer.Option(metavar="OUT.wav", help="Write ROW's audio here, to listen to: mono, 16 bit.")
    ] = None,
) -> None:
    """Print a manifest's root and first rows, or one row with all its fields; write its audio to a WAV file."""
    from audio_ssl.cli.manifest_view import print_line, show_row, show_rows
    from audio_ssl.data.audio import write_row
    from audio_ssl.data.manifest import Manifest

    manifest = Manifest.read(file)
    if row is None:
        if play is not None:
            raise ConfigError("--play must come with a ROW, such as `audio-ssl manifest show FILE 3 --play OUT.wav`")
        show_rows(manifest, limit=rows)
        return
    if row > len(manifest):
        raise ConfigError(f"ROW must be in 1..{len(manifest)}, the rows of {file}, got {row}")
    show_row(manifest, row - 1)
    if play is not None:
        write_row(manifest, row - 1, play)
        print_line(f"wrote its audio to {play}")


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.strip().partition("=")
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if not name or not equals or "/" in name or name in shares or value < 0:
            raise ConfigError(f"--parts must read NAME=SHARE,NAME=SHARE with different names, got {text!r}")
        shares[name] = value
    return shares
