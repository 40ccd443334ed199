"""Watches work on a device that holds no numbers, the meta device, for what would make a GPU's host wait.

torch itself refuses to read a number there (``item``, ``bool``, ``tolist``, ``nonzero``) and to mix devices, but it
lets through what a GPU does with a wait or a slow copy; these are refused here: numbers of the host among a device's
operands, copies to the device that nobody named or that block, tensors made from Python values on the device, and
indices that are lists or booleans.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
PACKAGE = Path(__file__).parents[3] / "audio_ssl"
MAKES_FROM_VALUES = (torch.tensor, torch.as_tensor, torch.asarray)
INDEXES = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
# Kernels that the meta device lacks, by the shapes of what they give.
SHAPES_OF = {
    torch.ops.aten._weight_norm_interface_backward.default: lambda grad, v, g, *_: (
        v.new_empty(v.shape),
        torch.empty_like(g),
    ),
    torch.ops.aten._ctc_loss.Tensor: lambda log_probs, *_: (log_probs.new_empty(log_probs.shape[1]), log_probs.clone()),
    torch.ops.aten._ctc_loss_backward.Tensor: lambda grad, log_probs, *_: torch.empty_like(log_probs),
}
INDEX_OPS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class HostWaitError(AssertionError):
    """The host would wait, or a tensor was born on the wrong device."""


class MetaGenerator(torch.Generator):
    """A generator of the meta device, which has none: it stands for a GPU's, and nothing is drawn from it."""

    @property
    def device(self) -> torch.device:
        return META


class _Ops(TorchDispatchMode):
    """Looks at every operation of forward, backward and optimizer."""

    def __init__(self, allowed: frozenset[str], copies: list[str]) -> None:
        super().__init__()
        self.allowed, self.copies = allowed, copies

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if func in COPIES:
            target = args[0].device if func is torch.ops.aten.copy_.default else kwargs.get("device")
            if target == META and "cpu" in devices:
                self.note_copy(is_async=bool(kwargs.get("non_blocking") or args[2:3] == (True,)))
        elif devices == {"cpu", "meta"}:
            raise HostWaitError(f"{func} takes tensors of the host and of the device, in {place()}")
        if func in INDEX_OPS and any(i is not None and i.dtype == torch.bool for i in args[1]):
            raise HostWaitError(f"{func} takes a boolean index, in {place()}")
        return SHAPES_OF.get(func, func)(*args, **kwargs)

    def note_copy(self, *, is_async: bool) -> None:
        where = place()
        if where not in self.allowed:
            raise HostWaitError(f"a tensor of the host is copied to the device in {where}")
        if not is_async:
            raise HostWaitError(f"the copy to the device in {where} blocks")
        self.copies.append(where)


class _Calls(TorchFunctionMode):
    """Looks at calls that no longer show what they are once they are operations."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in MAKES_FROM_VALUES and torch.device(kwargs.get("device") or "cpu") == META:
            raise HostWaitError(f"{func.__name__} makes a tensor of the device from values, in {place()}")
        if func in INDEXES and args[0].device == META:
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, list) for part in parts):
                raise HostWaitError(f"a tensor of the device is indexed by a list, in {place()}")
        return func(*args, **kwargs)


def place() -> str:
    """The package's innermost function at work: ``tensors.py:to``; where none is, the caller outside torch."""
    frames = traceback.extract_stack()
    ours = [f for f in frames if Path(f.filename).is_relative_to(PACKAGE)]
    frame = (ours or [f for f in frames if "/torch/" not in f.filename and f.filename != __file__] or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}"


@contextmanager
def watched(*allowed: str) -> Iterator[list[str]]:
    """Refuse every wait inside.

    Args:
        allowed: functions that may copy to the device without blocking, as :func:`place` names them.

    Yields:
        The copies that were made, in order.
    """
    copies: list[str] = []
    with _Calls(), _Ops(frozenset(allowed), copies):
        yield copies


@contextmanager
def fused_on_meta() -> Iterator[None]:
    """Let torch's optimizers take their fused kernel on the meta device.

    The kernel itself runs there (it has no numbers to change); only the list of devices that the Python side looks
    into before leaves it out.
    """
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices as devices

    known = [*devices(), META.type]
    with patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: list(known)):
        yield
