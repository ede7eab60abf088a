"""Export of decomposed ops and ONNX models to runtimes without this package.

``torch.export`` traces ``resize`` and ``FusedResizer`` into programs with ``torch.ops.learned_resizer.*``. Decompose
these ops to run such a program without this package::

    program = torch.export.export(network.eval(), (image,))
    program = program.run_decompositions(decompositions())      # plain ATen: convolutions and matrix products

``torch.onnx.export(network, (image,), dynamo=True)`` of a module needs no decomposition: during it, ``resize`` and
``FusedResizer`` call no ops of this package. ``to_onnx`` writes a model in one call.

The resampling becomes a product with a dense matrix per axis, computed in the graph from the image's height and width.
If these are fixed, the matrix is a constant that exporter or runtime folds; if they are dynamic, one model takes images
of any size. Feature maps at input resolution exist again: only this package fuses them away.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .atomic import atomic_bytes
from .ops import affine, stem, trunk
from .ops.band_matmul import is_channels_last
from .ops.conv import Conv
from .ops.dense import resample_dense
from .ops.head import Head
from .ops.library import packed
from .ops.prologue import Prologue
from .ops.resample import Resample
from .ops.statistics import accumulation_dtype
from .ops.stem import Stem
from .ops.trunk import TrunkBlock, TrunkTail

Decomposition = Callable[..., Any]

_PROTOBUF_LIMIT = 3 << 29
"""Bytes of weights above which a model may exceed protobuf's 2 GiB; torch's own limit."""


def decompositions() -> dict[torch._ops.OperatorBase, Decomposition]:
    """Forward ops of this package in plain ATen, for ``ExportedProgram.run_decompositions``.

    Returns:
        A new dict from op to function. Alone it leaves every other op unchanged; to decompose those too, add it to a
        table: ``table = torch.export.default_decompositions(); table.update(decompositions())``.

    The functions compute the same as the ops, in the same dtypes, for fixed and symbolic sizes. Results differ by
    rounding, and where ``resample`` of float32 on a CPU uses torch's kernel, by that kernel's rounded coordinates
    (``docs/math.md``, 1.6). There are no backward ops: export for inference, in eval mode.
    """
    ops = torch.ops.learned_resizer
    functions: dict[str, Callable[[Any], Any]] = {
        "resample": _resample,
        "stem": _stem,
        "affine": affine.affine_formula,
        "conv": _conv,
        "head": _head,
        "trunk_block": _trunk_block,
        "trunk_tail": _trunk_tail,
    }
    return {getattr(ops, name).default: packed(name, function) for name, function in functions.items()}


def to_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    image: Tensor,
    *,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
) -> torch.onnx.ONNXProgram:
    """Write a network with resizers as an ONNX model of standard operators.

    Args:
        module: containing ``FusedResizer``, ``Resize`` or ``resize``; in eval mode; called with the image alone.
        path: of the ``.onnx`` file, written atomically. It contains the weights; above 1.5 GiB torch puts them into a
            second file beside it.
        image: ``(B, C, H, W)``, an example in the module's dtype and on its device.
        dynamic_batch: accept any number of images, not only B.
        dynamic_size: accept images of any height and width, not only H and W. The model then computes its resampling
            matrices itself, in float32 and int64 (float64 for a float64 image or an explicit ``scale_factor``). Layers
            after the resizer always see one size; a network that also reads the image itself must accept any size.

    Returns:
        The result of ``torch.onnx.export``. The model's input is ``image``, its dynamic axes are ``batch``, ``height``
        and ``width``.

    Raises:
        TypeError, ValueError: for unsuitable arguments, naming what was expected.
        ImportError: onnx or onnxscript is not installed; both come with the extra ``test``.
        Exception: from ``torch.export.export``, for instance if the network fixes an axis declared dynamic.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: got {type(module).__name__}; expected a torch.nn.Module")
    if any(m.training for m in module.modules()):
        raise ValueError("module: got a module in training mode; expected eval mode (module.eval())")
    if not isinstance(image, Tensor) or image.dim() != 4:
        got = f"shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"image: got {got}; expected a torch.Tensor (B, C, H, W)")
    names = {0: "batch"} if dynamic_batch else {}
    if dynamic_size:
        names |= {2: "height", 3: "width"}
    # torch.export treats a length of 1 as constant.
    image = image.repeat([2 if axis in names and length == 1 else 1 for axis, length in enumerate(image.shape)])
    dynamic = (dict.fromkeys(names, torch.export.Dim.DYNAMIC),) if names else None
    # Traced without gradients on a GPU, the program contains the trunk's ops, which decompose too.
    with torch.no_grad():
        program = torch.export.export(module, (image,), dynamic_shapes=dynamic).run_decompositions(decompositions())
        onnx = torch.onnx.export(
            program, dynamo=True, input_names=["image"], dynamic_shapes=(names,) if names else None, verbose=False
        )
    if onnx is None:
        raise RuntimeError("torch.onnx.export returned no program")
    if sum(value.nbytes for value in module.state_dict().values()) < _PROTOBUF_LIMIT:
        atomic_bytes(os.fspath(path), onnx.model_proto.SerializeToString())
    else:
        onnx.save(path)
    return onnx


