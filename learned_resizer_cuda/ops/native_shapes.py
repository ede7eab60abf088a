"""Shapes that the native stem, conv and head are compiled for."""

from __future__ import annotations

from torch import Tensor

from .. import backend

FILTERS = (16, 32)
CHANNELS = 4


def unsupported(op: str, num_filters: int, channels: int | None = None) -> str | None:
    """Why an op's native kernel does not take these shapes, or None."""
    if num_filters not in FILTERS:
        return f"the native {op} has kernels for num_filters {' and '.join(map(str, FILTERS))}, not {num_filters}"
    if channels is not None and channels > CHANNELS:
        return f"the native {op} takes up to {CHANNELS} in_channels, not {channels}"
    return None


def choose(op: str, features: Tensor, weight: Tensor) -> str:
    """Backend for a call of conv, head or one of their backwards.

    Args:
        op: the op's name.
        features: ``(B, n, h, w)``.
        weight: ``(filters, n, k, k)``.
    """
    name = op.removesuffix("_backward")
    n = features.shape[1]
    if name == "conv":
        reason = unsupported(name, n)
        if reason is None and len(weight) != n:
            reason = f"the native conv has as many filters as channels, not {len(weight)} of {n}"
    else:
        reason = unsupported(name, n, len(weight))
    return backend.choose(op, features, reason or too_little_memory(op, features, n))


def too_little_memory(op: str, features: Tensor, num_filters: int) -> str | None:
    """Why stem, conv or head exceeds a GPU's shared memory, or None.

    None also if nothing is native.
    """
    if backend.current() == "torch" or backend.refusal(op, features.device, features.dtype) is not None:
        return None
    kernels = backend.kernel_module("arguments")
    dtype_arithmetic = kernels.arithmetic(features.dtype)
    return kernels.memory_refusal(op.removesuffix("_backward"), dtype_arithmetic, num_filters, features.device)
