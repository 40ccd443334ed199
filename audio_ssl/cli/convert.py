"""``audio-ssl convert``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Target(StrEnum):
    """Formats that can be written."""

    audio_ssl = "audio_ssl"
    transformers = "transformers"
    torchaudio = "torchaudio"
    fairseq2 = "fairseq2"
    fairseq = "fairseq"


def convert(
    source: Annotated[
        Path, typer.Argument(help="A model directory or run folder, a transformers directory, or a .pt checkpoint.")
    ],
    out: Annotated[
        Path, typer.Argument(help="Directory (audio_ssl, transformers) or .pt file (the others) to write; must be new.")
    ],
    to: Annotated[Target, typer.Option(help="Format to write.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the model that the source does not hold: num_heads=16."
        ),
    ] = None,
) -> None:
    """Convert a wav2vec 2.0 checkpoint between audio_ssl and other systems.

    Whose checkpoint SOURCE is shows from what it holds. Every tensor must find its place: what the target cannot
    hold is named, and nothing is guessed but the settings that a bare .pt file lacks (64 channels a head, pre-norm
    where the convs have layer norm), which --set overrides. Files are read as data; nothing in them is run.

    Example: audio-ssl convert runs/first exported --to transformers
    """
    from audio_ssl.interop import convert as interop

    result = interop.convert(source, out, to=to.value, overrides=_parse(set_ or []))
    typer.echo(f"wrote {result.path}: {result.kind} model, {result.num_tensors} tensors")
    for name in result.filled:
        typer.echo(f"  the source has no {name}: filled with zeros")
    for name in result.dropped:
        typer.echo(f"  {to.value} has no place for {name}: left out")


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
