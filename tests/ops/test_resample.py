"""resize and the resample op: values, adjoint, derivatives, layouts, transforms."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.Image import Resampling

from learned_resizer_cuda import Resize, resize, use_backend
from learned_resizer_cuda.ops.bands import INTERPOLATIONS
from tests.helpers import oracle

RESAMPLE = torch.ops.learned_resizer.resample
FILTERS = [(name, antialias) for name in INTERPOLATIONS for antialias in (True, False)]
EXTREMES = [((2000, 3), (10, 3)), ((4, 2), (800, 400)), ((1, 1), (7, 9)), ((37, 41), (37, 41))]
# "nearest" has a test of its own.
PILLOW = {name: Resampling[name.upper()] for name in INTERPOLATIONS if name != "nearest"}


def exact(image: torch.Tensor, size: tuple[int, int], interpolation: str, antialias: bool) -> torch.Tensor:
    """Resampling of the last two axes in float64 by the tests' own matrices."""
    rows = torch.from_numpy(oracle.matrix(image.shape[-2], size[0], None, interpolation, antialias).copy())
    columns = torch.from_numpy(oracle.matrix(image.shape[-1], size[1], None, interpolation, antialias).copy())
    return rows @ image.double() @ columns.T


@pytest.mark.parametrize("interpolation", PILLOW)
def test_matches_pillow_over_random_sizes(interpolation: str) -> None:
    rng = np.random.default_rng(0)
    for height, width, out_h, out_w in rng.integers(1, 257, (300, 4)).tolist():
        image = rng.random((height, width), dtype=np.float32)
        expected = np.asarray(Image.fromarray(image).resize((out_w, out_h), PILLOW[interpolation]))
        got = resize(torch.from_numpy(image)[None], (out_h, out_w), interpolation=interpolation)[0].numpy()
        # Values in [0, 1]. torch's kernels, taken for bilinear and bicubic in float32, round coordinates to
        # float32: up to 2.4e-5 at these sizes against Pillow's float64 coordinates.
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-5, err_msg=f"{height}x{width} -> {out_h}x{out_w}")


def test_nearest_matches_pillow() -> None:
    """Where no centre is on an edge between two pixels: there Pillow adds up its step, and rounding decides."""
    rng, on_edge, pixels = np.random.default_rng(0), 0, 0
    sizes = [*rng.integers(1, 257, (300, 4)).tolist(), [256, 4, 2, 64], [6, 6, 3, 2], [255, 34, 51, 17]]
    for height, width, out_h, out_w in sizes:
        image = rng.random((height, width), dtype=np.float32)
        theirs = np.asarray(Image.fromarray(image).resize((out_w, out_h), Resampling.NEAREST))
        got = resize(torch.from_numpy(image)[None], (out_h, out_w), interpolation="nearest")[0].numpy()
        # Twice the centre, ((2o + 1) N) / n, in whole pixels: an even number is an edge.
        rows, columns = (
            (2 * np.arange(n) + 1) * size % (2 * n) == 0 if size != n else np.zeros(n, bool)
            for size, n in ((height, out_h), (width, out_w))
        )
        edge = rows[:, None] | columns
        np.testing.assert_array_equal(got[~edge], theirs[~edge])
        exactly = exact(torch.from_numpy(image), (out_h, out_w), "nearest", True).numpy()
        np.testing.assert_array_equal(got, exactly.astype(np.float32))
        on_edge, pixels = on_edge + edge.sum(), pixels + edge.size
    print(f"{on_edge} of {pixels} pixels have a centre on an edge")
    assert 0 < on_edge < pixels / 10


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.25, 1.5, 2, 2.375, 3, 7, 9])
def test_nearest_is_torchs_nearest_exact(scale: float) -> None:
    """At scales of few binary digits, whose coordinates torch's float32 holds."""
    for dtype in (torch.float32, torch.float64, torch.uint8):
        for out_h, out_w in ((8, 16), (24, 40), (64, 72)):
            image = (torch.rand(2, 3, int(out_h * scale), int(out_w * scale)) * 255).to(dtype)
            expected = F.interpolate(image, (out_h, out_w), mode="nearest-exact")
            for name, antialias in (("nearest", True), ("nearest", False), ("box", False)):
                assert torch.equal(resize(image, (out_h, out_w), interpolation=name, antialias=antialias), expected)


