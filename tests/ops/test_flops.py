"""FlopCounterMode counts what the ops compute: forward as the plain layers, backward with the stem's recomputation."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from learned_resizer_cuda import FusedResizer, reference, resize


def _count(run: Any) -> tuple[int, dict[str, int]]:
    """Total, and of each op of this package that ran."""
    with FlopCounterMode(display=False) as counter:
        run()
    ops = {str(op): flop for op, flop in counter.get_flop_counts().get("Global", {}).items()}
    prefix = "learned_resizer."
    return counter.get_total_flops(), {k.removeprefix(prefix): v for k, v in ops.items() if k.startswith(prefix)}


def test_paper_figure() -> None:
    resizer, image = FusedResizer(224).eval(), torch.rand(1, 3, 448, 448)
    with torch.no_grad():
        total, _ = _count(lambda: resizer(image))
    # 2 per multiply-add; the paper's figure is truncated to a MFLOP.
    assert total // 10**6 == 1976


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("n", "r", "channels"), [(16, 1, 3), (4, 0, 1), (8, 3, 5), (5, 2, 4)])
def test_forward_counts_as_the_reference(n: int, r: int, channels: int, training: bool) -> None:
    arguments: dict[str, Any] = {"num_filters": n, "num_blocks": r, "in_channels": channels}
    fused, plain = (cls((9, 6), **arguments).train(training) for cls in (FusedResizer, reference.Resizer))
    image = torch.rand(2, channels, 12, 14)
    with torch.no_grad():
        expected, _ = _count(lambda: plain(image))
        total, _ = _count(lambda: fused(image))
    assert total == expected > 0


@pytest.mark.parametrize("image_grad", [False, True])
def test_training_step(image_grad: bool) -> None:
    """Forward and backward by hand, for two images of 12x14 pixels made 9x6."""
    n, r, channels, at_input, at_output = 8, 2, 3, 2 * 12 * 14, 2 * 9 * 6
    resizer = FusedResizer((9, 6), num_filters=n, num_blocks=r)
    image = torch.rand(2, channels, 12, 14, requires_grad=image_grad)
    total, got = _count(lambda: resizer(image).sum().backward())
    first, pointwise = 2 * 49 * channels * n * at_input, 2 * n * n * at_input
    middle, last = 2 * 9 * n * n * at_output * (2 * r + 1), 2 * 49 * n * channels * at_output
    # The stem's features again; gradients of both weights and between the convolutions; and of the image where it is
    # wanted.
    stem = (first + pointwise) + (first + 2 * pointwise) + (first if image_grad else 0)
    expected = {
        "resample": 0,
        "resizer": first + pointwise + middle + last,
        "resizer_backward": stem + 2 * middle + 2 * last,
    }
    if image_grad:
        expected["resample_backward"] = 0
    assert got == expected
    assert total == sum(expected.values())


def test_a_list_counts_its_images() -> None:
    fused, plain = FusedResizer(7, num_filters=4), reference.Resizer(7, num_filters=4)
    images = [torch.rand(3, 9, 14), torch.rand(3, 11, 5)]
    assert _count(lambda: fused(images))[0] == _count(lambda: plain(images))[0] > 0

    def backward(*wanted: bool) -> int:
        given = [image.clone().requires_grad_(flag) for image, flag in zip(images, wanted, strict=True)]
        return _count(lambda: fused(given).sum().backward())[1]["resizer_backward"]

    # dx of an image is one 7x7 convolution of its size.
    assert backward(False, True) - backward(False, False) == 2 * 49 * 3 * 4 * 11 * 5


def test_resampling_counts_nothing_as_in_torch() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert _count(lambda: resize(image, 5)) == (0, {"resample": 0})
    assert _count(lambda: torch.nn.functional.interpolate(image, 5, mode="bilinear"))[0] == 0


def test_every_op_has_a_formula() -> None:
    names = {
        name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if name.startswith("learned_resizer::")
    }
    assert names == {str(op).removeprefix("learned_resizer.") for op in flop_registry if "learned_resizer" in str(op)}


_SCRIPT = """
import sys, types
{imports}
resizer, image = learned_resizer_cuda.FusedResizer(5, num_filters=2).eval(), torch.rand(1, 3, 8, 8)
with FlopCounterMode(display=False) as counter:
    resizer(image)
assert counter.get_total_flops() > 0
assert type(torch.utils) is types.ModuleType
"""
_COUNTER = "from torch.utils.flop_counter import FlopCounterMode"
_MINE = "torch.utils.mine = 1"  # another attribute, which is none of the hook's business
_UNLOADED = "assert 'torch.utils.flop_counter' not in sys.modules and 'triton' not in sys.modules"


@pytest.mark.parametrize(
    "imports",
    [
        f"import torch; {_COUNTER}; import learned_resizer_cuda",
        f"import torch, learned_resizer_cuda; {_UNLOADED}; {_MINE}; {_COUNTER}; assert torch.utils.mine == 1",
    ],
    ids=["counter first", "counter last"],
)
def test_formulas_are_there_whichever_is_imported_first(imports: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT.format(imports=imports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
