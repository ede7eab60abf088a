"""Conversion of tensors to the arguments of the native module."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..ops.layout import channels_last
from ..ops.prologue import Prologue, empty_features
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


def dense32(*tensors: Tensor) -> list[Tensor]:
    """Weights and vectors as kernels read them: float32, dense, copied if necessary."""
    return [t.float().contiguous() for t in tensors]


def addresses(tensors: list[Tensor]) -> tuple[int, ...]:
    return tuple(t.data_ptr() for t in tensors)


def image(tensor: Tensor, features: torch.dtype) -> tuple[Any, ...]:
    """Arguments for an image ``(B, C, h, w)`` beside features.

    Its address, its strides, and whether it is float32 beside half-precision features.
    """
    return tensor.data_ptr(), tensor.stride(), tensor.dtype == torch.float32 and features != torch.float32


def image_dtype(dtype: torch.dtype, features: torch.dtype) -> torch.dtype:
    """Dtype in which the kernels read an image: the features' or float32."""
    return dtype if dtype in (features, torch.float32) else torch.float32


class PrologueArguments:
    """A prologue's tensors as kernels read them, kept alive through the launch."""

    def __init__(self, prologue: Prologue) -> None:
        self.input = channels_last(prologue.input)
        self.skip = None if prologue.skip is None else channels_last(prologue.skip.to(self.input.dtype))
        self._vectors = dense32(prologue.scale, prologue.shift)
        if prologue.skip_scale is not None and prologue.skip_shift is not None:
            self._vectors += dense32(prologue.skip_scale, prologue.skip_shift)
        self._slope = prologue.negative_slope
        batch, self.num_filters, height, width = self.input.shape
        self.size = (batch, height, width)
        self.arithmetic = arithmetic(self.input.dtype)

    def pack(self) -> tuple[Any, ...]:
        scale, shift, *skip = addresses(self._vectors)
        skips = (0, 0, 0) if self.skip is None else (self.skip.data_ptr(), *skip)
        return self.input.data_ptr(), scale, shift, *skips, self._slope

    def place(self) -> tuple[Any, ...]:
        """Last arguments of every launch: the instance, the device and the stream."""
        return self.arithmetic, self.num_filters, *device.place(self.input.device)

    def empty_grads(self) -> tuple[Tensor, Tensor | None]:
        """Gradients of input and skip, for the kernel to fill."""
        return empty_features(self.input), None if self.skip is None else empty_features(self.input)


def prologue_grads(sums: list[Tensor], prologue: Prologue, grads: tuple[Tensor, Tensor | None]) -> list[Tensor]:
    """Gradients of the prologue's arguments but the slope, in order.

    Args:
        sums: ``(n,)`` float32 each: Σ g't, Σ g', Σ g'u.
        prologue: its dtypes are those of the results.
        grads: of input and skip.
    """
    scale, shift, skip_scale = (s.to(prologue.scale.dtype) for s in sums)
    grad_input, grad_skip = grads
    if grad_skip is None:
        return [grad_input, scale, shift, *(scale.new_empty(0, dtype=torch.float32) for _ in range(3))]
    return [grad_input, scale, shift, grad_skip, skip_scale, shift.clone()]


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
