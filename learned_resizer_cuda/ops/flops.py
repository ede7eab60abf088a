"""FLOP formulas of the ops, for ``torch.utils.flop_counter.FlopCounterMode``.

They count what torch counts: convolutions, 2 for a multiply-add, their bias not. A forward counts as much as the
layers of ``reference.Resizer`` that it stands for; resampling, normalisation and activation count 0, as
``F.interpolate`` does. ``stem_backward`` counts the features that it computes again.

``FlopCounterMode`` copies torch's table as it is made, and the file that holds the table imports triton: 0.1 s, which
``import learned_resizer_cuda`` does not spend. The formulas are registered as that file is imported.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"

# FlopCounterMode hands shapes in the place of tensors.
Shape = Sequence[int]


def _conv_flop(image: Shape, weight: Shape) -> int:
    """Of a convolution ``(F, C, k, k)`` that keeps the height and width of its input ``(B, C, H, W)``."""
    return 2 * image[0] * prod(image[2:]) * prod(weight)


def _stem(image: Shape, w0: Shape, b0: Shape, w1: Shape, *_: Any, **__: Any) -> int:
    return _conv_flop(image, w0) + _conv_flop(image, w1)


def _stem_backward(*args: Any, **_: Any) -> int:
    image, w0, _, w1 = args[3:7]
    image_grad = args[15]
    # a and c again; then dW1, da and dW0, and dx where it is wanted.
    return _stem(*args[3:7]) + 2 * _conv_flop(image, w1) + (2 if image_grad else 1) * _conv_flop(image, w0)


def _conv(*args: Any, **_: Any) -> int:
    return _conv_flop(args[0], args[7])


def _conv_backward(*args: Any, **_: Any) -> int:
    return 2 * _conv(*args[5:])


def _head_backward(*args: Any, **_: Any) -> int:
    return 2 * _conv(*args[1:])


def _trunk_block(*args: Any, **_: Any) -> int:
    return _conv_flop(args[0], args[12]) + _conv_flop(args[0], args[19])


def _trunk_tail(*args: Any, **_: Any) -> int:
    return _conv_flop(args[0], args[12]) + _conv_flop(args[0], args[18])


def _none(*_: Any, **__: Any) -> int:
    return 0


FORMULAS: dict[str, Callable[..., int]] = {
    "resample": _none,
    "resample_backward": _none,
    "stem": _stem,
    "stem_backward": _stem_backward,
    "affine": _none,
    "affine_backward": _none,
    "conv": _conv,
    "conv_backward": _conv_backward,
    "head": _conv,
    "head_backward": _head_backward,
    "trunk_block": _trunk_block,
    "trunk_tail": _trunk_tail,
}


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for name, formula in FORMULAS.items():
        register_flop_formula(getattr(torch.ops.learned_resizer, name))(formula)


class _UntilCounterIsImported(types.ModuleType):
    """The class of ``torch.utils`` until Python binds the module ``flop_counter`` there, as it does after importing it.

    Python has no hook for "after the import of". Of what serves as one this touches least: no other import takes
    another way, and afterwards all is as it was.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "flop_counter":
            self.__class__ = types.ModuleType  # type: ignore[assignment]
            _register()


def register() -> None:
    """Give torch's counter the formulas: now where it is loaded, else as it is. For when the ops are defined."""
    if _COUNTER in sys.modules or type(torch.utils) is not types.ModuleType:
        _register()
    else:
        torch.utils.__class__ = _UntilCounterIsImported
