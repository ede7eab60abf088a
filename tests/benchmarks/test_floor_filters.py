"""benchmarks/floor/filters.py: the model's inputs, and the Triton kernels that it counts, without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("benchmarks.floor", reason="the benchmarks are not beside the tests")
pytest.importorskip("triton")

import triton

from benchmarks.floor import filters, tensor
from benchmarks.floor.tensor_kernels import BATCH, CHANNELS, SIDE_IN, SIDE_OUT
from learned_resizer_cuda import reference


class _Bytes(TorchDispatchMode):
    """Bytes that the calls of a module read and write on a GPU, at two an element."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.moved += filters.SIZE * self._elements(func.overloadpacket.__name__, args, out)
        return out

    @staticmethod
    def _elements(name: str, args: Any, out: Any) -> int:
        if name == "convolution":  # and its bias, added in place
            return args[0].numel() + out.numel() * (1 if args[2] is None else 3)
        if name == "convolution_backward":
            grad, x, mask = args[0].numel(), args[1].numel(), args[-1]
            return mask[0] * (grad + x) + mask[1] * (grad + x) + mask[2] * grad
        if name in ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit"):
            return args[0].numel() * (3 if args[5] else 2)
        if name == "native_batch_norm_backward":
            return 5 * args[0].numel()
        if name == "leaky_relu":
            return 2 * args[0].numel()
        if name in ("add", "leaky_relu_backward"):
            # Of running statistics' counts: one element.
            return 3 * out.numel() if out.dim() == 4 else 0
        if name == "_upsample_bilinear2d_aa":  # copied to planes and back
            return 3 * (args[0].numel() + out.numel())
        if name == "_upsample_bilinear2d_aa_backward":  # the gradient copied; zeros, then atomic additions
            return 3 * (args[0].numel() + out.numel())
        assert name in ("add_", "detach", "empty", "empty_like", "ones_like", "sum", "expand", "t", "view"), name
        return 0


