"""Recording of the calls that reach torch's dispatcher."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# Read a value on the host, or need one for the shape of their result: on a GPU each waits for all earlier launches.
WAITS = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "is_nonzero", "equal")
# Allocate memory only.
NO_LAUNCH = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")


class Calls(TorchDispatchMode):
    """Overload and positional arguments of every call within; an op of this package is one call.

    Args:
        keep_arguments: else they are empty. Keeping a tensor alive changes what autograd does: it copies gradients that
            it would otherwise take over.
    """

    def __init__(self, keep_arguments: bool = False) -> None:
        super().__init__()
        self._keep = keep_arguments
        self.all: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.all.append((func, args if self._keep else ()))
        return func(*args, **(kwargs or {}))

    @property
    def ours(self) -> list[tuple[Any, tuple[Any, ...]]]:
        """Calls of this package's ops."""
        return [(func, args) for func, args in self.all if func.namespace == "learned_resizer"]

    @property
    def launches(self) -> Counter[str]:
        """Calls by name that launch a kernel on a GPU: neither views nor allocations."""
        names = Counter(func._opname for func, _ in self.all if not func.is_view)
        return Counter({name: count for name, count in names.items() if name not in NO_LAUNCH})

    @property
    def waits(self) -> list[str]:
        """Names of calls that wait for a GPU."""
        return [func._opname for func, _ in self.all if func._opname in WAITS]
