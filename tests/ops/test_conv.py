"""The stage ``conv`` on a CPU: its convolutions."""

from __future__ import annotations

from tests.helpers.convolutions import some, wrong


def test_convolutions_of_random_shapes() -> None:
    """oneDNN's code is right for these shapes, dtypes and layouts."""
    assert not wrong(some("conv"))
