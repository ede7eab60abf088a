"""FusedResizer and reference.Resizer under torch.func's transforms, forward mode, FX and torch.compile."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, stack_module_state
from torchvision.models.feature_extraction import create_feature_extractor

from learned_resizer_cuda import FusedResizer, reference, use_backend

SIZE, SHAPE = (3, 4), (2, 1, 6, 5)
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
MODULES = (FusedResizer, reference.Resizer)

Function = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _silent() -> Iterator[None]:
    # A transform passes: it is no reason to warn of the module.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="FusedResizer")
        yield


def _resizer(kind: type[reference.Resizer] = FusedResizer, training: bool = False, **arguments: Any) -> Any:
    torch.manual_seed(0)
    module = kind(SIZE, **({"num_filters": 2, "in_channels": 1} | arguments)).double()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            norm.running_var.uniform_(0.1, 0.5)
            if training:
                # torch.func refuses to change buffers; with the batch's statistics alone there are none.
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
                norm.track_running_stats = False
    return module.train(training)


def _image(*batch: int) -> Tensor:
    return torch.randn(*batch, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _direction() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def _scalar(f: Function) -> Function:
    return lambda x: f(x).square().sum()


def _along(jacobian: Tensor, direction: Tensor) -> Tensor:
    return torch.tensordot(jacobian, direction, direction.dim())


def _dual(f: Function) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(_image(), _direction()))).tangent


# Each transform beside the same value from the Jacobian or Hessian of the composition by reverse mode alone.
TRANSFORMS: dict[str, tuple[Callable[[Function], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "jvp": (lambda f: torch.func.jvp(f, (_image(),), (_direction(),))[1], lambda j, h: _along(j, _direction())),
    "vjp": (
        lambda f: torch.func.vjp(f, _image())[1](torch.ones(*SHAPE[:2], *SIZE, dtype=torch.float64))[0],
        lambda j, h: j.sum((0, 1, 2, 3)),
    ),
    "linearize": (lambda f: torch.func.linearize(f, _image())[1](_direction()), lambda j, h: _along(j, _direction())),
    "jacfwd": (lambda f: torch.func.jacfwd(f)(_image()), lambda j, h: j),
    "jacrev": (lambda f: torch.func.jacrev(f)(_image()), lambda j, h: j),
    "hessian": (lambda f: torch.func.hessian(_scalar(f))(_image()), lambda j, h: h),
    "grad along a direction": (
        lambda f: torch.func.jvp(torch.func.grad(_scalar(f)), (_image(),), (_direction(),))[1],
        lambda j, h: _along(h, _direction()),
    ),
    "functional.jvp": (
        lambda f: torch.autograd.functional.jvp(f, _image(), _direction())[1],
        lambda j, h: _along(j, _direction()),
    ),
    "forward-mode jacobian": (
        lambda f: torch.autograd.functional.jacobian(f, _image(), vectorize=True, strategy="forward-mode"),
        lambda j, h: j,
    ),
    "dual tensors": (_dual, lambda j, h: _along(j, _direction())),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "interpolation", [pytest.param(i, marks=() if i == "lanczos" else pytest.mark.slow) for i in INTERPOLATIONS]
)
@pytest.mark.parametrize("kind", MODULES)
def test_derivatives(kind: type[reference.Resizer], interpolation: str, training: bool) -> None:
    oracle = _resizer(reference.Resizer, training, interpolation=interpolation)
    module = _resizer(kind, training, interpolation=interpolation)
    jacobian = torch.autograd.functional.jacobian(oracle, _image())
    hessian = torch.autograd.functional.hessian(_scalar(oracle), _image())
    assert jacobian.abs().max() > 0.1 and hessian.abs().max() > 0.1
    for name, (transform, expected) in TRANSFORMS.items():
        if kind is FusedResizer and name == "functional.jvp":
            # It differentiates a reverse-mode gradient, and no call can be told that this will follow.
            with pytest.raises(NotImplementedError, match=r"use learned_resizer_cuda\.reference\.Resizer"):
                transform(module)
            continue
        value = expected(jacobian, hessian)
        # float64: hundreds of roundings of 1e-16, in proportion to the largest.
        tolerance = 1e-12 * float(value.abs().max())
        torch.testing.assert_close(transform(module), value, rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("kind", MODULES)
def test_vmap(kind: type[reference.Resizer], interpolation: str) -> None:
    module = _resizer(kind, interpolation=interpolation)
    oracle = _resizer(reference.Resizer, interpolation=interpolation)
    images = _image(3)
    out = torch.vmap(module)(images)
    # Rounding of float64, as below.
    torch.testing.assert_close(out, torch.stack([oracle(image) for image in images]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.vmap(module, in_dims=1)(images.movedim(0, 1)), out, rtol=1e-12, atol=1e-12)
    # Per-sample gradients of the parameters.
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(module, parameters, image).square().sum()

    grads = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    for index, image in enumerate(images):
        oracle.zero_grad()
        oracle(image).square().sum().backward()
        for name, parameter in oracle.named_parameters():
            torch.testing.assert_close(grads[name][index], parameter.grad, rtol=1e-11, atol=1e-10, msg=name)


@pytest.mark.parametrize("kind", MODULES)
def test_ensembles(kind: type[reference.Resizer]) -> None:
    members = [_resizer(kind) for _ in range(3)]
    for member in members:
        for parameter in member.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    state, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")
    out = torch.vmap(lambda p, b, x: functional_call(base, (p, b), x), (0, 0, None))(state, buffers, _image())
    # Rounding of float64.
    torch.testing.assert_close(out, torch.stack([m(_image()) for m in members]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", MODULES)
def test_gradcheck_forward_mode_too(kind: type[reference.Resizer], training: bool) -> None:
    module = _resizer(kind, training)
    names = [name for name, _ in module.named_parameters()]

    def run(image: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, parameters, strict=True)), image)

    inputs = (_image().requires_grad_(), *(p.detach().clone().requires_grad_() for p in module.parameters()))
    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True, fast_mode=True)


def test_native_refuses_what_passes_too() -> None:
    module = _resizer()
    with use_backend("native"):
        with pytest.raises(RuntimeError, match=r"FusedResizer cannot run natively: forward-mode differentiation is on"):
            torch.func.jvp(module, (_image(),), (_direction(),))
        with pytest.raises(RuntimeError, match=r"FusedResizer cannot run natively: a torch\.func transform"):
            torch.func.jacrev(module)(_image())
        with pytest.raises(RuntimeError, match=r"FusedResizer cannot run natively: the image is a Proxy"):
            torch.fx.symbolic_trace(module)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("kind", MODULES)
def test_fx_traces_every_layer(kind: type[reference.Resizer], interpolation: str) -> None:
    module = _resizer(kind, interpolation=interpolation)
    traced = torch.fx.symbolic_trace(module)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert called == {name for name, layer in module.named_modules() if not [*layer.children()]} - {""}
    # torch before 2.14 cannot pickle a graph whose arguments have their types as strings.
    graphs = (traced, pickle.loads(pickle.dumps(traced))) if torch.__version__ >= (2, 14) else (traced,)
    for graph in graphs:
        # Other sizes and one given for the call: nothing of the image was fixed. Rounding of float64.
        for image, size in ((_image(), None), (_image()[:1, :, :4], (7, 1)), (_image(), 2)):
            torch.testing.assert_close(graph(image, size), module(image, size), rtol=1e-12, atol=1e-12)


def test_fx_traces_uint8_and_half_images() -> None:
    module = FusedResizer(SIZE, num_filters=2, mean=(0.1, 0.2, 0.3), std=(1, 2, 3)).eval()
    image = torch.randint(0, 256, (2, 3, 9, 8), dtype=torch.uint8)
    traced = torch.fx.symbolic_trace(module)
    # float32: a few hundred roundings of 6e-8.
    torch.testing.assert_close(traced(image), module(image), rtol=1e-5, atol=1e-5)
    half = torch.fx.symbolic_trace(_resizer(reference.Resizer).bfloat16())
    assert half(_image().bfloat16()).dtype == torch.bfloat16


def test_feature_extractor() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(FusedResizer(32, num_filters=2), torchvision.models.resnet18(num_classes=2)).eval()
    extractor = create_feature_extractor(network, {"0.norm1": "stem", "0": "resized", "1.layer1": "layer1"})
    image = torch.rand(1, 3, 48, 40)
    out = extractor(image)
    # float32: a few hundred roundings of 6e-8.
    torch.testing.assert_close(out["resized"], network[0](image), rtol=1e-5, atol=1e-5)
    assert out["stem"].shape == (1, 2, 48, 40) and out["layer1"].shape == (1, 64, 8, 8)
