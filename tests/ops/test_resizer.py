"""The op ``resizer``: against ``reference.Resizer`` in float64, and what torch's other parts ask of an op."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from learned_resizer_cuda import FusedResizer, composition, reference
from learned_resizer_cuda.ops.layout import feature_dtype
from learned_resizer_cuda.sync_batch_norm import synchronise
from tests.helpers.calls import Calls
from tests.helpers.gloo_processes import needs_gloo, run_processes

OPS = torch.ops.learned_resizer
SIZE, SHAPE, N = (5, 4), (2, 3, 9, 8), 4
MODES = ("training", "evaluation", "batch statistics in evaluation", "frozen norms")


def _module(num_blocks: int = 1, mode: str = "training", dtype: torch.dtype = torch.float64) -> FusedResizer:
    torch.manual_seed(0)
    module = FusedResizer(SIZE, num_filters=N, num_blocks=num_blocks)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        # Nothing that zeros and ones would hide.
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.1, 0.5)
        if mode.startswith("batch"):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.track_running_stats = False
    module.to(dtype).train(mode in ("training", "frozen norms"))
    if mode == "frozen norms":
        for norm in norms[::2]:
            norm.eval()
    return module


def _oracle(module: FusedResizer) -> reference.Resizer:
    oracle = reference.Resizer(SIZE, num_filters=N, num_blocks=len(module.blocks)).double()
    oracle.load_state_dict(module.state_dict(), strict=False)
    for ours, theirs in zip(module.modules(), oracle.modules(), strict=True):
        theirs.training = ours.training
        if isinstance(ours, nn.BatchNorm2d) and not ours.track_running_stats:
            theirs.running_mean = theirs.running_var = theirs.num_batches_tracked = None
            theirs.track_running_stats = False
    return oracle


def _image(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def _arguments(module: FusedResizer, image: Tensor, keep: bool = True) -> tuple[Any, ...]:
    """Of the op, as the module gives them."""
    layers = composition.structure(module)
    base = OPS.resample(image, *SIZE, None, None, "bilinear", True)
    return (
        [image], None, None, base, layers.parameters, layers.running, layers.slopes, layers.eps,
        layers.batch_statistics, layers.groups(), "bilinear", True, feature_dtype(image, layers.parameters[0]), keep,
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_blocks", range(4))
def test_is_the_reference(num_blocks: int, mode: str) -> None:
    module = _module(num_blocks, mode)
    oracle, image = _oracle(module), _image().requires_grad_()
    out = module(image)
    along = torch.randn(out.shape, dtype=torch.float64)
    expected = oracle(image)
    # float64: some hundred roundings of 2^-53 in sums of hundreds of terms.
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    got = torch.autograd.grad(out, [image, *module.parameters()], along)
    exact = torch.autograd.grad(expected, [image, *oracle.parameters()], along)
    largest = max(float(grad.norm()) for grad in exact)
    for name, grad, right in zip(["image", *dict(module.named_parameters())], got, exact, strict=True):
        # Of the largest where sums cancel: a bias before a norm of the batch.
        assert float((grad - right).norm()) <= 1e-11 * (float(right.norm()) + largest), name
    for (name, buffer), (_, right) in zip(module.named_buffers(), oracle.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, right, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_blocks", [0, 2])
def test_same_bits_with_and_without_memory_for_the_backward(num_blocks: int, mode: str) -> None:
    arguments = _arguments(_module(num_blocks, mode), _image())
    with torch.no_grad():
        out, features, statistics = OPS.resizer(*arguments)
        plain = OPS.resizer(*arguments[:-1], False)
    # z, a map of each 3×3 convolution, and the input of the second block.
    assert features.numel() == {0: 2, 2: 7}[num_blocks] * 2 * N * SIZE[0] * SIZE[1]
    assert statistics.shape == (sum(arguments[8]), 3, N)
    assert torch.equal(plain[0], out) and plain[1].numel() == 0 and torch.equal(plain[2], statistics)


@pytest.mark.parametrize("mode", MODES)
def test_opcheck(mode: str) -> None:
    arguments = _arguments(_module(2, mode, torch.float32), _image(torch.float32).requires_grad_())
    torch.library.opcheck(OPS.resizer.default, arguments)


def test_opcheck_of_uint8_images() -> None:
    image = torch.randint(0, 256, SHAPE, dtype=torch.uint8)
    module = _module(1, "training", torch.float32)
    arguments = list(_arguments(module, image))
    arguments[3] = OPS.resample(image.float(), *SIZE, None, None, "bilinear", True)
    normalisation = [torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])]
    torch.library.opcheck(OPS.resizer.default, (*arguments, *normalisation))


def test_opcheck_of_the_backward() -> None:
    module, image = _module(2, "frozen norms", torch.float32), _image(torch.float32).requires_grad_()
    with Calls(keep_arguments=True) as calls:
        module(image).sum().backward()
    ((func, arguments),) = [call for call in calls.ours if call[0]._opname == "resizer_backward"]
    torch.library.opcheck(func, tree_map_only(Tensor, Tensor.detach, arguments))


@pytest.mark.parametrize("mode", MODES)
def test_compiles(mode: str) -> None:
    module = _module(1, mode, torch.float32)
    image, eager = _image(torch.float32), copy.deepcopy(module)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    outs = [compiled(image), eager(image)]
    for out in outs:
        out.square().sum().backward()
    torch._dynamo.reset()
    # The same ops on the same numbers.
    assert torch.equal(*outs)
    for p, q in zip(module.parameters(), eager.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)
    for a, b in zip(module.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fake_and_meta_tensors_have_the_results_strides(layout: torch.memory_format) -> None:
    module = _module(1, "training", torch.float32)
    image = _image(torch.float32).contiguous(memory_format=layout)
    real = module(image)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = module(mode.from_tensor(image))
    meta = copy.deepcopy(module).to("meta")(image.to("meta"))
    for out in (fake, meta):
        assert (out.shape, out.dtype, out.stride()) == (real.shape, real.dtype, real.stride())
        assert out.requires_grad


@pytest.mark.skipif(torch.__version__ < "2.11", reason="torch asks the driver for a fake CUDA tensor's device")
@pytest.mark.parametrize(("filters", "channels"), [(5, 16), (24, 32), (40, 40)])
def test_memory_on_cuda_is_that_of_native_kernels(filters: int, channels: int) -> None:
    """A graph that is traced under one backend may run under another."""
    with FakeTensorMode(), torch.device("cuda:0"):
        module = FusedResizer(SIZE, num_filters=filters)
        out, features, statistics = OPS.resizer(*_arguments(module, torch.empty(SHAPE)))
    assert out.shape == (2, 3, *SIZE) and statistics.shape == (4, 3, filters)
    assert features.numel() == 4 * 2 * channels * SIZE[0] * SIZE[1]


@pytest.mark.parametrize("mode", ["evaluation", "training"])
def test_empty_batch(mode: str) -> None:
    module, image = _module(2, mode), _image(shape=(0, *SHAPE[1:])).requires_grad_()
    out, _, statistics = OPS.resizer(*_arguments(module, image))
    assert out.shape == (0, 3, *SIZE) and not statistics.count_nonzero()
    grads = torch.autograd.grad(out, [image, *module.parameters()], torch.empty_like(out))
    assert grads[0].shape == image.shape and not any(grad.count_nonzero() for grad in grads)


def test_gradients_have_the_strides_of_their_parameters() -> None:
    module = _module(1, "training").to(memory_format=torch.channels_last)
    same = _module(1, "training")
    image = _image().contiguous(memory_format=torch.channels_last).requires_grad_()
    got = torch.autograd.grad(module(image).square().sum(), [image, *module.parameters()])
    expected = torch.autograd.grad(same(image).square().sum(), [image, *same.parameters()])
    assert any(not p.is_contiguous() for p in module.parameters())
    for of, grad, right in zip([image, *module.parameters()], got, expected, strict=True):
        assert grad.stride() == of.stride()
        torch.testing.assert_close(grad, right, rtol=1e-12, atol=1e-12)


def test_parameters_in_float32_under_autocast() -> None:
    """Autograd has no node between op and parameters: nothing is cast, forward or backward."""
    module, image = _module(1, "training", torch.float32), _image(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(image)
    parameters = list(module.parameters())
    nodes = [node for node, _ in out.grad_fn.next_functions if node is not None]
    assert "resizer" in out.grad_fn.name() and len(nodes) == len(parameters)
    assert {id(node.variable) for node in nodes} == {id(p) for p in parameters}
    grads = torch.autograd.grad(out, parameters, torch.ones_like(out))
    assert out.dtype == torch.float32 and all(grad.dtype == torch.float32 for grad in grads)
    half = copy.deepcopy(module)
    with Calls(keep_arguments=True) as calls, torch.autocast("cpu", torch.bfloat16):
        half(image)
    ((_, arguments),) = [call for call in calls.ours if call[0]._opname == "resizer"]
    assert torch.bfloat16 in arguments and all(p.dtype == torch.float32 for p in arguments[4])


def test_no_second_derivative() -> None:
    module, image = _module(), _image().requires_grad_()
    for wanted in (image, module.conv3.weight):
        (grad,) = torch.autograd.grad(module(image).square().sum(), wanted, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            grad.sum().backward()


@pytest.mark.parametrize("mode", MODES)
def test_every_run_gives_the_same_bits(mode: str) -> None:
    module, image = _module(2, mode, torch.float32), _image(torch.float32).requires_grad_()
    state = copy.deepcopy(module.state_dict())

    def step() -> list[Tensor]:
        module.load_state_dict(state)
        out = module(image)
        grads = torch.autograd.grad(out.square().sum(), [image, *module.parameters()])
        return [out.detach(), *grads, *(b.clone() for b in module.buffers())]

    first = step()
    for _ in range(3):
        assert all(map(torch.equal, step(), first))


@pytest.mark.parametrize("frozen", ["all", "stem", "norms"])
def test_frozen_parameters(frozen: str) -> None:
    """Gradients of the others are what they are without."""
    module, image = _module(1, "training"), _image().requires_grad_()
    everything = torch.autograd.grad(module(image).square().sum(), [image, *module.parameters()])
    for name, p in module.named_parameters():
        chosen = {"all": True, "stem": name.startswith(("conv1", "conv2")), "norms": "norm" in name}
        p.requires_grad_(not chosen[frozen])
    image.requires_grad_(frozen == "all")
    module(image).square().sum().backward()
    for of, expected in zip([image, *module.parameters()], everything, strict=True):
        assert (of.grad is not None) == of.requires_grad
        if of.grad is not None:
            assert torch.equal(of.grad, expected)


def _work(rank: int) -> dict[str, list[Tensor]]:
    """Of this process's part of a batch, of another size each; one process may have nothing."""
    found = {}
    for name, parts in {"uneven": (slice(0, 1), slice(1, 4)), "nothing here": (slice(0, 0), slice(0, 4))}.items():
        module = synchronise(_module(2, "training"), torch.device("cpu"))
        image = _image(shape=(4, *SHAPE[1:]))[parts[rank]].requires_grad_()
        with warnings.catch_warnings():
            # Ours; torch 2.11 has a warning of its own about sparse tensors.
            warnings.filterwarnings("error", message="FusedResizer")
            out = module(image)
        out.square().sum().backward()
        grads = [p.grad for p in module.parameters()]
        for grad in grads:
            dist.all_reduce(grad)
        found[name] = [out.detach(), image.grad, *grads, *module.buffers()]
    return found


