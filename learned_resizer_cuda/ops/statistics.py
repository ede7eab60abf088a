"""Per-channel mean and variance, merged tile by tile in Chan's form."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .layout import along_row, maps, rows, sum_pixels


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of sums and statistics: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def has_float64(device: torch.device) -> bool:
    """Whether a device supports float64; mps does not, others are tried once."""
    return device.type in ("cpu", "cuda", "meta") or (device.type != "mps" and _takes_float64(device))


@cache
def _takes_float64(device: torch.device) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError):
        return False
    return True


class Statistics:
    """Running (count, mean, M2) of feature maps.

    M2 is the sum of squared deviations from the mean. Two sets merge as ``M2 = M2a + M2b + δ²·na·nb/n`` with
    ``δ = mean_b - mean_a`` (Chan, Golub & LeVeque 1983); ``Σc² - (Σc)²/n`` would lose the digits that a mean far from
    zero takes.

    Args:
        num_filters: channels.
        device: of the maps.
    """

    def __init__(self, num_filters: int, device: torch.device) -> None:
        self.count = 0
        # In float64 if the device has it: the vectors are short, and merging then adds no error.
        wide = torch.float64 if has_float64(device) else torch.float32
        self.mean = torch.zeros(num_filters, dtype=wide, device=device)
        self.m2 = torch.zeros(num_filters, dtype=wide, device=device)

    def add(self, features: Tensor) -> None:
        """Merge in ``features (K, n, H, W)``, channels_last.

        In two passes; the second corrects the mean that it subtracts. torch's ``batch_norm_update_stats`` adds
        interleaved channels one by one, which gives a mean wrong by 1e-4 to 1e-3 standard deviations.
        """
        count = features.numel() // features.shape[1]
        if not count:
            return
        x, n = rows(features), features.shape[1]
        mean = sum_pixels(x, n) / count
        deviation = x - along_row(mean, features.shape[3], x.dtype)
        left = sum_pixels(deviation, n).to(self.mean.dtype) / count
        m2 = sum_pixels(deviation.square_(), n).to(self.mean.dtype) - count * left.square()
        self._merge(count, mean.to(left.dtype) + left, m2)

    def merge(self, other: Statistics) -> None:
        """Merge in the statistics of another object."""
        if other.count:
            self._merge(other.count, other.mean, other.m2)

    def _merge(self, count: int, mean: Tensor, m2: Tensor) -> None:
        delta = mean - self.mean
        total = self.count + count
        self.mean += delta * (count / total)
        self.m2 += m2 + delta.square() * (self.count * count / total)
        self.count = total

    def write(self, to: Tensor) -> None:
        """Write mean, biased and unbiased variance to the rows of ``(3, n)``.

        Zeros if there were no values.
        """
        to[0] = self.mean
        to[1] = self.m2 / max(self.count, 1)
        # A single value has no variance; only norms in evaluation mode get here with one.
        to[2] = self.m2 / max(self.count - 1, 1)


class StatisticsGrad(NamedTuple):
    """Gradients of features' mean and biased variance.

    Vectors ``(n,)``, float32 (float64 for float64).
    """

    mean: Tensor  # of the features
    grad_mean: Tensor
    grad_var: Tensor
    pixels: int  # M, the number of values per channel of the statistics


def add_statistics_grad(grad: Tensor, features: Tensor, a: StatisticsGrad, out: Tensor | None = None) -> Tensor:
    """Gradient of features with that of their statistics.

    Args:
        grad, features: ``(K, n, H, W)``, channels_last.
        a: of the statistics.
        out: tensor for the result, ``grad + dmean / M + 2 (features - mean) / M · dvar``; for instance ``grad`` itself.
    """
    n, width = grad.shape[1], grad.shape[3]
    scale = a.grad_var * (2 / a.pixels)
    shift = a.grad_mean / a.pixels - a.mean * scale
    into = None if out is None else rows(out)
    total = torch.addcmul(rows(grad), rows(features), along_row(scale, width, grad.dtype), out=into)
    return maps(total.add_(along_row(shift, width, grad.dtype)), n)
