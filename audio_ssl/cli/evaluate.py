"""``audio-ssl evaluate``: error rates of a recogniser or of finished transcripts, and comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from audio_ssl.cli.decoding import (
    BeamSizeOption,
    DecoderOption,
    HotWordsOption,
    LexiconOption,
    LmOption,
    LmWeightOption,
    WordScoreOption,
    decode_settings,
)
from audio_ssl.cli.inference import (
    BatchOption,
    BothWorkersOption,
    DeviceOption,
    MaxOption,
    OverlapOption,
    PrecisionOption,
    say,
    stream_settings,
)

if TYPE_CHECKING:
    from audio_ssl.cli.evaluate_source import How
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.evaluate.session import Outcome
    from audio_ssl.evaluate.text_rules import RuleName, ScoringText

NUM_NAMED = 5


InputsArgument: TypeAlias = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[MODEL [MODEL]] [MANIFEST]",
        help="A recogniser and a manifest (or folder) with transcripts; two recognisers are compared. With "
        "--hypotheses the manifest alone, or nothing where the file holds references.",
    ),
]
HypothesesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--hypotheses", help="Finished transcripts: JSON lines (id, text) or lines of id, tab, text."),
]
CompareOption: TypeAlias = Annotated[
    Path | None, typer.Option("--compare", help="JSON report of an earlier evaluation to compare with.")
]
OutOption: TypeAlias = Annotated[
    Path | None, typer.Option("-o", "--out", help="JSON report; every utterance goes into a JSONL beside it.")
]
HtmlOption: TypeAlias = Annotated[Path | None, typer.Option("--html", help="The report as one HTML page.")]
TextOption: TypeAlias = Annotated[
    Literal["model", "plain", "exact"] | None,
    typer.Option(
        "--text",
        help="What texts go through before they are compared. model: references by the model's text rules; "
        "plain: both NFKC, lower case, no punctuation; exact: as they stand. Default: model, without one exact.",
    ),
]
WorstOption: TypeAlias = Annotated[
    int, typer.Option("--worst", min=0, help="Utterances to show, those with most errors.")
]
SeedOption: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Of the bootstrap intervals.")]


def evaluate(
    inputs: InputsArgument = None,
    *,
    hypotheses: HypothesesOption = None,
    compare: CompareOption = None,
    out: OutOption = None,
    html: HtmlOption = None,
    text: TextOption = None,
    worst: WorstOption = 10,
    seed: SeedOption = 1,
    decoder: DecoderOption = "greedy",
    lexicon: LexiconOption = None,
    lm: LmOption = None,
    hot_words: HotWordsOption = None,
    beam_size: BeamSizeOption = None,
    lm_weight: LmWeightOption = None,
    word_score: WordScoreOption = None,
    batch_s: BatchOption = 60.0,
    max_s: MaxOption = 60.0,
    overlap_s: OverlapOption = 4.0,
    workers: BothWorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Measure recognition: word and character error rates with counts, 95 % intervals and where the errors are.

    Intervals are taken over speakers where several are known, else over utterances. Rows without text, audio that
    cannot be read and rows without a hypothesis are counted and named, and take no part in the rates.

    Examples: audio-ssl evaluate runs/ctc test.arrow -o report.json --html report.html; audio-ssl evaluate runs/a runs/b
    test.arrow; audio-ssl evaluate test.arrow --hypotheses mine.jsonl --compare report.json
    """
    from audio_ssl.cli.evaluate_source import How, Running
    from audio_ssl.cli.evaluate_tables import print_outcome

    decoding = {
        "lexicon": lexicon, "lm": lm, "hot_words": hot_words, "beam_size": beam_size, "lm_weight": lm_weight,
        "word_score": word_score,
    }  # fmt: skip
    models, manifest = _arguments(inputs or [], hypotheses, has_baseline=compare is not None)
    is_decoding = decoder != "greedy" or any(value is not None for value in decoding.values())
    _check_options(html, is_decoding=is_decoding, has_model=bool(models))
    running = None
    if models:
        stream = stream_settings(batch_s, max_s, overlap_s, workers=workers)
        running = Running(decode_settings(decoder, **decoding), stream, device, precision)  # type: ignore[arg-type]
    how = How(manifest, hypotheses, _rule(text, has_model=bool(models)), worst, seed, running)
    with TemporaryDirectory(prefix="audio_ssl_evaluate_") as scratch:
        if len(models) == 2:
            _check_rules(models, how)
            compare = Path(scratch) / "baseline.json" if out is None else out.with_name(f"{out.stem}.baseline.json")
            _run(how, models[0], out=compare)
        outcome = _run(how, models[-1] if models else None, out=out, compare=compare, html=html)
    print_outcome(outcome, worst=worst)
    _tell(outcome, out=out, html=html)
    if outcome.num_refused and not outcome.report.overall.num_utterances:
        raise typer.Exit(1)


def _arguments(
    inputs: Sequence[Path], hypotheses: Path | None, *, has_baseline: bool
) -> tuple[Sequence[Path], Path | None]:
    """Models and manifest.

    Raises:
        ConfigError: too few or too many.
    """
    from audio_ssl.errors import ConfigError

    if hypotheses is not None:
        if len(inputs) > 1:
            raise ConfigError(
                f"with --hypotheses there must be a MANIFEST at most, got {len(inputs)} arguments: a MODEL has nothing "
                "to do"
            )
        return [], inputs[0] if inputs else None
    if len(inputs) not in (2, 3):
        raise ConfigError(
            "evaluate must be given MODEL and MANIFEST (or MODEL, MODEL and MANIFEST to compare two), or --hypotheses; "
            f"got {len(inputs)} argument{'s' * (len(inputs) != 1)}"
        )
    if len(inputs) == 3 and has_baseline:
        raise ConfigError("--compare must come with one MODEL: two are compared with each other")
    return inputs[:-1], inputs[-1]


