"""The torch.library namespace ``learned_resizer`` and what registering an op there takes.

An op gets its schema, its implementations in pure torch and on CUDA, its shapes (fake), autograd, autocast and vmap
from its own file. ``Library.define`` and ``impl`` cost about 4 µs a call, the ``custom_op`` decorator about 90.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any

import torch
from torch.autograd import forward_ad

from .. import backend
from ..tracing import constant_while_traced

NAMESPACE = "learned_resizer"

LIBRARY = torch.library.Library(NAMESPACE, "DEF")

# Of every device that this torch knows: AutocastCPU, AutocastCUDA, AutocastMPS, …
_AUTOCAST_KEYS = [name for name in dir(torch._C.DispatchKey) if name.startswith("Autocast")]
_NO_AUTOCAST = reduce(or_, (torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)) for name in _AUTOCAST_KEYS))


def define(schema: str, *, cpu: Callable[..., Any], cuda: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Define an op from its schema, with its implementations and its fake (Meta) kernel.

    Args:
        schema: name, arguments and results.
        cpu: in pure torch: on a CPU and on every device that has no implementation of its own (mps, xpu, …).
        cuda: chooses between the native kernel and pure torch.
        fake: shapes, dtypes and strides.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, _without_forward_mode(name, cpu), "CompositeExplicitAutograd")
    LIBRARY.impl(name, _without_forward_mode(name, cuda), "CUDA")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)


def _without_forward_mode(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation that refuses forward mode: torch would lose the tangent of a registered op without a word."""

    def kernel(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            raise NotImplementedError(
                f"torch.ops.{NAMESPACE}.{name}: forward-mode differentiation is on, in which the op has no derivative; "
                "call resize, FusedResizer or reference.Resizer, which have one"
            )
        return function(*args)

    return kernel


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


def autocasts(device_type: str) -> bool:
    """Whether autocast is on for a type of device, of which some have none."""
    return _has_autocast(device_type) and torch.is_autocast_enabled(device_type)


# torch before 2.14 cannot trace it.
@constant_while_traced
def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


def register_autocast(name: str, cast: Callable[..., tuple[Any, ...]] | None = None) -> None:
    """Give an op its autocast rule: its arguments pass through ``cast(dtype, *args)``, then autocast is off.

    Without a rule an op's own inner products would be cast, since an implementation written in Python is
    still under autocast when it runs. ``cast=None`` leaves the arguments as they are.
    """
    op = getattr(getattr(torch.ops, NAMESPACE), name)
    for key in _AUTOCAST_KEYS:

        def kernel(*args: Any, device_type: str = key.removeprefix("Autocast").lower()) -> Any:
            if cast is not None:
                if device_type == "privateuse1":
                    # A device that somebody else has registered, by now under its own name.
                    device_type = torch._C._get_privateuse1_backend_name()
                args = cast(torch.get_autocast_dtype(device_type), *args)
            with torch._C._ExcludeDispatchKeyGuard(_NO_AUTOCAST):
                return op(*args)

        LIBRARY.impl(name, kernel, key)
