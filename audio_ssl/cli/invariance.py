"""What ``audio-ssl extract --check-invariance`` says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from audio_ssl.inference.invariance import Finding
    from audio_ssl.inference.layers import LayerChoice
    from audio_ssl.inference.models import Runtime
    from audio_ssl.inference.source import OpenedInput
    from audio_ssl.inference.stream import StreamSettings
    from audio_ssl.model.encoder import Encoder

CheckOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--check-invariance",
        help="Write nothing; show on a few utterances of INPUT that their embeddings hang on nothing else. Exit "
        "status 1 where they do.",
    ),
]
_NAMED = 5


def required_out(out: Path | None) -> Path:
    """OUT, which may be left out where nothing is written.

    Raises:
        ConfigError: it was left out.
    """
    from audio_ssl.errors import ConfigError

    if out is None:
        raise ConfigError("OUT must be given: the folder to write to (only --check-invariance does without)")
    return out


def check_and_tell(
    encoder: Encoder, opened: OpenedInput, *, layer: LayerChoice, settings: StreamSettings, runtime: Runtime
) -> int:
    """Check, print each finding as it comes, and give the exit status: 1 where fp32 differs by more than it may.

    Raises:
        AudioError: there is no utterance that can be embedded.
    """
    from audio_ssl.inference.invariance import MOST, check_invariance
    from audio_ssl.inference.source import ManifestSource

    source = ManifestSource(opened.manifest)
    typer.echo(
        f"each utterance alone against itself elsewhere, {runtime.precision} on {runtime.device}, layer {layer.name}: "
        "largest difference / largest value"
    )

    def tell(finding: Finding) -> None:
        name, value = finding.worst
        typer.echo(f"  {finding.what:26}{value:.1e}" + (f"  {name}" if value else ""))

    result = check_invariance(encoder, source, layer=layer, settings=settings, runtime=runtime, on_finding=tell)
    refused = (*opened.refused, *result.refused)
    for refusal in refused[:_NAMED]:
        typer.echo(f"  left out: {refusal.path}: {refusal.reason}")
    if len(refused) > _NAMED:
        typer.echo(f"  and {len(refused) - _NAMED} more are left out")
    lengths = f"{result.lengths_s[0]:.2f} to {result.lengths_s[-1]:.2f} s"
    typer.echo(f"looked at {len(result.lengths_s)} of {len(source)} utterances, {lengths}; nothing was written")
    if result.from_fp32 is not None:
        typer.echo(
            f"{runtime.precision} promises nothing: its results are rounded to few steps; fp32 is the same anywhere"
        )
    elif not result.failures:
        typer.echo(f"all the same to {MOST:g}, which is what fp32 promises")
    for what, differences in result.failures.items():
        named = ", ".join(f"{name} ({value:.1e})" for name, value in list(differences.items())[:_NAMED])
        more = f" and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
        typer.echo(f"error: fp32 must be the same to {MOST:g}; {what}, it is not: {named}{more}", err=True)
    return 1 if result.failures else 0
