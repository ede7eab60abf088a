"""FusedResizer against its torch.nn oracle, and the promises of its documentation."""

from __future__ import annotations

import weakref
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from learned_resizer_cuda import FusedResizer, reference, resize
from learned_resizer_cuda.ops import stem

CASES: list[tuple[dict[str, Any], tuple[int, ...], tuple[int, int]]] = [
    ({}, (2, 3, 40, 36), (20, 17)),
    ({"num_blocks": 3, "interpolation": "bicubic", "num_filters": 5}, (3, 3, 13, 19), (17, 9)),
    ({"num_blocks": 0, "num_filters": 1, "in_channels": 1, "interpolation": "lanczos"}, (2, 1, 13, 19), (7, 9)),
    ({"num_blocks": 2, "num_filters": 32, "in_channels": 4, "antialias": False}, (2, 4, 33, 30), (32, 30)),
    ({"negative_slope": 0.0, "in_channels": 5}, (1, 5, 24, 24), (12, 1)),
    ({"negative_slope": 1.0, "interpolation": "bicubic", "antialias": False}, (2, 3, 9, 9), (30, 40)),
]


def pair(size: Any, dtype: torch.dtype = torch.float32, **arguments: Any) -> tuple[FusedResizer, reference.Resizer]:
    torch.manual_seed(0)
    fused = FusedResizer(size, **arguments).to(dtype)
    # BatchNorm's initial γ = 1, β = 0 would hide mistakes in how they are applied.
    for norm in fused.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    oracle = reference.Resizer(size, **arguments).to(dtype)
    oracle.load_state_dict(fused.state_dict())
    return fused, oracle


