"""A device ``"tpmd"`` that computes on the CPU and takes what mps takes: no float64, no sparse tensors, no oneDNN.

Its tensors hold a CPU tensor each, with the same strides, and views of one share memory. What torch computes with them
passes through ``__torch_dispatch__``; the package's ops go through the dispatcher's table for the device
(``PrivateUse1``), where they find what is registered for devices of no name. Registering a device lasts as long as the
process: ``install`` belongs into a process of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "tpmd"

# On mps neither has a kernel, by torch's native_functions.yaml.
_MISSING = {"aten::batch_norm_update_stats", "aten::_sparse_csr_tensor_unsafe", "aten::sparse_csr_tensor"}

# What the package's ops asked of the device.
called: set[str] = set()

_kept: list[torch.library.Library] = []


class FakeTensor(torch.Tensor):
    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor) -> FakeTensor:
        if inner.layout != torch.strided:
            raise NotImplementedError(f"{NAME}: no {inner.layout} tensors")
        if inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{NAME}: no {inner.dtype}")
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "learned_resizer":
            return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1), *args, **kwargs)
        return _run(func, args, kwargs)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = func._schema.name
    called.add(name)
    if name in _MISSING:
        raise NotImplementedError(f"{NAME}: no {name}")
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    asked = kwargs.get("device")
    here = bool(tensors) if asked is None else torch.device(asked).type == NAME
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    # What is written in place comes back as the tensor that it was.
    known = {id(t.inner) if isinstance(t, FakeTensor) else id(t): t for t in tensors}
    args, kwargs = tree_map_only(FakeTensor, lambda t: t.inner, (args, kwargs))
    out = func(*args, **kwargs)
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else FakeTensor(t), out) if here else out


def install() -> None:
    """Make ``torch.device("tpmd")`` for the rest of the process."""
    from torch.utils import backend_registration as registration

    class Module(registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.float16]

    registration._setup_privateuseone_for_python_backend(NAME, Module())
    library = torch.library.Library("_", "IMPL")
    # Tensors made from nothing have no class yet that would take the call.
    library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # torch would make one of no elements and resize it, which a holder of another tensor does not see.
    aten = torch.library.Library("aten", "IMPL")
    for op in (torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step):
        aten.impl(op, lambda *args, op=op, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    _kept.extend((library, aten))
