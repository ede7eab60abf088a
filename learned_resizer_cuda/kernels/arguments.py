"""Conversion of tensors to the arguments of the native module."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from ..ops.prologue import GivenNorm
from . import device, native


def arithmetic(dtype: torch.dtype) -> str:
    """Arithmetic of products: for float32, tf32 if torch's convolution flags allow it."""
    if dtype == torch.float32:
        return "tf32" if _tf32_allowed() else "float32"
    return dtype_name(dtype)


# Reads the flag that torch asks before calling cuDNN: `torch.backends.cudnn.conv.fp32_precision`, which takes 1.3 µs to
# the same. Without it (torch before 2.9), `allow_tf32` is the only flag; later it raises if the newer flags disagree.
_precision = getattr(torch._C, "_get_fp32_precision_getter", None)


def _tf32_allowed() -> bool:
    return torch.backends.cudnn.allow_tf32 if _precision is None else _precision("cuda", "conv") == "tf32"


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# As DType of csrc/core/common/parameter.h.
PARAMETER_DTYPES = {torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}


def vector(tensor: Tensor) -> tuple[int, int]:
    """A parameter or statistics ``(n,)``, dense: address and dtype."""
    return tensor.data_ptr(), PARAMETER_DTYPES[tensor.dtype]


def weight(tensor: Tensor) -> tuple[int, int, tuple[int, ...]]:
    """A convolution's weight of any strides: address, dtype and strides."""
    return tensor.data_ptr(), PARAMETER_DTYPES[tensor.dtype], tensor.stride()


def norm(given: GivenNorm | None) -> tuple[Any, ...] | None:
    """A normalisation: its vectors and eps."""
    if given is None:
        return None
    mean, var, gamma, beta, eps = given
    return vector(mean), vector(var), vector(gamma), vector(beta), eps


def pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def image(name: str, tensor: Tensor, features: torch.dtype) -> tuple[int, tuple[int, ...], bool]:
    """Arguments for an image ``(B, C, h, w)`` of any strides.

    Its address, its strides, and whether it is float32 beside half-precision features.

    Raises:
        TypeError: if it is neither float32 nor of the features' dtype.
    """
    if tensor.dtype == features:
        return tensor.data_ptr(), tensor.stride(), False
    if tensor.dtype != torch.float32:
        raise TypeError(f"{name}: got {tensor.dtype}; expected {features}, as the features, or torch.float32")
    return tensor.data_ptr(), tensor.stride(), True


def size(features: Tensor) -> tuple[int, int, int]:
    batch, _, height, width = features.shape
    return batch, height, width


@lru_cache(1024)
def blocks(
    op: str, backward: bool, size: tuple[int, int, int], dtype_arithmetic: str, filters: int, multiprocessors: int
) -> int:
    """Blocks of a launch: the rows of its partial results."""
    found: int = getattr(native.load(), f"{op}_needs")(size, backward, dtype_arithmetic, filters, multiprocessors)[0]
    return found


@cache
def memory_refusal(op: str, dtype_arithmetic: str, num_filters: int, gpu: torch.device) -> str | None:
    """Why stem, conv or head exceeds a GPU's shared memory, or None."""
    needs = getattr(native.load(), f"{op}_needs")
    args = (dtype_arithmetic, num_filters, 1)
    need = max(needs((1, 1, 1), backward, *args)[1] for backward in (False, True))
    has = device.shared_memory(gpu)
    if need <= has:
        return None
    return (
        f"the native {op} with num_filters {num_filters} in {dtype_arithmetic} needs {need // 1024} KiB of shared "
        f"memory a block, this GPU has {has // 1024} KiB"
    )
