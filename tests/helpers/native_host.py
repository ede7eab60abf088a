"""The native module on a machine without a GPU: the package's launchers drive kernels that run on the host.

Tests with it show that the launchers' bands, plans, strides, dtypes and argument orders, the module's bindings, the
kernels, and the splitting of their partial results fit together. Only the CUDA runtime (``kernels/device.py``) and the
Triton reductions are replaced.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import device, native, reduce
from learned_resizer_cuda.ops.library import DEFINED, packed
from tests.helpers import kernels_host

# As on an H100, so that the plans are the ones of a GPU.
_MULTIPROCESSORS = 132
_SHARED_MEMORY = 227 * 1024


@cache
def _module() -> ModuleType:
    found = sorted((kernels_host.build() / "csrc" / "tests").glob("_C.*.so"))
    if not found:
        pytest.skip("needs Python's headers and pybind11 to build the native module for the host")
    spec = importlib.util.spec_from_file_location("learned_resizer_host._C", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _merge_statistics(partials: Tensor) -> tuple[Tensor, Tensor]:
    """``reduce.merge_statistics`` from its definition; the Triton kernel is tested against the same elsewhere."""
    assert not partials.isnan().any(), "a block left partial results unwritten"
    count, mean, m2 = partials.double().unbind(1)
    total = count.sum(0)
    center = (count * mean).sum(0) / total
    return center.float(), ((m2 + count * (mean - center) ** 2).sum(0) / total).float()


def _sum_rows(partials: Tensor) -> Tensor:
    assert not partials.isnan().any(), "a block left partial results unwritten"
    return partials.double().sum(0).float()


@contextlib.contextmanager
def native_on_host() -> Iterator[None]:
    """Within, the launchers of ``learned_resizer_cuda.kernels`` take CPU tensors."""
    module = _module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda: module)
        patch.setattr(device, "place", lambda gpu: (0, 0))
        patch.setattr(device, "current", lambda gpu: contextlib.nullcontext())
        patch.setattr(device, "multiprocessors", lambda gpu: _MULTIPROCESSORS)
        patch.setattr(device, "shared_memory", lambda gpu: _SHARED_MEMORY)
        patch.setattr(reduce, "merge_statistics", _merge_statistics)
        patch.setattr(reduce, "sum_rows", _sum_rows)
        yield


def launch(name: str, *args: Any) -> Any:
    """Call the native launcher of an op with the op's arguments."""
    return packed(name, DEFINED[name].native)(*args)


@contextlib.contextmanager
def native_ops_on_host(
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Iterator[None]:
    """Within, the ops run natively on CPU tensors, autograd and autocast around them as they are.

    Args:
        around: makes a context for what a launcher does inside an op.
    """
    library = torch.library.Library("learned_resizer", "IMPL")
    try:
        for name in DEFINED:

            def launcher(*args: Any, name: str = name) -> Any:
                with around():
                    return launch(name, *args)

            library.impl(name, launcher, "CPU", allow_override=True)
        with native_on_host():
            yield
    finally:
        library._destroy()
