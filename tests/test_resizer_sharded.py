"""Resizers whose parameters are sharded or are DTensors: two gloo processes against the module as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_module, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from learned_resizer_cuda import FusedResizer, reference
from tests.helpers.calls import Calls
from tests.helpers.gloo_processes import needs_gloo, run_processes

pytestmark = needs_gloo

WORLD = 2


def _convolutions(module: Any, mesh: Any) -> nn.Module:
    for layer in [*module.modules()]:
        if isinstance(layer, nn.Conv2d):
            fully_shard(layer, mesh=mesh)
    return module


def _whole(module: Any, mesh: Any) -> nn.Module:
    return fully_shard(module, mesh=mesh)


def _both(module: Any, mesh: Any) -> nn.Module:
    return _whole(_convolutions(module, mesh), mesh)


def _blocks(module: Any, mesh: Any) -> nn.Module:
    for block in module.blocks:
        fully_shard(block, mesh=mesh)
    return _whole(module, mesh)


def _ddp(module: Any, mesh: Any) -> nn.Module:
    return DistributedDataParallel(module)


def _dtensors(module: Any, mesh: Any) -> nn.Module:
    return distribute_module(module, mesh)


# How to distribute a module, whether it is in training mode, and what the warning says if it runs as the composition.
CASES: dict[str, tuple[Callable[[Any, Any], nn.Module], bool, str | None]] = {
    "every convolution": (_convolutions, True, "conv1 is a FSDPConv2d"),
    "every convolution, eval": (_convolutions, False, "conv1 is a FSDPConv2d"),
    "the whole": (_whole, True, None),
    "the whole, eval": (_whole, False, None),
    "convolutions and the whole": (_both, True, "conv1 is a FSDPConv2d"),
    "blocks and the whole": (_blocks, True, "blocks.0 is a FSDPBlock"),
    "DistributedDataParallel": (_ddp, True, None),
    # torch before 2.14 has no rule for a LeakyReLU of DTensors.
    **({"DTensors": (_dtensors, False, None)} if torch.__version__ >= (2, 14) else {}),
}


def _module(kind: type[reference.Resizer]) -> Any:
    torch.manual_seed(0)
    return kind((5, 4), num_filters=2, num_blocks=2).double()


def _image() -> Tensor:
    return torch.randn(2, 3, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _whole_tensor(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def _steps(run: Any, module: nn.Module, image: Tensor) -> list[dict[str, Tensor]]:
    """Outputs and gradients of two training steps."""
    optimizer, results = torch.optim.SGD(module.parameters(), 1e-3), []
    for _ in range(2):
        optimizer.zero_grad()
        out = run(image)
        out.square().sum().backward()
        grads = {name: _whole_tensor(p.grad) for name, p in module.named_parameters() if p.grad is not None}
        results.append({"out": _whole_tensor(out)} | grads)
        optimizer.step()
    return results


def _work(rank: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (WORLD,))
    results: dict[str, Any] = {}
    for kind in (FusedResizer, reference.Resizer):
        for name, (distribute, training, _) in CASES.items():
            module = _module(kind).train(training)
            run = distribute(module, mesh)
            # All processes have the same images: the mean of their gradients is each one's own.
            image = distribute_tensor(_image(), mesh) if distribute is _dtensors else _image()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                steps = _steps(run, module, image)
            said = [str(w.message) for w in caught if "FusedResizer" in str(w.message)]
            with Calls() as calls:
                run(image)
            fused = any(func is torch.ops.learned_resizer.resizer.default for func, _ in calls.ours)
            results[f"{kind.__name__}, {name}"] = steps, said, fused
    return results


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(_work, tmp_path_factory.mktemp("sharded"), WORLD)


@pytest.mark.parametrize("kind", [FusedResizer, reference.Resizer])
@pytest.mark.parametrize("name", CASES)
def test_distributed_is_the_module_as_it_is(
    name: str, kind: type[reference.Resizer], processes: list[dict[str, Any]]
) -> None:
    _, training, reason = CASES[name]
    module = _module(reference.Resizer).train(training)
    expected = _steps(module, module, _image())
    for process in processes:
        steps, said, fused = process[f"{kind.__name__}, {name}"]
        for got, step in zip(steps, expected, strict=True):
            assert got.keys() == step.keys()
            largest = max(float(value.norm()) for value in step.values())
            for key, value in step.items():
                # float64: hundreds of roundings of 1e-16, of the largest where sums cancel (a bias before a norm).
                assert float((got[key] - value).norm()) <= 1e-11 * (float(value.norm()) + largest), key
        if kind is FusedResizer:
            assert fused == (reason is None and name != "DTensors")
            assert len(said) == (reason is not None) and all(reason in text for text in said), said
