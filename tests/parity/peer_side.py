"""How a peer's module gets our weights and our noise, and how gradients are read off either side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def named_gradients(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of those that have one."""
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


def under_our_names(
    gradients: Mapping[str, Tensor], tensors: Mapping[str, Tensor], to_theirs: Callable[..., Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Their gradients by our names: a tensor that ``to_theirs`` only renames is known again by what it is."""
    ours = {id(tensor): name for name, tensor in tensors.items()}
    names = {theirs: ours[id(tensor)] for theirs, tensor in to_theirs(tensors).items() if id(tensor) in ours}
    return {names[name]: gradient for name, gradient in gradients.items()}


@contextmanager
def unbuilt() -> Iterator[None]:
    """Modules made inside have no memory: :func:`give_weights` puts ours there, and no time goes into fresh ones."""
    with torch.device("meta"):
        yield


def give_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Our tensors become the module's parameters, strictly by name; gradients stay apart."""
    module.load_state_dict(tensors, strict=True, assign=True)
    left = [n for n, t in (*module.named_parameters(), *module.named_buffers()) if t.is_meta]
    if left:
        raise ValueError(f"{left} got no weights")
    return module.train()


def gumbel_softmax_of(noise: Tensor) -> Any:
    """``torch.nn.functional.gumbel_softmax`` with hard choices whose noise comes from ``noise``, uniform numbers."""

    def gumbel_softmax(logits: Tensor, tau: float = 1.0, *, hard: bool = False) -> Tensor:
        assert hard
        soft = ((logits - noise.view_as(logits).log().neg().log()) / tau).softmax(-1)
        choice = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
        return choice + (soft - soft.detach())

    return gumbel_softmax
