"""Checks of a configuration's single values."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..shown import shown

LARGEST_INTEGER = 2**64 - 1
"""The largest seed that torch takes, and the limit of every other integer field."""
_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_RULES: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "choices": ("one of", lambda value, choices: value in choices),
    "least": ("at least", operator.ge),
    "most": ("at most", operator.le),
    "above": ("more than", operator.gt),
    "below": ("less than", operator.lt),
}


def check_value(name: str, kind: type, words: Sequence[str], value: Any, bounds: Mapping[str, Any]) -> None:
    """Checks a value, or one of several, of a field.

    Args:
        name: of the field.
        kind: ``int``, ``float``, ``bool`` or ``str``.
        words: that it may also be.
        value: what was given.
        bounds: see ``config._option``.

    Raises:
        TypeError, ValueError: naming the field, the value and what was expected.
    """
    if value in words:
        return
    right = isinstance(value, (int, float) if kind is float else kind)
    if not right or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name}: got {shown(value)}; expected {' or '.join((_KINDS[kind], *words))}")
    if kind is float and not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{name}: got {shown(value)}; expected a finite number")
    for rule, bound in ({"most": LARGEST_INTEGER} | dict(bounds) if kind is int else bounds).items():
        expected, holds = _RULES[rule]
        if not holds(value, bound):
            bound = ", ".join(bound) if rule == "choices" else bound
            raise ValueError(f"{name}: got {shown(value)}; expected {expected} {bound}")


def as_number(value: Any) -> Any:
    """Text that is a number as one, also in a tuple."""
    if isinstance(value, tuple):
        return tuple(map(as_number, value))
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
