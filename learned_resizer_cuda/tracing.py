"""What ``torch.compile`` and ``torch.export`` call while they trace, and take the answer of for a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


def constant_while_traced(function: _Function) -> _Function:
    """``torch.compiler.assume_constant_result``, which would import the compiler (a second) to do this."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