@pytest.mark.parametrize("n", [8, 24])
@pytest.mark.parametrize("training", [False, True])
def test_eager_moves_the_bytes_of_the_modules_calls(n: int, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand-written list of calls is that of reference.Resizer, forward and backward."""
    monkeypatch.setattr(filters, "FLOPS", float("inf"))
    module = reference.Resizer(SIDE_OUT, num_filters=n).to("meta").train(training)
    image = torch.empty(BATCH, CHANNELS, SIDE_IN, SIDE_IN, device="meta")
    with _Bytes() as counted:
        if training:
            out = module(image)
            out.backward(torch.empty_like(out))
        else:
            with torch.no_grad():
                module(image)
    calls = filters.TRAINING if training else filters.INFERENCE
    assert filters.total(filters.eager(n, training), calls) == pytest.approx(filters.dram(counted.moved), rel=1e-9)


_INTERPRETED = """
import torch
import torch.nn.functional as F
from benchmarks.floor import triton_kernels
from benchmarks.floor.filters import _power

HALF, SLOPE, C, KP = torch.float16, 0.2, 4, 32  # the interpreter's tl.dot is wrong for bfloat16
torch.manual_seed(0)

def random(*shape, scale=1.0):
    return (scale * torch.randn(*shape)).to(HALF)

def close(got, expected, what):
    # Operands and results are rounded to 11 bits; the largest sums have a few roundings of their largest terms.
    error = (got.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error < 4 * 2.0**-11, (what, float(error))

def wide(vector, length):
    return F.pad(vector, (0, length - len(vector)))

def padded(image):
    batch, channels, height, width = image.shape
    whole = torch.zeros(8192 + batch * (height + 6) * (width + 8) * C + 8192, dtype=HALF)
    inner = whole[8192:-8192].view(batch, height + 6, width + 8, C)
    inner[:, 3 : 3 + height, 3 : 3 + width, :channels] = image.permute(0, 2, 3, 1)
    return whole[8192:]

def check_moments(moments, exact, pixels):
    count, mean, m2 = moments.double().unbind(1)
    assert (count.sum(0) == pixels).all()
    joint = (count * mean).sum(0) / pixels
    close(joint, exact.mean((0, 2, 3)), "mean")
    close((m2 + count * (mean - joint) ** 2).sum(0) / pixels, exact.var((0, 2, 3), unbiased=False), "var")

def conv(n, terms, skip, batch=2, h=10, w=24, cols=16, rows=4):
    narrow, full, chunks = _power(n, 8), _power(n, 16), -(-3 * n // terms)
    t, u, weight = random(batch, h, w, n), random(batch, h, w, n), random(n, n, 3, 3, scale=0.1)
    scale, shift, skip_scale = 1 + 0.5 * torch.randn(n), torch.randn(n), torch.randn(n)
    leaves = [t.float().requires_grad_(), u.float().requires_grad_(), weight.float().requires_grad_()]
    before = leaves[0] * scale + shift + (leaves[1] * skip_scale if skip else 0)
    exact = F.conv2d(F.leaky_relu(before, SLOPE).permute(0, 3, 1, 2), leaves[2], padding=1)
    tiles, strips = -(-w // cols), -(-h // rows)
    programs = batch * tiles * strips
    packed = torch.zeros(3, chunks * terms, narrow, dtype=HALF)
    packed[:, : 3 * n, :n] = weight.permute(2, 3, 1, 0).reshape(3, 3 * n, n)
    vectors = torch.stack([v.repeat(3) for v in (scale, shift, skip_scale)])
    raw, moments = torch.zeros_like(t), torch.zeros(programs, 3, n)
    shape = (cols, rows, tiles, strips, skip)
    triton_kernels.conv_forward[(programs,)](
        t, u, vectors, packed, raw, moments, h, w, SLOPE, n, chunks, terms, narrow, *shape, True
    )
    close(raw.permute(0, 3, 1, 2), exact, "raw")
    check_moments(moments, raw.permute(0, 3, 1, 2).double(), batch * h * w)

    grad, common, each = random(batch, h, w, n), torch.randn(n), 0.1 * torch.randn(n)
    g = grad.float() + common + each * raw.float()
    dbefore, *rest = torch.autograd.grad(exact, [before, *leaves][: 4 if skip else 2] + leaves[2:] * (not skip),
                                         g.permute(0, 3, 1, 2))
    packed = torch.zeros(3, chunks * terms, full, dtype=HALF)
    packed[:, : 3 * n, :n] = weight.permute(2, 3, 0, 1).flip(1).reshape(3, 3 * n, n)
    dt, du = torch.zeros_like(t), torch.zeros_like(u)
    dweight, sums = torch.zeros(programs, 3, full, chunks * terms), torch.zeros(programs, 3, full)
    triton_kernels.conv_backward[(programs,)](
        t, u, torch.stack([wide(v, full) for v in (scale, shift, skip_scale)]), grad, raw,
        torch.stack([common.repeat(3), each.repeat(3)]), packed, dt, du, dweight, sums,
        h, w, SLOPE, n, chunks, terms, full, *shape,
    )
    close(dt, rest[0], "dt")
    close(dweight.sum(0)[:, :n, : 3 * n].view(3, n, 3, n).flip(2).permute(3, 1, 0, 2), rest[-1], "dW")
    sums = sums.sum(0)[:, :n]
    close(sums[0], (dbefore * t.float()).sum((0, 1, 2)), "dscale")
    close(sums[1], dbefore.sum((0, 1, 2)), "dshift")
    if skip:
        close(du, rest[1], "du")
        close(sums[2], (dbefore * u.float()).sum((0, 1, 2)), "dskip_scale")

def head(n, terms, batch=2, h=9, w=40, channels=3, rows=4, cols=16):
    full, chunks, columns = _power(n, 16), -(-8 * n // terms), 8
    t, u, weight = random(batch, h, w, n), random(batch, h, w, n), random(channels, n, 7, 7, scale=0.1)
    scale, shift, skip_scale = 1 + 0.5 * torch.randn(n), torch.randn(n), torch.randn(n)
    bias, base = torch.randn(channels), random(batch, h, w, channels)
    v = torch.zeros(batch * (h + 6) * (w + 8) * n + 65536, dtype=HALF)
    triton_kernels.head_prologue[(-(-t.numel() // 1024),)](
        t, u, torch.stack([scale, shift, skip_scale]), v, h, w, t.numel(), n, 1024
    )
    features = (t.float() * scale + shift + u.float() * skip_scale).permute(0, 3, 1, 2).requires_grad_()
    leaf = weight.float().requires_grad_()
    exact = F.conv2d(features, leaf, padding=3)
    pairs = torch.zeros(7, 8, n, 2, channels, dtype=HALF)
    for i in range(2):
        pairs[:, i : i + 7, :, i] = weight.permute(2, 3, 1, 0)
    packed = torch.zeros(7, chunks * terms, columns, dtype=HALF)
    packed[:, : 8 * n, : 2 * channels] = pairs.view(7, 8 * n, 2 * channels)
    tiles, strips, out = -(-w // 32), -(-h // rows), torch.zeros_like(base)
    triton_kernels.head_forward[(batch * tiles * strips,)](
        v, packed, wide(bias.repeat(2), columns), base, out, h, w, n, channels, chunks, terms, columns, 16, rows,
        tiles, strips,
    )
    close(out, exact.permute(0, 2, 3, 1) + bias + base.float(), "head")

    grad = random(batch, channels, h, w)
    dv, dweight = torch.autograd.grad(exact, (features, leaf), grad.float())
    dv = dv.permute(0, 2, 3, 1)
    packed = torch.zeros(7, KP, full, dtype=HALF)
    packed.view(7, 8, C, full)[:, :7, :channels, :n] = weight.permute(2, 3, 0, 1).flip(0, 1)
    tiles = -(-w // cols)
    programs = batch * tiles * strips
    dt, du = torch.zeros_like(t), torch.zeros_like(u)
    partial, sums = torch.zeros(programs, 7, KP, full), torch.zeros(programs, 3, full)
    triton_kernels.head_backward[(programs,)](
        padded(grad), packed, t, u, torch.stack([wide(x, full) for x in (scale, shift, skip_scale)]), dt, du, partial,
        sums, h, w, n, C, KP, full, cols, rows, tiles, strips,
    )
    close(dt, dv * scale, "dt")
    close(du, dv * skip_scale, "du")
    close(partial.sum(0).view(7, 8, C, full)[:, :7, :channels, :n].flip(0, 1).permute(2, 3, 0, 1), dweight, "dW")
    for got, other in zip(sums.sum(0)[:, :n], (t.float(), 1.0, u.float())):
        close(got, (dv * other).sum((0, 1, 2)), "sums")

def matrix(inputs, outputs):
    eye = torch.eye(inputs).double()[None, None]
    return F.interpolate(eye, (inputs, outputs), mode="bilinear", antialias=True)[0, 0].T

def stem(n, channels, batch=1, height=20, width=40, cols=16, strip=4):
    h, w, narrow, full = height // 2, width // 2, _power(n, 8), _power(n, 16)
    image = random(batch, channels, height, width)
    leaves = [random(n, channels, 7, 7, scale=0.1), torch.randn(n), random(n, n, scale=0.2), torch.randn(n)]
    w0, b0, w1, b1 = leaves
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    a = F.leaky_relu(F.conv2d(image.double(), *leaves[:2], padding=3), SLOPE)
    c = F.leaky_relu(torch.einsum("oi,bihw->bohw", leaves[2], a) + leaves[3][:, None, None], SLOPE)
    down, across = matrix(height, h), matrix(width, w)
    pull = torch.zeros(height, 2)
    for y in range(height):
        for i in range(2):
            o = (y + 1) // 2 - 1 + i
            pull[y, i] = down[o, y] if 0 <= o < h else 0
    packed = torch.zeros(7, KP, full, dtype=HALF)
    packed.view(7, 8, C, full)[:, :7, :channels, :n] = w0.permute(2, 3, 1, 0)
    use = cols // 2 - 1
    tiles, strips, outs = -(-w // use), -(-h // strip), max(cols // 2, 16)
    rows, first = torch.zeros(tiles, outs, cols), torch.zeros(tiles + 1, 2, dtype=torch.int32)
    for tile in range(tiles):
        o = tile * use
        first[tile] = torch.tensor([2 * o - 1, o])
        for i in range(min(use, w - o)):
            for j in range(cols):
                if 0 <= 2 * o - 1 + j < width:
                    rows[tile, i, j] = across[o + i, 2 * o - 1 + j]
    first[tiles, 1] = w
    mix = torch.zeros(full, full, dtype=HALF)
    mix[:n, :n] = w1.T
    programs = batch * tiles * strips
    z, moments = torch.zeros(batch, h, w, n, dtype=HALF), torch.zeros(programs, 3, n)
    source = padded(image)
    triton_kernels.stem_forward[(programs,)](
        source, packed, wide(b0, full), mix[:, :narrow].contiguous(), wide(b1, narrow), rows, first, pull, z, moments,
        height, width, h, w, SLOPE, n, C, KP, narrow, full, cols, outs, strip, tiles, strips, True,
    )
    close(z.permute(0, 3, 1, 2), torch.einsum("oy,bcyx,px->bcop", down, c, across), "z")
    check_moments(moments, c.detach(), batch * height * width)

    grad, common, each = random(batch, n, h, w), torch.randn(n), torch.randn(n)
    dc = torch.einsum("oy,bcop,px->bcyx", down, grad.double(), across)
    dc = dc + (common[:, None, None] + each[:, None, None] * c.detach())
    exact = torch.autograd.grad(c, leaves, dc)
    cols, strip = 32, 8
    tiles, strips, outs = -(-width // cols), -(-height // strip), _power(cols // 2 + 2, 16)
    rows, first = torch.zeros(tiles, cols, outs, dtype=HALF), torch.zeros(tiles, dtype=torch.int32)
    for tile in range(tiles):
        first[tile] = cols // 2 * tile - 1
        for j in range(min(cols, width - cols * tile)):
            for i in range(outs):
                if 0 <= first[tile] + i < w:
                    rows[tile, j, i] = across[first[tile] + i, cols * tile + j]
    programs = batch * tiles * strips
    dw0, dw1 = torch.zeros(programs, 7, KP, full), torch.zeros(programs, full, full)
    db = torch.zeros(programs, 2, full)
    triton_kernels.stem_backward[(programs,)](
        source, packed, wide(b0, full), mix, mix.T.contiguous(), wide(b1, full), rows, first, pull,
        grad.permute(0, 2, 3, 1).contiguous(), torch.stack([wide(common, full), wide(each, full)]), dw0, dw1, db,
        height, width, h, w, SLOPE, n, C, KP, full, cols, outs, strip, tiles, strips,
    )
    close(dw0.sum(0).view(7, 8, C, full)[:, :7, :channels, :n].permute(3, 2, 0, 1), exact[0], "dW0")
    close(db.sum(0)[0, :n], exact[1], "db0")
    close(dw1.sum(0)[:n, :n].T, exact[2], "dW1")
    close(db.sum(0)[1, :n], exact[3], "db1")

CALLS
print("right")
"""


@pytest.mark.skipif(
    TorchVersion(triton.__version__) < (3, 8) and TorchVersion(np.__version__) >= (2, 4),
    reason="the interpreter of Triton before 3.8 reads a loop's bound in a way that NumPy 2.4 and newer refuse",
)
@pytest.mark.parametrize(
    "calls", ["conv(8, 32, skip=False); head(8, 64); stem(8, 3)", "conv(24, 16, skip=True); head(24, 64); stem(24, 2)"]
)
def test_kernels_are_right_under_the_interpreter(calls: str) -> None:
    """Forward and backward against autograd, in a process of its own: Triton reads TRITON_INTERPRET when imported."""
    done = subprocess.run(
        [sys.executable, "-c", _INTERPRETED.replace("CALLS", calls)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "right"


def _needs_tools() -> None:
    if not filters.cuobjdump().exists():
        pytest.skip("this triton has no cuobjdump")


def test_products_counted_are_those_of_the_shapes() -> None:
    """One kernel compiled: three kernel rows of the products of a tile, in each round of its loop."""
    _needs_tools()
    launch = filters.launch("conv", 8)
    constants = launch.constants
    tiles = constants["COLS"] // 16 * constants["CHUNKS"] * constants["KP"] // 16 * constants["NP"] // 8
    counted = filters.count(launch)
    assert counted.products == launch.programs * launch.trips * 3 * tiles
    assert counted.stack == 0
    assert counted.issued > counted.products


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("key", list(filters.TILES))
def test_kernels_compile_ahead_of_time(key: tuple[str, int], capability: int) -> None:
    _needs_tools()
    name, n = key
    assert filters.count(filters.launch(name, n), capability).registers <= 255


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("name", [*filters.NATIVE])
@pytest.mark.parametrize("n", [8, 24])
def test_padded_kernels_hold_the_products_of_their_shapes(name: str, n: int) -> None:
    """The loops of 32 filters, which tensor_kernels.py does not describe, are the kernels'."""
    _needs_tools()
    if name.startswith("trunk") and n > 16:
        pytest.skip("the trunk kernels exist for 16 filters")
    case = filters.native_case(name, n)
    assert tensor.measure(case, "90").mma == pytest.approx(case.mma, rel=1e-9)
