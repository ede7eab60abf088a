"""Registration of ops: their choice of a backend, and their flat arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learned_resizer_cuda import FusedResizer, resize, resize_batch, use_backend
from learned_resizer_cuda.ops.library import DEFINED, packed
from learned_resizer_cuda.ops.resizer import Layers, Resizer
from tests.helpers.calls import Calls


def _calls() -> list[tuple[Any, tuple[Any, ...]]]:
    """A call of every op that has an implementation in pure torch."""
    torch.manual_seed(0)
    module = FusedResizer((6, 5))
    with Calls(keep_arguments=True) as calls:
        module(torch.rand(2, 3, 12, 10, requires_grad=True)).sum().backward()
        resize(torch.zeros(1, 5, 5, dtype=torch.uint8), 3, parity="pillow")
        resize_batch([torch.rand(1, 5, 5, requires_grad=True)], 3).sum().backward()
    return calls.ours


def test_every_op_chooses_by_its_own_tensors() -> None:
    calls = {func._opname: (func, args) for func, args in _calls()}
    # The module asks before it calls that one, which is native only.
    assert calls.keys() | {"update_running"} == DEFINED.keys()
    for name, (func, args) in calls.items():
        first = args[0][0] if isinstance(args[0], list) else args[0]
        message = f"{name} cannot run natively on a {first.dtype} tensor on cpu: native"
        with use_backend("native"), torch.no_grad(), pytest.raises(RuntimeError, match=message):
            func(*args)


def test_flat_arguments_are_packed_into_groups() -> None:
    """In the order of the schema, which is made from the same fields; those at the end may be left out."""
    names = [argument.name for argument in torch.ops.learned_resizer.resizer.default._schema.arguments]
    images = ("images", "boxes", "flip", "base")
    expected = Resizer(*images, Layers(*Layers._fields), *Resizer._fields[5:])  # type: ignore[arg-type]
    assert packed("resizer", lambda a: a)(*names) == expected
    assert packed("resizer", lambda a: a)(*names[:-2]) == expected._replace(image_mean=None, image_std=None)


def test_what_an_op_writes_is_in_its_schema() -> None:
    arguments = torch.ops.learned_resizer.update_running.default._schema.arguments
    written = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}
    assert written == {"means", "variances", "batches"}
