"""The torch.library namespace ``learned_resizer``: definition and registration of ops.

Each op's file has a NamedTuple of the op's arguments, and from it schema, implementation, shapes (fake), autograd,
autocast and vmap. ``Library.define`` and ``impl`` cost about 4 µs a call, the ``custom_op``
decorator about 90; making the tuple costs 0.5 to 1 µs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, reduce
from itertools import islice
from operator import or_
from typing import Any, NamedTuple, cast, get_type_hints

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import backend
from ..tracing import constant_while_traced

NAMESPACE = "learned_resizer"

LIBRARY = torch.library.Library(NAMESPACE, "DEF")

# Every device type that this torch knows: AutocastCPU, AutocastCUDA, AutocastMPS, …
_AUTOCAST_KEYS = [name for name in dir(torch._C.DispatchKey) if name.startswith("Autocast")]
_NO_AUTOCAST = reduce(or_, (torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name)) for name in _AUTOCAST_KEYS))

_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "SymInt",
    float: "float",
    float | None: "float?",
    bool: "bool",
    str: "str",
    torch.dtype: "ScalarType",
    list[Tensor]: "Tensor[]",
    list[float]: "float[]",
    list[int]: "int[]",
    list[torch.SymInt]: "SymInt[]",
}


class Written(NamedTuple):
    """Annotation of tensors that an op writes: their name in the schema."""

    alias: str


class Op(NamedTuple):
    """A defined op."""

    arguments: Any  # NamedTuple class
    run: Callable[[Any], Any]


DEFINED: dict[str, Op] = {}


def define(name: str, arguments: Any, returns: str, *, run: Callable[[Any], Any], fake: Callable[[Any], Any]) -> None:
    """Define an op, whose implementations take one tuple of its arguments.

    Args:
        name: of the op.
        arguments: NamedTuple class. A field that is a NamedTuple itself groups successive arguments.
        returns: the schema's result types.
        run: the op on every device; chooses between native kernels and pure torch.
        fake: shapes, dtypes and strides (the Meta kernel).
    """
    DEFINED[name] = Op(arguments, run)
    LIBRARY.define(f"{name}({_schema(arguments)}) -> {returns}", tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, _without_forward_mode(name, run), "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", packed(name, fake), lib=LIBRARY)


def packed(name: str, function: Callable[[Any], Any]) -> Callable[..., Any]:
    """``function`` of an op's argument tuple as a function of the arguments."""
    pack = _packer(DEFINED[name].arguments)
    return lambda *args: function(pack(iter(args)))


@cache
def _packer(arguments: Any) -> Callable[[Iterator[Any]], Any]:
    """Function that takes a tuple's fields from an iterator over flat arguments."""
    packers = [None if group is None else _packer(group) for _, _, group in _fields(arguments)]
    make = arguments._make
    if not any(packers):
        return lambda flat: make(islice(flat, len(packers)))

    def pack(flat: Iterator[Any]) -> Any:
        # The dispatcher leaves out trailing arguments that have their default, which is None.
        return make([next(flat, None) if group is None else group(flat) for group in packers])

    return pack


@cache
def _fields(arguments: Any) -> list[tuple[str, Any, Any]]:
    """Each field's name, type, and NamedTuple class if a group, else None."""
    return [
        (name, hint, hint if hasattr(hint, "_fields") else None) for name, hint in get_type_hints(arguments).items()
    ]


def _schema(arguments: Any) -> str:
    """The arguments' part of a schema."""
    parts = []
    annotated = get_type_hints(arguments, include_extras=True)
    for name, hint, group in _fields(arguments):
        if group is not None:
            parts.append(_schema(group))
        else:
            kind = _SCHEMA_TYPES[hint]
            written = getattr(annotated[name], "__metadata__", ())
            if written:
                kind = f"Tensor({written[0].alias}!)[]"
            parts.append(f"{kind} {name}" + ("=None" if name in arguments._field_defaults else ""))
    return ", ".join(parts)


def _without_forward_mode(name: str, function: Callable[[Any], Any]) -> Callable[..., Any]:
    """``packed``, refusing forward mode, where torch would silently drop the op's tangent."""
    pack = _packer(DEFINED[name].arguments)

    def kernel(*args: Any) -> Any:
        if forward_ad._current_level >= 0:
            raise NotImplementedError(
                f"torch.ops.{NAMESPACE}.{name}: forward-mode differentiation is on, and the op has no forward-mode "
                "derivative; call resize, FusedResizer or reference.Resizer, which have one"
            )
        return function(pack(iter(args)))

    return kernel