def _check_options(html: Path | None, *, is_decoding: bool, has_model: bool) -> None:
    """Refuse before hours of work what would be refused, or not be seen, after them.

    Raises:
        ConfigError: a decoder without a model, or a page that cannot be written.
    """
    import os

    from audio_ssl.errors import ConfigError

    if is_decoding and not has_model:
        raise ConfigError(
            "--decoder and its options must come with a MODEL: finished transcripts are scored as they are"
        )
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        if html.is_dir() or not os.access(html.parent, os.W_OK):
            raise ConfigError(f"--html must be a file that can be written, got {html}; choose another place")


def _rule(text: RuleName | None, *, has_model: bool) -> RuleName:
    from audio_ssl.errors import ConfigError

    if text == "model" and not has_model:
        raise ConfigError("--text model must come with a MODEL; finished transcripts take --text plain or exact")
    return text or ("model" if has_model else "exact")


def _check_rules(models: Sequence[Path], how: How) -> None:
    """Look whether two models are measured against the same references, before either is run.

    Raises:
        ConfigError: their text rules differ.
    """
    from audio_ssl.errors import ConfigError
    from audio_ssl.inference.models import open_recogniser

    if how.rule != "model":
        return
    first, second = (open_recogniser(model).vocabulary.rules for model in models)
    if first != second:
        faults = [f"{name}: {a!r} and {b!r}" for (name, a), (_, b) in zip(first, second, strict=True) if a != b]
        raise ConfigError(
            f"the text rules of both models must be the same to compare them, but {'; '.join(faults)}; give --text "
            "plain (or exact), which measures both alike"
        )


def _run(
    how: How, model: Path | None, *, out: Path | None, compare: Path | None = None, html: Path | None = None
) -> Outcome:
    """One evaluation with its files."""
    from audio_ssl.cli.evaluate_source import opened, score
    from audio_ssl.evaluate.comparison import Comparer
    from audio_ssl.evaluate.session import Session, open_baseline
    from audio_ssl.evaluate.text_rules import ScoringText
    from audio_ssl.evaluate.utterance_file import LineWriter, beside

    with ExitStack() as stack:
        recogniser = None if model is None else opened(model, how)
        text = ScoringText.named(how.rule) if recogniser is None else ScoringText.named(
            how.rule, recogniser.vocabulary.rules
        )  # fmt: skip
        comparer = None
        if compare is not None:
            lines, name = open_baseline(compare)
            comparer = Comparer(stack.enter_context(lines), name)
        writer = None if out is None else stack.enter_context(LineWriter(beside(out)))
        session = Session(text, comparer=comparer, lines=writer, num_worst=how.worst)
        manifest = score(session, how, recogniser)
        outcome = session.outcome(seed=how.seed)
    about = _about(how, model, text, utterances=None if out is None else beside(out).name)
    if out is not None:
        _write(out, {**about, **outcome.to_document()})
    if html is not None:
        _write_page(html, about, outcome, manifest)
    return outcome


def _about(how: How, model: Path | None, text: ScoringText, *, utterances: str | None) -> dict[str, Any]:
    """How it was measured: the head of the report."""
    from audio_ssl import __version__
    from audio_ssl.evaluate.session import head

    def shown(path: Path | None) -> str | None:
        return None if path is None else str(path)

    return {
        **head(),
        "audio_ssl_version": __version__,
        "model": shown(model),
        "model_hash": None if model is None else _hash(model),
        "hypotheses": shown(how.hypotheses),
        "manifest": shown(how.manifest),
        "decoder": None if how.running is None else how.running.decode.to_document(),
        "text": text.to_document(),
        "utterances_file": utterances,
    }


def _hash(model: Path) -> str:
    from audio_ssl.interop.source import weights_hash  # brings torch

    return weights_hash(model)


def _write(out: Path, document: dict[str, Any]) -> None:
    import json

    from audio_ssl.inference.output import write_text

    write_text(out, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write_page(html: Path, about: dict[str, Any], outcome: Outcome, manifest: Manifest | None) -> None:
    from audio_ssl.evaluate.report.recognition import build_recognition_page
    from audio_ssl.evaluate.report.utterances import clips_of
    from audio_ssl.inference.output import write_text

    clips = clips_of(manifest, outcome.report.worst)
    write_text(html, build_recognition_page(about, outcome, clips))


def _tell(outcome: Outcome, *, out: Path | None, html: Path | None) -> None:
    """What was left out, and where the files are, on standard error."""
    from audio_ssl.evaluate.utterance_file import beside

    console = say()
    if outcome.num_refused:
        console.print(f"warning: {outcome.num_refused} without a result:", style="yellow", highlight=False)
        shown = outcome.refused if out is None else outcome.refused[:NUM_NAMED]
        for refusal in shown:
            console.print(f"  {refusal['path']}: {refusal['reason']}", markup=False, highlight=False, soft_wrap=True)
        if outcome.num_refused > len(shown):
            place = "-o REPORT.json lists all" if out is None else f"all are in {beside(out)}"
            console.print(f"  and {outcome.num_refused - len(shown)} more; {place}", highlight=False, soft_wrap=True)
    for name, path in (("report", out), ("page", html)):
        if path is not None:
            console.print(f"{name}: {path}", markup=False, highlight=False, soft_wrap=True)
