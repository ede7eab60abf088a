"""FLOP formulas of the ops, for ``torch.utils.flop_counter.FlopCounterMode``.

They count as torch does: 2 per multiply-add of a convolution, nothing for its bias. A forward op counts as much as the
layers of ``reference.Resizer`` that it replaces; resampling, normalisation and activation count 0, as
``F.interpolate`` does. ``resizer_backward`` includes the features that it recomputes.

``FlopCounterMode`` copies torch's table when created, and the file with the table imports triton: 0.1 s that
``import learned_resizer_cuda`` saves. The formulas are registered when that file is imported.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from .library import packed

_COUNTER = "torch.utils.flop_counter"

# FlopCounterMode passes shapes instead of tensors.
Shape = Sequence[int]


def _conv_flop(image: Shape, weight: Shape) -> int:
    """FLOPs of a convolution that keeps its input's height and width.

    Input ``(B, C, H, W)``, weight ``(F, C, k, k)``.
    """
    return 2 * image[0] * prod(image[2:]) * prod(weight)


def _sizes(a: Any, out: Shape) -> tuple[int, int, int]:
    """FLOPs of the stem's two convolutions, and of all at output resolution.

    Boxes are values, which shapes do not have: an image counts as a whole.
    """
    parameters = a.layers.parameters
    features = (out[0], parameters[0][0], *out[2:])
    convs = [_conv_flop(features, weight) for weight in parameters[6:] if len(weight) == 4]
    stem = [sum(_conv_flop((1, *image)[-4:], parameters[i]) for image in a.images) for i in (0, 2)]
    return stem[0], stem[1], sum(convs)


def _resizer(a: Any) -> int:
    return sum(_sizes(a, a.base))


def _resizer_backward(a: Any) -> int:
    # The stem's features again; then dW1, da and dW0, and dx of the images that want it.
    first, second, rest = _sizes(a, a.grad)
    wanted = [image for image, flag in zip(a.images, a.image_grads, strict=True) if flag]
    dx = _sizes(a._replace(images=wanted), a.grad)[0]
    return first + second + 2 * second + first + dx + 2 * rest


def _none(a: Any) -> int:
    return 0


# Of the tuple of an op's arguments.
FORMULAS: dict[str, Callable[[Any], int]] = {
    "resample": _none,
    "resample_backward": _none,
    "resample_batch": _none,
    "resample_batch_backward": _none,
    "resample_fixed": _none,
    "resizer": _resizer,
    "resizer_backward": _resizer_backward,
    "update_running": _none,
}


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for name, formula in FORMULAS.items():
        register_flop_formula(getattr(torch.ops.learned_resizer, name))(_of_shapes(packed(name, formula)))


def _of_shapes(formula: Callable[..., int]) -> Callable[..., int]:
    return lambda *args, **_: formula(*args)


class _UntilCounterIsImported(types.ModuleType):
    """Class of ``torch.utils`` until Python binds its submodule ``flop_counter``.

    Python binds it after importing it, and has no hook for "after the import of". This is the least invasive
    substitute: no other import is affected, and afterwards everything is as before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "flop_counter":
            self.__class__ = types.ModuleType  # type: ignore[assignment]
            _register()


def register() -> None:
    """Register the formulas with torch's counter, now or on its import.

    Call it once the ops are defined.
    """
    if _COUNTER in sys.modules or type(torch.utils) is not types.ModuleType:
        _register()
    else:
        torch.utils.__class__ = _UntilCounterIsImported
