"""AdamW with step sizes by frequency of a kernel, not by tap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW


class FrequencyAdamW(AdamW):
    """``AdamW`` on the discrete cosine transforms of k×k kernels.

    Other parameters are taken as they are.

    Photographs have nearly all of their power at low frequencies, and so does the gradient of a kernel that is applied
    to them: its 49 taps get much the same gradient. Adam, which scales each tap for itself, then moves all of them by
    the learning rate in one direction, and the frozen network behind sees a change 49 times as large, while the
    differences between the taps, which make a filter, drown in it. In the orthonormal basis of the transform (DCT-II)
    each frequency has its own scale. Decay of weights means the same in both.

    Determinism: as ``AdamW``.

    Args:
        groups: parameters; a group with ``frequencies=True`` has its (n, m, k, k) kernels of k > 1 transformed.
        weight_decay: of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        transformed = [group["params"] for group in self.param_groups if group.get("frequencies")]
        kernels = [parameter for group in transformed for parameter in group if _is_kernel(parameter)]
        for kernel in kernels:
            kernel.copy_(to_frequencies(kernel))
            kernel.grad = to_frequencies(kernel.grad)  # type: ignore[arg-type]
        result = super().step(closure)
        for kernel in kernels:
            kernel.copy_(to_taps(kernel))
        return result


def _is_kernel(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.dim() == 4 and parameter.shape[-1] > 1


def to_frequencies(kernels: Tensor) -> Tensor:
    """Orthonormal DCT-II of each kernel, ``D_k K D_lᵀ``.

    (n, m, k, l) → the same shape.
    """
    return _cosines(kernels, -2) @ kernels @ _cosines(kernels, -1).T


def to_taps(frequencies: Tensor) -> Tensor:
    """Inverse of ``to_frequencies``, which is its transpose: ``D_kᵀ F D_l``."""
    return _cosines(frequencies, -2).T @ frequencies @ _cosines(frequencies, -1)


def _cosines(kernels: Tensor, dimension: int) -> Tensor:
    """The transform's matrix D (k, k).

    ``D_0u = √(1/k)``, ``D_fu = √(2/k) cos(π f (u + 1/2) / k)``.
    """
    count = kernels.shape[dimension]
    taps = torch.arange(count, dtype=torch.float64)
    matrix = (2 / count) ** 0.5 * torch.cos(torch.pi * taps[:, None] * (taps + 0.5) / count)
    matrix[0] /= 2**0.5
    return matrix.to(kernels)
