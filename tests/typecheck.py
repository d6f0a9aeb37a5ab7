"""The runtime type checker of the tests: beartype, with an int where a float is expected as in PEP 484.

Only the first calls of every function are checked. Checking costs as much time as all computing of the small tests, and
a wrong annotation is wrong in the first calls, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

CALLS = 100
"""Of every function, in every process."""

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped: Any = jaxtyping.jaxtyped


def first_calls(*, typechecker: Any) -> Callable[[Any], Any]:
    """`jaxtyping.jaxtyped` for the first calls of a function, or of the constructor of a class."""

    def decorate(what: Any) -> Any:
        if not isinstance(what, type):
            return _counted(_jaxtyped(what, typechecker=typechecker), what)
        plain = what.__init__
        checked = _jaxtyped(what, typechecker=typechecker)
        if checked.__init__ is not plain:
            checked.__init__ = _counted(checked.__init__, plain)
        return checked

    return decorate


def _counted(checked: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    left = CALLS

    @functools.wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            return checked(*args, **kwargs)
        return plain(*args, **kwargs)

    return call


jaxtyping.jaxtyped = first_calls
