"""The losses against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from learned_resizer_cuda import EMDLoss, SigmoidCrossEntropyLoss


@pytest.mark.parametrize("d", [1, 2, 3.5])
def test_emd_by_its_definition(d: float) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(5, 10, dtype=torch.float64), torch.rand(5, 10, dtype=torch.float64).softmax(-1)
    p = logits.softmax(-1)
    expected = 0.0
    for b in range(5):
        total = sum(abs(float(p[b, : k + 1].sum() - target[b, : k + 1].sum())) ** d for k in range(10))
        expected += (total / 10) ** (1 / d) / 5
    torch.testing.assert_close(float(EMDLoss(d)(logits, target)), expected, rtol=1e-12, atol=0)


def test_emd_of_opposite_ends() -> None:
    logits = torch.full((1, 10), -1e4)
    logits[0, 0] = 1e4
    target = F.one_hot(torch.tensor([9]), 10).float()
    # All mass moves over all 9 of 10 steps: sqrt(9 / 10).
    torch.testing.assert_close(EMDLoss()(logits, target), torch.tensor(0.9**0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_emd_gradient_is_finite_at_zero_distance(d: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(3, 8, dtype=dtype, requires_grad=True)
    target = torch.full((3, 8), 1 / 8, dtype=dtype)
    loss = EMDLoss(d)(logits, target)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_emd_gradient_near_zero_distance() -> None:
    # Gaps whose squares underflow in float32 still have their gradient.
    logits = torch.zeros(1, 4, requires_grad=True)
    target = torch.tensor([[0.25 + 1e-7, 0.25 - 1e-7, 0.25, 0.25]])
    EMDLoss()(logits, target).backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all() and logits.grad.abs().max() > 1e-3


@pytest.mark.parametrize("d", [1.5, 2, 4])
def test_emd_gradcheck(d: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    target = torch.rand(3, 6, dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(EMDLoss(d), (logits, target))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_sigmoid_cross_entropy_by_its_definition(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(4, 7, dtype=torch.float64), torch.tensor([0, 3, 6, 3])
    expected = 0.0
    for b in range(4):
        for k in range(7):
            q = (1 - smoothing) * float(classes[b] == k) + smoothing / 7
            p = 1 / (1 + float(torch.exp(-logits[b, k])))
            expected -= (q * torch.tensor(p).log() + (1 - q) * torch.tensor(1 - p).log()).item() / 4
    loss = SigmoidCrossEntropyLoss(smoothing)
    torch.testing.assert_close(float(loss(logits, classes)), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(logits, F.one_hot(classes, 7).double()), loss(logits, classes))


def test_sigmoid_cross_entropy_gradcheck_and_extremes() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    loss = SigmoidCrossEntropyLoss()
    assert torch.autograd.gradcheck(lambda x: loss(x, torch.tensor([1, 2, 4])), (logits,))
    far = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss(far, torch.tensor([1])).backward()
    assert far.grad is not None and torch.isfinite(far.grad).all()
