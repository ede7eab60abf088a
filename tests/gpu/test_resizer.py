"""`FusedResizer` on a GPU: against the reference, under autocast, compiled, captured, trained, and its memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda import reference
from tests.helpers.calls import Calls
from tests.helpers.gpu_cases import (
    ARITHMETIC,
    arithmetic,
    backend_on,
    devices,
    relative_error,
    same_bits,
    unchanged_flags,
)

__all__ = ["unchanged_flags"]
pytestmark = pytest.mark.usefixtures("unchanged_flags")

# ‖error‖ / ‖exact‖. Four convolutions with normalisations between them: each adds its own rounding of 2^-p per entry
# (see gpu_cases.BOUND) and the normalisations amplify it by their division. Gradients meet LeakyReLU's kinks twice.
OUTPUT = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1.5e-2}
GRADIENT = {"float32": 1e-2, "tf32": 5e-2, "float16": 5e-2, "bfloat16": 1.5e-1}


def _pair(device: str, dtype: torch.dtype, **options: Any) -> tuple[lr.FusedResizer, reference.Resizer]:
    """Ours on the device, and the oracle in float64 on the CPU with the same parameters."""
    torch.manual_seed(0)
    ours = lr.FusedResizer((23, 19), **options)
    for norm in ours.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.running_var.uniform_(0.5, 1.5)
            norm.running_mean.normal_(0, 0.1)
    ours.to(dtype)
    oracle = reference.Resizer((23, 19), **options).double()
    oracle.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in ours.state_dict().items()})
    return ours.to(device), oracle


def _images(channels: int, dtype: torch.dtype, device: str, layout: str) -> Tensor:
    image = torch.rand(3, channels, 45, 37, generator=torch.Generator().manual_seed(2)).to(dtype)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    return image.to(device).contiguous(memory_format=memory_format)


def _step(module: torch.nn.Module, image: Tensor, autocast: torch.dtype | None = None) -> dict[str, Tensor]:
    # The backward runs outside autocast, as torch recommends.
    with torch.autocast(image.device.type, autocast, enabled=autocast is not None):
        out = module(image)
    along = torch.rand(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    grads = torch.autograd.grad(out, list(module.parameters()), along.to(out))
    return {"out": out.detach(), **dict(zip((n for n, _ in module.named_parameters()), grads, strict=True))}


def _compare(found: dict[str, Tensor], exact: dict[str, Tensor], name: str) -> None:
    scale = max(float(v.norm()) for k, v in exact.items() if k != "out")
    for key, tensor in found.items():
        by_norm = key != "out"
        error = relative_error(tensor, exact[key], by_norm)
        # Gradients of a bias before a batch normalisation cancel to zero: compared with the largest gradient.
        error = min(error, float((tensor.cpu().double() - exact[key]).norm()) / scale * 10) if by_norm else error
        limit = GRADIENT[name] if by_norm else OUTPUT[name]
        assert error <= limit, f"{key}: {error:.2e}, more than {limit:.2e}"


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({}, "NCHW"),
        ({"in_channels": 1, "num_filters": 32}, "channels_last"),
        ({"in_channels": 4, "num_blocks": 2, "interpolation": "lanczos"}, "channels_last"),
    ],
    ids=["default", "c1-n32", "c4-r2-lanczos"],
)
def test_is_the_reference(options: dict[str, Any], layout: str, name: str, device: str) -> None:
    if device == "cpu" and name in ("tf32", "float16"):
        pytest.skip("a CPU has no tf32, and half of its float16 kernels are missing")
    with arithmetic(name) as dtype:
        ours, oracle = _pair(device, dtype, **options)
        image = _images(ours.in_channels, dtype, device, layout)
        wide = image.cpu().double()
        with lr.use_backend(backend_on(device) if name == "float32" else "auto"):
            _compare(_step(ours, image), _step(oracle, wide), name)
            with torch.no_grad():
                out, exact = ours.eval()(image), oracle.eval()(wide)
        assert relative_error(out, exact) <= OUTPUT[name]
        assert out.dtype == dtype


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_autocast(name: str, device: str) -> None:
    """float32 parameters, gradients in float32; features in autocast's dtype."""
    if device == "cpu" and name == "float16":
        pytest.skip("half of a CPU's float16 kernels are missing")
    ours, oracle = _pair(device, torch.float32)
    image = _images(3, torch.float32, device, "NCHW")
    found = _step(ours, image, ARITHMETIC[name])
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    _compare(found, _step(oracle, image.cpu().double()), name)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compiles_in_one_graph(training: bool, device: str) -> None:
    """fullgraph: no break at any op; the same numbers as eager up to fused rounding."""
    dtype = torch.float32
    ours, _ = _pair(device, dtype)
    ours.train(training)
    image = _images(3, dtype, device, "NCHW")
    # Only a GPU compiles code here: a CPU tests the graph and its derivative.
    backend = "inductor" if device == "cuda" else "aot_eager"
    torch.compiler.reset()
    with arithmetic("float32"):
        compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend=backend)
        found, exact = _step(compiled, image), _step(ours, image)
    torch.compiler.reset()
    for (key, tensor), expected in zip(found.items(), exact.values(), strict=True):
        # The ops are the same kernels; only the running statistics are compiled: a few roundings.
        error = float((tensor - expected).norm()) / max(float(t.norm()) for t in exact.values())
        assert error <= 1e-5, key


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_shapes_are_what_the_fake_kernels_say(training: bool, device: str) -> None:
    """torch.compile plans memory by the fake kernels: shape, dtype and strides must be right."""
    ours, _ = _pair(device, torch.bfloat16)
    image = _images(3, torch.bfloat16, device, "channels_last").requires_grad_(training)
    with Calls(keep_arguments=True) as calls, torch.set_grad_enabled(training):
        out = ours.train(training)(image)
        if training:
            out.sum().backward()
    names = {func._opname for func, _ in calls.ours}
    assert names == ({"resample", "resizer"} | ({"resample_backward", "resizer_backward"} if training else set()))
    for func, args in calls.ours:
        torch.library.opcheck(func, args, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("device", devices())
def test_learns_like_the_reference(device: str) -> None:
    """The same task from the same start: the two losses stay together and fall."""
    steps = 40 if device == "cuda" else 12
    losses = {}
    with arithmetic("float32"):
        for kind in (lr.FusedResizer, reference.Resizer):
            torch.manual_seed(0)
            module = kind(16).to(device)
            images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(4)).to(device)
            target = lr.resize(images.roll((1, 1), (2, 3)), 16, interpolation="lanczos")
            optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
            curve = []
            for _ in range(steps):
                optimizer.zero_grad()
                loss = (module(images) - target).square().mean()
                loss.backward()
                optimizer.step()
                curve.append(loss.detach())
            losses[kind] = torch.stack(curve).cpu().double()
    ours, theirs = losses[lr.FusedResizer], losses[reference.Resizer]
    assert ours[-1] < 0.5 * ours[0]
    # Rounding of 1e-6 per step, which training amplifies about a hundredfold over these steps.
    assert float(((ours - theirs).abs() / theirs).max()) <= 1e-3