@pytest.mark.parametrize(("interpolation", "antialias"), [f for f in FILTERS if f[0] in ("bilinear", "bicubic")])
def test_matches_interpolate_over_random_sizes(interpolation: str, antialias: bool) -> None:
    rng = np.random.default_rng(1)
    for height, width, out_h, out_w in rng.integers(1, 257, (300, 4)).tolist():
        if out_w == 1:
            continue  # torch <= 2.15 is wrong there (test_one_pixel_wide); Pillow and the oracle cover it
        image = torch.from_numpy(rng.random((1, 2, height, width), dtype=np.float32))
        expected = F.interpolate(image, (out_h, out_w), mode=interpolation, antialias=antialias)
        got = resize(image, (out_h, out_w), interpolation=interpolation, antialias=antialias)
        torch.testing.assert_close(got, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.25, 1.5, 2, 2.375, 3, 7, 9])
def test_matches_interpolate_where_coordinates_are_exact(interpolation: str, scale: float) -> None:
    # Scales of few binary digits take the tables; float32 then holds torch's coordinates exactly.
    for out_h, out_w in ((8, 16), (24, 40), (64, 72)):
        image = torch.rand(2, 3, int(out_h * scale), int(out_w * scale))
        expected = F.interpolate(image, (out_h, out_w), mode=interpolation, antialias=True)
        got = resize(image, (out_h, out_w), interpolation=interpolation)
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_one_pixel_wide(interpolation: str) -> None:
    image = torch.rand(2, 3, 50, 60)
    got = resize(image, (20, 1), interpolation=interpolation)
    torch.testing.assert_close(got.double(), exact(image, (20, 1), interpolation, True), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("interpolation", "antialias"), FILTERS)
@pytest.mark.parametrize(
    ("in_size", "out_size"), [((2000, 3), (10, 3)), ((4, 2), (800, 400)), ((1, 1), (7, 9)), ((37, 41), (37, 41))]
)
def test_extreme_ratios(
    interpolation: str, antialias: bool, in_size: tuple[int, int], out_size: tuple[int, int]
) -> None:
    image = torch.rand(2, *in_size, dtype=torch.float64)
    got = resize(image, out_size, interpolation=interpolation, antialias=antialias)
    # float64 sums of up to 1,200 products
    torch.testing.assert_close(got, exact(image, out_size, interpolation, antialias), rtol=0, atol=1e-13)


def test_identity_is_exact() -> None:
    image = torch.randn(2, 3, 17, 19, dtype=torch.float64)
    for interpolation, antialias in FILTERS:
        assert torch.equal(resize(image, (17, 19), interpolation=interpolation, antialias=antialias), image)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_uint8_rounds_once(interpolation: str) -> None:
    # Black and white pixels: the strongest overshoot, where rounding between the passes would show.
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 2, (1, 3, 61, 47), generator=generator, dtype=torch.uint8) * 255
    for size in ((30, 23), (100, 90), (61, 20)):
        got = resize(image, size, interpolation=interpolation)
        value = exact(image, size, interpolation, True)
        difference = (got.double() - (value + 0.5).floor().clamp(0, 255)).abs()
        assert got.dtype == torch.uint8
        # One level, and only where float32's error (below 1e-6 of 255) decides a tie.
        assert difference.max() <= 1
        assert not difference[(value - value.floor() - 0.5).abs() > 3e-4].any()


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_types_round_once(dtype: torch.dtype, eps: float) -> None:
    image = torch.rand(2, 3, 64, 48).to(dtype)
    got = resize(image, (31, 29), interpolation="lanczos")
    expected = exact(image, (31, 29), "lanczos", True)
    # Half a unit in the last place of values below 2, and float32's own error.
    assert (got.double() - expected).abs().max() <= 2 * eps * 0.5 + 1e-6


@pytest.mark.parametrize(("interpolation", "antialias"), FILTERS)
@pytest.mark.parametrize(("in_size", "out_size"), [((9, 7), (4, 5)), ((5, 6), (11, 8))])
def test_adjoint_identity(
    interpolation: str, antialias: bool, in_size: tuple[int, int], out_size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *in_size, dtype=torch.float64)
    y = torch.randn(2, 3, *out_size, dtype=torch.float64)
    rest = (None, None, interpolation, antialias)
    left = (RESAMPLE(x, *out_size, *rest) * y).sum()
    right = (x * torch.ops.learned_resizer.resample_backward(y, *in_size, *rest)).sum()
    assert abs(left - right) <= 1e-12 * x.norm() * y.norm()


@pytest.mark.parametrize(("interpolation", "antialias"), FILTERS)
@pytest.mark.parametrize("size", [(3, 2), (6, 7)])
def test_gradients(interpolation: str, antialias: bool, size: tuple[int, int]) -> None:
    image = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)

    def run(image: torch.Tensor) -> torch.Tensor:
        return resize(image, size, interpolation=interpolation, antialias=antialias)

    assert torch.autograd.gradcheck(run, image)
    assert torch.autograd.gradgradcheck(run, image)


