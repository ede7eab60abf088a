"""``torch.compile(fullgraph=True)`` of FusedResizer: one whole graph for all shapes, and the numbers of eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import learned_resizer_cuda as lr
from learned_resizer_cuda import reference, use_backend
from learned_resizer_cuda.ops.library import DEFINED


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _pair(training: bool, **arguments: Any) -> tuple[lr.FusedResizer, lr.FusedResizer]:
    """The same module twice: one to compile and one to stay eager."""
    torch.manual_seed(0)
    module = lr.FusedResizer((6, 5), num_filters=4, **arguments).train(training)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            assert norm.running_var is not None
            norm.running_var.uniform_(0.5, 1.5)
    return module, copy.deepcopy(module)


def _step(run: Any, module: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers of one forward and backward pass."""
    module.zero_grad()
    image = image.clone().requires_grad_()
    out = run(image)
    out.square().sum().backward()
    assert image.grad is not None
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    assert len(grads) == len(list(module.parameters()))
    return {"out": out.detach(), "image": image.grad, **grads} | {k: b.clone() for k, b in module.named_buffers()}


def _assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    largest = max(float(value.double().norm()) for value in expected.values())
    for name, value in expected.items():
        # The graph may fuse the few vector operations around the ops in another order: some roundings of 2^-24, of
        # sums that may cancel (a bias before a batch normalisation), so in proportion to the largest.
        difference = float((got[name] - value).double().norm())
        assert difference <= 1e-5 * float(value.double().norm()) + 1e-6 * largest, (name, difference)


@pytest.mark.parametrize("training", [True, False])
def test_one_graph_for_every_shape(training: bool) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    module, eager = _pair(training, num_blocks=2)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    graphs = 0
    for shape in ((2, 3, 12, 10), (3, 3, 14, 11), (5, 3, 9, 16)):
        image = torch.rand(shape)
        _assert_same(_step(compiled, module, image), _step(eager, eager, image))
        # A changed batch, height and width compile nothing again.
        assert counter.frame_count == graphs or graphs == 0
        graphs = counter.frame_count
    assert graphs > 0


def test_mean_of_all_batches_compiles_whole() -> None:
    module, eager = _pair(True)
    for norm in (*module.modules(), *eager.modules()):
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        image = torch.rand(2, 3, 12, 10)
        _assert_same(_step(compiled, module, image), _step(eager, eager, image))


def test_inference_and_another_size() -> None:
    module, eager = _pair(False, interpolation="lanczos")
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    image = torch.rand(2, 3, 12, 10)
    with torch.no_grad():
        for size in (None, (4, 7), 9):
            torch.testing.assert_close(compiled(image, size), eager(image, size), rtol=1e-5, atol=1e-6)


