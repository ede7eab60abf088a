"""Running statistics recomputed over given batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("timm", reason="networks need the [train] extra")

from timm.layers import BatchNormAct2d

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.batch_norm import Norm
from learned_resizer_cuda.reference import Resizer
from learned_resizer_cuda.sync_batch_norm import synchronise
from learned_resizer_cuda.train.models import BlindResizer
from learned_resizer_cuda.train.recalibrate import recalibrate

SIZES = (4, 2, 3)


def _batches(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [index + torch.rand(size, 3, 12, 10, generator=generator, dtype=dtype) for index, size in enumerate(SIZES)]


def _model(blind: bool = False, resizer: type[Resizer] = FusedResizer) -> nn.Sequential:
    torch.manual_seed(0)
    front: nn.Module = resizer(6, num_filters=4)
    if blind:
        front = BlindResizer(front, 6)
    layers = [
        front,
        nn.Conv2d(3, 4, 3),
        BatchNormAct2d(4),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.BatchNorm2d(4, momentum=None),
    ]
    model = nn.Sequential(*layers).double()
    model(torch.rand(2, 3, 12, 10, dtype=torch.float64))  # statistics to be forgotten
    return model


def _norms(model: nn.Module) -> list[Norm]:
    return [module for module in model.modules() if isinstance(module, Norm)]


def _statistics(model: nn.Module, batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Mean over the batches of each norm's means and unbiased variances, seen by hooks at what goes in.

    On a model of plain modules, with nothing of ``FusedResizer`` and its running statistics.
    """
    norms = _norms(model)
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in norms]
    for index, norm in enumerate(norms):

        def look(_: nn.Module, inputs: tuple[Tensor, ...], index: int = index) -> None:
            x = inputs[0].transpose(0, 1).flatten(1)
            seen[index].append((x.mean(1), x.var(1)))

        norm.register_forward_pre_hook(look)
    with torch.no_grad():
        for batch in batches:
            model.train()(batch)
    return [tuple(torch.stack(values).mean(0) for values in zip(*of_norm, strict=True)) for of_norm in seen]


@pytest.mark.parametrize("kind", ["fused", "blind", "synchronised", "torch's own synchronised"])
def test_statistics_are_the_mean_over_the_batches(kind: str) -> None:
    blind = kind == "blind"
    model = _model(blind)
    # `reference.Resizer` is the same function, of modules whose inputs can be seen. It is made with the same weights
    expected = _statistics(_model(blind, Resizer), _batches())
    if kind != "fused" and not blind:
        model = synchronise(model, torch.device("cuda" if kind.startswith("torch") else "cpu"))
    recalibrate(model.eval(), _batches())
    norms = _norms(model)
    assert len(norms) == len(expected) == 7
    for norm, (mean, var) in zip(norms, expected, strict=True):
        # Float64, each of the two ways with some hundred roundings, behind norms over as few as eight values
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-9, atol=1e-9)
        assert int(norm.num_batches_tracked) == len(SIZES)


@pytest.mark.parametrize("training", [True, False])
def test_the_rest_is_as_it_was(training: bool) -> None:
    model = nn.Sequential(_model(), nn.Dropout(0.5), nn.BatchNorm2d(4).double()).train(training)
    model[0][4].eval()
    model[0][4].requires_grad_(False)
    before = copy.deepcopy(model)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    recalibrate(model, _batches())
    assert torch.equal(torch.get_rng_state(), state)
    for module, former in zip(model.modules(), before.modules(), strict=True):
        assert module.training == former.training
        assert getattr(module, "momentum", 0) == getattr(former, "momentum", 0)
    for parameter, former in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, former) and parameter.grad is None
        assert parameter.requires_grad == former.requires_grad
    # The frozen one, too
    assert all(
        not torch.equal(a.running_var, b.running_var) for a, b in zip(_norms(model), _norms(before), strict=True)
    )
    # What was drawn at random is drawn again from the same state
    again = copy.deepcopy(before)
    recalibrate(again, _batches())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), again.buffers(), strict=True))


def _failing() -> Iterator[Tensor]:
    yield _batches()[0]
    raise RuntimeError("no more")


@pytest.mark.parametrize("empty", [True, False])
def test_an_error_changes_nothing(empty: bool) -> None:
    model = _model().eval()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError if empty else RuntimeError, match="batches: got none" if empty else "no more"):
        recalibrate(model, [] if empty else _failing())
    assert not any(module.training for module in model.modules())
    assert [norm.momentum for norm in _norms(model)] == [norm.momentum for norm in _norms(before)]
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_norm_without_statistics_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    recalibrate(model, _batches(torch.float32))
    assert model[0].running_mean is None and int(model[1].num_batches_tracked) == len(SIZES)


def test_a_model_without_norms_sees_no_batch() -> None:
    recalibrate(nn.Conv2d(3, 4, 3), _failing())
