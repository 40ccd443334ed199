"""What transcribe and align share: their formats, the rules of subtitles, and where results go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from audio_ssl.inference.text_formats import TextFormat, Writer

LineCharsOption: TypeAlias = Annotated[
    int, typer.Option("--line-chars", help="srt, vtt: most characters of a line; a cue has two lines at most.")
]
CueOption: TypeAlias = Annotated[float, typer.Option("--cue-s", help="srt, vtt: most seconds that a cue stands.")]
SpeedOption: TypeAlias = Annotated[
    float, typer.Option("--chars-per-s", help="srt, vtt: fastest reading, where the speech leaves room for it.")
]


def open_writer(
    form: str,
    document: Callable[[Any], Mapping[str, Any]],
    *,
    line_chars: int,
    cue_s: float,
    chars_per_s: float,
) -> Writer:
    """The options as a writer.

    Raises:
        ConfigError: out of range.
    """
    from audio_ssl.inference.subtitles import SubtitleSettings
    from audio_ssl.inference.text_formats import FORMATS, Writer

    return Writer(FORMATS[form], document, SubtitleSettings(line_chars, cue_s, chars_per_s=chars_per_s))


def is_folder(out: str | None, form: TextFormat, *, num_utterances: int) -> bool:
    """Whether ``-o`` means a folder with a file an utterance.

    Args:
        out: as on the command line.
        form: of the files.
        num_utterances: of the input.

    Raises:
        ConfigError: one file is asked for where the format has a file an utterance.
    """
    from audio_ssl.errors import ConfigError

    if out is not None and (out.endswith("/") or Path(out).is_dir() or (form.is_single and not Path(out).suffix)):
        return True
    if form.is_single and num_utterances != 1:
        raise ConfigError(
            f"--format {form.name} must come with a folder, -o FOLDER/: a file holds one recording, INPUT holds "
            f"{num_utterances}"
        )
    return False


@contextmanager
def lines_to(out: Path | None) -> Iterator[Callable[[str], None]]:
    """What takes finished text: standard output as it comes, or a file that is in place when all is there."""
    import sys

    from audio_ssl.inference.output import draft_of

    if out is not None:
        with draft_of(out) as stream:
            yield lambda text: stream.write(text) and None
        return

    def tell(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()  # whoever reads the other end of a pipe waits for it

    yield tell
