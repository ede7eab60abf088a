"""The native module on a machine without a GPU: the package's launchers drive kernels that run on the host.

Tests with it show that the launchers' bands, plans, strides, dtypes and argument orders, the module's bindings and the
kernels fit together. Only the CUDA runtime (``kernels/device.py``) is replaced.
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

from learned_resizer_cuda import backend
from learned_resizer_cuda.kernels import device, native
from learned_resizer_cuda.ops.library import DEFINED, Op, packed
from tests.helpers import kernels_host

# As on an H100, so that the plans are the ones of a GPU.
_MULTIPROCESSORS = 132
_SHARED_MEMORY = 227 * 1024


@cache
def _module() -> ModuleType:
    found = sorted((kernels_host.build() / "csrc" / "tests").glob("_C.*.so"))
    if not found:
        pytest.skip("needs Python's headers to build the native module for the host")
    spec = importlib.util.spec_from_file_location("learned_resizer_host._C", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def native_on_host() -> Iterator[None]:
    """Within, the launchers of ``learned_resizer_cuda.kernels`` take CPU tensors."""
    module = _module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda: module)
        patch.setattr(device, "place", lambda gpu: (0, 0))
        patch.setattr(device, "multiprocessors", lambda gpu: _MULTIPROCESSORS)
        patch.setattr(device, "shared_memory", lambda gpu: _SHARED_MEMORY)
        yield


def _refusal(op: str, _: torch.device, dtype: torch.dtype) -> str | None:
    """``backend.refusal`` by dtype alone."""
    return None if str(dtype).removeprefix("torch.") in native.load().build_record()["ops"][op] else "not this dtype"


@contextlib.contextmanager
def native_ops_on_host(
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
) -> Iterator[None]:
    """Within, the ops run natively on CPU tensors, autograd and autocast around them as they are.

    Args:
        around: makes a context for what an op does inside.
    """
    library = torch.library.Library("learned_resizer", "IMPL")
    try:
        for name, op in DEFINED.items():

            def run(a: Any, op: Op = op) -> Any:
                with around():
                    return op.run(a)

            plain = around is contextlib.nullcontext
            library.impl(name, packed(name, op.run if plain else run), "CPU", allow_override=True)
        with native_on_host(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "runs_native", lambda *_: backend.current() != "torch")
            patch.setattr(backend, "refusal", _refusal)
            yield
    finally:
        library._destroy()