def gradients(module: nn.Module, image: Tensor, grad: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    image = image.clone().requires_grad_()
    module.zero_grad()
    out = module(image)
    out.backward(grad)
    assert image.grad is not None
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return out.detach(), {"image": image.grad, **grads}


def clear_of_kinks(oracle: reference.Resizer, shape: tuple[int, ...]) -> Tensor:
    """A float64 image that puts no value within float32's rounding, some 1e-6, of a LeakyReLU's kink.

    One that is there takes either slope, by how a processor's vector width orders its sums, and a gradient jumps.
    """
    nearest: list[float] = []
    copy = deepcopy(oracle).double()
    for module in copy.modules():
        if isinstance(module, nn.LeakyReLU):
            module.register_forward_pre_hook(lambda _, inputs: nearest.append(float(inputs[0].detach().abs().min())))
    for _ in range(100):
        image = torch.randn(shape, dtype=torch.float64)
        nearest.clear()
        copy(image.float().double())
        if min(nearest) > 2e-6:
            return image
    raise AssertionError("no image of 100 was clear of the kinks")


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("arguments", "shape", "size"), CASES)
@pytest.mark.parametrize("tile", [None, 700])
def test_matches_reference(
    arguments: dict[str, Any],
    shape: tuple[int, ...],
    size: tuple[int, int],
    training: bool,
    dtype: torch.dtype,
    tile: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if tile is not None:
        # Tiles of a few rows, as a large image has them.
        monkeypatch.setattr(stem, "_TILE_ELEMENTS", tile)
        monkeypatch.setattr(stem, "_LEAST_TILE_ROWS", 4)
    fused, oracle = pair(size, dtype, **arguments)
    fused.train(training)
    oracle.train(training)
    image = clear_of_kinks(oracle, shape).to(dtype)
    grad = torch.randn(*shape[:2], *size, dtype=dtype)
    out, grads = gradients(fused, image, grad)
    expected, expected_grads = gradients(oracle, image, grad)
    # The bars of the design for float32; in float64 rounding alone (1e-16, times the length of the sums).
    forward, backward = (1e-5, 1e-4) if dtype == torch.float32 else (1e-13, 1e-11)
    assert relative(out, expected) <= forward
    largest = max(float(g.norm()) for g in expected_grads.values())
    for name, g in expected_grads.items():
        # What a training BatchNorm cancels (a scale or shift before it) has a gradient near 0 as the difference of
        # large sums, whose rounding is in proportion to them, not to it.
        assert float((grads[name] - g).norm()) <= backward * max(float(g.norm()), 1e-2 * largest), name
    for (name, got), (_, buffer) in zip(fused.named_buffers(), oracle.named_buffers(), strict=True):
        torch.testing.assert_close(got, buffer, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_gradcheck(training: bool, num_blocks: int) -> None:
    fused, _ = pair((3, 4), torch.float64, num_filters=2, num_blocks=num_blocks, in_channels=1)
    fused.train(training)
    image = torch.randn(2, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in fused.named_parameters()]
    buffers = {name: buffer.clone() for name, buffer in fused.named_buffers()}

    def run(image: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True)) | {k: b.clone() for k, b in buffers.items()}
        return torch.func.functional_call(fused, state, image)

    parameters = [p.detach().clone().requires_grad_() for p in fused.parameters()]
    assert torch.autograd.gradcheck(run, (image, *parameters), fast_mode=True)


@pytest.mark.parametrize(
    ("num_filters", "thousands"), [(16, [11.87, 16.48, 21.08, 25.69]), (32, [38.08, 56.51, 74.94, 93.37])]
)
def test_parameter_table(num_filters: int, thousands: list[float]) -> None:
    for num_blocks, expected in enumerate(thousands, start=1):
        resizer = FusedResizer(224, num_filters=num_filters, num_blocks=num_blocks)
        kernels = sum(m.weight.numel() for m in resizer.modules() if isinstance(m, nn.Conv2d))
        # The paper's table truncates to ten parameters.
        assert kernels // 10 * 10 == round(expected * 1000)


def test_default_parameter_count() -> None:
    assert sum(p.numel() for p in FusedResizer(224).parameters()) == 12_035


def test_cost_of_one_image() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    resizer = reference.Resizer(224).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        resizer(torch.empty(1, 3, 448, 448))
    # 2 per multiply-add; the paper's figure is truncated to a MFLOP.
    assert counter.get_total_flops() // 10**6 == 1976


def test_zero_init_starts_as_resize() -> None:
    image = torch.rand(2, 3, 20, 24)
    for interpolation in ("bilinear", "lanczos"):
        resizer = FusedResizer(9, interpolation=interpolation, zero_init=True)
        assert torch.equal(resizer(image), resize(image, 9, interpolation=interpolation))


def test_running_statistics_follow_batch_norm() -> None:
    for momentum in (0.1, None, 0.0):
        fused, oracle = pair(8)
        for module in (*fused.modules(), *oracle.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.momentum, module.eps = momentum, 1e-3
        for _ in range(3):
            image = torch.rand(2, 3, 16, 16) + 100
            torch.testing.assert_close(fused(image), oracle(image), rtol=1e-4, atol=1e-3)
        for got, expected in zip(fused.buffers(), oracle.buffers(), strict=True):
            # A mean of 100 in float32 leaves 1e-5 of a variance near 1.
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_frozen_and_untracked_batch_norm() -> None:
    fused, oracle = pair(8)
    image = torch.rand(2, 3, 16, 16)
    for module in (fused, oracle):
        module.norm1.eval()
        module.blocks[0].norm2.eval()
    torch.testing.assert_close(fused(image), oracle(image), rtol=1e-5, atol=1e-5)
    for module in (fused, oracle):
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
                norm.track_running_stats = False
        module.eval()
    torch.testing.assert_close(fused(image), oracle(image), rtol=1e-5, atol=1e-5)


class _LargestMaps(TorchDispatchMode):
    """The most bytes alive at once in tensors with n channels at input resolution, and what is alive at the end."""

    def __init__(self, full: int) -> None:
        super().__init__()
        self.full, self.alive, self.most = full, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.numel() >= self.full and not tensor._is_view():
                self.alive += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(tensor, self._freed)
        return out

    def _freed(self) -> None:
        self.alive -= 1


@pytest.mark.parametrize("image", [torch.rand(1, 3, 64, 64), [torch.rand(3, 64, 64), torch.rand(3, 50, 70)]])
def test_no_map_at_input_resolution(image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "_TILE_ELEMENTS", 16 * 64 * 16)
    fused, oracle = pair(8)
    # A quarter of the map: no tile, and nothing at output resolution, is that large.
    full = 16 * 64 * 64 // 4 + 1
    for module, has_maps in ((fused, False), (oracle, True)):
        with _LargestMaps(full) as mode:
            module(image).sum().backward()
        assert (mode.most > 0) == has_maps


def test_deterministic() -> None:
    fused, _ = pair(17)
    fused.eval()
    image = torch.rand(3, 3, 41, 43)
    first = gradients(fused, image, torch.ones(3, 3, 17, 17))
    for _ in range(5):
        out, grads = gradients(fused, image, torch.ones(3, 3, 17, 17))
        assert torch.equal(out, first[0])
        assert all(torch.equal(grads[name], g) for name, g in first[1].items())


def test_autocast() -> None:
    fused, oracle = pair(12)
    image = torch.rand(2, 3, 24, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = fused(image), oracle(image)
    out.sum().backward()
    # bfloat16 keeps 8 bits; both round every convolution's operands, in another order.
    assert relative(out.float(), expected.float()) <= 2e-2
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in fused.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    fused, oracle = pair(12)
    image = torch.rand(2, 3, 24, 24)
    expected = oracle(image)
    out = fused.to(dtype)(image.to(dtype))
    out.sum().backward()
    assert out.dtype == dtype
    assert relative(out.float(), expected) <= (2e-2 if dtype == torch.bfloat16 else 4e-3)


def test_channels_last_and_strided_images() -> None:
    fused, oracle = pair(9)
    fused.eval()
    oracle.eval()
    image = torch.rand(2, 3, 20, 24)
    expected = oracle(image)
    wide = torch.zeros(2, 3, 20, 48)
    wide[..., ::2] = image
    for same in (image.contiguous(memory_format=torch.channels_last), wide[..., ::2], image.mT.contiguous().mT):
        torch.testing.assert_close(fused(same), expected, rtol=1e-5, atol=1e-5)


def test_size_override_and_empty_batch() -> None:
    fused, oracle = pair(9)
    image = torch.rand(2, 3, 20, 24)
    torch.testing.assert_close(fused(image, (30, 11)), oracle(image, (30, 11)), rtol=1e-4, atol=1e-5)
    assert fused.eval()(torch.empty(0, 3, 20, 24)).shape == (0, 3, 9, 9)


def test_second_derivative_says_so() -> None:
    fused, _ = pair(4, num_filters=2)
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(fused(image).square().sum(), image, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"second derivatives are not implemented; use .*reference\.Resizer"):
        grad.square().sum().backward()


def test_one_value_per_channel() -> None:
    fused, oracle = pair(1)
    image = torch.rand(1, 3, 4, 4)
    for module in (fused, oracle):
        with pytest.raises(ValueError, match="value"):
            module(image)
    # Nothing is lost: the running statistics are as they were.
    assert all(torch.equal(got, new) for got, new in zip(fused.buffers(), pair(1)[0].buffers(), strict=True))


def test_sync_batch_norm_alone_is_batch_norm() -> None:
    # In a single process, as torch's own is there; tests/test_ddp.py has several.
    alone, _ = pair(6)
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(pair(6)[0])
    image, grad = torch.rand(2, 3, 12, 10), torch.rand(2, 3, 6, 6)
    out, grads = gradients(fused, image, grad)
    expected, expected_grads = gradients(alone, image, grad)
    assert torch.equal(out, expected)
    assert all(torch.equal(grads[name], g) for name, g in expected_grads.items())
    assert all(torch.equal(got, buffer) for got, buffer in zip(fused.buffers(), alone.buffers(), strict=True))
    with pytest.raises(ValueError, match="1 values per channel"):
        fused(image[:1], 1)


def test_loss_curve_of_training_on_real_images() -> None:
    from skimage import data

    photographs = [torch.from_numpy(photograph()) for photograph in (data.astronaut, data.coffee, data.rocket)]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for step in range(50 * 4):
        photograph = photographs[step % 3]
        top, left = (int(torch.randint(0, side - 64, (), generator=generator)) for side in photograph.shape[:2])
        crops.append(photograph[top : top + 64, left : left + 64].permute(2, 0, 1))
    images = torch.stack(crops).float() / 255

    def curve(resizer: nn.Module) -> Tensor:
        torch.manual_seed(0)
        # Something to learn: the image's own horizontal edges at low resolution, from a small network behind.
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
        optimizer = torch.optim.SGD([*resizer.parameters(), *network.parameters()], lr=0.01, momentum=0.9)
        losses = []
        for batch in images.split(4):
            target = resize((batch[:, :, 1:] - batch[:, :, :-1]).abs().mean(1, keepdim=True), 32) * 10
            loss = (network(resizer(batch)) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    fused, oracle = pair(32)
    got, expected = curve(fused), curve(oracle)
    assert expected[-10:].mean() < 0.7 * expected[:10].mean(), "nothing was learned: the comparison would be empty"
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.mean()))


def test_exports() -> None:
    fused, _ = pair(6, num_filters=4)
    fused.eval()
    image = torch.rand(2, 3, 12, 10)
    program = torch.export.export(fused, (image,))
    torch.testing.assert_close(program.module()(image), fused(image), rtol=1e-5, atol=1e-6)
    assert {node.target for node in program.graph.nodes} >= {torch.ops.learned_resizer.resizer.default}
