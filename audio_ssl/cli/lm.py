"""``audio-ssl lm``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audio_ssl.cli.inference import say

if TYPE_CHECKING:
    from rich.console import Console

    from audio_ssl.inference.decoding.kneser_ney import Estimate


def lm(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="TEXT|MANIFEST...",
            help="Texts, one sentence a line (UTF-8, also .gz), or manifests with transcripts.",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="ARPA file to write; compressed where it ends in .gz.")],
    order: Annotated[int, typer.Option("--order", min=1, max=8, help="Longest n-grams, in words.")] = 3,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A recogniser whose text rules the text goes through; else NFC and lower case."),
    ] = None,
) -> None:
    """Make an n-gram language model of words: interpolated modified Kneser-Ney, as an ARPA file.

    Text for it must not hold the transcripts that the recogniser will be measured on.

    Example: audio-ssl lm books.txt manifests/train.arrow -o lm.arpa --order 4
    """
    from audio_ssl.inference.decoding.arpa import write_arpa
    from audio_ssl.inference.decoding.kneser_ney import estimate

    console, normalize = say(), _rules(model)
    unknown = _Unknown()
    found = estimate(unknown.passed(_texts(sources, normalize)), order=order)
    write_arpa(out, found.words, found.sections)
    _tell(console, found, out, unknown.count)


class _Unknown:
    """Counts the texts that hold no word after the rules."""

    def __init__(self) -> None:
        self.count = 0

    def passed(self, texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            self.count += not text
            yield text


def _rules(model: Path | None) -> Callable[[str], str]:
    if model is not None:
        from audio_ssl.inference.models import open_recogniser

        return open_recogniser(model).vocabulary.normalize
    from audio_ssl.config.text import TextRules
    from audio_ssl.data.normalize import Normalizer

    return Normalizer(TextRules())


def _texts(sources: list[Path], normalize: Callable[[str], str]) -> Iterator[str]:
    """Every sentence of every source, by the rules.

    Raises:
        ManifestError: a source that is missing or unreadable, or a manifest without text.
    """
    from audio_ssl.data.manifest import Manifest
    from audio_ssl.data.manifest_io import is_manifest_file
    from audio_ssl.errors import ManifestError

    for source in sources:
        if source.is_dir() or is_manifest_file(source):
            texts = Manifest.read(source).column("text")
            if all(text is None for text in texts):
                raise ManifestError(f"{source} must have transcripts to learn from, {len(texts)} rows have none")
            yield from (normalize(text or "") for text in texts)
        else:
            yield from map(normalize, _lines(source))


def _lines(path: Path) -> Iterator[str]:
    import gzip

    from audio_ssl.errors import ManifestError

    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from file
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} must be a text file in UTF-8 (or a manifest): {error}") from error


def _tell(console: Console, found: Estimate, out: Path, num_empty: int) -> None:
    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    sizes = ", ".join(f"{len(section.log_prob)} of {n}" for n, section in enumerate(found.sections, start=1))
    line(f"{found.num_words} words in {found.num_sentences} sentences; n-grams by length: {sizes}")
    if num_empty:
        line(f"{num_empty} texts hold no word and do not count")
    if found.guessed:
        orders = ", ".join(map(str, found.guessed))
        line(f"too little text to find the discounts of order {orders}: taken as 0.5, 1 and 1.5")
    line(f"language model: {out}")
