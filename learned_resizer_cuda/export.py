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
from .ops.band_matmul import is_channels_last
from .ops.dense import resample_dense
from .ops.library import packed
from .ops.prologue import GivenNorm
from .ops.resample import Resample, rounded
from .ops.resample_batch import ResampleBatch
from .ops.resample_fixed import ResampleFixed, resample_fixed_dense
from .ops.resizer import Resizer
from .ops.statistics import accumulation_dtype
from .ops.stem import normalise, normalised

__all__ = ["decompositions", "to_onnx"]

Decomposition = Callable[..., Any]

_PROTOBUF_LIMIT = 3 << 29
"""Bytes of weights above which a model may exceed protobuf's 2 GiB; torch's own limit."""


def decompositions() -> dict[torch._ops.OperatorBase, Decomposition]:
    """Forward ops of this package in plain ATen, for ``ExportedProgram.run_decompositions``.

    The functions compute the same as the ops, in the same dtypes, for fixed and symbolic sizes. Results differ by
    rounding, and where ``resample`` of float32 on a CPU uses torch's kernel, by that kernel's rounded coordinates
    (``docs/math.md``, 1.6). There are no backward ops: export for inference, in eval mode.

    Returns:
        A new dict from op to function. Alone it leaves every other op unchanged; to decompose those too, add it to a
        table: ``table = torch.export.default_decompositions(); table.update(decompositions())``.

    Examples:
        >>> import torch
        >>> from learned_resizer_cuda import Resize, export
        >>> images = torch.rand(2, 3, 24, 32)
        >>> program = torch.export.export(Resize(16, interpolation="lanczos"), (images,))
        >>> [node.name for node in program.graph.nodes if "learned_resizer" in str(node.target)]
        ['resample']
        >>> program = program.run_decompositions(export.decompositions())
        >>> [node.name for node in program.graph.nodes if "learned_resizer" in str(node.target)]
        []
        >>> program.module()(images).shape
        torch.Size([2, 3, 16, 16])
    """
    ops = torch.ops.learned_resizer
    functions: dict[str, Callable[[Any], Any]] = {
        "resample": _resample,
        "resample_batch": _resample_batch,
        "resample_fixed": _resample_fixed,
        "resizer": _resizer,
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
            matrices itself, in float32 and int64 (float64 for a float64 image, an explicit ``scale_factor``, ``"box"``
            or Pillow's arithmetic). Layers after the resizer always see one size; a network that also reads the image
            itself must accept any size.

    Returns:
        The result of ``torch.onnx.export``. The model's input is ``image``, its dynamic axes are ``batch``, ``height``
        and ``width``.

    Raises:
        TypeError, ValueError: for unsuitable arguments, naming what was expected.
        ImportError: onnx or onnxscript is not installed; both come with the extra ``test``.
        Exception: from ``torch.export.export``, for instance if the network fixes an axis declared dynamic.

    Examples:
        A model that takes images of any size, run without PyTorch:

        >>> import numpy as np
        >>> import onnxruntime
        >>> import torch
        >>> from learned_resizer_cuda import FusedResizer, export
        >>> resizer = FusedResizer(16, num_filters=4, num_blocks=0).eval()
        >>> program = export.to_onnx(resizer, "resizer.onnx", torch.rand(1, 3, 32, 32), dynamic_size=True)
        >>> session = onnxruntime.InferenceSession("resizer.onnx")
        >>> (small,) = session.run(None, {"image": np.zeros((5, 3, 40, 24), np.float32)})
        >>> small.shape
        (5, 3, 16, 16)
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


def _resample_fixed(a: ResampleFixed) -> Tensor:
    return _laid_out(resample_fixed_dense(*a), a.image)


def _resample_batch(a: ResampleBatch) -> Tensor:
    _refuse_regions("resample_batch", a.boxes, a.flip)
    height, width, *filter_ = a.sampling
    images = [image if image.dim() == 4 else image.unsqueeze(0) for image in a.images]
    wide = accumulation_dtype(a.dtype)
    out = torch.cat([resample_dense(image.to(wide), height, width, None, None, *filter_) for image in images])
    if a.mean:
        mean, std = (torch.tensor(v, dtype=out.dtype, device=out.device) for v in (a.mean, a.std))
        out = normalise(out, out.dtype, mean, std)
    layout = torch.channels_last if all(map(is_channels_last, a.images)) else torch.contiguous_format
    return rounded(out, a.dtype).to(a.dtype).contiguous(memory_format=layout)


def _refuse_regions(op: str, boxes: Tensor | None, flip: Tensor | None) -> None:
    if boxes is not None or flip is not None:
        raise NotImplementedError(
            f"{op}: got boxes or flip; expected whole images: a program without this package cannot read their values"
        )


def _resizer(a: Resizer) -> tuple[Tensor, Tensor, Tensor]:
    layers, dtype = a.layers, accumulation_dtype(a.dtype)
    parameters, running = layers.parameters, iter(layers.running)
    statistics: list[Tensor] = []

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """In the dtype of the features."""
        bias = None if bias is None else bias.to(a.dtype)
        return F.conv2d(x.to(a.dtype), weight.to(a.dtype), bias, padding=weight.shape[2] // 2).to(dtype)

    def folded(index: int, *features: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of a norm, from the features that it follows."""
        if layers.batch_statistics[index]:
            pixels = torch.cat([x.transpose(0, 1).flatten(1) for x in features], 1)
            var, mean = torch.var_mean(pixels, 1, correction=0)
            count = pixels.shape[1]
            statistics.append(torch.stack([mean, var, var * (count / max(count - 1, 1))]))
        else:
            mean, var = next(running), next(running)
        weight, bias = parameters[4 + 3 * index : 6 + 3 * index]
        scale, shift = GivenNorm(mean, var, weight, bias, layers.eps[index]).fold(dtype)
        return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)

    def normed_conv(index: int, x: Tensor) -> Tensor:
        """3×3 convolution, counted from 1, and its norm."""
        raw = conv(x, parameters[3 + 3 * index]).to(a.dtype).to(dtype)
        scale, shift = folded(index, raw)
        return raw * scale + shift

    _refuse_regions("resizer", a.boxes, a.flip)
    w0, b0, w1, b1 = parameters[:4]

    def stem(image: Tensor) -> Tensor:
        image = normalised(image, a.dtype, a.image_mean, a.image_std)
        first = F.leaky_relu(conv(image, w0, b0), layers.slopes[0])
        return F.leaky_relu(F.conv2d(first, w1.to(dtype), b1.to(dtype)), layers.slopes[0])

    cs = [stem(image if image.dim() == 4 else image.unsqueeze(0)) for image in a.images]
    # As fused: the norm, whose statistics are those of c, commutes with the resampling.
    scale, shift = folded(0, *cs)
    sampling = (*a.base.shape[2:], None, None, layers.interpolation, layers.antialias)
    z = torch.cat([resample_dense(c, *sampling) for c in cs])
    f = y = z.to(a.dtype).to(dtype) * scale + shift
    for block, slope in enumerate(layers.slopes[1:]):
        y = y + normed_conv(2 * block + 2, F.leaky_relu(normed_conv(2 * block + 1, y), slope))
    y = normed_conv(2 * len(layers.slopes) - 1, y) + f
    out = _laid_out(a.base + conv(y, *parameters[-2:]), a.base)
    kept = torch.stack(statistics) if statistics else a.base.new_empty((0, 3, len(w0)), dtype=dtype)
    return out, a.base.new_empty(0, dtype=a.dtype), kept
