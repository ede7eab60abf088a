"""Tensors without memory: the shapes, dtypes and memory formats of everything, forward and backward."""

from __future__ import annotations

import pytest
import torch

from learned_resizer_cuda import FusedResizer, reference, resize


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
@pytest.mark.parametrize("cls", [FusedResizer, reference.Resizer])
def test_resizer(cls: type[reference.Resizer], interpolation: str, training: bool) -> None:
    with torch.device("meta"):
        module = cls((9, 6), num_filters=4, interpolation=interpolation).train(training)
        image = torch.empty(2, 3, 12, 14, requires_grad=True)
    out = module(image)
    assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 3, 9, 6), torch.float32)
    out.sum().backward()
    for tensor in (image, *module.parameters()):
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape


@pytest.mark.parametrize("cls", [FusedResizer, reference.Resizer])
def test_resizer_refuses_another_dtype_as_elsewhere(cls: type[reference.Resizer]) -> None:
    with (
        torch.device("meta"),
        pytest.raises(TypeError, match=r"image: got dtype torch.float64; expected torch.float32"),
    ):
        cls(5)(torch.empty(1, 3, 8, 8, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_resize(dtype: torch.dtype) -> None:
    image = torch.empty(2, 3, 12, 14, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
    out = resize(image, (5, 7), interpolation="lanczos")
    assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 3, 5, 7), dtype)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_resize_of_any_rank_and_its_derivatives() -> None:
    for shape in ((3, 9, 8), (2, 3, 9, 8), (2, 2, 3, 9, 8)):
        image = torch.empty(shape, device="meta", requires_grad=True)
        out = resize(image, (4, 5))
        assert out.shape == (*shape[:-2], 4, 5) and out.device.type == "meta"
        out.sum().backward()
        assert image.grad is not None and image.grad.shape == shape
        tangent = torch.func.jvp(lambda x: resize(x, 4), (image.detach(),), (image.detach(),))[1]
        assert tangent.shape == (*shape[:-2], 4, 4)
