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
    # Only where there is a native module is it of interest how much memory its kernels need.
    if reason is None and backend.current() != "torch" and backend.refusal(op, features.device, features.dtype) is None:
        from ..kernels.arguments import arithmetic, memory_refusal

        reason = memory_refusal(name, arithmetic(features.dtype), n, features.device)
    return backend.choose(op, features, reason)
