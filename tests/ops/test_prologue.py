"""Prologue of ``conv`` and ``head``: norms, skips, and gradients that add up over a feature's uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from learned_resizer_cuda.ops import conv, head
from learned_resizer_cuda.ops.prologue import (
    FeatureGrad,
    GivenNorm,
    Prologue,
    PrologueGrads,
    add,
    add_backward,
    empty_features,
    norm_grad,
)

N, SLOPE = 5, 0.2


class _Random:
    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def features(self) -> Tensor:
        return self(2, N, 4, 3).contiguous(memory_format=torch.channels_last)

    def norm(self) -> GivenNorm:
        return GivenNorm(self(N), self(N).exp(), self(N), self(N), 1e-3)


def test_folded_norm_is_batch_norm() -> None:
    random = _Random()
    x, norm = random.features(), random.norm()
    scale, shift = norm.fold(torch.float64)
    expected = F.batch_norm(x, norm.mean, norm.var, norm.weight, norm.bias, eps=1e-3)
    torch.testing.assert_close(x * scale[:, None, None] + shift[:, None, None], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes_of_gradients(parameters: torch.dtype) -> None:
    """Of statistics those of the sums, of parameters their own."""
    norm = _Random().norm()
    wide = torch.float64 if parameters == torch.float64 else torch.float32
    norm = norm._replace(weight=norm.weight.to(parameters), bias=norm.bias.to(parameters))
    grads = norm_grad(norm, torch.ones(2, N, dtype=wide))
    assert [grad.dtype for grad in grads] == [wide, wide, parameters, parameters]


# Which of norm, skip and skip_norm a use has; the resizer has all of these but a skip norm without a norm.
KINDS = {
    "norm": (True, False, False),
    "sum": (False, False, False),
    "norm and skip": (True, True, True),
    "norm and sum as skip": (True, True, False),
    "sum and skip": (False, True, True),
}


def _prologue(random: _Random, kind: str, slope: float) -> Prologue:
    has_norm, has_skip, has_skip_norm = KINDS[kind]
    skip = random.features() if has_skip else None
    norm, skip_norm = (random.norm() if has else None for has in (has_norm, has_skip_norm))
    return Prologue(random.features(), norm, skip, skip_norm, slope)


def _plain(p: Prologue) -> Tensor:
    """v, in torch's own operations; ``F.batch_norm`` has no gradients of given statistics."""

    def normed(x: Tensor, norm: GivenNorm | None) -> Tensor:
        if norm is None:
            return x
        mean, var, weight, bias = (t.view(1, -1, 1, 1) for t in norm[:4])
        return (x - mean) / (var + norm.eps).sqrt() * weight + bias

    v = normed(p.input, p.norm)
    if p.skip is not None:
        v = v + normed(p.skip, p.skip_norm)
    return F.leaky_relu(v, p.negative_slope)


def _leaves(p: Prologue) -> list[Tensor]:
    vectors = [t for norm in (p.norm, p.skip_norm) if norm is not None for t in norm[:4]]
    return [t.requires_grad_() for t in (p.input, *vectors, *(() if p.skip is None else (p.skip,)))]


def _detached(p: Prologue) -> Prologue:
    def norm(n: GivenNorm | None) -> GivenNorm | None:
        return None if n is None else GivenNorm(*(t.detach() for t in n[:4]), n.eps)

    skip = None if p.skip is None else p.skip.detach()
    return Prologue(p.input.detach(), norm(p.norm), skip, norm(p.skip_norm), p.negative_slope)


def _other_use(random: _Random, feature: Tensor, norm: GivenNorm | None) -> tuple[Tensor, FeatureGrad]:
    """Another use of a feature, ``Σ d · norm(feature)``: its value, and its gradient as a stage hands it on."""
    along = random.features()
    value = (_plain(Prologue(feature, norm, None, None, 1.0)) * along).sum()
    scale = 1.0 if norm is None else norm.fold(torch.float64)[0].detach().view(1, -1, 1, 1)
    sums = torch.stack([along.sum((0, 2, 3)), (along * feature.detach()).sum((0, 2, 3))])
    return value, FeatureGrad((along * scale).contiguous(memory_format=torch.channels_last), sums)


def _flat(p: Prologue, use: PrologueGrads) -> list[Tensor]:
    """Gradients in the order of ``_leaves``."""
    assert (use.norm is None) == (p.norm is None) and (use.skip is None) == (p.skip is None)
    found = [use.input, *(use.norm or ())]
    if use.skip is not None:
        skip_norm = () if p.skip_norm is None else norm_grad(p.skip_norm, use.skip.sums)
        found += [*skip_norm, use.skip.raw]
    return found


@pytest.mark.parametrize("earlier", [False, True], ids=["only use", "last of two uses"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", ["conv", "head", "add"])
def test_gradients_are_those_of_the_plain_composition(stage: str, kind: str, earlier: bool) -> None:
    random = _Random()
    p = _prologue(random, kind, SLOPE if stage == "conv" else 1.0)
    leaves, v = _leaves(p), _plain(p)
    given = _detached(p)
    value, before = torch.zeros((), dtype=torch.float64), {}
    # Only a convolution may be the last of several uses of its input.
    uses = (("input_grad", p.input, p.norm, stage == "conv"), ("skip_grad", p.skip, p.skip_norm, True))
    for name, feature, norm, takes in uses:
        before[name] = None
        if earlier and takes and feature is not None:
            other, before[name] = _other_use(random, feature, norm)
            value = value + other
    weight = random(N, N, 3, 3) if stage == "conv" else random(3, N, 7, 7)
    bias, base = random(3), random(2, 3, 4, 3)
    weights: list[Tensor] = []
    rest: Any
    if stage == "conv":
        weights = [weight.requires_grad_()]
        out = F.conv2d(v, weight, padding=1)
        found, along = empty_features(out), random.features()
        forward = conv.Conv(given, weight.detach())
        conv.conv(forward, found, None)
        use, *rest = conv.conv_backward(
            conv.ConvBackward(along, None, found, forward, before["input_grad"], before["skip_grad"])
        )
    elif stage == "head":
        weights = [weight.requires_grad_(), bias.requires_grad_()]
        out = F.conv2d(v, weight, bias, padding=3) + base
        found, along = head.head(head.Head(given, weight.detach(), bias.detach(), base)), random(2, 3, 4, 3)
        use, *rest = head.head_backward(
            head.HeadBackward(along, given, weight.detach(), bias.detach(), before["skip_grad"])
        )
    else:
        out, along = v, random.features()
        found = empty_features(out)
        add(given, found)
        # It may overwrite the gradient.
        use, rest = add_backward(along.clone(), given, before["skip_grad"]), []
    expected = torch.autograd.grad((out * along).sum() + value, [*leaves, *weights])
    # float64: sums of some hundred terms of order 1.
    torch.testing.assert_close(found, out.detach(), rtol=1e-11, atol=1e-11)
    got = [*_flat(given, use), *rest]
    assert len(got) == len(expected)
    for value_, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(value_, exact, rtol=1e-10, atol=1e-10)
    assert use.input.is_contiguous(memory_format=torch.channels_last)