@pytest.mark.gpu
def test_a_training_step_in_a_graph() -> None:
    """Capture forward, backward and the running statistics; replay gives the eager step's bits on new images."""
    ours, _ = _pair("cuda", torch.bfloat16)
    eager = copy.deepcopy(ours)
    image = _images(3, torch.bfloat16, "cuda", "NCHW")
    along = torch.rand(3, 3, 23, 19, device="cuda").to(torch.bfloat16)

    def step(module: torch.nn.Module) -> dict[str, Tensor]:
        out = module(image)
        grads = torch.autograd.grad(out, list(module.parameters()), along)
        return {f"{k}": t for k, t in enumerate((out.detach(), *grads))}

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(ours)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = step(ours)
    eager.load_state_dict(ours.state_dict())
    image.copy_(torch.rand_like(image))
    graph.replay()
    assert same_bits(held, step(eager))
    assert same_bits(dict(ours.named_buffers()), dict(eager.named_buffers()))


@pytest.mark.gpu
def test_a_training_step_does_not_wait_for_the_device() -> None:
    ours, _ = _pair("cuda", torch.bfloat16)
    image = _images(3, torch.bfloat16, "cuda", "NCHW")
    ours(image).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours(image).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_no_feature_map_at_input_resolution(training: bool) -> None:
    """A step on 1024² images made to 128² peaks below a single map of 16 channels at 1024²."""
    batch, side = 8, 1024
    ours = lr.FusedResizer(128).to("cuda", torch.bfloat16).train(training)
    image = torch.rand(batch, 3, side, side, device="cuda").to(torch.bfloat16)

    def step() -> None:
        if training:
            ours(image).sum().backward()
        else:
            with torch.no_grad():
                ours(image)

    with lr.use_backend("auto" if training else "native"):
        step()
        ours.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak < batch * 16 * side * side * 2, f"{peak / 2**20:.0f} MiB"
