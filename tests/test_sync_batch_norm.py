"""Batch norm over processes on a CPU: two gloo processes against one with the joint batch."""

from __future__ import annotations

import copy
import multiprocessing
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.gloo_processes import needs_gloo, run_processes

pytest.importorskip("timm", reason="networks need the [train] extra")

import timm
from timm.layers import BatchNormAct2d, SyncBatchNormAct

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.batch_norm import Norm
from learned_resizer_cuda.sync_batch_norm import (
    SynchronisedBatchNorm2d,
    SynchronisedBatchNormAct2d,
    synchronise,
)

WORLD = 2
STEPS = 2
CPU = torch.device("cpu")
BATCHES = {"equal batches": (2, 2), "unequal batches": (1, 3), "an empty batch": (4, 0)}


def _joint_model() -> nn.Module:
    torch.manual_seed(0)
    # Norms of timm with and without activation, and squeeze-and-excitation
    network = timm.create_model("test_efficientnet", num_classes=3)
    return nn.Sequential(FusedResizer(16, num_filters=4), network).double()


def _data(batch: int) -> tuple[Tensor, Tensor]:
    """Images and labels; images differ in brightness, so that processes' statistics differ."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(batch, 3, 24, 20, generator=generator, dtype=torch.float64)
    return images + torch.arange(batch).view(-1, 1, 1, 1), torch.arange(batch) % 3


def _train(run: nn.Module, model: nn.Module, images: Tensor, labels: Tensor, joint: int) -> list[dict[str, Tensor]]:
    """Loss, logits, gradients and buffers of every step of plain gradient descent."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4)
    steps = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        logits = run(images)
        # This process's share of the joint batch's mean; DDP averages over processes
        world = dist.get_world_size() if dist.is_initialized() else 1
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / joint
        (loss * world).backward()
        step = {"loss": loss.detach(), "logits": logits.detach()}
        step |= {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        step |= {name: buffer.clone() for name, buffer in model.named_buffers()}
        steps.append(step)
        optimiser.step()
    return steps


NORM_CASES = {
    "2d": (nn.BatchNorm2d(3), (3, 4)),
    "1d": (nn.BatchNorm1d(3), ()),
    "3d": (nn.BatchNorm3d(3), (2, 1, 2)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (3, 4)),
    "not affine": (nn.BatchNorm2d(3, affine=False), (3, 4)),
    "not tracked": (nn.BatchNorm2d(3, track_running_stats=False), (3, 4)),
}


def _norm_steps(norm: nn.Module, shape: tuple[int, ...], own: slice, dtype: torch.dtype) -> list[Tensor]:
    """Output, gradient and buffers of two steps in training, and an output in evaluation where that is one's own."""
    results: list[Tensor] = []
    norm.to(dtype if dtype == torch.float64 else torch.float32)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        x, grad = (100 + torch.randn(4, 3, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
        x = x.to(dtype)[own].requires_grad_()
        out = norm(x)
        assert out.dtype == dtype
        out.backward(grad[own].to(dtype))
        assert x.grad is not None
        results += [out.detach(), x.grad]
    results += [buffer.clone() for buffer in norm.buffers()]
    if norm.track_running_stats:
        results.append(norm.eval()(x.detach()))
    return results


def _train_all_cases(rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, batches in BATCHES.items():
        model = synchronise(_joint_model(), CPU)
        images, labels = _data(sum(batches))
        own = slice(sum(batches[:rank]), sum(batches[: rank + 1]))
        run = DistributedDataParallel(model)
        results[name] = _train(run, model, images[own], labels[own], sum(batches))
    for name, (norm, shape) in NORM_CASES.items():
        own = slice(0, 1) if rank == 0 else slice(1, 4)
        results[name] = _norm_steps(synchronise(norm, CPU), shape, own, torch.float64)
    half = synchronise(nn.BatchNorm2d(3), CPU)
    results["bfloat16"] = _norm_steps(half, (3, 4), own, torch.bfloat16)
    return results


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    # One interpreter imports timm for all, and no thread of this one is copied
    multiprocessing.set_forkserver_preload(["timm", "torch.distributed"])
    return run_processes(_train_all_cases, tmp_path_factory.mktemp("sync"), WORLD, "forkserver")


@needs_gloo
@pytest.mark.parametrize("case", BATCHES)
def test_two_processes_train_as_one(case: str, processes: list[dict[str, Any]]) -> None:
    batches = BATCHES[case]
    model = _joint_model()
    joint = _train(model, model, *_data(sum(batches)), joint=sum(batches))
    ours = [process[case] for process in processes]
    names = [name for name, _ in model.named_parameters()]
    # A dozen norms in a row, over as few as four values, magnify roundings: one of 2^-53 in each pixel moves the joint
    # run itself by up to 2.1e-9 (the largest of 20 random signs). Here sums over the batch are in another order.
    close = {"rtol": 1e-8, "atol": 1e-8}
    for expected, *got in zip(joint, *ours, strict=True):
        assert set(got[0]) == set(expected) and set(names) <= set(expected)
        torch.testing.assert_close(got[0]["loss"] + got[1]["loss"], expected["loss"], **close)
        torch.testing.assert_close(torch.cat([got[0]["logits"], got[1]["logits"]]), expected["logits"], **close)
        for name in expected.keys() - {"loss", "logits"}:
            for process in got:
                torch.testing.assert_close(process[name], expected[name], **close, msg=lambda m, n=name: f"{n}: {m}")
            assert torch.equal(got[0][name], got[1][name]), name
    assert float(joint[0]["loss"]) != pytest.approx(float(joint[-1]["loss"]), rel=1e-3)


@needs_gloo
@pytest.mark.parametrize("case", [*NORM_CASES, "bfloat16"])
def test_a_norm_of_every_kind(case: str, processes: list[dict[str, Any]]) -> None:
    dtype = torch.bfloat16 if case == "bfloat16" else torch.float64
    norm, shape = NORM_CASES.get(case, (nn.BatchNorm2d(3), (3, 4)))
    joint = _norm_steps(copy.deepcopy(norm), shape, slice(None), dtype)
    # float64: a mean of 100 costs the variance 2 of 16 digits, and a backward of differences some more. bfloat16: the
    # last of its 8 bits, of values up to 4, either way
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2**-7, "atol": 2**-5}
    of_images = [0, 1, 2, 3] + ([len(joint) - 1] if norm.track_running_stats else [])
    for index, expected in enumerate(joint):
        got = [process[case][index] for process in processes]
        if index in of_images:
            torch.testing.assert_close(torch.cat(got), expected, **close)
        else:
            assert torch.equal(got[0], got[1])
            torch.testing.assert_close(got[0], expected, **close)


def _net() -> nn.Module:
    torch.manual_seed(0)
    act = BatchNormAct2d(4, eps=1e-3, momentum=0.3, act_layer=nn.PReLU, drop_layer=lambda: nn.Dropout(0.5))
    frozen = nn.BatchNorm2d(4).eval()
    frozen.requires_grad_(False)
    bare = nn.BatchNorm2d(4, affine=False, momentum=None)
    return nn.Sequential(nn.Conv2d(3, 4, 3), act, frozen, bare, FusedResizer(6, in_channels=4, num_filters=2))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_everything_of_a_norm_stays(device: str) -> None:
    net = _net()
    net(torch.rand(2, 3, 8, 8))
    before = copy.deepcopy(net)
    parameters = dict(net.named_parameters())
    converted = synchronise(net, torch.device(device))
    assert converted is net
    assert list(net.state_dict()) == list(before.state_dict())
    for name, value in before.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    assert all(parameters[name] is parameter for name, parameter in net.named_parameters())
    norms = [m for m in net.modules() if isinstance(m, Norm)]
    kinds = (
        (nn.SyncBatchNorm, SyncBatchNormAct)
        if device == "cuda"
        else (SynchronisedBatchNorm2d, SynchronisedBatchNormAct2d)
    )
    assert {type(norm) for norm in norms} == set(kinds)
    for norm, former in zip(norms, (m for m in before.modules() if isinstance(m, Norm)), strict=True):
        for name in ("training", "momentum", "eps", "affine", "track_running_stats", "num_features"):
            assert getattr(norm, name) == getattr(former, name)
        assert [p.requires_grad for p in norm.parameters()] == [p.requires_grad for p in former.parameters()]


def test_one_process_is_the_plain_norm() -> None:
    net, image = _net(), torch.rand(2, 3, 8, 8)
    plain = copy.deepcopy(net)
    synchronise(net, CPU)
    for training in (True, False):
        outs = []
        for model in (net.train(training), plain.train(training)):
            torch.manual_seed(3)  # of the dropout
            outs.append(model(image))
        assert torch.equal(*outs)
    for name, value in plain.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_a_second_time_changes_nothing() -> None:
    net = synchronise(_net(), CPU)
    kinds = [type(m) for m in net.modules()]
    assert [type(m) for m in synchronise(net, CPU).modules()] == kinds
    assert type(synchronise(nn.BatchNorm2d(2), CPU)) is SynchronisedBatchNorm2d
    # torch's own conversion would lose the activation of one of them
    with pytest.raises(TypeError, match="SynchronisedBatchNormAct2d"):
        synchronise(net, torch.device("cuda"))


def test_an_unknown_norm_is_refused() -> None:
    class Scaled(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    net = nn.Sequential(nn.BatchNorm2d(2), Scaled(2))
    for device in ("cpu", "cuda"):
        with pytest.raises(TypeError, match=r"Scaled; expected"):
            synchronise(net, torch.device(device))
    assert type(net[0]) is nn.BatchNorm2d


def test_wrong_channels_are_named() -> None:
    norm = synchronise(nn.BatchNorm2d(3), CPU)
    with pytest.raises(ValueError, match=r"got shape \(2, 4, 5, 5\); expected \(B, 3, \.\.\.\)"):
        norm(torch.rand(2, 4, 5, 5))
