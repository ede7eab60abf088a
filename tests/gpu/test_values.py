"""Values and gradients of every op, on a GPU with the native kernels, against the same op in float64 on the CPU.

Ops are ``resample`` and the stages of ``resizer``. The cases run on a CPU too, in pure torch, to test the tests
themselves.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import learned_resizer_cuda as lr
from benchmarks import op_calls
from benchmarks.op_calls import MARGIN, NO_GRADIENT, OPS, OpCall
from learned_resizer_cuda import backend
from tests.helpers.gpu_cases import (
    ARITHMETIC,
    BOUND,
    KINK_BOUND,
    TORCH_COORDINATES,
    arithmetic,
    backend_on,
    check,
    devices,
    oracle,
    relative_error,
    results,
    unchanged_flags,
)

__all__ = ["unchanged_flags"]
pytestmark = pytest.mark.usefixtures("unchanged_flags")

# (height, width) in and out: odd ones, enlarging, mixed, one pixel, and more than a tile of any kernel.
SIZES = ((37, 29, 17, 13), (13, 11, 29, 31), (16, 50, 33, 9), (5, 3, 1, 2), (1, 1, 3, 1), (101, 131, 67, 71))


def _cases(op: str) -> list[OpCall]:
    """One thing varied at a time, so that a failure names its cause."""
    base = OpCall(op)
    cases = [base.with_(sizes=sizes) for sizes in SIZES]
    cases.append(base.with_(batch=1))
    if op in ("resample", "stem"):
        filters = ("bilinear", "bicubic", "lanczos")
        cases += [base.with_(interpolation=f, antialias=a) for f in filters for a in (True, False)]
        cases += [base.with_(sizes=SIZES[1], interpolation=f) for f in filters]
    if op != "resample":
        cases.append(base.with_(filters=32))
    if op in ("resample", "stem", "head", "trunk_tail"):
        cases += [base.with_(channels=channels) for channels in (1, 4)]
        cases += [base.with_(channels=channels, layout="channels_last") for channels in (1, 3, 4)]
        cases.append(base.with_(channels=4, filters=32))
    if op not in ("resample", "stem"):
        cases.append(base.with_(filters=32, sizes=SIZES[-1]))
    if op in ("conv", "head", "trunk_block"):
        cases.append(base.with_(skip=False))
    if op in ("conv", "head"):
        # What blocks after the first give: sums of features, without a norm, and several uses.
        cases += [base.with_(norm=False), base.with_(skip_norm=False), base.with_(norm=False, skip=False)]
        cases += [base.with_(earlier=True), base.with_(earlier=True, skip_norm=False, sizes=SIZES[-1])]
    if op in ("stem", "conv"):
        cases.append(base.with_(statistics=False))
        cases += [base.with_(clear=False), base.with_(clear=False, filters=32, sizes=SIZES[-1])]
    return list(dict.fromkeys(cases))


CASES = [case for op in OPS for case in _cases(op)]


def _runs() -> list[Any]:
    """All cases on a GPU; on a CPU float32, and enough of bfloat16 to test its bounds."""
    # The native trunk takes half types and 16 filters: the rest runs op by op there.
    cuda = [
        pytest.param(case, name, "cuda", marks=pytest.mark.gpu)
        for case in CASES
        for name, dtype in ARITHMETIC.items()
        if case.op not in NO_GRADIENT or (dtype != torch.float32 and case.filters == 16)
    ]
    cpu = [(case, "float32", "cpu") for case in CASES if case.sizes != SIZES[-1]]
    halves = [(case, "bfloat16", "cpu") for case in CASES if case in (OpCall(case.op), OpCall(case.op, clear=False))]
    return [*cpu, *halves, *cuda]


@pytest.mark.parametrize(("case", "name", "device"), _runs(), ids=str)
def test_values_and_gradients(case: OpCall, name: str, device: str) -> None:
    found, exact = results(case, name, device)
    bound = BOUND[name]
    if device == "cpu" and case.op == "resample" and name == "float32":
        bound = TORCH_COORDINATES
    check(found, exact, bound, None if case.clear else KINK_BOUND[name])
    dtype = ARITHMETIC[name]
    assert found["out0"].dtype == dtype
    vectors = ("grad norm_mean", "grad norm_var", "grad skip_norm_mean", "grad skip_norm_var")
    assert all(v.dtype == dtype for key, v in found.items() if key.startswith("grad ") and key not in vectors)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("op", OPS[1:])
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_parameters_in_float32(op: str, name: str, device: str) -> None:
    """As under autocast: read as they are, and so are their gradients."""
    if device == "cpu" and name == "float16":
        pytest.skip("half of a CPU's float16 kernels are missing")
    case = OpCall(op)
    with lr.use_backend(backend_on(device)):
        values = op_calls.placed(op_calls.arguments(case), ARITHMETIC[name], device, case.layout, torch.float32)
        found = op_calls.run(op, values)
    check(found, oracle(case, values), BOUND[name])
    grads = [
        found[f"grad {key}"] for key in ("w0", "w1", "weight", "norm_weight", "norm_bias") if f"grad {key}" in found
    ]
    assert grads or op in NO_GRADIENT
    assert all(grad.dtype == torch.float32 for grad in grads)


def test_the_cases_keep_clear_of_kinks() -> None:
    """Otherwise a correct gradient could differ from the oracle's."""
    cases = [case for case in CASES if case.clear and case.op in ("stem", "conv")]
    for case, dtype in product(cases, (torch.float16, torch.bfloat16)):
        values = op_calls.placed(op_calls.arguments(case), dtype, "cpu", case.layout)
        wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        assert op_calls.margin(case, wide) > MARGIN * 0.8, case


