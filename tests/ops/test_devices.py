"""Devices other than CPU and CUDA: every op has an implementation there, and it asks for nothing that they lack."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import learned_resizer_cuda
from learned_resizer_cuda.ops.library import DEFINED

TESTS = Path(__file__).parents[1]
HOME = Path(learned_resizer_cuda.__file__).parent.parent


def _registered() -> list[str]:
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("learned_resizer::")]
    return [name.rstrip(".") for name in names]


def test_every_op_is_registered_for_every_device() -> None:
    names = _registered()
    assert {name.split("::")[1] for name in names} == set(DEFINED)
    for name in names:
        for key in ("CPU", "CUDA", "MPS", "XPU", "HPU", "MTIA", "PrivateUse1", "Meta"):
            assert torch._C._dispatch_has_computed_kernel_for_dispatch_key(name, key), (name, key)
        if name.endswith("update_running"):
            # Without products, which autocast would cast.
            continue
        for key in ("AutocastCPU", "AutocastCUDA", "AutocastMPS", "AutocastXPU", "AutocastPrivateUse1"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), (name, key)


# What runs on the made-up device, in one process: to register a device takes it for good.
_SCRIPT = """
    import copy
    import warnings
    import torch
    from tests.helpers import fake_device
    from learned_resizer_cuda import composition, resize, FusedResizer

    fake_device.install()
    # A real device's tensors are of no class of their own; with it the module would run as the composition.
    composition._TENSORS += (fake_device.FakeTensor,)
    warnings.filterwarnings("error", "FusedResizer runs as the composition")
    for refused in (
        lambda: torch.zeros(2, dtype=torch.float64, device="tpmd"),
        lambda: torch.rand(2).to("tpmd").double(),
        lambda: torch.eye(3).to("tpmd").to_sparse_csr(),
        lambda: torch.batch_norm_update_stats(torch.rand(2, 3, 4).to("tpmd"), None, None, 0.1),
    ):
        try:
            refused()
        except (TypeError, NotImplementedError):
            continue
        raise AssertionError("the made-up device takes what mps does not")

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 20, 30, generator=generator)
    cases = 0
    for layout in (torch.contiguous_format, torch.channels_last):
        for filter in ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"):
            for antialias in (True, False):
                for size in ((9, 41), (30, 11), (20, 11), (9, 30), (20, 30), (1, 1)):
                    there = image.to("tpmd").contiguous(memory_format=layout).detach().requires_grad_()
                    here = image.double().requires_grad_()
                    out, expected = (
                        resize(x, size, interpolation=filter, antialias=antialias) for x in (there, here)
                    )
                    assert out.device.type == "tpmd" and out.is_contiguous(memory_format=layout), (filter, size)
                    out.square().sum().backward()
                    expected.square().sum().backward()
                    # float32 sums of up to 200 products of numbers below 2; of gradients up to 100.
                    torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=2e-6)
                    torch.testing.assert_close(there.grad.cpu().double(), here.grad, rtol=1e-5, atol=1e-5)
                    cases += 1
    print("resize", cases)

    for dtype in (torch.uint8, torch.float16, torch.bfloat16):
        half = (image * 255).to(dtype)
        assert torch.equal(resize(half.to("tpmd"), 9).cpu(), resize(half, 9)), dtype

    cases = 0
    for channels in (3, 4):
        levels = torch.randint(0, 256, (2, channels, 20, 30), dtype=torch.uint8, generator=generator)
        for layout in (torch.contiguous_format, torch.channels_last):
            here = levels.contiguous(memory_format=layout)
            for filter in ("nearest", "box", "lanczos"):
                for size in ((9, 41), (30, 11), (20, 30)):
                    out = resize(here.to("tpmd"), size, interpolation=filter, parity="pillow")
                    assert out.device.type == "tpmd" and out.is_contiguous(memory_format=layout), (filter, size)
                    expected = resize(here, size, interpolation=filter, parity="pillow")
                    assert torch.equal(out.cpu(), expected)
                    with torch.autograd.forward_ad.dual_level():
                        out = resize(here.to("tpmd"), size, interpolation=filter, parity="pillow")
                    assert out.device.type == "tpmd" and torch.equal(out.cpu(), expected)
                    cases += 1
    print("pillow", cases)

    cases = 0
    # Tiles of whole images, and of rows of one.
    for shape, size in (((2, 3, 24, 28), (30, 33)), ((1, 3, 300, 500), (31, 50)), ((1, 3, 300, 500), (310, 501))):
        torch.manual_seed(0)
        here = FusedResizer(size, num_filters=4, num_blocks=2)
        there = copy.deepcopy(here).to("tpmd")
        image = torch.rand(shape, generator=generator)
        for training in (True, False):
            outs = []
            for module, x in ((here, image), (there, image.to("tpmd"))):
                module.train(training).zero_grad()
                out = module(x)
                out.square().mean().backward()
                outs.append(out.cpu().detach())
            # The CPU's image skip takes torch's float32 coordinates: 3 * 501 * 2^-24 of the range (docs/math.md, 1.6).
            torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)
            scale = max(float(p.grad.norm()) for p in here.parameters())
            for (name, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
                assert float((p.grad - q.grad.cpu()).norm()) <= 1e-3 * scale, (shape, training, name)
            for (name, p), q in zip(here.named_buffers(), there.buffers(), strict=True):
                torch.testing.assert_close(p, q.cpu(), rtol=1e-4, atol=1e-5, msg=name)
            cases += 1
    print("module", cases)

    with torch.autocast("tpmd", dtype=torch.float16):
        assert resize(there.eval()(image.to("tpmd")), 5).dtype == torch.float32
    print("autocast")
"""


def test_a_device_without_float64_and_sparse_tensors() -> None:
    from torch.utils import backend_registration

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch registers no device from Python; test_every_op_is_registered_for_every_device holds")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOME), str(TESTS)])}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_SCRIPT)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.splitlines() == ["resize 144", "pillow 36", "module 6", "autocast"]
