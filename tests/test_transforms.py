"""resize under every transform: torch.func, forward mode and compositions, compiled too; FX, subclasses, DTensor."""

from __future__ import annotations

import pickle
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor, func, nn

from learned_resizer_cuda import Resize, resize, use_backend
from learned_resizer_cuda.ops import transforms
from learned_resizer_cuda.ops.bands import RESIZER_INTERPOLATIONS
from tests.helpers import oracle
from tests.helpers.gloo_processes import needs_gloo, run_processes

FILTERS = [(name, antialias) for name in RESIZER_INTERPOLATIONS for antialias in (True, False)]
# Without antialiasing box is nearest.
OTHERS = [("nearest", True), ("box", True), ("hamming", True), ("hamming", False)]
Run = Callable[[Tensor], Tensor]


def _dual(run: Run, x: Tensor) -> Tensor:
    with fwAD.dual_level():
        return fwAD.unpack_dual(run(fwAD.make_dual(x, x.flip(-1)))).tangent


def _sum(run: Run) -> Run:
    """A scalar with derivatives of every order up to three."""
    return lambda x: run(x).pow(3).sum()


# Each takes a function of images ``(…, 3, H, W)`` and a batch of them. Those below need no more than one transform, or
# have parts of torch.autograd that torch.compile itself refuses whole (2.14: torch.autograd.functional, linearize).
TRANSFORMS: dict[str, Callable[[Run, Tensor], Tensor]] = {
    "jvp": lambda run, x: func.jvp(run, (x,), (x.flip(-1),))[1],
    "vjp": lambda run, x: func.vjp(run, x)[1](run(x).cos())[0],
    "grad": lambda run, x: func.grad(_sum(run))(x),
    "jacfwd": lambda run, x: func.jacfwd(run)(x),
    "jacrev": lambda run, x: func.jacrev(run)(x),
    "hessian": lambda run, x: func.hessian(_sum(run))(x),
    "jacrev of jacfwd": lambda run, x: func.jacrev(func.jacfwd(_sum(run)))(x),
    "jacrev of jacrev": lambda run, x: func.jacrev(func.jacrev(_sum(run)))(x),
    "vmap": lambda run, x: func.vmap(run)(x),
    "vmap over channels": lambda run, x: func.vmap(lambda plane: run(plane[:, None]), in_dims=1)(x),
    "vmap of vmap": lambda run, x: func.vmap(func.vmap(lambda plane: run(plane[None])))(x),
    "vmap of grad": lambda run, x: func.vmap(func.grad(_sum(run)))(x),
    "grad of vmap": lambda run, x: func.grad(_sum(func.vmap(run)))(x),
    "jvp of vmap": lambda run, x: func.jvp(func.vmap(run), (x,), (x.flip(-1),))[1],
    "vmap of jvp": lambda run, x: func.vmap(lambda a, b: func.jvp(run, (a,), (b,))[1])(x, x.flip(-1)),
    "jvp of grad": lambda run, x: func.jvp(func.grad(_sum(run)), (x,), (x.flip(-1),))[1],
    "grad of grad": lambda run, x: func.grad(_sum(func.grad(_sum(run))))(x),
    "dual tensor": _dual,
}
NOT_COMPILED_BY_TORCH: dict[str, Callable[[Run, Tensor], Tensor]] = {
    "linearize": lambda run, x: func.linearize(run, x)[1](x.flip(-1)),
    "functional.jvp": lambda run, x: torch.autograd.functional.jvp(run, x, x.flip(-1))[1],
    "functional.vhp": lambda run, x: torch.autograd.functional.vhp(_sum(run), x, x.flip(-1))[1],
    "functional.hvp": lambda run, x: torch.autograd.functional.hvp(_sum(run), x, x.flip(-1))[1],
    "functional.jacobian": lambda run, x: torch.autograd.functional.jacobian(run, x, vectorize=True),
    "functional.jacobian, forward": lambda run, x: torch.autograd.functional.jacobian(
        run, x, vectorize=True, strategy="forward-mode"
    ),
    "functional.hessian, forward": lambda run, x: torch.autograd.functional.hessian(
        _sum(run), x, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
}


def _exact(size: tuple[int, int], interpolation: str, antialias: bool) -> Run:
    """The same resize as plain products with the tests' own matrices, float64."""

    def run(x: Tensor) -> Tensor:
        rows, columns = (
            torch.from_numpy(oracle.matrix(n, out, None, interpolation, antialias).copy())
            for n, out in zip(x.shape[-2:], size, strict=True)
        )
        return rows @ x @ columns.T

    return run


def _ours(size: tuple[int, int], interpolation: str, antialias: bool) -> Run:
    return lambda x: resize(x, size, interpolation=interpolation, antialias=antialias)


@pytest.mark.parametrize("name", [*TRANSFORMS, *NOT_COMPILED_BY_TORCH])
@pytest.mark.parametrize("size", [(4, 7), (9, 2)])
def test_equals_dense_matrices(name: str, size: tuple[int, int]) -> None:
    transform = {**TRANSFORMS, **NOT_COMPILED_BY_TORCH}[name]
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for interpolation, antialias in FILTERS + (OTHERS if size == (4, 7) else []):
        got = transform(_ours(size, interpolation, antialias), x)
        expected = transform(_exact(size, interpolation, antialias), x)
        # float64 sums of some hundred products of numbers below 10.
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mode", "antialias"), FILTERS[:4])
@pytest.mark.parametrize("name", ["jvp", "jacfwd", "jacrev", "vmap of grad", "linearize", "dual tensor"])
def test_equals_interpolate(name: str, mode: str, antialias: bool) -> None:
    transform = {**TRANSFORMS, **NOT_COMPILED_BY_TORCH}[name]
    x = torch.rand(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))

    def theirs(x: Tensor) -> Tensor:
        batch = x if x.dim() == 4 else x[None]
        return F.interpolate(batch, (5, 6), mode=mode, antialias=antialias).reshape(*x.shape[:-2], 5, 6)

    # Coordinates below 9 in float32 are off by up to 3 · 9 · 2^-24 = 2e-6, times slopes of up to 1.5, on two axes;
    # the cube's gradient triples it.
    torch.testing.assert_close(transform(_ours((5, 6), mode, antialias), x), transform(theirs, x), rtol=0, atol=2e-5)


