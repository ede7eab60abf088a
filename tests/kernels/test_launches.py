"""How many kernels FusedResizer launches, torch's own included, and that it never waits for the device.

With the native kernels compiled for the host: benchmarks/floor/launches.py counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.floor.launches import Case, host_microseconds, launches, stubbed_kernels
from learned_resizer_cuda import FusedResizer, reference
from learned_resizer_cuda.batch_norm import _MergeOverProcesses, tracked, update_running_statistics
from learned_resizer_cuda.ops import head
from tests.helpers.calls import Calls
from tests.helpers.gloo_processes import needs_gloo

# A module's dtype, or that of autocast around a float32 module.
DTYPES = [(torch.float32, False), *((d, a) for d in (torch.bfloat16, torch.float16) for a in (False, True))]
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("dtype", "autocast"), DTYPES)
def test_native_inference(dtype: torch.dtype, autocast: bool, memory_format: torch.memory_format) -> None:
    case = Case(dtype, autocast, memory_format=memory_format)
    with case.context():
        found = launches(case.inference())
    # resample, stem, trunk_block, trunk_tail; in float32 resample, stem, 3 conv, head. Nothing of torch's.
    assert found == {"native kernels": 6 if dtype == torch.float32 else 4}


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("dtype", "autocast"), DTYPES)
def test_native_training_step(dtype: torch.dtype, autocast: bool, memory_format: torch.memory_format) -> None:
    case = Case(dtype, autocast, memory_format=memory_format)
    with case.context():
        found = launches(case.train())
    # Forward: resample, stem, 3 conv, head; 4 statistics; all running statistics. Backward: head, 3 conv, stem, and the
    # sums of each. Nothing of torch's.
    assert found == {"native kernels": (6 + 4 + 1) + 5 * 2}


def test_an_image_gradient_takes_three_launches_more() -> None:
    case = Case(torch.float32)
    case.image.requires_grad_()
    # dx of stem and resample, and autograd's sum of them.
    assert launches(case.train()) == {"native kernels": 21 + 2, "add": 1}


def test_other_numbers_of_blocks_add_their_convolutions() -> None:
    """From the second block on a block's input is a sum of features of its own, in torch's operations."""
    for num_blocks, convs in ((0, 1), (1, 3), (2, 5)):
        case = Case(torch.float32)
        case.module = FusedResizer((6, 5), num_blocks=num_blocks)
        found = launches(case.train())
        assert found["native kernels"] == 9 + 4 * convs
        assert (found.total() == found["native kernels"]) == (num_blocks < 2)


def test_in_pure_torch_a_step_is_three_ops() -> None:
    module, image = FusedResizer((6, 5), num_filters=4), torch.rand(2, 3, 12, 10)
    with Calls() as calls:
        module(image).sum().backward()
    assert [func._opname for func, _ in calls.ours] == ["resample", "resizer", "resizer_backward"]
    assert not calls.waits


def test_host_time_is_below_eager() -> None:
    """The bound is loose, for busy machines: half of eager's; the figures are in docs/kernels.md."""
    ours, eager = Case(torch.bfloat16), Case(torch.bfloat16, kind=reference.Resizer)
    with stubbed_kernels():
        inference = host_microseconds([ours.inference(), eager.inference()], 50)
    assert inference[0] < inference[1]


@needs_gloo
def test_merging_over_processes_waits_for_nothing(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mean, var = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
        with Calls() as calls:
            joint = _MergeOverProcesses.apply(mean, var, 10, dist.group.WORLD.group_name)
            torch.autograd.backward(joint[:2], [torch.ones(4), torch.ones(4)])
    finally:
        dist.destroy_process_group()
    assert not calls.waits
    assert calls.launches["allreduce_"] == 2, "one collective forward and one backward"
    # One process is its own joint batch: exact but for the unbiased variance's one rounding.
    assert torch.equal(joint[0], mean) and torch.equal(joint[1], var)
    torch.testing.assert_close(joint[2], var.detach() * (10 / 9), rtol=2**-22, atol=0)


def test_the_count_sees_waits_and_launches() -> None:
    x = torch.rand(3)
    with Calls() as calls:
        (x + 1).view(3, 1)
        float(x.sum())
        x.nonzero()
    assert calls.waits == ["_local_scalar_dense", "nonzero"]
    assert calls.launches["add"] == calls.launches["sum"] == 1 and "view" not in calls.launches


def test_a_failure_leaves_running_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one in the last stage, after every norm has seen its batch."""
    module = FusedResizer((6, 5), num_filters=4)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def fail(*args: Any) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(head, "head", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        module(torch.rand(2, 3, 12, 10))
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())


def test_norms_with_momenta_and_dtypes_of_their_own() -> None:
    """Each norm by its own rule: against torch's BatchNorm2d, module by module."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(3, momentum=m) for m in (0.1, None, 0.0, 0.1, 0.7)]
    norms[3].double()
    oracles = [nn.BatchNorm2d(3, momentum=norm.momentum) for norm in norms]
    oracles[3].double()
    for _ in range(3):
        statistics = []
        for oracle in oracles:
            x = torch.randn(4, 3, 5, 5) * 2 + 1
            oracle(x.to(oracle.weight.dtype))
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            statistics.append(torch.stack([mean, var, var * (100 / 99)]))
        update_running_statistics(tracked([*norms]), torch.stack(statistics))
    for norm, oracle in zip(norms, oracles, strict=True):
        assert norm.num_batches_tracked == oracle.num_batches_tracked == 3
        assert norm.running_var is not None and oracle.running_var is not None
        assert norm.running_var.dtype == oracle.running_var.dtype
        # Float32 statistics, a few roundings of 2^-24.
        for got, expected in zip(norm.buffers(), oracle.buffers(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