def register_autograd(
    name: str, inputs: Callable[[Any], list[Tensor]], setup_context: Callable[..., Any], backward: Callable[..., Any]
) -> None:
    """Give an op its backward, run under the forward call's backend.

    torch's own ``register_autograd`` costs 100 µs and more for an op that takes or returns lists. Autograd runs the
    backward of CUDA tensors in threads of its own, where the caller's choice of backend is not set.

    Args:
        name: of the op.
        inputs: the tensors that gradients flow to, from the tuple of the op's arguments.
        setup_context: called with ``ctx``, the tuple of the op's arguments and the output.
        backward: from ``ctx`` and the gradients of the results, lists flattened, to one gradient per input; those of
            ``ctx.inputs_need_grad`` count.
    """
    op, pack = getattr(getattr(torch.ops, NAMESPACE), name).default, _packer(DEFINED[name].arguments)

    def forward(ctx: Any, keyset: Any, args: Any, a: Any, count: list[int], *tensors: Tensor) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op.redispatch(keyset & torch._C._after_autograd_keyset, *args)
        setup_context(ctx, a, output)
        ctx.backend = backend.current()
        results = output if isinstance(output, tuple) else (output,)
        if isinstance(results[-1], list):
            count.append(len(results) - 1)
            return *results[:-1], *results[-1]
        return output

    def under_its_backend(ctx: Any, *grads: Any) -> Any:
        ctx.inputs_need_grad = ctx.needs_input_grad[4:]
        if ctx.backend == backend.current():
            found = backward(ctx, *grads)
        else:
            with backend.use_backend(ctx.backend):
                found = backward(ctx, *grads)
        return None, None, None, None, *found

    # Created with its name, from which torch makes that of the graph's nodes.
    methods = {"forward": staticmethod(forward), "backward": staticmethod(under_its_backend)}
    function: Any = type(f"{NAMESPACE}_{name}", (torch.autograd.Function,), methods)

    def kernel(keyset: Any, *args: Any) -> Any:
        if torch._C.is_grad_enabled():
            a = pack(iter(args))
            tensors = inputs(a)
            if any(tensor.requires_grad for tensor in tensors):
                count: list[int] = []
                output = function.apply(keyset, args, a, count, *tensors)
                if not count:
                    return output
                last = list(output[count[0] :])
                return (*output[: count[0]], last) if count[0] else last
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def register_no_second_derivative(name: str, inputs: Callable[[Any], list[Tensor]]) -> None:
    """Make second derivatives an error instead of a missing gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(
            f"{name}: second derivatives are not implemented; use learned_resizer_cuda.reference.Resizer for them"
        )

    register_autograd(name, inputs, lambda ctx, a, output: None, backward)


def register_vmap(name: str) -> None:
    """Give an op its vmap rule: the mapped dimension joins the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], image: Tensor, *parameters: Any) -> tuple[Tensor, int]:
        stacked = image.movedim(cast(int, in_dims[0]), 0)
        out = getattr(getattr(torch.ops, NAMESPACE), name)(stacked.flatten(0, 1), *parameters)
        return out.unflatten(0, stacked.shape[:2]), 0

    torch.library.register_vmap(f"{NAMESPACE}::{name}", rule, lib=LIBRARY)


def register_no_vmap(name: str) -> None:
    """Refuse vmap by name."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(f"torch.vmap: {name} takes images of different sizes, which have no common dimension")

    torch.library.register_vmap(f"{NAMESPACE}::{name}", rule, lib=LIBRARY)


def autocasts(device_type: str) -> bool:
    """Whether autocast is on for a device type; some types have none."""
    return _has_autocast(device_type) and torch.is_autocast_enabled(device_type)


# torch before 2.14 cannot trace it.
@constant_while_traced
def _has_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


def register_autocast(name: str, cast: Callable[[torch.dtype, Any], tuple[Any, ...]] | None = None) -> None:
    """Give an op its autocast rule: cast arguments, then run without autocast.

    Without a rule an op's own inner products would be cast: its implementation in Python still runs under autocast.

    Args:
        name: of the op.
        cast: from autocast's dtype and the tuple of the op's arguments to the flat arguments; ``None`` casts nothing.
    """
    op = getattr(getattr(torch.ops, NAMESPACE), name)
    pack = packed(name, lambda a: a)
    for key in _AUTOCAST_KEYS:

        def kernel(*args: Any, device_type: str = key.removeprefix("Autocast").lower()) -> Any:
            if cast is not None:
                if device_type == "privateuse1":
                    # A third-party device, which by now has a name of its own.
                    device_type = torch._C._get_privateuse1_backend_name()
                args = cast(torch.get_autocast_dtype(device_type), pack(*args))
            with torch._C._ExcludeDispatchKeyGuard(_NO_AUTOCAST):
                return op(*args)

        LIBRARY.impl(name, kernel, key)
