"""Foreign objects in ``torch.save`` files, read as what they hold: inert stand-ins by name, then plain Python data.

A pickle names the classes of its objects and calls them. Here the few names that speech checkpoints need beside tensors
stand for classes of ours that keep what they are given and do nothing; torch's weights-only reader refuses all others.
Knows names and shapes of pickles, never files or models.
"""

from __future__ import annotations

import struct
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from audio_ssl.errors import CheckpointError

_MAX_DEPTH = 100  # nested containers; fairseq's settings inside settings need 8
_LEAVES = (bool, int, float, str, bytes, complex, Tensor, torch.dtype, torch.device)
_KEYS = (bool, int, float, str, bytes)
# numpy's kind and width to struct's letter; other kinds ("O" above all) are not numbers.
_NUMBERS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class StandIn:
    """What a foreign class becomes: it keeps what the pickle hands over, and does nothing with it.

    Attributes:
        name: the foreign class, with its module.
        form: how :func:`plain` turns it into data.
        arguments: what the class was called with.
        items: what was set by key, in order.
        state: what it was built from.
    """

    __slots__ = ("arguments", "items", "state")
    name: ClassVar[str]
    form: ClassVar[Form]
    arguments: tuple[Any, ...]
    items: list[tuple[Any, Any]]
    state: Any

    def __new__(cls, *arguments: Any) -> StandIn:
        """Keep what the foreign class would have been called with."""
        self = super().__new__(cls)
        self.arguments, self.items, self.state = arguments, [], None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


# record: a dictionary of its attributes; content, node: one of its attributes (omegaconf); mapping: its items; number:
# a numpy scalar; word: its name alone.
Form = Literal["record", "content", "node", "mapping", "number", "word"]
_METERS = ("AverageMeter", "SumMeter", "TimeMeter", "StopwatchMeter")
_NODES = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "BytesNode")
_FORMS: tuple[tuple[Form, tuple[str, ...]], ...] = (
    ("record", ("argparse.Namespace", "fairseq.data.dictionary.Dictionary")),
    ("record", tuple(f"fairseq.{module}.{name}" for module in ("meters", "logging.meters") for name in _METERS)),
    ("content", ("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig")),
    ("node", tuple(f"omegaconf.nodes.{name}" for name in _NODES)),
    ("mapping", ("collections.defaultdict",)),
    ("number", ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")),
    ("word", ("numpy.dtype", "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "typing.Any")),
    ("word", tuple(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str", "tuple"))),
)


def _stand_in(name: str, form: Form) -> type[StandIn]:
    made: type[StandIn] = type(name.rpartition(".")[2], (StandIn,), {"__slots__": (), "name": name, "form": form})
    return made


# For torch.serialization.safe_globals.
STAND_INS: tuple[tuple[type[StandIn], str], ...] = tuple(
    (_stand_in(name, form), name) for form, names in _FORMS for name in names
)


def plain(value: Any, *, source: str = "the file") -> Any:
    """The same as dictionaries, lists, numbers, strings, None and tensors; stand-ins as what they hold.

    Namespaces, dictionaries of symbols and meters become dictionaries of their attributes. omegaconf's containers and
    nodes become their values, without metadata; an interpolation stays ``${...}`` and a missing value ``???``. Tuples
    and sets become lists.

    Args:
        value: what torch's weights-only reader gave with :data:`STAND_INS`.
        source: where it comes from, for messages.

    Raises:
        CheckpointError: naming the place of an object that is none of these, holds itself or is nested too deeply.
    """
    return _Reader(source).read(value, ())


class _Reader:
    """One walk over a file's content. What is shared is converted once, so that its size cannot explode."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()

    def read(self, value: Any, place: tuple[str, ...]) -> Any:
        if value is None or isinstance(value, _LEAVES):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:
            raise self._fault(place, "must hold no object that holds itself")
        if len(self._open) == _MAX_DEPTH:
            raise self._fault(place[:8], f"must be nested at most {_MAX_DEPTH} deep")
        self._open.add(id(value))
        made = self._container(value, place)
        self._open.discard(id(value))
        self._done[id(value)] = made
        return made

    def _container(self, value: Any, place: tuple[str, ...]) -> Any:
        if isinstance(value, dict):  # dict.items: a file may give its OrderedDict an attribute of that name
            return self._dictionary(list(dict.items(value)), place)
        if isinstance(value, list | tuple | set):
            return [self.read(item, (*place, str(index))) for index, item in enumerate(value)]
        if isinstance(value, bytearray):
            return bytes(value)
        if isinstance(value, StandIn):
            return self._stand_in(value, place)
        if isinstance(value, type) and issubclass(value, StandIn):
            return value.name
        raise self._fault(place, f"must hold tensors and plain values, got {type(value).__name__}")

    def _dictionary(self, items: list[tuple[Any, Any]], place: tuple[str, ...]) -> dict[Any, Any]:
        made = {}
        for key, item in items:
            if key is not None and not isinstance(key, _KEYS):
                raise self._fault(place, f"must have names or numbers as keys, got {type(key).__name__}")
            made[key] = self.read(item, (*place, str(key)))
        return made

    def _stand_in(self, value: StandIn, place: tuple[str, ...]) -> Any:
        if value.form == "word":
            return value.name
        if value.form == "mapping":
            return self._dictionary(value.items, place)
        if value.form == "number":
            return self._number(value, place)
        state = {} if value.state is None else value.state  # an object without attributes is not built
        if not isinstance(state, dict):
            raise self._fault(place, f"must hold a whole {value.name}, got a {type(state).__name__} as its attributes")
        if value.form == "record":
            return self._dictionary(list(state.items()), place)
        attribute = "_content" if value.form == "content" else "_val"
        if attribute not in state:
            raise self._fault(place, f"must hold a whole {value.name}, got one without {attribute}")
        return self.read(state[attribute], place)

    def _number(self, value: StandIn, place: tuple[str, ...]) -> Any:
        try:
            dtype, packed = value.arguments
            order = ">" if dtype.state[1] == ">" else "<"
            return struct.unpack(order + _NUMBERS[dtype.arguments[0]], packed)[0]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError, struct.error):
            raise self._fault(place, f"must hold numpy numbers only, got a {value.name} of another kind") from None

    def _fault(self, place: tuple[str, ...], what: str) -> CheckpointError:
        where = f" at {'.'.join(place)}" if place else ""
        return CheckpointError(
            f"{self._source}{where} {what}; save its state dict alone, or its settings as plain values"
        )
