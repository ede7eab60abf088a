"""Marks functions that ``torch.compile`` and ``torch.export`` evaluate once, while they trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_while_traced(function: _Function) -> _Function:
    """``torch.compiler.assume_constant_result`` without importing the compiler, which takes a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
