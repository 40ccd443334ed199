"""How transformer blocks run in training: compiled, for their shapes are bounded, or with less memory for more work."""

from __future__ import annotations

import logging
from functools import cache

from audio_ssl.config import RunConfig
from audio_ssl.model.encoder import Encoder
from audio_ssl.model.transformer import ContextNetwork

logger = logging.getLogger(__name__)
_MOST_PROGRAMS = 16  # 4 for each of 3 modes are expected


def prepare_blocks(encoder: Encoder, run: RunConfig) -> None:
    """Do with the blocks what ``run`` says."""
    if run.checkpoint_activations:
        recompute_blocks(encoder)
    if run.compile:
        compile_blocks(encoder)


def recompute_blocks(encoder: Encoder) -> None:
    """Let each block keep its input alone for the backward pass; what it computes stays the same to the last bit.

    Reference: Training deep nets with sublinear memory cost (1604.06174).
    """
    for part in encoder.modules():
        if isinstance(part, ContextNetwork):
            part.recomputes_blocks = True


def compile_blocks(encoder: Encoder) -> None:
    """Compile each block in place; names and values of the weights stay.

    Not the network of blocks as one: all blocks share one program, which takes as long to prepare as one block, and
    layer drop chooses among blocks outside of it. As one, each choice is a program of its own, and torch gives up
    after eight (``tests/unit/train/test_compiling.py`` counts them). Rows and frames are sizes of the program, not
    constants: there are four programs, for one row or several, with padding or without, in each of the modes that a
    run has (training, the same with a frozen encoder, validation).
    """
    from torch._dynamo import config  # slow to import

    config.recompile_limit = max(config.recompile_limit, _MOST_PROGRAMS)
    for block in encoder.context_network.blocks:
        block.compile(dynamic=True)  # type: ignore[no-untyped-call]
    # torch says it in its own words, of a line of code; an equal filter is added once.
    logging.getLogger("torch._dynamo.convert_frame").addFilter(_tell_limit)


def _tell_limit(record: logging.LogRecord) -> bool:
    """Say in words for people that torch gives up on compiling."""
    if "hit config." in str(record.msg):
        _tell_limit_once()
    return True


@cache
def _tell_limit_once() -> None:
    logger.warning(
        "run.compile: the transformer blocks have met more kinds of batches than the %d programs that are kept; those "
        "that none fits run uncompiled from here on: right, but slower. This should not happen: report the settings, "
        "and set run.compile=false where it does not pay",
        _MOST_PROGRAMS,
    )
