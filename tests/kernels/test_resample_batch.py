"""The native kernel on images of mixed sizes, on the host, through the package's launchers.

Each image has the bits that it has alone, and float64's values.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda import resize_batch, use_backend
from learned_resizer_cuda.kernels import resample as launchers
from learned_resizer_cuda.ops import resample_batch as op
from learned_resizer_cuda.ops.band_matmul import is_channels_last
from learned_resizer_cuda.ops.resample_batch import BatchSampling, ResampleBatch, ResampleBatchBackward
from tests.helpers.native_host import native_on_host, native_ops_on_host
from tests.test_resize_batch import Case, make

# Of the largest value; float32 sums of at most 2·120 terms, whose roundings grow like sqrt(terms)·2^-24, and for half
# types the result's own. Both sides start from the same float64 weights.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 3e-6,
    torch.float16: 2**-11 + 3e-6,
    torch.bfloat16: 2**-8 + 3e-6,
}


def _arguments(case: Case, dtype: torch.dtype | None = None, normalised: bool = False) -> ResampleBatch:
    boxes = None if case.boxes is None else torch.tensor(case.boxes, dtype=torch.float64)
    flip = None if case.flip is None else torch.tensor(case.flip)
    channels = case.images[0].shape[0]
    mean, std = ([0.4 + 0.1 * c for c in range(channels)], [0.2 + 0.05 * c for c in range(channels)])
    sampling = BatchSampling(*case.size, case.interpolation, case.antialias)
    norm = (mean, std) if normalised else ([], [])
    return ResampleBatch(case.images, boxes, flip, sampling, dtype or case.images[0].dtype, *norm)


def _alone(a: ResampleBatch, index: int) -> ResampleBatch:
    boxes, flip = (None if rows is None else rows[index : index + 1] for rows in (a.boxes, a.flip))
    return a._replace(images=[a.images[index]], boxes=boxes, flip=flip)


def _exact(a: ResampleBatch) -> Tensor:
    """In float64 by pure torch, not rounded."""
    images = [image.double() for image in a.images]
    exact = op._resample_batch(a._replace(images=images, dtype=torch.float64, mean=[], std=[]))
    if a.mean:
        mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (a.mean, a.std))
        exact = (exact / 255 - mean) / std
    return exact


def _check(found: Tensor, exact: Tensor, largest: float) -> None:
    """`largest`: of the values that are added up, for the error's scale."""
    if found.dtype == torch.uint8:
        expected = (exact + 0.5).floor().clamp(0, 255)
        near_half = ((exact + 0.5) - (exact + 0.5).round()).abs() < 255 * TOLERANCE[torch.float32]
        assert ((found == expected) | near_half).all()
    else:
        bound = TOLERANCE[found.dtype] * max(largest, exact.abs().max().item())
        assert (found.double() - exact).abs().max().item() <= bound


