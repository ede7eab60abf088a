"""Choice of backend: one predicate, `refusal`, decides where an op runs and says why not elsewhere.

An op has up to two implementations: "native" (CUDA C++, on CUDA tensors) and "torch" (pure PyTorch, on every
device).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Literal

import torch

from .tracing import constant_while_traced

BACKENDS = ("auto", "torch", "native")

_backend: ContextVar[str] = ContextVar("learned_resizer_cuda.backend", default="auto")


def current() -> str:
    """Name of the backend asked for here: "auto" (default), "torch" or "native"."""
    return _backend.get()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend of every op called inside the `with` block, in this thread or task only.

    Args:
        name: "auto" takes the native kernel where it can run and pure torch elsewhere; "torch" always takes
            pure torch; "native" takes the native kernel and raises where it cannot run.

    The backward of an op takes the backend that its forward was called under.

    Raises:
        ValueError: for any other name.
        RuntimeError: from an op inside the block with "native" where the native kernel cannot run; says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"name must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def refuse_native(name: str, reason: str) -> None:
    """Raise under "native" for what takes another way than its op, a compiled graph included.

    Raises:
        RuntimeError: says that ``name`` cannot run natively, and the reason.
    """
    if current() == "native":
        raise RuntimeError(f"use_backend('native'): {name} cannot run natively: {reason}")


# Versions, compared as such. An older one cannot trace the question, which is then asked once a graph.
if torch.__version__ < "2.14":
    constant_while_traced(refuse_native)


def refusal(op: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Say why the native kernel of an op cannot run on tensors of this device and dtype.

    Args:
        op: the op's name. An op's backward runs on the same kernels: `resample_backward` is asked as
            `resample`.
        device: where the tensors are; a CUDA device without an index means the current one.
        dtype: of the tensors.

    Returns:
        None where native can run, else the reason in one sentence without a full stop.

    The answer for a device cannot change while the process lives, so it is computed once.
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
    from .kernels import native

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


def choose(op: str, tensor: torch.Tensor, unsupported: str | None = None) -> Literal["native", "torch"]:
    """Backend on which `op` runs for this tensor, under the innermost `use_backend`.

    Args:
        op: the op's name.
        tensor: decides device and dtype.
        unsupported: why the native kernel cannot take the call's other arguments, or None where it can.

    Raises:
        RuntimeError: "native" is asked for and cannot run; names the op, the tensor's device and dtype, and
            the reason.
    """
    asked = _backend.get()
    # The usual case on a CPU, where it is called per image: decide it without building a sentence.
    if asked == "torch" or (asked == "auto" and not tensor.is_cuda):
        return "torch"
    reason = refusal(op, tensor.device, tensor.dtype) or unsupported
    if reason is None:
        return "native"
    if asked == "native":
        raise RuntimeError(
            f"use_backend('native'): {op} cannot run natively on a {tensor.dtype} tensor on {tensor.device}: {reason}"
        )
    return "torch"
