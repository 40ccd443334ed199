"""Which of an encoder's weights lie how deep; for training that treats the bottom otherwise than the top."""

from __future__ import annotations

from itertools import chain

from torch import nn

from audio_ssl.model.encoder import Encoder
from audio_ssl.model.squeeze import SqueezedContextNetwork


def by_depth(encoder: Encoder) -> tuple[tuple[nn.Parameter, ...], ...]:
    """Every parameter once.

    Returns:
        num_layers + 2 groups: 0 is what lies below the blocks (front end, projection, mask embedding, positions, and
        the norm where it stands before the blocks), n is block n, the last is what lies above the blocks (the norm of
        a pre-norm network; the way up of a squeezed one).
    """
    outer = encoder.context_network
    network = outer.network if isinstance(outer, SqueezedContextNetwork) else outer
    top: list[nn.Module] = [network.norm] if network.norm_order == "pre" else []
    if isinstance(outer, SqueezedContextNetwork):
        top += [outer.upsample, outer.norm]
    above = _parameters(top)
    blocks = [tuple(block.parameters()) for block in outer.blocks]
    elsewhere = set(chain(above, *blocks))
    below = tuple(p for p in encoder.parameters() if p not in elsewhere)
    return (below, *blocks, above)


def _parameters(modules: list[nn.Module]) -> tuple[nn.Parameter, ...]:
    return tuple(chain.from_iterable(module.parameters() for module in modules))
