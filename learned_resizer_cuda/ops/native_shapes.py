"""What the native kernels of stem, conv and head are compiled for."""

from __future__ import annotations

from torch import Tensor

from .. import backend

FILTERS = (16, 32)
CHANNELS = 4


def unsupported(op: str, num_filters: int, channels: int | None = None) -> str | None:
    """Say why the native kernel of an op cannot take these shapes; None where it can."""
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
    if not features.is_cuda:
        return backend.choose(op, features)
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
    """Say why the GPU cannot run an instance of stem, conv or head; None where it can, or where nothing is native."""
    if backend.current() == "torch" or backend.refusal(op, features.device, features.dtype) is not None:
        return None
    from ..kernels.arguments import arithmetic, memory_refusal

    return memory_refusal(op.removesuffix("_backward"), arithmetic(features.dtype), num_filters, features.device)