@pytest.mark.parametrize("op", ["resample", "resample_backward"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(op: str, layout: torch.memory_format) -> None:
    image = torch.randn(2, 3, 7, 5).contiguous(memory_format=layout).requires_grad_()
    for rest in ((None, None, "bicubic", True), (0.6, 0.7, "lanczos", False)):
        torch.library.opcheck(getattr(torch.ops.learned_resizer, op).default, (image, 4, 6, *rest))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_layouts_agree_and_are_kept(dtype: torch.dtype) -> None:
    image = (torch.rand(2, 3, 20, 30) * 255).to(dtype)
    interleaved = image.contiguous(memory_format=torch.channels_last)
    crop = interleaved[:, :, 3:17, 2:25]
    for interpolation, antialias in FILTERS:
        plain = resize(image, (9, 41), interpolation=interpolation, antialias=antialias)
        got = resize(interleaved, (9, 41), interpolation=interpolation, antialias=antialias)
        assert plain.is_contiguous()
        assert got.is_contiguous(memory_format=torch.channels_last)
        # torch's kernels sum in another order for another layout: a unit in the last place of 255.
        step = {torch.uint8: 1, torch.float16: 0.25, torch.bfloat16: 2, torch.float32: 1e-4}.get(dtype, 1e-12)
        torch.testing.assert_close(got.double(), plain.double(), rtol=0, atol=step)
        cropped = resize(crop, 5, interpolation=interpolation, antialias=antialias)
        assert cropped.is_contiguous(memory_format=torch.channels_last)
        again = resize(crop.contiguous(), 5, interpolation=interpolation, antialias=antialias)
        torch.testing.assert_close(cropped.double(), again.double(), rtol=0, atol=step)


def test_any_rank_and_empty_batch() -> None:
    image = torch.rand(4, 2, 3, 9, 7)
    out = resize(image, (5, 6))
    assert out.shape == (4, 2, 3, 5, 6)
    torch.testing.assert_close(out[1, 1], resize(image[1, 1], (5, 6)), rtol=0, atol=0)
    empty = torch.rand(0, 3, 9, 7, requires_grad=True)
    out = resize(empty, 4)
    out.sum().backward()
    assert out.shape == (0, 3, 4, 4)
    assert empty.grad is not None and empty.grad.shape == empty.shape


def test_scale_factor_sets_coordinates() -> None:
    image = torch.rand(1, 2, 37, 53)
    for mode in ("bilinear", "bicubic"):
        for antialias in (True, False):
            expected = F.interpolate(
                image, scale_factor=(0.37, 1.61), mode=mode, antialias=antialias, recompute_scale_factor=False
            )
            got = resize(image, scale_factor=(0.37, 1.61), interpolation=mode, antialias=antialias)
            torch.testing.assert_close(got, expected, rtol=0, atol=5e-6)
    # With a size too, the factor alone sets the coordinates: a smaller size is a crop.
    full = resize(image, scale_factor=0.5)
    part = resize(image, (7, 9), scale_factor=0.5)
    torch.testing.assert_close(part, full[..., :7, :9], rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_size_beyond_the_image_repeats_its_border(interpolation: str) -> None:
    image = torch.rand(1, 1, 6, 6, dtype=torch.float64)
    out = resize(image, (20, 20), scale_factor=1.0, interpolation=interpolation)
    torch.testing.assert_close(out[..., :6, :6], image, rtol=0, atol=1e-12)
    # Beyond the filter's support nothing but the last pixel is left.
    far = out[..., 10:, 10:]
    torch.testing.assert_close(far, image[..., -1:, -1:].expand_as(far), rtol=0, atol=1e-12)


def test_non_finite_pixels_stay_local() -> None:
    for interpolation in INTERPOLATIONS:
        image = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
        image[..., 11, 21] = float("inf")
        out = resize(image, 32, interpolation=interpolation)
        reached = ~torch.isfinite(out[0, 0])
        rows, columns = reached.nonzero().T
        # The pixel is read by outputs within the support (3 at most, in output pixels) of its place, and no other.
        assert reached.any()
        assert (rows - 5).abs().max() <= 3 and (columns - 10).abs().max() <= 3
        if interpolation in ("nearest", "box"):
            assert len(rows) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("interpolation", "antialias"), FILTERS)
def test_an_axis_that_keeps_its_size_is_copied(interpolation: str, antialias: bool, dtype: torch.dtype) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        for value in (float("nan"), float("inf")):
            image = torch.rand(2, 3, 21, 17).to(dtype).contiguous(memory_format=layout)
            image[0, 1, 10, 7] = value
            for scale in (None, 1.0):
                same = resize(image, (21, 17), scale_factor=scale, interpolation=interpolation, antialias=antialias)
                assert torch.equal(same.nan_to_num(7.0), image.nan_to_num(7.0))
            for size in ((21, 9), (21, 40), (21, 1), (9, 17), (50, 17), (1, 17)):
                out = resize(image, size, interpolation=interpolation, antialias=antialias)
                plane, row, column = (~torch.isfinite(out)).nonzero()[:, 1:].T
                assert (plane == 1).all()
                if size[0] == 21:
                    assert (row == 10).all()
                else:
                    assert (column == 7).all()


@pytest.mark.parametrize(("interpolation", "slope"), [("bilinear", 1.0), ("bicubic", 1.5)])
@pytest.mark.parametrize("antialias", [True, False])
def test_float32_coordinates_cost_what_they_cost_interpolate(interpolation: str, slope: float, antialias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for in_size, out_size in ((4000, 1500), (16000, 17001), (60000, 22000)):
        image = torch.rand(1, 1, 3, in_size, generator=generator)
        options = {"interpolation": interpolation, "antialias": antialias}
        exactly = resize(image.double(), (3, out_size), **options)
        theirs = F.interpolate(image, (3, out_size), mode=interpolation, antialias=antialias)
        error, their_error = ((x - exactly).abs().max() for x in (resize(image, (3, out_size), **options), theirs))
        # docs/math.md, 1.6: three roundings of a coordinate below in_size, times the filter's slope; and of sums 1e-6.
        assert error <= slope * 3 * in_size * 2**-24 + 1e-6
        # More than the 3e-5 that holds for small images; and F.interpolate's to the bit but for the sums.
        assert error > 3e-5
        assert abs(error - their_error) <= 1e-6


def test_an_axis_that_keeps_its_size_takes_no_matrix() -> None:
    script = """
        import resource, torch
        from learned_resizer_cuda import resize
        image = torch.randint(0, 256, (3, 60000, 64), dtype=torch.uint8)
        resize(image[:, :8], (8, 32))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        out = resize(image, (60000, 32))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        assert torch.equal(out[:, 59990:], resize(image[:, 59990:], (10, 32)))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    # In MiB. The image in float32 takes 44, its result in float32 22 and in uint8 6, and sparse matrices of a chunk
    # some; the dense matrix of 60,000 rows would take 13,700.
    assert float(result.stdout) < 150


def test_vmap_compile_and_autocast() -> None:
    images = torch.rand(5, 3, 12, 10)
    for f in (lambda i: resize(i, 4), lambda i: resize(i, (6, 5), interpolation="lanczos")):
        torch.testing.assert_close(torch.vmap(f)(images), f(images), rtol=0, atol=1e-6)
    in_dim = torch.vmap(lambda i: resize(i, 4), in_dims=1)(torch.rand(2, 5, 3, 12, 10))
    assert in_dim.shape == (5, 2, 3, 4, 4)

    lanczos = resize(images, 4, interpolation="lanczos")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = resize(images, 4, interpolation="lanczos")
    assert torch.equal(under, lanczos)


def test_compiles_without_graph_breaks() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(image: torch.Tensor) -> torch.Tensor:
        return resize(image * 2, (4, 6), interpolation="lanczos").sum()

    image = torch.rand(2, 3, 9, 7, requires_grad=True)
    (grad,) = torch.autograd.grad(f(image), image)
    (expected,) = torch.autograd.grad(resize(image * 2, (4, 6), interpolation="lanczos").sum(), image)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-6)


def test_cached_tables_outlive_inference_mode() -> None:
    with torch.inference_mode():
        resize(torch.rand(1, 1, 23, 29), (11, 13), interpolation="lanczos")
    image = torch.rand(1, 1, 23, 29, requires_grad=True)
    resize(image, (11, 13), interpolation="lanczos").sum().backward()
    assert image.grad is not None


def test_meta_and_module() -> None:
    assert resize(torch.empty(2, 3, 8, 8, device="meta"), 4).shape == (2, 3, 4, 4)
    module = Resize((4, 6), interpolation="bicubic", antialias=False)
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(module(image), resize(image, (4, 6), interpolation="bicubic", antialias=False))
    assert "bicubic" in repr(module)


def test_deterministic() -> None:
    image = torch.rand(4, 3, 65, 43, requires_grad=True)
    results = []
    for _ in range(5):
        image.grad = None
        out = resize(image, (30, 77), interpolation="bicubic")
        out.square().sum().backward()
        results.append((out.detach(), image.grad))
    for out, grad in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(grad, results[0][1])


def test_backward_keeps_the_backend_of_its_forward() -> None:
    image = torch.rand(1, 1, 8, 8, requires_grad=True)
    with use_backend("torch"):
        out = resize(image, 4)
    with use_backend("native"):
        # A CPU tensor has no native kernel: this would raise if the backward asked anew.
        out.sum().backward()
        with pytest.raises(RuntimeError, match="cannot run natively"):
            resize(image, 4)
