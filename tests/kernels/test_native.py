"""Every native op, launched by the package with the kernels on the host, against the pure-torch ops in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.kernels import affine, conv, device, head, resample, stem, trunk
from learned_resizer_cuda.kernels.arguments import memory_refusal
from learned_resizer_cuda.ops.bands import get_bands
from learned_resizer_cuda.reference import Resizer
from tests.helpers.native_host import native_on_host, native_ops_on_host

OPS = torch.ops.learned_resizer

# Relative errors in norm. bfloat16 keeps 8 bits, so that an operand is off by up to 2^-9 and a result again; a sum of
# independent roundings stays near one of them. tf32 and float16 keep 11. float32: three tf32 products leave out terms
# below 2^-22, and sums of a thousand terms round a few times.
BOUND = {"bfloat16": 1.5e-2, "float16": 2e-3, "tf32": 2e-3, "float32": 1e-5}
ARITHMETICS = tuple(BOUND)


@pytest.fixture(params=ARITHMETICS)
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each arithmetic, torch's flag set for it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param == "tf32")
    return request.param


def dtype_of(arithmetic: str) -> torch.dtype:
    return torch.float32 if arithmetic == "tf32" else getattr(torch, arithmetic)


class Draw:
    """Seeded tensors whose values the arithmetic holds exactly, so that float64 starts from the same ones."""

    def __init__(self, arithmetic: str) -> None:
        self.dtype = dtype_of(arithmetic)
        self._generator = torch.Generator().manual_seed(1)

    def features(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self._generator) + 0.2
        return values.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def vector(self, n: int, mean: float = 0.0) -> Tensor:
        return mean + 0.3 * torch.randn(n, generator=self._generator)

    def weight(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator) / math.prod(shape[1:]) ** 0.5

    def prologue(self, shape: tuple[int, int, int, int], skip: bool, slope: float) -> list[Any]:
        n = shape[1]
        first = [self.features(*shape), self.vector(n, 1.0), self.vector(n)]
        second = [self.features(*shape), self.vector(n, 1.0), self.vector(n)] if skip else [None] * 3
        return [*first, *second, slope]


def double(args: list[Any]) -> list[Any]:
    return [a.double() if isinstance(a, Tensor) else a for a in args]


def close(got: Any, exact: Any, bound: float, names: str) -> None:
    """Compare tuples of tensors, in norm."""
    assert len(got) == len(exact) == len(names.split())
    for name, a, b in zip(names.split(), got, exact, strict=True):
        assert a.shape == b.shape, name
        if b.numel() == 0:
            continue
        error = (a.double() - b).norm() / b.norm().clamp(min=1e-30)
        assert error <= bound, f"{name}: relative error {error:.2e} beyond {bound:.0e}"


PROLOGUE = "dinput dscale dshift dskip dskip_scale dskip_shift"


@pytest.mark.parametrize("n, skip, statistics", [(16, True, True), (16, False, False), (32, True, True)])
def test_conv(arithmetic: str, n: int, skip: bool, statistics: bool) -> None:
    draw = Draw(arithmetic)
    shape = (2, n, 7, 35)
    args = [*draw.prologue(shape, skip, 0.1), draw.weight(n, n, 3, 3), statistics]
    exact = OPS.conv(*double(args))
    with native_on_host():
        got = conv.conv(*args)
        assert got[0].is_contiguous(memory_format=torch.channels_last) and got[0].dtype == draw.dtype
        close(got, exact, BOUND[arithmetic], "raw mean var")
        grads = [draw.features(*shape), draw.vector(n), draw.vector(n), got[0], got[1]]
        exact_grads = OPS.conv_backward(*double(grads), *double(args))
        close(conv.conv_backward(*grads, *args), exact_grads, BOUND[arithmetic], f"{PROLOGUE} dweight")


@pytest.mark.parametrize("n, channels, skip, wide", [(16, 3, True, True), (16, 1, False, False), (32, 4, True, False)])
def test_head(arithmetic: str, n: int, channels: int, skip: bool, wide: bool) -> None:
    draw = Draw(arithmetic)
    shape = (2, n, 9, 35)
    weight, bias = draw.weight(channels, n, 7, 7), draw.vector(channels)
    base, grad = (draw.features(2, channels, 9, 35) for _ in range(2))
    if wide:
        # NCHW, and a row of a larger image: any strides.
        base = torch.randn(2, channels, 9, 40)[..., 3:38]
        grad = torch.randn(2, channels, 9, 35)
    args = [*draw.prologue(shape, skip, 0.1), weight]
    with native_on_host():
        out = head.head(*args, bias, base)
        assert out.dtype == base.dtype and out.stride() == torch.empty_like(base).stride()
        close([out], [OPS.head(*double([*args, bias, base]))], BOUND[arithmetic], "out")
        exact = OPS.head_backward(*double([grad, *args]))
        close(head.head_backward(grad, *args), exact, BOUND[arithmetic], f"{PROLOGUE} dweight dbias")


STEMS = [
    # filters, channels, image, output, interpolation, antialias, channels_last
    (16, 3, (15, 21), (7, 11), "bilinear", True, False),
    (16, 1, (9, 7), (13, 17), "bicubic", True, True),
    (32, 4, (9, 11), (4, 18), "lanczos", True, True),
    (16, 3, (19, 11), (5, 4), "lanczos", False, False),
    (32, 3, (1, 24), (3, 9), "bilinear", False, True),
]


@pytest.mark.parametrize("n, channels, size, out, interpolation, antialias, last", STEMS)
def test_stem(
    arithmetic: str,
    n: int,
    channels: int,
    size: tuple[int, int],
    out: tuple[int, int],
    interpolation: str,
    antialias: bool,
    last: bool,
) -> None:
    draw = Draw(arithmetic)
    image = draw.features(2, channels, *size)
    if not last:
        image = image.contiguous(memory_format=torch.contiguous_format)
    weights = [draw.weight(n, channels, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]
    # A sum that changes its sign by rounding changes its slope: what 16 bits do to a gradient at 0.1 has nothing to do
    # with the kernel (csrc/tests/test_stem_backward.cpp holds it against a formula that rounds at the same places).
    slope = 0.1 if arithmetic == "float32" else 0.97
    args = [image, *weights, *out, interpolation, antialias, slope, True]
    exact = OPS.stem(*double(args))
    with native_on_host():
        got = stem.stem(*args)
        assert got[0].is_contiguous(memory_format=torch.channels_last) and got[0].dtype == draw.dtype
        close(got, exact, BOUND[arithmetic], "z mean var")
        close(stem.stem(*args[:-1], False)[:1], exact[:1], BOUND[arithmetic], "z")
        grads = [draw.features(2, n, *out), draw.vector(n), draw.vector(n)]
        rest = [image, *weights, got[1], *args[5:], True]
        exact_grads = OPS.stem_backward(*double(grads), *double(rest))
        found = stem.stem_backward(*grads, *rest)
        assert found[0].stride() == image.stride()
        close(found, exact_grads, BOUND[arithmetic], "dx dw0 db0 dw1 db1")


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trunk(dtype: torch.dtype, skip: bool) -> None:
    name = str(dtype).removeprefix("torch.")
    draw = Draw(name)
    shape = (2, 16, 33, 29)

    def norm() -> list[Any]:
        return [draw.vector(16), draw.vector(16).exp(), draw.vector(16, 1.0), draw.vector(16), 1e-5]

    def common(with_skip: bool) -> list[Any]:
        second = [draw.features(*shape), *norm()] if with_skip else [None] * 5 + [0.0]
        return [draw.features(*shape), *norm(), *second, draw.weight(16, 16, 3, 3), *norm()]

    block = [*common(skip), 0.1, draw.weight(16, 16, 3, 3)]
    base = draw.features(2, 3, 33, 29)
    tail = [*common(True), draw.weight(3, 16, 7, 7), draw.vector(3), base]
    with native_on_host():
        close([trunk.trunk_block(*block)], [OPS.trunk_block(*double(block))], BOUND[name], "out")
        close([trunk.trunk_tail(*tail)], [OPS.trunk_tail(*double(tail))], BOUND[name], "out")


@pytest.mark.parametrize("last", [False, True])
def test_stem_of_uint8_images(arithmetic: str, last: bool) -> None:
    """Converted as they load; the features have the dtype of the weights."""
    draw = Draw(arithmetic)
    image = torch.randint(0, 256, (2, 3, 13, 18), dtype=torch.uint8)
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    weights = [draw.weight(16, 3, 7, 7), draw.vector(16), draw.weight(16, 16, 1, 1), draw.vector(16)]
    weights = [w.to(draw.dtype) for w in weights]
    normalisation = [torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])]
    args = [image, *weights, 7, 9, "bilinear", True, 0.97, True]
    exact = OPS.stem(image, *double(args[1:]), *double(normalisation))
    with native_on_host():
        got = stem.stem(*args, *normalisation)
        assert got[0].dtype == draw.dtype
        close(got, exact, BOUND[arithmetic], "z mean var")
        grads = [draw.features(2, 16, 7, 9), draw.vector(16), draw.vector(16)]
        rest = [*weights, got[1], *args[5:], False, *normalisation]
        found = stem.stem_backward(*grads, image, *rest)
        exact_grads = OPS.stem_backward(*double(grads), image, *double(rest))
        close(found[1:], exact_grads[1:], BOUND[arithmetic], "dw0 db0 dw1 db1")


@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("n", [16, 32])
def test_stem_backward_fits_every_gpu(arithmetic: str, n: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide image: with fewer warps where a block may have less shared memory, or a reason why not at all."""
    limit = {"sm_80": 163, "sm_90": 227, "sm_120": 99}[name] * 1024  # CUDA C++ Programming Guide, compute capabilities
    draw = Draw(arithmetic)
    with native_on_host():
        monkeypatch.setattr(device, "shared_memory", lambda gpu: limit)
        memory_refusal.cache_clear()
        refused = memory_refusal("stem", arithmetic, n, torch.device("cpu"))
        memory_refusal.cache_clear()
        # 32 filters of 32 bits need more than 99 KiB; everything else has to run everywhere.
        assert (refused is not None) == (n == 32 and name == "sm_120" and "32" in arithmetic), refused
        if refused is not None:
            assert "needs" in refused and "this GPU has 99 KiB" in refused
            return
        image = draw.features(1, 3, 2, 130)
        weights = [draw.weight(n, 3, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]
        sampling = (1, 65, "bilinear", True, 0.97)
        grads = [draw.features(1, n, 1, 65), draw.vector(0), draw.vector(0)]
        rest = [image, *weights, draw.vector(0), *sampling, False, True]
        exact = OPS.stem_backward(*double(grads), *double(rest))
        close(stem.stem_backward(*grads, *rest), exact, BOUND[arithmetic], "dx dw0 db0 dw1 db1")


@pytest.mark.parametrize("n", [16, 300])
def test_affine(n: int) -> None:
    draw = Draw("float32")
    args = [draw.vector(n), draw.vector(n).exp(), draw.vector(n, 1.0), draw.vector(n), 1e-5]
    with native_on_host():
        # A few float32 operations each.
        close(affine.affine(*args), OPS.affine(*double(args)), 1e-6, "scale shift")
        grads = [draw.vector(n), draw.vector(n), *args[:3], 1e-5]
        close(affine.affine_backward(*grads), OPS.affine_backward(*double(grads)), 1e-6, "dmean dvar dweight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resample(dtype: torch.dtype) -> None:
    image = Draw("bfloat16").features(2, 3, 19, 40).to(dtype)
    bands = [get_bands(19, 7, None, "lanczos", True, torch.float64, "cpu")]
    bands.append(get_bands(40, 55, None, "lanczos", True, torch.float64, "cpu"))
    exact = OPS.resample(image.double(), 7, 55, None, None, "lanczos", True)
    with native_on_host():
        close([resample.resample(image, *bands)], [exact], 2e-3 if dtype == torch.bfloat16 else 1e-6, "out")


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_resizer_trains_on_native_kernels(num_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, every gradient and running statistic of a step, all ops native at once, against float64."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = FusedResizer((13, 18), num_blocks=num_blocks)
    exact = Resizer((13, 18), num_blocks=num_blocks).double()
    exact.load_state_dict(model.state_dict())
    image, grad = torch.randn(2, 3, 29, 35), torch.randn(2, 3, 13, 18)
    x, y = image.clone().requires_grad_(), image.double().requires_grad_()
    with native_ops_on_host():
        out = model(x)
        out.backward(grad)
    want = exact(y)
    want.backward(grad.double())
    assert x.grad is not None and y.grad is not None
    # float32 through nine layers and their batch normalisations, as the bound on the pure-torch ops.
    close([out], [want], 1e-5, "out")
    close([x.grad], [y.grad], 1e-4, "dx")
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        close([p.grad], [q.grad], 1e-4, name)
    for (name, p), q in zip(model.named_buffers(), exact.buffers(), strict=True):
        close([p], [q.double()], 1e-5, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_resizer_infers_on_native_kernels(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = FusedResizer((13, 18), interpolation="bicubic").eval()
    exact = Resizer((13, 18), interpolation="bicubic").eval().double()
    exact.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 29, 35).to(dtype)
    with native_ops_on_host(), torch.no_grad():
        close([model.to(dtype)(image)], [exact(image.double())], 1.5e-2 if dtype == torch.bfloat16 else 1e-5, "out")
