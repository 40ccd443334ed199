"""The running average of a run's weights, which validation measures and the finished model holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from audio_ssl.train.distributed import own_shares

_WEIGHTS = "weights/"
_NUM_UPDATES = "num_updates"


class WeightAverage:
    """Exponential moving average of every parameter, in float32 beside it.

    The decay rises as ``min(decay, (1 + n) / (10 + n))`` with the n-th update, so that the first weights, which are
    noise, are soon forgotten (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``; timm and diffusers do the
    same). An update that was skipped leaves the average as it is. Nothing waits for the device: torch's
    ``AveragedModel`` counts on the host what only the device knows here.

    Args:
        module: whose parameters to average, on its device; they start as their own average.
        decay: weight of what was, from 0 to below 1.

    Reference: Polyak and Juditsky 1992; mean teachers (1703.01780).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = dict(module.named_parameters())
        device = next(iter(self._parameters.values())).device
        self._num_updates = torch.zeros((), device=device)
        self._averages = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, skipped: Tensor) -> None:
        """Take the weights after an update.

        Args:
            skipped: () float32, 1 where the optimizer left the weights as they were.
        """
        self._num_updates += 1 - skipped
        decay = ((1 + self._num_updates) / (10 + self._num_updates)).clamp(max=self._decay)
        share = (1 - decay) * (1 - skipped)
        averages, weights = (own_shares(list(x.values())) for x in (self._averages, self._parameters))
        torch._foreach_lerp_(averages, weights, [share] * len(weights))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module has the average for its weights inside, and its own again afterwards, to the last bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # By value and one by one: whoever holds a parameter sees it change, and no second copy of the model is made.
        parameters, averages = (own_shares(list(x.values())) for x in (self._parameters, self._averages))
        for parameter, average in zip(parameters, averages, strict=True):
            weights = parameter.clone()
            parameter.copy_(average)
            average.copy_(weights)

    def tensors(self) -> dict[str, Tensor]:
        """What a resumed run needs: ``weights/NAME`` laid out as the parameter, and ``num_updates`` (); all float32."""
        named = {_WEIGHTS + name: average for name, average in self._averages.items()}
        return {**named, _NUM_UPDATES: self._num_updates}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`tensors`."""
        self._num_updates.copy_(tensors[_NUM_UPDATES])
        for name, average in self._averages.items():
            average.copy_(tensors[_WEIGHTS + name])


def averaged_weights(weights: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors with the average in the place of each weight that has one.

    Args:
        weights: name to tensor.
        saved: :meth:`WeightAverage.tensors` of the same checkpoint.
    """
    return {name: saved.get(_WEIGHTS + name, value).to(value.dtype) for name, value in weights.items()}
