"""``FusedResizer`` with every op native, kernels on the host, against float64."""

from __future__ import annotations

import pytest
import torch

from learned_resizer_cuda import FusedResizer, ops, use_backend
from learned_resizer_cuda.composition import structure
from learned_resizer_cuda.ops.native_shapes import map_channels
from learned_resizer_cuda.reference import Resizer
from tests.helpers.arithmetic import close
from tests.helpers.native_host import native_ops_on_host


@pytest.mark.parametrize("num_blocks", [1, pytest.param(2, marks=pytest.mark.slow)])
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
        if p.is_floating_point():
            close([p], [q], 1e-5, name)
        else:
            assert torch.equal(p, q), name  # numbers of batches


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


@pytest.mark.parametrize("training", [True, False])
def test_vectors_of_any_strides(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and running statistics that are views: kernels read dense vectors."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    dense = FusedResizer((13, 18)).train(training)
    strided = FusedResizer((13, 18)).train(training)
    strided.load_state_dict(dense.state_dict())
    norm = strided.norm1
    assert norm.running_mean is not None and norm.running_var is not None
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var, strided.conv1.bias):
        assert tensor is not None
        tensor.data = torch.stack([tensor.data, torch.full_like(tensor.data, torch.nan)], 1)[:, 0]
        assert not tensor.is_contiguous()
    image = torch.randn(2, 3, 29, 35)
    with native_ops_on_host():
        got, want = strided(image), dense(image)
        got.sum().backward()
        want.sum().backward()
    assert torch.equal(got, want)
    for p, q in zip(strided.parameters(), dense.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)
    for p, q in zip(strided.buffers(), dense.buffers(), strict=True):
        # Updated in pure torch where the kernel does not fuse: two roundings apart.
        torch.testing.assert_close(p, q, rtol=2**-22, atol=1e-7)


@pytest.mark.parametrize(
    ("image_dtype", "autocast"), [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)]
)
@pytest.mark.parametrize("training", [True, False])
def test_images_of_another_half_type_than_autocasts(
    image_dtype: torch.dtype, autocast: torch.dtype, training: bool
) -> None:
    """The image skip keeps its dtype, which the kernels do not read beside such features."""
    image_dtype = torch.float16 if autocast == torch.bfloat16 else torch.bfloat16
    torch.manual_seed(0)
    model = FusedResizer((13, 18)).train(training)
    exact = Resizer((13, 18)).double().train(training)
    exact.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 29, 35).to(image_dtype)
    with native_ops_on_host(), torch.autocast("cpu", autocast):
        out = model(image) if training else model(image).detach()
    assert out.dtype == image_dtype
    if training:
        with native_ops_on_host():
            out.sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    # One rounding of bfloat16 a layer, as tests/helpers/arithmetic.py has it.
    close([out.float()], [exact(image.double()).detach()], 1.5e-2, "out")


@pytest.mark.parametrize("forward", ["native", "torch"])
def test_the_backward_may_run_under_another_backend(forward: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a compiled graph, whose backward runs in a thread without the caller's choice; with padded features."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(ops.resizer, "_channels", lambda image, n, native: map_channels(n))  # as on CUDA
    torch.manual_seed(0)
    model = FusedResizer((13, 18), num_filters=5)
    layers, image, grad = structure(model), torch.randn(2, 3, 29, 35), torch.randn(2, 3, 13, 18)
    settings = (layers.slopes, layers.eps, layers.batch_statistics, "", "bilinear", True, torch.float32)
    images, given = ([image], None, None), (layers.parameters, layers.running, *settings)

    def gradients(backend: str) -> list[torch.Tensor]:
        with use_backend(backend):
            return torch.ops.learned_resizer.resizer_backward(grad, features, statistics, *images, *given, [0])

    with native_ops_on_host(), torch.no_grad():
        with use_backend(forward):
            _, features, statistics = torch.ops.learned_resizer.resizer(*images, torch.randn_like(grad), *given, True)
        # float32, as the bound of a whole step.
        close(gradients("native"), gradients("torch"), 1e-4, " ".join(f"p{i}" for i in range(len(layers.parameters))))


def test_lists_of_images_of_any_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers native beside pure torch: the result, every gradient, and joint statistics."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    layers = structure(FusedResizer((5, 6)))
    sizes = ((1, 3, 11, 9), (2, 3, 7, 14), (3, 4, 60))
    images = [torch.randn(size) for size in sizes]
    boxes = torch.tensor([[0, 0, 11, 9], [1.5, 2.25, 5, 11], [0, 3, 4, 56]], dtype=torch.float64)
    flip, base, grad = torch.tensor([False, True, True]), torch.randn(4, 3, 5, 6), torch.randn(4, 3, 5, 6)
    settings = (layers.slopes, layers.eps, layers.batch_statistics, "", "bilinear", True, torch.float32)
    given, where = (layers.parameters, layers.running, *settings), (images, boxes, flip)
    op = torch.ops.learned_resizer
    found = []
    for backend in ("native", "torch"):
        with native_ops_on_host(), torch.no_grad(), use_backend(backend):
            monkeypatch.setattr(ops.resizer, "_channels", lambda image, n, native: map_channels(n))  # as on CUDA
            out, features, statistics = op.resizer(*where, base, *given, True)
            grads = op.resizer_backward(grad, features, statistics, *where, *given, [1, 0, 1])
        assert [dx.shape for dx in grads[:2]] == [images[0].shape, images[2].shape]
        found.append((out, statistics, grads))
    (out, statistics, grads), (want, want_statistics, want_grads) = found
    # As the bound of a whole step.
    close([out, statistics], [want.double(), want_statistics.double()], 1e-5, "out statistics")
    close(grads, [g.double() for g in want_grads], 1e-4, " ".join(f"g{i}" for i in range(len(grads))))
