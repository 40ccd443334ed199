"""Pickles of classes that are not installed, and of calls that must not happen."""

from __future__ import annotations

import sys
import types
from contextlib import contextmanager
from itertools import accumulate


@contextmanager
def foreign(*names):
    """Empty classes under foreign names, there while pickling and gone when reading."""
    before, classes = dict(sys.modules), []
    for name in names:
        *parts, attribute = name.split(".")
        for module in accumulate(parts, "{}.{}".format):
            if sys.modules.get(module) is before.get(module):
                sys.modules[module] = types.ModuleType(module)
        module = ".".join(parts)
        body = {"__module__": module, "__init__": lambda self, **attributes: vars(self).update(attributes)}
        classes.append(type(attribute, (), body))
        setattr(sys.modules[module], attribute, classes[-1])
    try:
        yield classes
    finally:
        sys.modules.clear()
        sys.modules.update(before)


class Call:
    """Pickles as a call of anything, with state to build from."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced
