"""How many kernels FusedResizer launches around its ops, and that it never waits for the device.

Counted on a CPU, above the ops: each ATen call that is not a view, and each op of this package, once. On a GPU a
foreach call on short vectors is a launch, and an op of this package one or a few of its own, which this does not see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.batch_norm import BatchStatistics, _MergeOverProcesses, update_running_statistics
from learned_resizer_cuda.kernels import native, reduce
from learned_resizer_cuda.ops import OPS
from tests.helpers.calls import Calls
from tests.helpers.gloo_processes import needs_gloo
from tests.helpers.native_host import native_ops_on_host


def _report(what: str, calls: Calls) -> int:
    total = calls.launches.total()
    print(f"{what}: {total} launches: {', '.join(f'{n} {name}' for name, n in calls.launches.most_common())}")
    return total


def _resizer(**arguments: Any) -> FusedResizer:
    torch.manual_seed(0)
    return FusedResizer((6, 5), num_filters=4, **arguments)


def test_inference() -> None:
    module, image = _resizer().eval(), torch.rand(2, 3, 12, 10)
    with torch.no_grad(), Calls() as calls:
        module(image)
    # resample, stem, 3 conv and head; the scale and shift of 4 norms.
    assert _report("inference", calls) <= 6 + 4
    assert not calls.waits


@pytest.mark.parametrize("momentum", [0.1, None])
def test_training_step(momentum: float | None) -> None:
    module, image = _resizer(), torch.rand(2, 3, 12, 10)
    grad = torch.rand(2, 3, 6, 5)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = momentum
    with Calls() as forward:
        out = module(image)
    with Calls() as backward:
        out.backward(grad)
    # As at inference, and 3 foreach calls for all running statistics; a mean of all batches has a weight of its own
    # for each norm, 1 / n, and two vectors moved by it.
    running = 3 if momentum is not None else 2 + 4 * 3
    assert _report("forward", forward) <= 6 + 4 + running
    # The ops' 5, one for each norm's scale and shift, and 2 sums for each of the first feature's three tensors, which
    # three ops use.
    assert _report("backward", backward) <= 5 + 4 + 3 * 2
    assert not forward.waits and not backward.waits


class _CountedModule:
    """The native module, its launches counted."""

    def __init__(self, module: Any, seen: Counter[str]) -> None:
        self._module, self._seen = module, seen

    def __getattr__(self, name: str) -> Any:
        if name.removesuffix("_backward") in (*OPS, "trunk_block", "trunk_tail"):
            self._seen[f"kernel {name}"] += 1
        return getattr(self._module, name)


def _native_launches(step: Callable[[], object]) -> Counter[str]:
    """Everything that a step launches on a GPU, what the native launchers do inside an op included."""
    inside, seen = Calls(), Counter[str]()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            seen[f"kernel {name}"] += 1
            # Its replacement on the host takes several calls; the Triton kernel is one.
            with _disable_current_modes():
                return function(*args)

        return call

    with native_ops_on_host(lambda: inside), pytest.MonkeyPatch.context() as patch, Calls() as around:
        module = _CountedModule(native.load(), seen)
        patch.setattr(native, "load", lambda: module)
        for name in ("merge_statistics", "sum_rows"):
            patch.setattr(reduce, name, counted(name, getattr(reduce, name)))
        step()
    assert not inside.waits and not around.waits
    ours = {f"{op}{end}" for op in (*OPS, "trunk_block", "trunk_tail") for end in ("", "_backward")}
    outside = Counter({name: n for name, n in around.launches.items() if name not in ours})
    return outside + inside.launches + seen


def test_native_inference() -> None:
    module, image = _native_resizer().eval(), torch.rand(1, 3, 12, 10)
    with torch.no_grad():
        module(image)  # tables are made and put on the device once
        launches = _native_launches(lambda: module(image))
    print(f"native inference: {launches.total()} launches: {dict(launches)}")
    # resample, stem, 4 affine, 3 conv, head. (In a 16-bit dtype on a GPU: resample, stem, trunk_block, trunk_tail.)
    assert launches.total() == 10


def test_native_training_step() -> None:
    module, image, grad = _native_resizer(), torch.rand(1, 3, 12, 10), torch.rand(1, 3, 9, 7)
    module(image).backward(grad)
    module.zero_grad()
    outputs: list[torch.Tensor] = []
    forward = _native_launches(lambda: outputs.append(module(image)))
    backward = _native_launches(lambda: outputs[0].backward(grad))
    print(f"native forward: {forward.total()} launches: {dict(forward)}")
    print(f"native backward: {backward.total()} launches: {dict(backward)}")
    # As above, the statistics of stem and 3 conv merged, 3 foreach calls for the running statistics.
    assert forward.total() == 10 + 4 + 3
    # 9 kernels. Each of the 5 with weights: sums of the blocks' rows, and taking them apart; the skip's shift once more
    # for head and the last conv. The first feature's gradients from its 3 uses, 2 sums for each of 3 tensors.
    assert backward.total() == 9 + 5 * 2 + 2 + 6


def _native_resizer() -> FusedResizer:
    torch.manual_seed(0)
    return FusedResizer((9, 7))


@needs_gloo
def test_merging_over_processes_waits_for_nothing(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        mean, var = torch.rand(4, requires_grad=True), torch.rand(4, requires_grad=True)
        with Calls() as calls:
            joint = _MergeOverProcesses.apply(mean, var, 10, dist.group.WORLD)
            torch.autograd.backward(joint[:2], [torch.ones(4), torch.ones(4)])
    finally:
        dist.destroy_process_group()
    assert not calls.waits
    assert calls.launches["allreduce_"] == 2, "one collective forward and one backward"
    # One process is its own joint batch: exact but for the unbiased variance's one rounding.
    assert torch.equal(joint[0], mean) and torch.equal(joint[1], var)
    torch.testing.assert_close(joint[2], var.detach() * (10 / 9), rtol=2**-22, atol=0)


def test_running_statistics_take_the_same_few_calls_for_any_depth() -> None:
    counts = []
    for num_blocks in (1, 4):
        with Calls() as calls:
            _resizer(num_blocks=num_blocks)(torch.rand(2, 3, 12, 10))
        counts.append(Counter({name: n for name, n in calls.launches.items() if name.startswith("_foreach")}))
    assert counts[0] == counts[1] == {"_foreach_add_": 1, "_foreach_mul": 1, "_foreach_lerp_": 1}


def test_the_count_sees_waits_and_launches() -> None:
    x = torch.rand(3)
    with Calls() as calls:
        (x + 1).view(3, 1)
        float(x.sum())
        x.nonzero()
    assert calls.waits == ["_local_scalar_dense", "nonzero"]
    assert calls.launches["add"] == calls.launches["sum"] == 1 and "view" not in calls.launches


def test_a_failure_leaves_running_statistics_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one in the last op, after every norm has seen its batch."""
    module = _resizer()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def fail(*args: Any) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.ops.learned_resizer, "head", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        module(torch.rand(2, 3, 12, 10))
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())


def test_norms_with_momenta_and_dtypes_of_their_own() -> None:
    """One foreach call for each momentum, each norm by its own rule: against torch's BatchNorm2d, module by module."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(3, momentum=m) for m in (0.1, None, 0.0, 0.1, 0.7)]
    norms[3].double()
    oracles = [nn.BatchNorm2d(3, momentum=norm.momentum) for norm in norms]
    oracles[3].double()
    for _ in range(3):
        batch_statistics = []
        for norm, oracle in zip(norms, oracles, strict=True):
            x = torch.randn(4, 3, 5, 5) * 2 + 1
            oracle(x.to(oracle.weight.dtype))
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            batch_statistics.append(BatchStatistics(norm, mean, var, 100 / 99))
        update_running_statistics(batch_statistics)
    for norm, oracle in zip(norms, oracles, strict=True):
        assert norm.num_batches_tracked == oracle.num_batches_tracked == 3
        assert norm.running_var is not None and oracle.running_var is not None
        assert norm.running_var.dtype == oracle.running_var.dtype
        # Float32 statistics, a few roundings of 2^-24.
        for got, expected in zip(norm.buffers(), oracle.buffers(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
