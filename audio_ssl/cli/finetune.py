"""``audio-ssl finetune``."""

from __future__ import annotations

from typing import Annotated

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


def finetune(
    config: Annotated[str, typer.Argument(help="A TOML file, or a shipped one such as finetune/small.")],
    *,
    set_: SetOption = None,
    resume: ResumeOption = "never",
    budget: BudgetOption = None,
    dry_run: DryOption = False,
    replay: ReplayOption = None,
) -> None:
    """Fine-tune a pre-trained encoder into a CTC speech recogniser.

    The vocabulary comes from the transcripts of data.train; rows that CTC cannot learn from are named before training.
    The run folder's model/ is a self-contained recogniser for `transcribe` and `evaluate`.

    Example: audio-ssl finetune finetune/small --set init_from=runs/first --set 'data.train=["labelled.arrow"]'
    """
    from audio_ssl.config import FinetuneConfig, find_config, load_config
    from audio_ssl.train.finetune import finetune as train

    settings = load_config(FinetuneConfig, find_config(config), overrides(set_, budget))
    exit_after(train(settings, resume=resume, console=say(), is_dry=dry_run, dump=replay))
