"""Exported programs saved to a file and loaded again, here and in another process: the numbers of eager."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from learned_resizer_cuda import FusedResizer

_CASES = [(training, strict) for training in (False, True) for strict in (False, True)]

# A process that knows the ops and the file: loads, runs, and keeps output and running statistics.
_SCRIPT = """
import sys, torch, learned_resizer_cuda
image = torch.load(sys.argv[1])
for path in sys.argv[2:]:
    module = torch.export.load(path).module()
    with torch.no_grad():
        out = module(image)
    torch.save([out, dict(module.named_buffers())], path + ".out")
"""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(FusedResizer((6, 5), num_filters=4), nn.Conv2d(3, 2, 3))


def _kept(out: Tensor, buffers: dict[str, Tensor], training: bool) -> list[object]:
    """What is compared. In evaluation a program may leave out what it does not use: the counts of batches."""
    return [out, {k: v for k, v in buffers.items() if training or not k.endswith("num_batches_tracked")}]


def _run(module: nn.Module, training: bool, image: Tensor) -> list[object]:
    with torch.no_grad():
        out = module(image)
    return _kept(out, dict(module.named_buffers()), training)


def _save(training: bool, strict: bool, path: Path, image: Tensor) -> None:
    module = _network().train(training)
    before = copy.deepcopy(dict(module.named_buffers()))
    program = torch.export.export(module, (image,), strict=strict)
    torch.testing.assert_close(dict(module.named_buffers()), before, rtol=0, atol=0)
    torch.export.save(program, path)


def test_saved_programs_compute_what_eager_does(tmp_path: Path) -> None:
    image = torch.rand(2, 3, 12, 10)
    torch.save(image, tmp_path / "image.pt")
    paths = {case: tmp_path / f"{case[0]}-{case[1]}.pt2" for case in _CASES}
    # The same ops, called with the same arguments; but before 2.14 torch writes out the running statistics' update in
    # other operations, which round once more.
    rounding = 0 if torch.__version__ >= (2, 14) else 2**-23
    for (training, strict), path in paths.items():
        _save(training, strict, path, image)
        loaded, eager = torch.export.load(path).module(), _network().train(training)
        torch.testing.assert_close(_run(loaded, training, image), _run(eager, training, image), rtol=rounding, atol=0)
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, *map(str, [tmp_path / "image.pt", *paths.values()])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for (training, _), path in paths.items():
        expected = _run(_network().train(training), training, image)
        torch.testing.assert_close(_kept(*torch.load(f"{path}.out"), training), expected, rtol=rounding, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_a_loaded_program(training: bool, tmp_path: Path) -> None:
    image, module = torch.rand(2, 3, 12, 10), _network().train(training)
    path = tmp_path / "program.pt2"
    _save(training, False, path, image)
    loaded = torch.export.load(path).module()
    for run in (module, loaded):
        run(image).square().sum().backward()
    for (name, got), expected in zip(loaded.named_parameters(), module.parameters(), strict=True):
        assert got.grad is not None, name
        torch.testing.assert_close(got.grad, expected.grad, rtol=0, atol=0)