_COMPILED = ("jvp", "vmap", "vmap of grad", "dual tensor")


@pytest.mark.parametrize(
    "name", [name if name in _COMPILED else pytest.param(name, marks=pytest.mark.slow) for name in TRANSFORMS]
)
def test_compiles_whole(name: str) -> None:
    transform = TRANSFORMS[name]
    x = torch.rand(2, 3, 6, 5, dtype=torch.float64)
    run = _ours((4, 7), "bicubic", False)
    torch._dynamo.reset()
    got = torch.compile(lambda x: transform(run, x), fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(got, transform(_exact((4, 7), "bicubic", False), x), rtol=1e-12, atol=1e-12)


def test_a_graph_without_a_transform_is_not_used_under_one() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: resize(x, 4), backend="aot_eager")
    x = torch.rand(1, 3, 6, 5)
    compiled(x)
    try:
        tangent = _dual(compiled, x)
    except Exception as error:
        # torch 2.14 refuses a dual tensor as a compiled function's argument.
        assert "dual" in str(error)
    else:
        torch.testing.assert_close(tangent, resize(x.flip(-1), 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("interpolation", "antialias"), FILTERS + OTHERS)
def test_gradcheck_forward_and_batched(interpolation: str, antialias: bool) -> None:
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    run = _ours((3, 6), interpolation, antialias)
    assert torch.autograd.gradcheck(run, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(run, x, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("order", [1, 2])
def test_backward_alone_may_be_transformed(order: int) -> None:
    """The forward ran as an op; what differentiates its backward comes later."""
    x = torch.rand(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    out = resize(x, (4, 7))
    expected = _exact((4, 7), "bilinear", True)(x)

    def backward(result: Tensor) -> Run:
        def run(grad: Tensor) -> Tensor:
            (first,) = torch.autograd.grad(result, x, grad, retain_graph=True, create_graph=order == 2)
            return first

        return run

    grad = torch.rand(out.shape, dtype=torch.float64, requires_grad=order == 2)
    torch.testing.assert_close(_dual(backward(out), grad), _dual(backward(expected), grad), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16])
def test_rounds_as_the_op(dtype: torch.dtype) -> None:
    image = (torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 255).to(dtype)
    for interpolation, antialias in FILTERS + OTHERS:
        with fwAD.dual_level():
            got = resize(image, (9, 33), interpolation=interpolation, antialias=antialias)
        expected = resize(image, (9, 33), interpolation=interpolation, antialias=antialias)
        assert got.dtype == dtype
        # float32's own error decides a tie here and there: then one step of the type, at values below 512.
        step = {torch.uint8: 1, torch.float16: 0.25, torch.bfloat16: 2}[dtype]
        assert (got.double() - expected.double()).abs().max() <= step
        assert (got != expected).double().mean() < 0.01


def test_autocast_leaves_the_dtype() -> None:
    x = torch.rand(1, 3, 9, 8)
    expected = func.jvp(lambda x: resize(x, 4), (x,), (x,))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(func.jvp(lambda x: resize(x, 4), (x,), (x,))[1], expected)


def test_native_names_the_transform() -> None:
    x = torch.rand(1, 3, 9, 8)
    with use_backend("native"):
        with pytest.raises(RuntimeError, match="natively: forward-mode differentiation is on"):
            func.jvp(lambda x: resize(x, 4), (x,), (x,))
        with pytest.raises(RuntimeError, match=r"natively: a torch\.func transform is active"):
            func.grad(lambda x: resize(x, 4).sum())(x)


@pytest.mark.parametrize("op", ["resample", "resample_backward"])
def test_ops_refuse_forward_mode(op: str) -> None:
    """Called by themselves, where torch would return no tangent, or zeros."""
    image = torch.rand(1, 2, 5, 4)

    def run(image: Tensor) -> Tensor:
        return getattr(torch.ops.learned_resizer, op)(image, 3, 6, None, None, "bilinear", True)

    message = rf"torch\.ops\.learned_resizer\.{op}: forward-mode differentiation is on"
    with pytest.raises(NotImplementedError, match=message), fwAD.dual_level():
        run(fwAD.make_dual(image, image))
    with pytest.raises(NotImplementedError, match=message):
        func.jvp(run, (image,), (image,))


def test_vmap_keeps_the_op() -> None:
    """Not a dense product: an axis of 30,000 pixels to itself would take a matrix of 3.6 GB."""
    image = torch.zeros(2, 1, 30_000, 2)
    assert torch.vmap(lambda x: resize(x, (30_000, 1)))(image).shape == (2, 1, 30_000, 1)
    seen: list[str | None] = []
    torch.vmap(lambda x: (seen.append(transforms.transform_reason(x)), x)[1])(image)
    assert seen == [transforms.VMAP]


def test_the_question_costs_little() -> None:
    x = torch.rand(2, 3)
    seconds = min(timeit.repeat(lambda: transforms.transform_reason(x), number=10_000, repeat=7)) / 10_000
    # Asked once a call, of tens of microseconds; 0.12 µs here.
    assert seconds < 1e-6


# --- __torch_function__ -------------------------------------------------------------------------------------


def test_fx_traces_one_node() -> None:
    net = nn.Sequential(Resize(8, interpolation="lanczos"), nn.Conv2d(3, 4, 3))
    traced = torch.fx.symbolic_trace(net)
    assert [node.target for node in traced.graph.nodes if node.op == "call_function"] == [resize]
    image = torch.rand(2, 3, 20, 30)
    assert torch.equal(traced(image), net(image))
    assert torch.equal(pickle.loads(pickle.dumps(traced))(image), net(image))


def test_modes_and_other_types_see_resize() -> None:
    seen: list[Any] = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    class Duck:
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func, args[1:], kwargs

    image = torch.rand(1, 3, 9, 8)
    with Mode():
        out = resize(image, 4)
    assert seen == [resize] and torch.equal(out, resize(image, 4))
    options = {"scale_factor": None, "interpolation": "lanczos", "antialias": True, "parity": "exact"}
    assert resize(Duck(), 4, interpolation="lanczos") == (resize, (4,), options)  # type: ignore[arg-type, comparison-overlap]


def test_device_context_compile_and_export() -> None:
    image = torch.rand(2, 3, 9, 8)
    expected = resize(image, 4)
    torch._dynamo.reset()
    with torch.device("cpu"):
        assert torch.equal(resize(image, 4), expected)
        assert torch.equal(torch.compile(Resize(4), fullgraph=True, backend="aot_eager")(image), expected)
    program = torch.export.export(Resize(4), (image,), dynamic_shapes={"image": {0: torch.export.Dim("batch")}})
    assert torch.equal(program.module()(image[:1].expand(3, -1, -1, -1)), expected[:1].expand(3, -1, -1, -1))


def test_subclasses_keep_their_rule() -> None:
    class Mine(torch.Tensor):
        pass

    for image in (torch.rand(2, 3, 9, 8), torch.rand(3, 9, 8)):
        assert type(resize(image.as_subclass(Mine), 4)) is Mine
        assert type(resize(nn.Parameter(image), 4)) is Tensor


def test_tv_tensors_keep_their_class() -> None:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors", reason="torchvision is an extra")

    class Mine(tv_tensors.Image):  # type: ignore[name-defined, misc]
        pass

    for pixels in (torch.rand(2, 3, 9, 8), torch.rand(3, 9, 8), torch.randint(0, 256, (4, 3, 9, 8), dtype=torch.uint8)):
        for cls in (tv_tensors.Image, Mine, *([tv_tensors.Video] if pixels.dim() == 4 else [])):
            for options in ({}, {"interpolation": "box"}, {"parity": "pillow"}):
                if "parity" in options and pixels.dtype != torch.uint8:
                    continue
                expected = resize(pixels, (4, 5), **options)  # type: ignore[arg-type]
                for out in (
                    resize(cls(pixels), (4, 5), **options),
                    Resize((4, 5), **options)(cls(pixels)),  # type: ignore[arg-type]
                ):
                    assert type(out) is cls and torch.equal(out.as_subclass(Tensor), expected)
    image = tv_tensors.Image(torch.rand(3, 9, 8)).requires_grad_()
    out = resize(image, scale_factor=0.5)
    assert type(out) is tv_tensors.Image and out.requires_grad
    out.sum().backward()
    assert image.grad is not None


# --- DTensor --------------------------------------------------------------------------------------------------


def _resize_dtensors(rank: int) -> int:
    """Number of cases, all of them right."""
    # Not every torch has them.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    generator, cases = torch.Generator().manual_seed(0), 0
    for dtype in (torch.float64, torch.uint8):
        image = (torch.rand(3, 2, 9, 6, generator=generator) * 255).to(dtype)
        for placement in (Shard(0), Shard(1), Shard(2), Shard(3), Replicate()):
            whole = image.clone().requires_grad_(dtype.is_floating_point)
            parts = distribute_tensor(image, mesh, [placement]).requires_grad_(dtype.is_floating_point)
            got, expected = (resize(x, (4, 7), interpolation="lanczos") for x in (parts, whole))
            assert isinstance(got, DTensor) and got.dtype == dtype
            assert got.placements == ((placement,) if placement in (Shard(0), Shard(1)) else (Replicate(),))
            # float64 sums of up to 40 products of numbers below 256.
            torch.testing.assert_close(got.full_tensor(), expected, rtol=0, atol=1e-11 if whole.requires_grad else 0)
            if whole.requires_grad:
                got.full_tensor().sin().sum().backward()
                expected.sin().sum().backward()
                torch.testing.assert_close(parts.grad.full_tensor(), whole.grad, rtol=0, atol=1e-11)
            cases += 1
    for channels in (4, 5):
        image = (torch.rand(3, channels, 9, 6, generator=generator) * 255).to(torch.uint8)
        for placement in (Shard(0), Shard(1), Shard(3)):
            parts = distribute_tensor(image, mesh, [placement])
            got = resize(parts, (4, 7), interpolation="hamming", parity="pillow")
            # The last of four channels is alpha: they stay together.
            assert got.placements == ((placement if placement == Shard(0) else Replicate()),)
            assert torch.equal(got.full_tensor(), resize(image, (4, 7), interpolation="hamming", parity="pillow"))
            cases += 1
    return cases


@needs_gloo
@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_dtensor_equals_the_full_tensor(world: int, tmp_path: Path) -> None:
    assert run_processes(_resize_dtensors, tmp_path, world) == [16] * world
