"""The op ``conv`` on a CPU: its convolutions, and its schema."""

from __future__ import annotations

import torch

from learned_resizer_cuda.ops.conv import Conv, ConvBackward
from learned_resizer_cuda.ops.library import packed
from learned_resizer_cuda.ops.prologue import Prologue
from tests.helpers.convolutions import some, wrong


def test_convolutions_of_random_shapes() -> None:
    """oneDNN's code is right for these shapes, dtypes and layouts."""
    assert not wrong(some("conv"))


def test_flat_arguments_are_packed_into_groups() -> None:
    """In the order of the schema, which is made from the same fields."""
    names = [argument.name for argument in torch.ops.learned_resizer.conv_backward.default._schema.arguments]
    forward = Conv(Prologue(*Prologue._fields), "weight", "statistics")  # type: ignore[arg-type]
    expected = ConvBackward("grad_raw", "grad_mean", "grad_var", "raw", "mean", forward)  # type: ignore[arg-type]
    assert packed("conv_backward", lambda a: a)(*names) == expected
