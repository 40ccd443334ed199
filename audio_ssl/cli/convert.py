"""``audio-ssl convert``."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from audio_ssl.interop.convert import Conversion


class Target(StrEnum):
    """Formats that can be written."""

    audio_ssl = "audio_ssl"
    transformers = "transformers"
    torchaudio = "torchaudio"
    fairseq2 = "fairseq2"
    fairseq = "fairseq"


def convert(
    source: Annotated[
        Path,
        typer.Argument(help="A model directory or run folder, a transformers directory, or a .pt checkpoint."),
    ],
    out: Annotated[
        Path, typer.Argument(help="Directory (audio_ssl, transformers) or .pt file (the others) to write; must be new.")
    ],
    *,
    to: Annotated[Target, typer.Option(help="Format to write.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the model that the source does not hold: num_heads=16."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Read back what was written, and run it beside each peer that is installed.")
    ] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="Name every tensor and what became of it.")] = False,
) -> None:
    """Convert a wav2vec 2.0 or HuBERT checkpoint between audio_ssl and other systems.

    Whose checkpoint SOURCE is shows from what it holds. Every tensor must find its place: what the target cannot
    hold is named, and nothing is guessed but the settings that a bare .pt file lacks (64 channels a head, pre-norm
    where the convs have layer norm), which are named and which --set overrides. Files are read as data; nothing in
    them is run. At the end one forward pass runs in both implementations: a difference beyond rounding is an error.

    Example: audio-ssl convert runs/first exported --to transformers
    """
    from audio_ssl.interop import convert as interop

    result = interop.convert(source, out, to=to.value, overrides=_parse(set_ or []), check=check)
    typer.echo(f"wrote {result.path}: {result.kind} model, {result.num_tensors} tensors")
    for line in _told(result, to.value, verbose=verbose):
        typer.echo(f"  {line}")


def _told(result: Conversion, to: str, *, verbose: bool) -> Iterator[str]:
    """What there is to say of a conversion, a line each."""
    report = result.report
    if verbose:
        yield from (f"{theirs} -> {ours}" for theirs, ours in report.converted.items())
    for name in report.filled:
        yield f"the source has no {name}: filled with zeros"
    for name in report.kept:
        yield f"no model needs {name}: kept aside for the way back"
    for setting in report.guessed:
        yield f"the source does not say, taken as in the published models: {setting} (--set overrides it)"
    where = "kept in the .rest.safetensors beside it" if to == "torchaudio" else "left out"
    for name in result.dropped:
        yield f"{to} has no place for {name}: {where}"
    for check in result.checks:
        if check.difference is None:
            yield f"not checked against {check.system}: {check.reason}"
        else:
            yield (
                f"checked against {check.system} {check.version}: {', '.join(check.what)} differ by at most "
                f"{check.difference:.1e} of the largest value"
            )


def _parse(settings: list[str]) -> dict[str, object]:
    import tomllib

    from audio_ssl.errors import ConfigError

    values: dict[str, object] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set {setting!r} must have the form key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()  # a bare word is a string
        values[key.strip().removeprefix("model.")] = value
    return values
