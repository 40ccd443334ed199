"""What of a recogniser learns, and how fast: frozen parts, and learning rates by depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from audio_ssl.config import CTCConfig
from audio_ssl.errors import ConfigError
from audio_ssl.model.depth import by_depth
from audio_ssl.model.encoder import Encoder

Groups = Sequence[tuple[Sequence[nn.Parameter], float]]
"""(Parameters, factor on the learning rate) pairs."""


def require_blocks(config: CTCConfig, num_layers: int) -> None:
    """Look whether the encoder has the blocks that the settings name.

    Raises:
        ConfigError: naming every setting that reaches beyond it.
    """
    faults = []
    if config.freeze_bottom_blocks > num_layers:
        faults.append(f"ctc.freeze_bottom_blocks must be at most {num_layers}, got {config.freeze_bottom_blocks}")
    if any(layer >= num_layers for layer in config.intermediate_layers):
        faults.append(
            f"ctc.intermediate_layers must be below {num_layers}, the last block, whose loss there is anyway, got "
            f"{list(config.intermediate_layers)}"
        )
    if faults:
        raise ConfigError(f"the encoder has {num_layers} transformer blocks:\n" + "\n".join(f"  - {f}" for f in faults))


def freeze(encoder: Encoder, config: CTCConfig) -> None:
    """Take from learning, for good, what the settings say; what is frozen for a while is left to the forward pass."""
    if config.freeze_feature_encoder is True:
        encoder.feature_encoder.requires_grad_(requires_grad=False)
    if config.freeze_bottom_blocks:
        for group in by_depth(encoder)[: config.freeze_bottom_blocks + 1]:
            for parameter in group:
                parameter.requires_grad = False


def learning_groups(encoder: Encoder, others: Sequence[nn.Parameter], config: CTCConfig) -> Groups:
    """What the optimizer gets: the weights that learn, each with its share of the learning rate.

    With d = ``layer_lr_decay`` and L blocks, block n has d^(L + 1 - n), what lies below the blocks d^(L + 1), what lies
    above them 1; ``others`` (the head and what comes with it) have ``head_lr_scale``.

    Args:
        encoder: laid out as it trains.
        others: beyond the encoder.
        config: rates.

    Reference: layer-wise decay as BEiT (2106.08254) computes it, and data2vec after it; ELECTRA (2003.10555), from
    which it comes, counts one more step between head and top block.
    """
    head = (list(others), config.head_lr_scale)
    if config.layer_lr_decay == 1:
        return [(_learning(encoder.parameters()), 1.0), head]
    depths = by_depth(encoder)
    top = len(depths) - 1  # L + 1
    rates = [config.layer_lr_decay ** (top - depth) for depth in range(top + 1)]
    return [*((_learning(group), rate) for group, rate in zip(depths, rates, strict=True)), head]


def _learning(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def learning_remarks(encoder: Encoder, others: Sequence[nn.Parameter], config: CTCConfig) -> list[str]:
    """What to say of it before a run: how much learns, and that it does nothing visible at first where it is so."""
    learning = sum(p.numel() for p in (*_learning(encoder.parameters()), *others))
    whole = sum(p.numel() for p in (*encoder.parameters(), *others))
    remarks = [f"{learning / 1e6:.2f} M of {whole / 1e6:.2f} M parameters learn"]
    if config.freeze_encoder_updates:
        remarks.append(
            f"until update {config.freeze_encoder_updates} only the head learns (ctc.freeze_encoder_updates): error "
            "rates near 100 % are no bad sign before"
        )
    return remarks
