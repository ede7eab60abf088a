"""Features as rows of interleaved channels: the pure-torch ops' memory layout.

A channels_last ``(K, n, H, W)`` is a view of rows ``(K, H, W*n)``. Per-channel vectors are repeated along a row: an
inner loop over n = 16 channels alone would not vectorise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rows(features: Tensor) -> Tensor:
    """Rows ``(K, H, W*n)`` of ``(K, n, H, W)``, viewed if channels_last."""
    return features.permute(0, 2, 3, 1).contiguous().flatten(2)


def maps(rows: Tensor, num_filters: int) -> Tensor:
    """Rows ``(K, H, W*n)`` as channels_last ``(K, n, H, W)``, not copied."""
    return rows.unflatten(2, (-1, num_filters)).permute(0, 3, 1, 2)


def along_row(vector: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """A per-channel vector ``(n,)`` repeated for every pixel of a row: ``(W*n,)``."""
    return vector.to(dtype).repeat(width)


def sum_pixels(rows: Tensor, num_filters: int) -> Tensor:
    """Sums ``(n,)`` of rows ``(K, H, W*n)``: down first (vectorised), then along."""
    return rows.sum((0, 1)).view(-1, num_filters).sum(0)


def leaky_relu_backward_(grad: Tensor, output: Tensor, negative_slope: float) -> Tensor:
    """LeakyReLU's adjoint in place, from its output.

    The output has its input's sign for a slope of at least 0.
    """
    return torch.ops.aten.leaky_relu_backward.grad_input(grad, output, negative_slope, True, grad_input=grad)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def feature_dtype(image: Tensor, w0: Tensor) -> torch.dtype:
    """Feature dtype: the image's, or the weights' for a uint8 image."""
    return w0.dtype if image.dtype == torch.uint8 else image.dtype
