"""Transformer blocks as programs that torch compiles, where somebody asks for it; their shapes are bounded."""

from __future__ import annotations

import logging
from functools import cache

from audio_ssl.model.encoder import Encoder

logger = logging.getLogger(__name__)
_MOST_PROGRAMS = 16  # 4 for each of 3 modes are expected


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
        "compiled transformer blocks have met more kinds of batches than the %d programs that are kept; those "
        "that none fits run uncompiled from here on: right, but slower. This should not happen: report the settings, "
        "and do without run.compile, or --compile, where it does not pay",
        _MOST_PROGRAMS,
    )
