"""Whatever is changed in a FusedResizer, it computes what reference.Resizer with the same change does."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from learned_resizer_cuda import FusedResizer, composition, reference, use_backend
from tests.helpers.calls import Calls
from tests.helpers.module_changes import COMPOSED, FUSED, Change, N

SIZE, SHAPE = (5, 4), (2, 3, 9, 8)


def _runs_fused(module: nn.Module, *args: Any) -> bool:
    with Calls() as calls, torch.no_grad():
        module(*args)
    return any(func is torch.ops.learned_resizer.resizer.default for func, _ in calls.ours)


def _pair(**arguments: Any) -> tuple[FusedResizer, reference.Resizer]:
    torch.manual_seed(0)
    arguments = {"num_filters": N, "num_blocks": 2} | arguments
    fused = FusedResizer(SIZE, **arguments).double()
    for norm in fused.modules():
        if isinstance(norm, nn.BatchNorm2d):
            # Nothing that zeros and ones would hide.
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.1, 0.5)
    oracle = reference.Resizer(SIZE, **arguments).double()
    oracle.load_state_dict(fused.state_dict())
    return fused, oracle


def _image() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _steps(module: nn.Module, image: Tensor) -> list[dict[str, Tensor]] | type[Exception]:
    """Outputs, gradients and buffers of two training steps, or what the first one raised."""
    optimizer, results = torch.optim.SGD(module.parameters(), 1e-3), []
    for _ in range(2):
        image = image.detach().clone().requires_grad_()
        optimizer.zero_grad()
        try:
            out = module(image)
        except Exception as error:
            return type(error)
        out.square().sum().backward()
        step = {f"grad of {name}": p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        results.append({"out": out.detach(), "image": image.grad, **step, **buffers})
        optimizer.step()
    return results


def _assert_same(got: Any, expected: Any) -> None:
    if isinstance(expected, type):
        assert got is expected
        return
    for new, old in zip(got, expected, strict=True):
        assert new.keys() == old.keys()
        largest = max(float(value.double().norm()) for value in old.values())
        for name, value in old.items():
            # float64: hundreds of roundings of 1e-16, of the largest where sums cancel (a bias before a norm).
            difference = float((new[name] - value).double().norm())
            assert difference <= 1e-11 * (float(value.double().norm()) + largest), (name, difference)


def _change(change: Change, training: bool) -> tuple[FusedResizer, reference.Resizer]:
    """The changed pair; both have run before, so that what they remember is of the module as it was."""
    pair = _pair()
    for module in pair:
        module.train(training)(_image())
        torch.manual_seed(2)
        torch.set_default_dtype(torch.float64)
        try:
            change(module)
        finally:
            torch.set_default_dtype(torch.float32)
        module.train(training)
    return pair


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", COMPOSED)
def test_what_the_kernels_do_not_compute_runs_as_the_composition(name: str, training: bool) -> None:
    change, reason = COMPOSED[name]
    fused, oracle = _change(change, training)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = _steps(fused, _image())
        expected = _steps(oracle, _image())
    _assert_same(got, expected)
    said = [str(w.message) for w in caught if "FusedResizer" in str(w.message)]
    assert len(said) == 1 and f": {reason}" in said[0], said
    with use_backend("native"), pytest.raises(RuntimeError, match="FusedResizer cannot run natively") as error:
        fused(_image())
    assert f": {reason}" in str(error.value)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", FUSED)
def test_what_the_kernels_compute_stays_fused(name: str, training: bool) -> None:
    fused, oracle = _change(FUSED[name], training)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _assert_same(_steps(fused, _image()), _steps(oracle, _image()))
        assert _runs_fused(fused, _image())


def test_a_change_taken_back_is_fused_again() -> None:
    fused, _ = _pair()
    assert _runs_fused(fused, _image())
    norm, hook = fused.norm1, fused.conv3.register_forward_hook(lambda *args: None)
    with pytest.warns(UserWarning, match="conv3 has a forward hook"):
        assert not _runs_fused(fused, _image())
    hook.remove()
    assert _runs_fused(fused, _image())
    fused.norm1 = nn.GroupNorm(1, N).double()
    with pytest.warns(UserWarning, match="norm1 is a GroupNorm") as caught:
        assert not _runs_fused(fused, _image())
    # At the user's line.
    assert caught[0].filename == __file__
    fused.norm1 = norm
    assert _runs_fused(fused, _image())


def test_a_lazy_layer_is_composed_until_it_is_made() -> None:
    fused, oracle = _pair()
    for module in (fused, oracle):
        module.conv1 = nn.LazyConv2d(N, 7, padding=3, dtype=torch.float64)
        torch.manual_seed(2)
        if module is oracle:
            module(_image())
            continue
        with pytest.warns(UserWarning, match="conv1 is a LazyConv2d"):
            module(_image())
    assert _runs_fused(fused, _image())
    oracle(_image())
    _assert_same(_steps(fused, _image()), _steps(oracle, _image()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_in_float32_within_half_weights(dtype: torch.dtype) -> None:
    fused, oracle = _pair()
    for module in (fused, oracle):
        module.to(dtype)
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.float()
    image = _image().to(dtype)
    assert _runs_fused(copy.deepcopy(fused), image)
    out, expected = fused(image), oracle(image)
    assert out.dtype == expected.dtype == dtype
    # Half types keep 8 or 11 bits; each path rounds a dozen intermediates to them, at other places.
    difference = float((out.double() - expected.double()).detach().norm() / expected.double().detach().norm())
    assert difference <= 8 * torch.finfo(dtype).eps


def test_copies_look_for_themselves() -> None:
    fused, oracle = _pair()
    text, keys = repr(fused), [*fused.state_dict()]
    fused(_image())
    assert repr(fused) == text and [*fused.state_dict()] == keys
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    copies = [copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), torch.load(file, weights_only=False)]
    for module in copies:
        assert _runs_fused(module, _image())
        module.act = nn.GELU()
        with pytest.warns(UserWarning, match="act is a GELU"):
            assert not _runs_fused(module, _image())
    assert _runs_fused(fused, _image())
    # A shallow copy has its own layers by name, and the layers themselves in common.
    shallow = copy.copy(fused)
    fused.conv1.padding_mode = "reflect"
    oracle.conv1.padding_mode = "reflect"
    for module in (fused, shallow):
        with pytest.warns(UserWarning, match="conv1 has padding_mode"):
            assert not _runs_fused(module, _image())


def test_replicas_of_data_parallel() -> None:
    # As torch.nn.parallel.replicate makes them, which wants GPUs: parameters become attributes.
    fused, oracle = _pair()
    fused.eval()(_image())
    modules = [*fused.modules()]
    replicas = [module._replicate_for_data_parallel() for module in modules]
    for module, replica in zip(modules, replicas, strict=True):
        for name, child in module.named_children():
            setattr(replica, name, replicas[modules.index(child)])
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.detach() * 2)
    for parameter in oracle.eval().parameters():
        parameter.data *= 2
    assert _runs_fused(replicas[0], _image())
    # Rounding of float64.
    torch.testing.assert_close(replicas[0](_image()), oracle(_image()), rtol=1e-11, atol=1e-11)
    assert _runs_fused(fused, _image())


def test_other_weights_are_noticed() -> None:
    fused, oracle = _pair()
    fused(_image()), oracle(_image())
    state = {name: value + 0.25 for name, value in fused.state_dict().items() if value.is_floating_point()}
    for module in (fused, oracle):
        module.load_state_dict(state, strict=False)
    parameters = {name: p.detach() / 2 for name, p in fused.named_parameters()}
    got, expected = (torch.func.functional_call(m, parameters, _image()) for m in (fused, oracle))
    # Rounding of float64.
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)
    _assert_same(_steps(fused, _image()), _steps(oracle, _image()))
    assert _runs_fused(fused.float(), _image().float())
    assert _runs_fused(fused.double(), _image())


def test_other_running_statistics_are_noticed() -> None:
    fused, _ = _pair()
    assert _runs_fused(fused, _image())
    fused.norm1.running_var = fused.norm1.running_var.float()
    with pytest.warns(UserWarning, match=r"norm1\.running_var is torch\.float32"):
        assert not composition.Check.fused(fused._check, fused, _image())


def test_the_whole_module_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every later call costs microseconds, whatever training does to the values.
    fused, _ = _pair()
    calls: list[nn.Module] = []
    look = composition.unfused_reason
    monkeypatch.setattr(composition, "unfused_reason", lambda module: calls.append(module) or look(module))
    _steps(fused, _image())
    fused.load_state_dict(fused.state_dict())
    _steps(fused, _image())
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        fused(_image())
    assert len(calls) == 1


@pytest.mark.parametrize(
    "register",
    [
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
        nn.modules.module.register_module_full_backward_pre_hook,
    ],
)
def test_hooks_of_all_modules(register: Callable[..., Any]) -> None:
    fused, _ = _pair()
    assert _runs_fused(fused, _image())
    seen: list[nn.Module] = []
    hook = register(lambda module, *args: seen.append(module))
    try:
        with pytest.warns(UserWarning, match="a global module (forward|backward)"):
            fused(_image().requires_grad_()).sum().backward()
    finally:
        hook.remove()
    assert {id(module) for module in seen} >= {id(m) for m in fused.modules() if not isinstance(m, nn.ModuleList)}
    assert _runs_fused(fused, _image())
    # One that only watches which module is at work.
    with FlopCounterMode(display=False), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _runs_fused(fused, _image())


@pytest.mark.parametrize("module", [FusedResizer, reference.Resizer])
def test_a_spectral_norm_iterates_once_a_call(module: type[reference.Resizer]) -> None:
    resizer = nn.utils.parametrizations.spectral_norm(module(SIZE).conv1)
    whole = module(SIZE)
    whole.conv1 = copy.deepcopy(resizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole(torch.rand(SHAPE))
    resizer(torch.rand(SHAPE))
    # The reading of a parametrised weight is an iteration.
    for got, expected in zip(whole.conv1.buffers(), resizer.buffers(), strict=True):
        assert torch.equal(got, expected)
