"""Losses of the paper: earth mover's distance (quality histograms), sigmoid cross-entropy (classes)."""

from __future__ import annotations

import math
import numbers

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EMDLoss(nn.Module):
    """Mean earth mover's distance between ``softmax(logits)`` and a batch's target histograms.

    ``EMD(p, q) = (1/K · Σ_k |CDF_p(k) - CDF_q(k)|^d)^(1/d)`` (Talebi & Milanfar, ICCV 2021; K ordered bins).

    The gradient is finite everywhere. At zero distance, where the root's slope is infinite, it is 0, the subgradient
    of least norm. Deterministic on a CPU; on CUDA where ``torch.cumsum`` is.

    Args:
        d: exponent, a finite number of at least 1; 2 in the paper.

    Raises:
        TypeError, ValueError: if ``d`` is not such a number.

    Examples:
        Unlike a cross-entropy, it knows that a score of 2 is nearer to 1 than a score of 4 is:

        >>> import torch
        >>> from learned_resizer_cuda import EMDLoss
        >>> loss = EMDLoss(d=1)
        >>> certainly_1 = torch.tensor([[1000.0, 0.0, 0.0, 0.0]])
        >>> loss(certainly_1, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
        tensor(0.2500)
        >>> loss(certainly_1, torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
        tensor(0.7500)
    """

    def __init__(self, d: float = 2) -> None:
        super().__init__()
        if isinstance(d, bool) or not isinstance(d, numbers.Real):
            raise TypeError(f"d: got {d!r}; expected a finite number of at least 1")
        if not (math.isfinite(d) and d >= 1):
            raise ValueError(f"d: got {d!r}; expected a finite number of at least 1")
        self.d: float = d

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean distance of a batch.

        Args:
            logits: ``(B, K)``, floating-point, before the softmax.
            target: ``(B, K)``, floating-point, histograms that sum to 1.

        Returns:
            A scalar in [0, 1], of float32, or float64 for float64 logits.

        Raises:
            TypeError: if either is not a floating-point tensor.
            ValueError: if the shapes are not ``(B, K)`` and equal, or B or K is 0.

        Examples:
            Equal distributions; the gradient is finite there too:

            >>> import torch
            >>> from learned_resizer_cuda import EMDLoss
            >>> logits = torch.zeros(3, 10, requires_grad=True)
            >>> distance = EMDLoss()(logits, torch.full((3, 10), 0.1))
            >>> distance.backward()
            >>> distance.item(), logits.grad.abs().max().item()
            (0.0, 0.0)
        """
        _check_logits(logits)
        if not target.is_floating_point():
            raise TypeError(f"target: got dtype {target.dtype}; expected a floating-point distribution (B, K)")
        if target.shape != logits.shape:
            raise ValueError(f"target: got shape {tuple(target.shape)}; expected {tuple(logits.shape)}, as logits")
        # Sums of half-precision probabilities lose the tails: take them in float32.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        gap = (logits.to(dtype).softmax(-1) - target.to(dtype)).cumsum(-1).abs()
        if self.d == 1:
            return gap.mean()
        # Factoring out the largest gap keeps small gaps from underflowing in the power; the clamp avoids division by
        # zero, and `where` keeps the root's infinite slope at 0 out of the gradient.
        largest = gap.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        power = (gap / largest).pow(self.d).mean(-1)
        positive = power > 0
        root = torch.where(positive, power, torch.ones_like(power)).pow(1 / self.d)
        return torch.where(positive, root * largest.squeeze(-1), torch.zeros_like(root)).mean()

    def extra_repr(self) -> str:
        return f"d={self.d}"


class SigmoidCrossEntropyLoss(nn.Module):
    """Cross-entropy of independent sigmoids against smoothed one-hot targets.

    Summed over classes, mean over the batch. The target is ``(1 - s)·one_hot + s/K`` for smoothing ``s``, as in
    ``torch.nn.CrossEntropyLoss``; each class is then a binary problem. This is our reading of the loss of Talebi &
    Milanfar, ICCV 2021. Deterministic.

    Args:
        label_smoothing: ``s``, a number in [0, 1].

    Raises:
        TypeError, ValueError: if ``label_smoothing`` is not such a number.

    Examples:
        Logits of 0 cost log 2 for each of ten classes, whatever the target:

        >>> import torch
        >>> from learned_resizer_cuda import SigmoidCrossEntropyLoss
        >>> loss = SigmoidCrossEntropyLoss(label_smoothing=0.1)
        >>> loss(torch.zeros(2, 10), torch.tensor([3, 7]))
        tensor(6.9315)
    """

    def __init__(self, label_smoothing: float = 0.1) -> None:
        super().__init__()
        expected = "expected a number in [0, 1]"
        if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, numbers.Real):
            raise TypeError(f"label_smoothing: got {label_smoothing!r}; {expected}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: got {label_smoothing!r}; {expected}")
        self.label_smoothing: float = label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss of a batch.

        Args:
            logits: ``(B, K)``, floating-point, before the sigmoid.
            target: ``(B,)`` class indices, integers in [0, K), or ``(B, K)`` floating-point distributions.

        Returns:
            A scalar of at least 0, in the dtype of the logits.

        Raises:
            TypeError: if ``logits`` is not floating-point, or class indices are not integers.
            ValueError: if a shape is wrong, or a class index is out of range; on CUDA an index is left to the device's
                own assertion.

        Examples:
            Class indices, and the same as distributions:

            >>> import torch
            >>> from learned_resizer_cuda import SigmoidCrossEntropyLoss
            >>> logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
            >>> loss = SigmoidCrossEntropyLoss()
            >>> of_indices = loss(logits, torch.tensor([0, 1]))
            >>> of_indices.equal(loss(logits, torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])))
            True
            >>> loss(logits, torch.tensor([0, 3]))
            Traceback (most recent call last):
                ...
            ValueError: target: got class index 3; expected 0 to 2
        """
        _check_logits(logits)
        classes = logits.shape[1]
        if target.dim() == 1:
            target = self._one_hot(target, logits)
        elif target.shape != logits.shape:
            raise ValueError(
                f"target: got shape {tuple(target.shape)}; expected ({len(logits)},) class indices "
                f"or {tuple(logits.shape)} distributions"
            )
        elif not target.is_floating_point():
            raise TypeError(f"target: got dtype {target.dtype}; expected a floating-point distribution (B, K)")
        smooth = self.label_smoothing
        target = target.to(logits.dtype) * (1 - smooth) + smooth / classes
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)

    @staticmethod
    def _one_hot(target: Tensor, logits: Tensor) -> Tensor:
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"target: got dtype {target.dtype} with shape (B,); expected integer class indices")
        if len(target) != len(logits):
            raise ValueError(f"target: got shape {tuple(target.shape)}; expected ({len(logits)},) class indices")
        classes = logits.shape[1]
        # On a GPU reading the values would stall the stream; scatter's own assertion reports them there.
        if target.device.type == "cpu" and not torch.compiler.is_compiling():
            low, high = int(target.min()), int(target.max())
            if low < 0 or high >= classes:
                wrong = low if low < 0 else high
                raise ValueError(f"target: got class index {wrong}; expected 0 to {classes - 1}")
        return F.one_hot(target.long(), classes)

    def extra_repr(self) -> str:
        return f"label_smoothing={self.label_smoothing}"


def _check_logits(logits: Tensor) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits: got dtype {logits.dtype}; expected floating-point (B, K)")
    if logits.dim() != 2 or 0 in logits.shape:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}; expected (B, K) with B and K at least 1")
