"""The trunk's inference ops against the plain composition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda.resizer import running_norm
from tests.helpers.convolutions import some, wrong


def _resizer(dtype: torch.dtype = torch.float64) -> lr.FusedResizer:
    torch.manual_seed(3)
    module = lr.FusedResizer((11, 9)).to(dtype)
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                tensor.data.uniform_(0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                tensor.data.normal_()
    return module.eval()


def _norm(module: torch.nn.BatchNorm2d) -> tuple[object, ...]:
    return running_norm(module)


def _features(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 16, 11, 9, dtype=torch.float64).to(dtype).contiguous(memory_format=torch.channels_last)


_NO_SKIP = (None, None, None, None, None, 0.0)


@torch.no_grad()
def test_block_is_two_convolutions() -> None:
    module, z = _resizer(), _features(torch.float64)
    block = module.blocks[0]
    raw = torch.ops.learned_resizer.trunk_block(
        z, *_norm(module.norm1), *_NO_SKIP, block.conv1.weight, *_norm(block.norm1), 0.2, block.conv2.weight
    )
    exact = block.conv2(F.leaky_relu(block.norm1(block.conv1(module.norm1(z))), 0.2))
    # float64: a few hundred roundings of 2^-53.
    torch.testing.assert_close(raw, exact, rtol=1e-12, atol=1e-12)
    assert raw.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_tail_is_the_last_convolutions() -> None:
    module, z, raw = _resizer(), _features(torch.float64), _features(torch.float64)
    base = torch.randn(2, 3, 11, 9, dtype=torch.float64)
    block = module.blocks[0]
    f = (z, *_norm(module.norm1))
    out = torch.ops.learned_resizer.trunk_tail(
        raw, *_norm(block.norm2), *f, module.conv3.weight, *_norm(module.norm2), module.conv4.weight, module.conv4.bias,
        base,
    )  # fmt: skip
    skip = module.norm1(z)
    exact = module.conv4(module.norm2(module.conv3(block.norm2(raw) + skip)) + skip) + base
    torch.testing.assert_close(out, exact, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_the_fused_path_is_the_module() -> None:
    """What a GPU does at inference, with the ops' formulas: the same as the module op by op."""
    module = _resizer()
    image = torch.rand(2, 3, 20, 17, dtype=torch.float64)
    sampling = (11, 9, "bilinear", True)
    base = torch.ops.learned_resizer.resample(image, 11, 9, None, None, "bilinear", True)
    stem = (module.conv1.weight, module.conv1.bias, module.conv2.weight, module.conv2.bias)
    z, _, _ = torch.ops.learned_resizer.stem(image, *stem, *sampling, 0.2, False)
    torch.testing.assert_close(module._trunk(z, base), module(image), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_ops_pass_opcheck(dtype: torch.dtype) -> None:
    module, z = _resizer(dtype), _features(dtype)
    block = module.blocks[0]
    norms = [tuple(t.detach() if isinstance(t, Tensor) else t for t in _norm(m)) for m in
             (module.norm1, block.norm1, block.norm2, module.norm2)]  # fmt: skip
    weights = [c.weight.detach() for c in (block.conv1, block.conv2, module.conv3, module.conv4)]
    checks = ("test_schema", "test_faketensor")
    block_args = (z, *norms[0], *_NO_SKIP, weights[0], *norms[1], 0.2, weights[1])
    torch.library.opcheck(torch.ops.learned_resizer.trunk_block.default, block_args, test_utils=checks)
    base = torch.randn(2, 3, 11, 9)
    tail_args = (z, *norms[2], z, *norms[0], weights[2], *norms[3], weights[3], module.conv4.bias.detach(), base)
    torch.library.opcheck(torch.ops.learned_resizer.trunk_tail.default, tail_args, test_utils=checks)


def test_there_is_no_gradient() -> None:
    module, z = _resizer(), _features(torch.float64).requires_grad_()
    block = module.blocks[0]
    raw = torch.ops.learned_resizer.trunk_block(
        z, *_norm(module.norm1), *_NO_SKIP, block.conv1.weight, *_norm(block.norm1), 0.2, block.conv2.weight
    )
    with pytest.raises(NotImplementedError, match="inference only"):
        raw.sum().backward()


@pytest.mark.parametrize("op", ["trunk_block", "trunk_tail"])
def test_convolutions_of_random_shapes(op: str) -> None:
    """oneDNN's code is right for these shapes, dtypes and layouts."""
    assert not wrong(some(op))


def test_arguments_of_groups_of_one_class_are_named_by_their_fields() -> None:
    arguments = torch.ops.learned_resizer.trunk_tail.default._schema.arguments
    kinds = {argument.name: str(argument.type) for argument in arguments}
    assert kinds["norm_mean"] == "Tensor" and kinds["skip_norm_mean"] == "Optional[Tensor]"
    assert list(kinds)[-3:] == ["weight", "bias", "base"]