def _laid_out(out: Tensor, like: Tensor) -> Tensor:
    """``out`` in ``like``'s dtype and memory format.

    The op's result has these, and later views were traced for them.
    """
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return out.to(like.dtype).contiguous(memory_format=layout)


def _resample(a: Resample) -> Tensor:
    out = resample_dense(a.image, *a.sampling)
    if a.image.dtype == torch.uint8:
        out = torch.clamp(torch.floor(out + 0.5), 0, 255)
    return _laid_out(out, a.image)


def _moments(features: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    if not wanted:
        return features.new_zeros(0), features.new_zeros(0)
    var, mean = torch.var_mean(features, (0, 2, 3), correction=0)
    return mean, var


def _stem(a: Stem) -> tuple[Tensor, Tensor, Tensor]:
    w0, b0, w1, b1 = a.weights
    height, width, interpolation, antialias, negative_slope, statistics = a.options
    image = stem.normalised(a.image, a.dtype, a.image_mean, a.image_std)
    dtype = accumulation_dtype(a.dtype)
    first = F.leaky_relu(F.conv2d(image, w0, b0, padding=3), negative_slope).to(dtype)
    c = F.leaky_relu(F.conv2d(first, w1.to(dtype), b1.to(dtype)), negative_slope)
    z = resample_dense(c, height, width, None, None, interpolation, antialias)
    return z.to(a.dtype), *_moments(c, statistics)


def _prologue(p: Prologue) -> Tensor:
    def normed(features: Tensor, scale: Tensor) -> Tensor:
        return features.to(p.dtype) * scale.to(p.dtype).view(1, -1, 1, 1)

    v = normed(p.input, p.scale) + p.shift.to(p.dtype).view(1, -1, 1, 1)
    if p.skip is not None and p.skip_scale is not None and p.skip_shift is not None:
        v = v + normed(p.skip, p.skip_scale) + p.skip_shift.to(p.dtype).view(1, -1, 1, 1)
    return v if p.negative_slope == 1 else F.leaky_relu(v, p.negative_slope)


def _conv(a: Conv) -> tuple[Tensor, Tensor, Tensor]:
    p, weight, statistics = a
    raw = F.conv2d(_prologue(p).to(weight.dtype), weight, padding=1)
    return raw.to(p.input.dtype), *_moments(raw.to(p.dtype), statistics)


def _head(a: Head) -> Tensor:
    p, weight, bias, base = a
    y = F.conv2d(_prologue(p).to(weight.dtype), weight, bias.to(weight.dtype), padding=3)
    return _laid_out(base + y, base)


def _trunk_block(a: TrunkBlock) -> Tensor:
    return trunk.block_formula(a).to(a.start.input.dtype)


def _trunk_tail(a: TrunkTail) -> Tensor:
    return _laid_out(trunk.tail_formula(a), a.base)