def test_the_oracle_of_the_trunk_is_the_plain_composition() -> None:
    """Its kernels have no counterpart in pure torch: the oracle is made of other stages."""

    def normed(prefix: str, x: torch.Tensor) -> torch.Tensor:
        mean, var, weight, bias, eps = (v[f"{prefix}_{name}"] for name in ("mean", "var", "weight", "bias", "eps"))
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    for case in (OpCall("trunk_block"), OpCall("trunk_block", skip=False), OpCall("trunk_tail")):
        v = op_calls.placed(op_calls.arguments(case), torch.float64, "cpu", case.layout)
        start = normed("norm", v["input"])
        skip = None if v["skip"] is None else normed("skip_norm", v["skip"])
        inner = normed("norm1", F.conv2d(start if skip is None else start + skip, v["weight1"], padding=1))
        if case.op == "trunk_block":
            exact = F.conv2d(F.leaky_relu(inner, op_calls.SLOPE), v["weight2"], padding=1)
        else:
            assert skip is not None
            exact = F.conv2d(inner + skip, v["weight"], v["bias"], padding=3) + v["base"]
        (found,) = op_calls.run(case.op, v).values()
        # float64: a few hundred roundings of 2^-53.
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_the_comparison_can_fail() -> None:
    """One wrong entry, one NaN or one missing tensor is an error."""
    exact = {"out0": torch.linspace(-1, 1, 100, dtype=torch.float64)}
    check({"out0": exact["out0"].float()}, exact, 1e-7)
    for value in (2e-5, float("nan")):
        wrong = {"out0": exact["out0"].clone()}
        wrong["out0"][40] += value
        with pytest.raises(AssertionError, match="out0"):
            check(wrong, exact, 1e-5)
    with pytest.raises(AssertionError):
        check({}, exact, 1e-5)
    assert relative_error(exact["out0"] * 1.01, exact["out0"], by_norm=True) == pytest.approx(0.01)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_uint8(interpolation: str, layout: str, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 37, 29), generator=generator, dtype=torch.uint8)
    exact = torch.ops.learned_resizer.resample(image.double(), 17, 13, None, None, interpolation, True)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    image = image.to(device).contiguous(memory_format=memory_format)
    with lr.use_backend(backend_on(device)):
        out = torch.ops.learned_resizer.resample(image, 17, 13, None, None, interpolation, True)
    # One rounding at the end: half a level, and float32's 2^-24 of 255 times some ten terms.
    assert float((out.cpu().double() - exact.clamp(0, 255)).abs().max()) <= 0.5 + 2e-4
    assert out.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_pillows_bytes(interpolation: str, layout: str, device: str) -> None:
    """Whole numbers in both implementations: equal, with alpha and in both orders of the axes."""
    generator = torch.Generator().manual_seed(0)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for height, width, *size in ((97, 29, 31, 40), (300, 400, 224, 224)):
        for channels in (3, 4):
            image = torch.randint(0, 256, (2, channels, height, width), generator=generator, dtype=torch.uint8)
            image = image.contiguous(memory_format=memory_format)
            for rows_first in (True, False):
                arguments = (*size, interpolation, True, rows_first)
                expected = torch.ops.learned_resizer.resample_fixed(image, *arguments)
                with lr.use_backend(backend_on(device)):
                    out = torch.ops.learned_resizer.resample_fixed(image.to(device), *arguments)
                assert torch.equal(out.cpu(), expected)
                assert out.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_second_derivatives_of_resample(dtype: torch.dtype, device: str) -> None:
    """The backward is an op with a gradient of its own: R applied to the direction."""
    image = torch.rand(2, 3, 12, 10, dtype=dtype, device=device, requires_grad=True)
    grad = torch.rand(2, 3, 8, 5, dtype=dtype, device=device, requires_grad=True)
    along = torch.rand(2, 3, 12, 10, dtype=dtype, device=device)
    with lr.use_backend(backend_on(device)):
        out = lr.resize(image, (8, 5), interpolation="lanczos")
        (first,) = torch.autograd.grad(out, image, grad, create_graph=True)
        (second,) = torch.autograd.grad(first, grad, along)
        expected = lr.resize(along, (8, 5), interpolation="lanczos")
    assert torch.equal(second, expected)