def test_inductor_takes_the_ops_where_ci_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # As services of continuous integration do. Inductor then refuses an op that torch's own table decomposes, unless
    # it finds the compiled graph in its cache: so the table is looked at, too.
    monkeypatch.setenv("CI", "true")
    ours = [getattr(torch.ops.learned_resizer, name).default for name in DEFINED]
    assert len(ours) == 8 and not torch._decomp.get_decompositions(ours)
    module, eager = _pair(False)
    compiled = torch.compile(module, fullgraph=True, backend="inductor")
    image = torch.rand(2, 3, 12, 10)
    _assert_same(_step(compiled, module, image), _step(eager, eager, image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    module, eager = _pair(True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    image = torch.rand(2, 3, 12, 10).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = compiled(image).detach(), eager(image).detach()
    # The same ops on the same operands.
    assert out.dtype == expected.dtype
    assert torch.equal(out, expected)


@pytest.mark.filterwarnings("ignore:FusedResizer runs as the composition")
def test_what_is_changed_after_compilation_is_noticed() -> None:
    module, _ = _pair(False)
    eager = reference.Resizer((6, 5), num_filters=4).eval()
    eager.load_state_dict(module.state_dict())
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    image, norm = torch.rand(2, 3, 12, 10), nn.GroupNorm(2, 4)
    changes: list[Callable[[Any], object]] = [
        lambda m: None,
        lambda m: setattr(m.act, "negative_slope", 0.7),
        lambda m: setattr(m.blocks[0].act, "negative_slope", 0.5),
        lambda m: setattr(m, "norm1", copy.deepcopy(norm)),
        lambda m: setattr(m.conv1, "padding_mode", "reflect"),
        lambda m: setattr(m.blocks[0], "act", nn.GELU()),
        lambda m: setattr(m, "blocks", nn.ModuleList()),
        lambda m: setattr(m, "norm1", nn.BatchNorm2d(4).eval()),
    ]
    for change in changes:
        for m in (module, eager):
            change(m)
        _assert_same(_step(compiled, module, image), _step(eager, eager, image))


def test_a_changed_module_compiles_whole_and_says_so() -> None:
    module, _ = _pair(True)
    eager = reference.Resizer((6, 5), num_filters=4)
    eager.load_state_dict(module.state_dict())
    for m in (module, eager):
        m.blocks[0].act = nn.GELU()
        m.conv2.register_forward_hook(lambda layer, args, out: out * 2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with pytest.warns(UserWarning, match="runs as the composition of its layers.*: conv2 has a forward hook"):
        _assert_same(_step(compiled, module, torch.ones(2, 3, 12, 10)), _step(eager, eager, torch.ones(2, 3, 12, 10)))
    torch._dynamo.reset()
    with use_backend("native"), pytest.raises(Exception, match="FusedResizer cannot run natively: conv2 has a forward"):
        torch.compile(module, fullgraph=True, backend="eager")(torch.rand(2, 3, 12, 10))


@pytest.mark.parametrize("strict", [True, False])
def test_a_changed_module_exports(strict: bool) -> None:
    module, _ = _pair(False)
    module.norm1 = nn.GroupNorm(2, 4)
    image = torch.rand(2, 3, 12, 10)
    with pytest.warns(UserWarning, match="norm1 is a GroupNorm"):
        program = torch.export.export(module, (image,), strict=strict)
        # The same operations of torch.
        torch.testing.assert_close(program.module()(image), module(image))


def test_transforms_compile() -> None:
    resizer = lr.FusedResizer((6, 5), num_filters=4).eval()

    def squares(image: Tensor) -> Tensor:
        return resizer(image).square().sum()

    def each(images: Tensor) -> Tensor:
        return torch.vmap(lambda image: resizer(image))(images)

    for run, image in ((torch.func.grad(squares), torch.rand(2, 3, 12, 10)), (each, torch.rand(3, 2, 3, 12, 10))):
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        # The same operations of torch: a few roundings of 6e-8.
        torch.testing.assert_close(compiled(image), run(image), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(torch.__version__ < (2, 14), reason="an older torch asks once a graph, as it is traced")
@pytest.mark.filterwarnings("ignore:FusedResizer runs as the composition")
@pytest.mark.parametrize("name", ["resample", "FusedResizer"])
def test_a_graph_without_ops_is_not_used_under_native(name: str) -> None:
    changed = lr.FusedResizer(4, num_filters=2, num_blocks=0).eval()
    changed.conv2.register_forward_hook(lambda layer, args, out: out * 2)
    runs: dict[str, Callable[[Tensor], Any]] = {
        "resample": lambda x: torch.func.jvp(lambda a: lr.resize(a, 4), (x,), (x,)),
        "FusedResizer": changed,
    }
    compiled, image = torch.compile(runs[name], fullgraph=True, backend="eager"), torch.rand(2, 3, 8, 9)
    compiled(image)
    with use_backend("native"), pytest.raises(Exception, match=f"{name} cannot run natively"):
        compiled(image)


def test_is_traced_by_torch_jit() -> None:
    module, _ = _pair(False)
    with torch.no_grad():
        # The first call inspects the layers, in another order than later ones read them.
        module(torch.rand(2, 3, 12, 10))
        traced = torch.jit.trace(module, torch.rand(2, 3, 12, 10))
        image = torch.rand(3, 3, 12, 10)
        assert torch.equal(traced(image), module(image))
