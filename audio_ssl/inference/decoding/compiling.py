"""How the search is compiled.

numba's cache looks at the file of a function alone, so functions that call one another stand in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")
# No references are counted (it is done at each call, many times a frame), so nothing may be allocated.
_PLAIN = {"_nrt": False}


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """The function as machine code, from the cache where one can be written."""
    from numba import njit

    try:
        made = njit(nogil=True, cache=True, **_PLAIN)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        made = njit(nogil=True, **_PLAIN)(function)
    return cast("Callable[P, R]", made)


def part(function: Callable[P, R]) -> Callable[P, R]:
    """The function for use in compiled ones alone, where it is a part of their machine code."""
    from numba import njit

    return cast("Callable[P, R]", njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, **_PLAIN)(function))