@pytest.mark.parametrize("device", devices())
def test_images_of_any_strides(device: str) -> None:
    """Crops, flips and expanded batches are read in place and give the same bits as their copies."""
    whole = torch.rand(2, 4, 50, 60, device=device)
    views = {
        "crop": whole[:, :3, 3:40, 7:36],
        "step": whole[:, :3, ::2, 1::2],
        "transposed": whole[:, :3].mT,
        "expanded": whole[:1, :3].expand(3, -1, -1, -1),
    }
    call = OpCall("stem", sizes=(37, 29, 19, 23), interpolation="bicubic")
    values = op_calls.placed(op_calls.arguments(call), torch.float32, device, "NCHW")
    for name, view in views.items():
        with lr.use_backend(backend_on(device)):
            small = [lr.resize(x, (19, 23), interpolation="bicubic") for x in (view, view.clone())]
            z = [op_calls.forward("stem", {**values, "image": x})[0] for x in (view, view.clone())]
        # The CPU's tiled products sum in an order that depends on the memory's alignment; a kernel's do not.
        for a, b in (small, z):
            assert relative_error(a, b.double()) <= (1e-6 if device == "cpu" else 0.0), name


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_op_is_native_here(op: str, dtype: torch.dtype) -> None:
    """Otherwise the tests above would test pure torch: a build that lacks a kernel must fail."""
    family = op.removesuffix("_block").removesuffix("_tail")
    refused = backend.refusal(family, torch.device("cuda"), dtype)
    if family == "trunk" and dtype == torch.float32:
        assert refused is not None
    else:
        assert refused is None, refused


@pytest.mark.gpu
@pytest.mark.parametrize("op", [op for op in OPS if op not in NO_GRADIENT])
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_pure_torch_on_a_gpu(op: str, name: str) -> None:
    """The ops of a package built without the kernels."""
    case = OpCall(op)
    with arithmetic(name) as dtype, lr.use_backend("torch"):
        values = op_calls.placed(op_calls.arguments(case), dtype, "cuda", case.layout)
        found = op_calls.run(op, values)
    check(found, oracle(case, values), BOUND[name])
