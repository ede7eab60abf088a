"""SyncBatchNorm in FusedResizer: two gloo processes against one process with the joint batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.batch_norm import Norm, sync_group
from tests.helpers.gloo_processes import needs_gloo, run_processes

pytestmark = needs_gloo

WORLD = 2
STEPS = 2

# Images of each process, and what is special about the module.
CASES: dict[str, tuple[tuple[int, int], str]] = {
    "equal batches": ((2, 2), ""),
    "unequal batches": ((1, 3), ""),
    "an empty batch": ((3, 0), ""),
    "mean of all batches": ((1, 2), "momentum"),
    "a frozen norm": ((1, 2), "frozen"),
}


def _module(variant: str, dtype: torch.dtype) -> FusedResizer:
    torch.manual_seed(0)
    module = FusedResizer((6, 5), num_filters=4, num_blocks=2).to(dtype)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            if variant == "momentum":
                norm.momentum = None
    if variant == "frozen":
        module.norm1.eval()
    return module


def _data(batch: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Images and output gradients of each step; processes' batches are told apart by their brightness."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    for _ in range(STEPS):
        image = torch.rand(batch, 3, 12, 10, generator=generator, dtype=dtype)
        image += torch.arange(batch).view(-1, 1, 1, 1)
        steps.append((image, torch.randn(batch, 3, 6, 5, generator=generator, dtype=dtype)))
    return steps


def _train(run: Any, module: nn.Module, data: list[tuple[Tensor, Tensor]]) -> list[dict[str, Tensor]]:
    """Output, gradients and buffers of every step. The weights stay: each step's gradients are of the same ones."""
    results = []
    for image, grad in data:
        module.zero_grad()
        image = image.clone().requires_grad_()
        out = run(image)
        (out * grad).sum().backward()
        assert image.grad is not None
        step = {"out": out.detach(), "image": image.grad} | {k: b.clone() for k, b in module.named_buffers()}
        step |= {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        assert len([name for name, _ in module.named_parameters() if name in step]) == len(list(module.parameters()))
        results.append(step)
    return results


def _work(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for dtype in (torch.float64, torch.float32):
        for name, (batches, variant) in CASES.items():
            module = _module(variant, dtype)
            # Wrapped first, because DDP refuses a SyncBatchNorm on a CPU; the converted norms keep the parameters.
            wrapped = DistributedDataParallel(module)
            nn.SyncBatchNorm.convert_sync_batchnorm(module)
            assert type(module.norm2) is nn.SyncBatchNorm and module.norm1.training == (variant != "frozen")
            first = sum(batches[:rank])
            own = [
                (image[first : first + batches[rank]], grad[first : first + batches[rank]])
                for image, grad in _data(sum(batches), dtype)
            ]
            results[f"{name}, {dtype}"] = _train(wrapped, module, own)

    alone = [dist.new_group([member]) for member in range(WORLD)][rank]
    image, grad = _data(2 * WORLD, torch.float64)[0]
    own = [(image[2 * rank : 2 * rank + 2], grad[2 * rank : 2 * rank + 2])]
    module = nn.SyncBatchNorm.convert_sync_batchnorm(_module("", torch.float64), alone)
    results["alone"] = _train(module, module, own)
    if rank == 0:
        # One process only: a collective would wait for ever.
        results["eval"] = module.eval()(own[0][0]).detach()
        assert all(sync_group(norm) is None for norm in module.modules() if isinstance(norm, Norm))
    return results


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_processes(_work, tmp_path_factory.mktemp("ddp"), WORLD)


def _assert_close(got: Tensor, expected: Tensor, largest: float, dtype: torch.dtype, what: str) -> None:
    assert got.shape == expected.shape, what
    # Sums over the batch in another order, and per process: some hundred roundings of 2^-53 or 2^-24, where a
    # gradient cancels in proportion to the largest of them.
    relative = 1e-10 if dtype == torch.float64 else 1e-5
    difference = float((got - expected).double().norm())
    assert difference <= relative * (float(expected.double().norm()) + largest), (what, difference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_processes_together_are_one_with_the_joint_batch(
    case: str, dtype: torch.dtype, processes: list[dict[str, Any]]
) -> None:
    batches, variant = CASES[case]
    module = _module(variant, dtype)
    joint = _train(module, module, _data(sum(batches), dtype))
    for step, expected in enumerate(joint):
        largest = max(
            float(p.double().norm()) for name, p in expected.items() if name in dict(module.named_parameters())
        )
        for rank, images in enumerate(expected["out"].split(list(batches))):
            got = processes[rank][f"{case}, {dtype}"][step]
            _assert_close(got["out"], images, 0, dtype, f"out of process {rank}")
            _assert_close(got["image"], expected["image"].split(list(batches))[rank], 0, dtype, "image")
            for name, _ in module.named_parameters():
                # DDP averages over the processes; the joint loss is their sum.
                _assert_close(got[name] * WORLD, expected[name], largest, dtype, name)
            for name, _ in module.named_buffers():
                _assert_close(got[name], expected[name], 0, dtype, name)


@pytest.mark.parametrize("case", CASES)
def test_processes_keep_the_same_statistics(case: str, processes: list[dict[str, Any]]) -> None:
    names = [name for name, _ in _module("", torch.float32).named_buffers()]
    for first, second in zip(*(process[f"{case}, torch.float32"] for process in processes), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in names)


def test_a_group_of_one_works_alone(processes: list[dict[str, Any]]) -> None:
    image, grad = _data(2 * WORLD, torch.float64)[0]
    for rank, process in enumerate(processes):
        module = _module("", torch.float64)
        own = slice(2 * rank, 2 * rank + 2)
        (expected,) = _train(module, module, [(image[own], grad[own])])
        (got,) = process["alone"]
        largest = max(float(value.double().norm()) for value in expected.values())
        # The processes have a thread each, so their sums run in another order than this one's.
        for name, value in expected.items():
            _assert_close(got[name], value, largest, torch.float64, name)
        if rank == 0:
            _assert_close(process["eval"], module.eval()(image[own]).detach(), 0, torch.float64, "eval")
