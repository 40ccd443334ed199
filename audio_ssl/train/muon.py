"""Muon for the matrices of the context network, fused AdamW for every other weight, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audio_ssl.config import OptimConfig
from audio_ssl.model.lora import is_lora

MOMENTUM = 0.95  # as published, with Nesterov's look-ahead and five Newton-Schulz steps (torch's own defaults)


def hidden_matrices(encoder: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is for: all 2-D weights of ``encoder.context_network``.

    These are the four of attention and the two of the feed-forward network in each block, the two linear ones of a
    local convolution and of an adapter, and the upsampling of a squeezed network. Conv kernels, the projection that
    feeds the network, codebooks, heads, norms and biases are not among them, as in Jordan's notes and 2502.16982
    section 2: AdamW keeps first and last layers, and what is no matrix. Nor are the factors of low-rank additions: a
    step that is orthogonal for a factor is none for their product.
    """
    named = encoder.get_submodule("context_network").named_parameters()
    return [parameter for name, parameter in named if parameter.ndim == 2 and not is_lora(name)]


def fused_adamw(groups: Sequence[dict[str, Any]], config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over groups."""
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )  # fmt: skip


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and torch's fused AdamW behind one ``step``, one list of groups and one state.

    A step of Muon is scaled by 0.2 sqrt(max(rows, columns)), which gives it the root mean square of AdamW's steps: so a
    learning rate, and a weight decay, mean the same for both. State per parameter: ``momentum_buffer`` of a matrix,
    float32 in its shape; AdamW's three tensors of any other weight.

    A tensor ``found_inf`` (() float32, not 0: skip), where it was set, keeps weights and moments as they are; it is
    looked at on the device. AdamW's kernel does so itself. Matrices are copied before the step and put back, for
    torch's Muon has no such switch: for the length of the step, when activations are gone, this takes as much memory as
    they and their momenta.

    Args:
        matrices: groups for Muon: ``params``, all 2-D, ``lr`` and ``lr_scale``.
        others: groups for AdamW.
        config: betas and eps of AdamW, weight decay of both.

    Reference: Jordan et al. 2024 (Muon); Moonlight (2502.16982), section 2.2 for the scale.
    """

    def __init__(
        self, matrices: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], config: OptimConfig
    ) -> None:
        self._muon = torch.optim.Muon(
            matrices, weight_decay=config.weight_decay, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"
        )  # fmt: skip
        self._adamw = fused_adamw(others, config)
        super().__init__([*self._muon.param_groups, *self._adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both, unless ``found_inf`` says to keep everything."""
        loss = None
        if closure is not None:
            with torch.enable_grad():  # type: ignore[no-untyped-call]
                loss = closure()
        self._share()
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        self._adamw.found_inf = found_inf  # type: ignore[attr-defined]  # the fused kernel's own switch
        self._adamw.step()
        if found_inf is None:
            self._muon.step()  # type: ignore[no-untyped-call]
            return loss
        moving = self._moving()
        before = [tensor.clone() for tensor in moving]
        self._muon.step()  # type: ignore[no-untyped-call]
        for tensor, old in zip(moving, before, strict=True):
            tensor.copy_(torch.where(found_inf != 0, old, tensor))
        return loss

    def _share(self) -> None:
        """Let both work on this optimizer's groups and state, which loading a state replaces."""
        muon, adamw = self._muon, self._adamw
        num_muon = len(muon.param_groups)
        muon.param_groups, adamw.param_groups = self.param_groups[:num_muon], self.param_groups[num_muon:]
        muon.state = adamw.state = self.state

    def _moving(self) -> list[Tensor]:
        """What Muon's next step changes: matrices that have a gradient, and their momenta."""
        weights = [p for group in self._muon.param_groups for p in group["params"] if p.grad is not None]
        momenta = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in weights]
        return [*weights, *momenta]
