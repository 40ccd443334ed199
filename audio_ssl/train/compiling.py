"""torch.compile on the part of a model whose shapes are bounded and whose path never changes: a transformer block."""

from __future__ import annotations

from audio_ssl.model.encoder import Encoder

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
