"""The stage ``head`` on a CPU: its convolutions."""

from __future__ import annotations

import pytest
import torch

from learned_resizer_cuda.ops import head
from tests.helpers.calls import Calls
from tests.helpers.convolutions import DTYPES, Case, arguments, some, staged, worst, wrong


def narrow() -> list[Case]:
    """Every kind of case that has been wrong on some processor."""
    cases = []
    # float32, few pixels in a row; bfloat16, up to 4 pixels in a row.
    for dtype in DTYPES:
        for width in range(1, 7):
            for channels, filters in ((3, 1), (1, 1), (3, 16), (4, 2), (6, 5)):
                for height in (4, 20):
                    cases.append(Case("head", dtype, 2, channels, filters, height, width))
    # bfloat16, 6 to 8 channels with 8 or 12 filters.
    cases += [
        Case("head", dtype, 2, channels, filters, 32, 32)
        for dtype in DTYPES[:2]
        for channels in (6, 7, 8)
        for filters in (8, 12)
    ]
    return cases


def test_narrow_maps() -> None:
    cases = narrow()
    bad = wrong(cases)
    assert not bad, f"{len(bad)} of {len(cases)} wrong; of those: {bad[:5]}"


def test_convolutions_of_random_shapes() -> None:
    """oneDNN's code for every shape, dtype and layout is right (tests/helpers/convolutions.py)."""
    assert not wrong(some("head"))


def _convolutions(calls: Calls) -> list[tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]]:
    """Dtype, kernel size and stride of every convolution."""
    found = []
    for func, args in calls.all:
        if func is torch.ops.aten.convolution.default:
            _, weight, _, stride, *_ = args
        elif func is torch.ops.aten.convolution_backward.default:
            _, _, weight, _, stride, *_ = args
        else:
            continue
        found.append((weight.dtype, tuple(weight.shape[2:]), tuple(stride)))
    return found


@pytest.mark.parametrize("features", [(), ("avx512_bf16",), ("avx512_bf16", "amx_tile")], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_calls_only_what_is_known_to_be_right(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, features: tuple[str, ...]
) -> None:
    monkeypatch.setattr(head, "_has", lambda feature: feature in features)
    for channels in range(1, 18):
        case = Case("head", dtype, 2, channels, 5, 6, 11)
        with Calls(keep_arguments=True) as calls:
            staged("head", arguments(case))
        forward, *backward = _convolutions(calls)
        assert len(backward) == 2
        for used, kernel, stride in (forward, *backward):
            assert stride == (1, 1) and kernel in ((7, 3), (7, 5), (7, 7))
            # In bfloat16 with AMX, which has been wrong most often, the plain kernel only.
            assert kernel == (7, 7) or used == torch.float32 or "amx_tile" not in features
        half = dtype == torch.bfloat16 and "avx512_bf16" in features
        assert forward[0] == (dtype if half else torch.float32)
        assert worst(case) <= 1, case
