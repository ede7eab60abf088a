"""Detection of transforms and exports that a registered op does not support."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ..tracing import constant_while_traced

VMAP = "torch.vmap is active"
FUNCTORCH = "a torch.func transform is active"
FORWARD_AD = "forward-mode differentiation is on"
ONNX = "torch.onnx.export is active"


def transform_reason(tensor: Tensor) -> str | None:
    """Why a call with this tensor needs plain differentiable operations, or ``None``.

    An op of ``torch.library`` has reverse-mode autograd only: forward mode would silently drop the tangent, so
    ``library.define`` refuses it. Of functorch's transforms an op supports only ``vmap``, if it has a rule. A tensor
    made of other tensors (``DTensor``) has no rule for our ops, and ONNX no operator. (Decompositions in torch's own
    table would work for ``torch.onnx.export``, but if the variable ``CI`` is set, as most CI services do, inductor
    refuses every op that has one there.)

    Returns:
        A sentence without a full stop; ``VMAP`` if only vmap, nested or not, is active.
    """
    # Read here, not in a function marked constant, so that torch.compile guards it.
    if forward_ad._current_level >= 0:
        return FORWARD_AD
    if torch.compiler.is_exporting() and _onnx():
        return ONNX
    return _functorch() or (None if type(tensor) is Tensor else _subclass(tensor))


# A tracer cannot step into the stack, but the answer is valid for its graph: the transforms are part of the graph, and
# torch.compile refuses to call a compiled function under a transform outside it.
@constant_while_traced
def _functorch() -> str | None:
    if torch._C._functorch.peek_interpreter_stack() is None:
        return None
    vmap = torch._C._functorch.TransformType.Vmap
    stack = torch._C._functorch.get_interpreter_stack()
    return VMAP if all(interpreter.key() == vmap for interpreter in stack) else FUNCTORCH


@constant_while_traced
def _onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


def _subclass(tensor: Tensor) -> str | None:
    if is_traceable_wrapper_subclass(tensor):
        return f"a {type(tensor).__name__} is made of other tensors"
    return None
