"""``audio-ssl pretrain``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audio_ssl.cli.training import (
    BudgetOption,
    DryOption,
    ReplayOption,
    ResumeOption,
    SetOption,
    exit_after,
    overrides,
    say,
)

if TYPE_CHECKING:
    from audio_ssl.config import PretrainConfig
    from audio_ssl.train.probing import MakeMeasurer


def pretrain(
    config: Annotated[str, typer.Argument(help="A TOML file, or a shipped one such as pretrain/tiny_cpu.")],
    *,
    set_: SetOption = None,
    resume: ResumeOption = "never",
    budget: BudgetOption = None,
    init_from: Annotated[
        Path | None, typer.Option(help="Start a new run from the weights of this model directory or run folder.")
    ] = None,
    dry_run: DryOption = False,
    replay: ReplayOption = None,
) -> None:
    """Pre-train an encoder on manifests of raw speech.

    Every setting stands in the TOML file or is given by --set; what the run does is printed before it starts.
    Ctrl-C or SIGTERM saves a checkpoint and ends; --resume auto goes on exactly there.

    Example: audio-ssl pretrain pretrain/tiny_cpu --set 'data.train=["speech.arrow"]' --set run.dir=runs/first
    """
    from audio_ssl.config import PretrainConfig, find_config, load_config
    from audio_ssl.train.pretrain import pretrain as train

    settings = load_config(PretrainConfig, find_config(config), overrides(set_, budget))
    outcome = train(
        settings, resume=resume, init_from=init_from, console=say(), is_dry=dry_run, dump=replay,
        make_probe=_make_probe(settings, init_from),
    )  # fmt: skip
    exit_after(outcome)


def _make_probe(settings: PretrainConfig, init_from: Path | None) -> MakeMeasurer | None:
    """What measures the encoder of the run, where its settings ask for that."""
    if settings.probe is None:
        return None
    from audio_ssl.probe.online import open_online_probe

    run_dir, manifests = settings.run.dir, settings.data.train
    return partial(
        open_online_probe, settings.probe, settings.model, run_dir=run_dir, manifests=manifests, init_from=init_from
    )