@needs_gloo
def test_processes_share_their_statistics(tmp_path: Path) -> None:
    """The joint batch of two processes is the batch of one."""
    processes = run_processes(_work, tmp_path)
    image = _image(shape=(4, *SHAPE[1:])).requires_grad_()
    module = _oracle(_module(2, "training"))
    out = module(image)
    out.square().sum().backward()
    expected = [p.grad for p in module.parameters()] + list(module.buffers())
    largest = max(float(p.grad.norm()) for p in module.parameters())
    for name in processes[0]:
        for index, whole in enumerate((out.detach(), image.grad)):
            parts = torch.cat([process[name][index] for process in processes])
            torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-11)
        for process in processes:
            for got, right in zip(process[name][2:], expected, strict=True):
                error = float((got - right).double().norm())
                assert error <= 1e-11 * (float(right.double().norm()) + largest), name


def _work_with_one_shared_norm(rank: int) -> list[list[Tensor]]:
    """Of the fused module, then of the composition."""
    found = []
    fused = _module(1, "training")
    for module in (fused, _oracle(fused)):
        synchronise(module.norm2, torch.device("cpu"))
        image = _image(shape=(5, *SHAPE[1:]))[[slice(0, 2), slice(2, 5)][rank]].requires_grad_()
        out = module(image)
        out.square().sum().backward()
        found.append([out.detach(), image.grad, *(p.grad for p in module.parameters()), *module.buffers()])
    return found


@needs_gloo
def test_one_norm_shared_by_processes(tmp_path: Path) -> None:
    """The others use the statistics of their own process."""
    for fused, composed in run_processes(_work_with_one_shared_norm, tmp_path):
        largest = max(float(t.double().norm()) for t in composed)
        for got, right in zip(fused, composed, strict=True):
            error = float((got - right).double().norm())
            assert error <= 1e-11 * (float(right.double().norm()) + 1e-3 * largest)
