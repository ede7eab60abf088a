"""Choice of backend: `refusal` says why an op cannot run natively.

An op has up to two implementations: "native" (CUDA C++, on CUDA tensors) and "torch" (pure PyTorch, on every
device).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

import torch

from .tracing import constant_while_traced

BACKENDS = ("auto", "torch", "native")

_backend: ContextVar[str] = ContextVar("learned_resizer_cuda.backend", default="auto")


def current() -> str:
    """Backend asked for by the innermost `use_backend`: "auto" (default), "torch" or "native"."""
    return _backend.get()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend of every op called inside the `with` block.

    Applies to this thread or task only. An op's backward runs on the backend of its forward call.

    Args:
        name: "auto" runs the native kernel where it can and pure torch elsewhere; "torch" always runs pure torch;
            "native" runs the native kernel and raises where it cannot run.

    Raises:
        ValueError: for any other name.
        RuntimeError: from an op inside the block with "native" where the native kernel cannot run; says why.

    Examples:
        Pure PyTorch on every device, for instance to compare with:

        >>> import torch
        >>> from learned_resizer_cuda import resize, use_backend
        >>> with use_backend("torch"):
        ...     small = resize(torch.rand(3, 8, 8), 4)
        >>> small.shape
        torch.Size([3, 4, 4])

        No silent fallback:

        >>> with use_backend("native"):
        ...     small = resize(torch.rand(3, 8, 8), 4)
        Traceback (most recent call last):
            ...
        RuntimeError: ...: native kernels run on CUDA tensors only, not on cpu
    """
    if name not in BACKENDS:
        raise ValueError(f"name must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def refuse_native(name: str, reason: str) -> None:
    """Raise under "native" if a call bypasses its op, even if compiled.

    Raises:
        RuntimeError: names ``name`` and the reason.
    """
    if current() == "native":
        raise RuntimeError(f"use_backend('native'): {name} cannot run natively: {reason}")


# TorchVersion compares as a version. An older torch cannot trace the check, which then runs once per graph.
if torch.__version__ < "2.14":
    constant_while_traced(refuse_native)


def refusal(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Reason why an op cannot run natively on such tensors, or None.

    Args:
        op: the op's name. A backward needs the same kernels: `resample_backward` counts as `resample`.
        device: of the tensors; a CUDA device without an index means the current one.
        dtype: of the tensors.

    Returns:
        None, or one sentence without a full stop. Cached: it cannot change within a process.
    """
    if device.type != "cuda":
        return f"native kernels run on CUDA tensors only, not on {device.type}"
    if device.index is None:
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        device = torch.device("cuda", torch.cuda.current_device())
    return _cuda_refusal(op.removesuffix("_backward"), device, dtype)


@cache
def _cuda_refusal(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    native = kernel_module("native")
    try:
        module = native.load()
    except native.NativeUnavailable as error:
        return str(error)
    record = module.build_record()
    dtypes = record["ops"].get(op)
    if dtypes is None:
        return f"the native module has no kernel for {op}, only for {', '.join(record['ops'])}"
    name = str(dtype).removeprefix("torch.")
    if name not in dtypes:
        return f"the native {op} takes {', '.join(dtypes)}, not {name}"
    return native.driver_refusal(record, module.driver_version()) or native.architecture_refusal(
        record, torch.cuda.get_device_capability(device)
    )


@cache
def kernel_module(name: str) -> ModuleType:
    """The ops' and this module's only import from `kernels`, on first use."""
    return importlib.import_module(f"{__package__}.kernels.{name}")


def runs_native(
    op: str, device: torch.device, dtype: torch.dtype, refuse: Callable[[], str | None] | None = None
) -> bool:
    """Whether a call of `op` runs native kernels under the innermost `use_backend`.

    Args:
        op: the op's name.
        device, dtype: of the tensors that count.
        refuse: returns why the native kernels do not take the call, or None if they do; by default `refusal`.

    Raises:
        RuntimeError: "native" is asked for and cannot run; names the op, the tensor's device and dtype, and
            the reason.
    """
    asked = _backend.get()
    # The usual case on a CPU: no message is built.
    if asked == "torch" or (asked == "auto" and device.type != "cuda"):
        return False
    reason = refusal(op, device, dtype) if refuse is None else refuse()
    if reason is not None and asked == "native":
        raise RuntimeError(f"use_backend('native'): {op} cannot run natively on a {dtype} tensor on {device}: {reason}")
    return reason is None
