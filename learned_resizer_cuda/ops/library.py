"""The torch.library namespace ``learned_resizer`` and what registering an op there takes.

An op gets its schema, its implementations on CPU and CUDA, its shapes (fake), autograd, autocast and vmap from
its own file. ``Library.define`` and ``impl`` cost about 4 µs a call, the ``custom_op`` decorator about 90.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import backend

NAMESPACE = "learned_resizer"

LIBRARY = torch.library.Library(NAMESPACE, "DEF")

# The fake kernel of every op that has been defined, by its name.
FAKES: dict[str, Callable[..., Any]] = {}

_AUTOCAST_KEYS = (torch._C.DispatchKey.AutocastCPU, torch._C.DispatchKey.AutocastCUDA)
_NO_AUTOCAST = torch._C.DispatchKeySet(_AUTOCAST_KEYS[0]) | torch._C.DispatchKeySet(_AUTOCAST_KEYS[1])


def define(schema: str, *, cpu: Callable[..., Any], cuda: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define an op from its schema, with its implementations and its fake (Meta) kernel."""
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, cpu, "CPU")
    LIBRARY.impl(name, cuda, "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    FAKES[name] = fake


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> None:
    """Give an op its backward, which runs under the backend that the forward was called under.

    Autograd runs the backward of CUDA tensors in threads of its own, which do not see the caller's choice.
    """

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        setup_context(ctx, inputs, output)
        ctx.backend = backend.current()

    def run(ctx: Any, *grads: Any) -> Any:
        if ctx.backend == backend.current():
            return backward(ctx, *grads)
        with backend.use_backend(ctx.backend):
            return backward(ctx, *grads)

    torch.library.register_autograd(f"{NAMESPACE}::{name}", run, setup_context=setup, lib=LIBRARY)


def register_no_second_derivative(name: str) -> None:
    """Make differentiating through a backward op an error that says so, instead of a missing gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"{name}: second derivatives are not implemented; use learned_resizer_cuda.reference.Resizer for them"
        )

    register_autograd(name, backward, lambda ctx, inputs, output: None)


def register_vmap(name: str, rule: Callable[..., Any]) -> None:
    torch.library.register_vmap(f"{NAMESPACE}::{name}", rule, lib=LIBRARY)


def register_autocast(name: str, cast: Callable[..., tuple[Any, ...]] | None = None) -> None:
    """Give an op its autocast rule: its arguments pass through ``cast(dtype, *args)``, then autocast is off.

    Without a rule an op's own inner products would be cast, since an implementation written in Python is
    still under autocast when it runs. ``cast=None`` leaves the arguments as they are.
    """
    op = getattr(getattr(torch.ops, NAMESPACE), name)
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):

        def kernel(*args: Any, device_type: str = device_type) -> Any:
            if cast is not None:
                args = cast(torch.get_autocast_dtype(device_type), *args)
            with torch._C._ExcludeDispatchKeyGuard(_NO_AUTOCAST):
                return op(*args)

        LIBRARY.impl(name, kernel, key)
