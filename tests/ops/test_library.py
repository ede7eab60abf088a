"""The choice of a backend for CUDA tensors, which no CPU call of an op reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learned_resizer_cuda import FusedResizer, use_backend
from learned_resizer_cuda.ops.library import DEFINED, packed
from tests.helpers.calls import Calls


def _calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """A call of every op."""
    torch.manual_seed(0)
    module = FusedResizer((6, 5))
    with Calls(keep_arguments=True) as calls:
        module(torch.rand(2, 3, 12, 10, requires_grad=True)).sum().backward()
        with torch.no_grad():
            module.eval()._trunk(torch.rand(2, 16, 6, 5), torch.rand(2, 3, 6, 5))
    return calls.ours


def test_every_op_chooses_by_its_own_tensors() -> None:
    calls = {func._opname: args for func, args in _calls()}
    assert calls.keys() == DEFINED.keys()
    for name, args in calls.items():
        given = packed(name, lambda a: a)(*args)
        assert DEFINED[name].choose(name, given) == "torch"
        said = "trunk" if name.startswith("trunk") else name
        with (
            use_backend("native"),
            pytest.raises(RuntimeError, match=f"{said} cannot run natively on a torch.float32 tensor on cpu: native"),
        ):
            DEFINED[name].choose(name, given)
