"""``audio-ssl evaluate``: transcribe a manifest with text, and score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from audio_ssl.cli.inference import (
    BatchOption,
    DeviceOption,
    MaxOption,
    ModelArgument,
    OverlapOption,
    PrecisionOption,
    WorkersOption,
    audio_progress,
    say,
    stream_settings,
    warn_refused,
)

if TYPE_CHECKING:
    from rich.table import Table

    from audio_ssl.data.manifest import Manifest
    from audio_ssl.evaluate.error_rate import EditCounts, Interval
    from audio_ssl.evaluate.recogniser import Report, ScoredUtterance
    from audio_ssl.inference.models import Recogniser
    from audio_ssl.inference.transcripts import Transcript


def evaluate(
    model: ModelArgument,
    input_: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest (or folder) with transcripts.")],
    *,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON report with every utterance.")] = None,
    worst: Annotated[int, typer.Option("--worst", min=0, help="Utterances to show, those with most errors.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap intervals.")] = 1,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Measure a recogniser: word and character error rates with counts and 95 % intervals, greedy decoding.

    References are normalised as in training. Rows without text and audio that cannot be read are counted and
    named, and take no part in the rates.

    Example: audio-ssl evaluate runs/ctc manifests/test.tsv -o report.json
    """
    from rich.console import Console

    from audio_ssl.evaluate.recogniser import build_report
    from audio_ssl.inference.decoding import GreedyDecoder
    from audio_ssl.inference.models import open_recogniser, open_runtime
    from audio_ssl.inference.source import ManifestSource, Refusal, open_input
    from audio_ssl.inference.transcribe import one_by_one, transcribe_source

    console = say()
    runtime = open_runtime(device, precision)
    recogniser = open_recogniser(model)
    recogniser.model.to(runtime.device)
    opened = open_input(input_)
    manifest, without = _rows_with_text(opened.manifest, input_)
    with audio_progress(console, "evaluate", float(manifest.durations_s().sum())) as advance:
        results = list(transcribe_source(
            ManifestSource(manifest), recogniser=recogniser, decode=one_by_one(GreedyDecoder(recogniser.vocabulary)),
            settings=stream_settings(batch_s, max_s, overlap_s, workers=workers), runtime=runtime, on_progress=advance,
        ))  # fmt: skip
    transcripts = [result for result in results if not isinstance(result, Refusal)]
    failed = [result for result in results if isinstance(result, Refusal)]
    report = build_report(_scored(transcripts, manifest, recogniser), seed=seed)
    refused = [*opened.refused, *(Refusal(name, path, "it has no text") for name, path in without), *failed]
    tables = Console()
    for table in _tables(report, worst):
        tables.print(table)
    if report.num_empty_references:
        tables.print(f"{report.num_empty_references} references are empty: what was recognised there is insertions")
    warn_refused(console, refused, listed_in=out)
    if out is not None:
        _write(out, report, refused, model=model, manifest=input_)
        console.print(f"report: {out}", markup=False, highlight=False, soft_wrap=True)
    if refused and not transcripts:
        raise typer.Exit(1)


def _rows_with_text(manifest: Manifest, source: Path) -> tuple[Manifest, list[tuple[str, str]]]:
    """The rows whose text is known (an empty one is a known silence), and (id, path) of the others.

    Raises:
        ManifestError: no row has text.
    """
    from audio_ssl.errors import ManifestError

    texts = manifest.column("text")
    rows = [row for row, text in enumerate(texts) if text is not None]
    if not rows:
        raise ManifestError(
            f"{source} must have text to measure against, none of its {len(manifest)} rows has any; "
            "see `audio-ssl manifest build --help` for where transcripts are found"
        )
    without = [(manifest[row].id, str(manifest.audio_path(row))) for row, text in enumerate(texts) if text is None]
    return manifest.select(rows), without


def _scored(transcripts: list[Transcript], manifest: Manifest, recogniser: Recogniser) -> list[ScoredUtterance]:
    from audio_ssl.evaluate.recogniser import score_utterance

    scored = []
    for transcript in transcripts:
        row = manifest[transcript.row]
        reference = recogniser.vocabulary.normalize(row.text or "")
        scored.append(score_utterance(row.id, reference, transcript.text, speaker=row.speaker))
    return scored


def _tables(report: Report, worst: int) -> list[Table]:
    from rich.markup import escape
    from rich.table import Table

    overall = Table(title=f"{report.overall.num_utterances} utterances")
    for heading in ("", "rate", "95 %", "errors", "sub", "del", "ins", "of"):
        overall.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    score = report.overall
    overall.add_row("WER (words)", *_cells(score.words, score.word_interval))
    overall.add_row("CER (chars)", *_cells(score.characters, score.character_interval))
    tables = [overall]
    if report.speakers:
        by_speaker = Table(title="by speaker, worst first")
        for heading in ("speaker", "utterances", "WER", "CER", "words"):
            by_speaker.add_column(heading, justify="left" if heading == "speaker" else "right")
        for one in report.speakers:
            by_speaker.add_row(
                escape(one.name), str(one.num_utterances), f"{one.words.rate:.1%}", f"{one.characters.rate:.1%}",
                str(one.words.reference_length),
            )  # fmt: skip
        tables.append(by_speaker)
    if report.worst(worst):
        texts = Table(title="most errors")
        for heading in ("utterance", "reference", "recognised", "WER"):
            texts.add_column(heading, justify="right" if heading == "WER" else "left")
        for u in report.worst(worst):
            texts.add_row(escape(u.id), escape(u.reference), escape(u.hypothesis), f"{u.words.rate:.0%}")
        tables.append(texts)
    return tables


def _cells(counts: EditCounts, interval: Interval | None) -> list[str]:
    spread = "" if interval is None else f"{100 * interval.low:.1f}–{interval.high:.1%}"
    numbers = (counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.reference_length)
    return [f"{counts.rate:.2%}", spread, *map(str, numbers)]


def _write(out: Path, report: Report, refused: list[Any], *, model: Path, manifest: Path) -> None:
    import json

    from audio_ssl.inference.output import write_text
    from audio_ssl.interop.source import weights_hash

    document = {
        "model": str(model),
        "model_hash": weights_hash(model),
        "manifest": str(manifest),
        "decoder": "greedy",
        **report.to_document(),
        "refused": [{"id": r.id, "path": r.path, "reason": r.reason} for r in refused],
    }
    write_text(out, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