@pytest.mark.parametrize("seed", range(40))
def test_random_lists(seed: int) -> None:
    case = make(seed, sub_pixel=seed % 2 == 1, largest=120)
    a = _arguments(case)
    with native_on_host():
        found = launchers.resample_batch(a)
        alone = [launchers.resample_batch(_alone(a, index)) for index in range(len(a.images))]
    layout = torch.channels_last if all(map(is_channels_last, a.images)) else torch.contiguous_format
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(found, torch.cat(alone))
    for one, exact in zip(found, _exact(a), strict=True):
        _check(one, exact, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("normalised", [False, True])
def test_floats_of_bytes(dtype: torch.dtype, normalised: bool) -> None:
    for seed in range(100, 104):
        a = _arguments(make(seed, sub_pixel=True, dtype=torch.uint8, largest=60), dtype, normalised)
        with native_on_host():
            found = launchers.resample_batch(a)
            alone = [launchers.resample_batch(_alone(a, index)) for index in range(len(a.images))]
        assert found.dtype == dtype and torch.equal(found, torch.cat(alone))
        # Sums are float32 whatever the result.
        exact = _exact(a)
        bound = TOLERANCE[torch.float32 if dtype == torch.float64 else dtype] * max(255.0, exact.abs().max().item())
        if normalised:
            bound /= 255 * 0.2
            bound += TOLERANCE[torch.float32 if dtype == torch.float64 else dtype] * exact.abs().max().item()
        assert (found.double() - exact).abs().max().item() <= bound


@pytest.mark.parametrize("seed", range(200, 216))
def test_gradients(seed: int) -> None:
    """Of a mixed list: each the bits that it has alone, and zero outside its region."""
    dtype = (torch.float32, torch.float64, torch.bfloat16, torch.float16)[seed % 4]
    case = make(seed, sub_pixel=seed % 8 < 4, dtype=dtype, largest=100)
    a = _arguments(case)
    channels = a.images[0].shape[0]
    grad = torch.rand(len(a.images), channels, *case.size, dtype=torch.float64).to(dtype)
    if seed % 3 == 0:
        grad = grad.contiguous(memory_format=torch.channels_last)
    sizes = [side for image in a.images for side in (0, *image.shape[1:])]
    interleaved = [index % 2 for index in range(len(a.images))] if channels > 1 else [0] * len(a.images)

    def backward(rows: slice, grad: Tensor = grad) -> ResampleBatchBackward:
        boxes, flip = (None if given is None else given[rows] for given in (a.boxes, a.flip))
        part = sizes[3 * rows.start : 3 * rows.stop]
        return ResampleBatchBackward(grad[rows], part, interleaved[rows], boxes, flip, a.sampling)

    everything = backward(slice(0, len(a.images)))
    with native_on_host():
        found = launchers.resample_batch_backward(everything)
        alone = [launchers.resample_batch_backward(backward(slice(i, i + 1)))[0] for i in range(len(a.images))]
    exact = op._resample_batch_backward(everything._replace(grad=grad.double()))
    for index, (one, other, expected) in enumerate(zip(found, alone, exact, strict=True)):
        assert one.shape == a.images[index].shape and one.stride() == expected.stride()
        assert torch.equal(one, other), index
        assert not one[expected == 0.0].any(), index
        _check(one, expected, 1.0)


def test_a_group_is_its_images() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 2, 23, 31, generator=generator)
    other = torch.rand(2, 40, 9, generator=generator)
    boxes = torch.tensor([[1.25, 2.5, 17.0, 20.25], [0.0, 0.0, 40.0, 9.0]], dtype=torch.float64)
    flip = torch.tensor([True, False])
    sampling = BatchSampling(12, 17, "bicubic", True)
    a = ResampleBatch([images, other], boxes, flip, sampling, torch.float32, [], [])
    each = a._replace(images=[*images, other], boxes=boxes[[0, 0, 0, 1]], flip=flip[[0, 0, 0, 1]])
    with native_on_host():
        assert torch.equal(launchers.resample_batch(a), launchers.resample_batch(each))
        grad = torch.rand(4, 2, 12, 17, generator=generator)
        sizes = [3, 23, 31, 0, 40, 9]
        group, one = launchers.resample_batch_backward(
            ResampleBatchBackward(grad, sizes, [0, 0], boxes, flip, sampling)
        )
        sizes = [0, 23, 31] * 3 + [0, 40, 9]
        singles = launchers.resample_batch_backward(
            ResampleBatchBackward(grad, sizes, [0] * 4, each.boxes, each.flip, sampling)
        )
    assert torch.equal(group, torch.stack(singles[:3])) and torch.equal(one, singles[3])


def test_a_uniform_list_has_the_bits_of_the_batch() -> None:
    """`resize` of a batch and a list of its images: one kernel, one order of sums."""
    images = torch.rand(3, 3, 40, 52)
    for size, interpolation in (((17, 25), "lanczos"), ((80, 91), "bicubic")):
        a = ResampleBatch([*images], None, None, BatchSampling(*size, interpolation, True), torch.float32, [], [])
        with native_on_host():
            listed = launchers.resample_batch(a)
            batch = launchers.resample_batch(a._replace(images=[images]))
        assert torch.equal(listed, batch)


def test_the_registered_op_and_its_gradients() -> None:
    """`resize_batch` on native kernels, to the images: as in pure torch, up to the order of float32 sums."""
    case = make(300, sub_pixel=True, dtype=torch.float32, largest=60)
    images = [image.clone().requires_grad_() for image in case.images]

    def run() -> tuple[Tensor, ...]:
        out = resize_batch(images, case.size, boxes=case.boxes, flip=[i % 2 == 0 for i in range(len(images))])
        return out, *torch.autograd.grad((out * out).sum(), images)

    expected = run()
    with native_ops_on_host(), use_backend("native"):
        found = run()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, other.abs().max().item()))
