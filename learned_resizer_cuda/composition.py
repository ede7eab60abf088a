"""Check whether a resizer can run fused or must run its layers.

The fused kernels support the layers that ``reference.Resizer`` is built of, and read only their parameters and
settings. A layer of another class, shape or setting, a shared layer, or one with a hook must run itself.
``unfused_reason`` inspects everything; ``Check`` caches its answer and only checks per call that nothing has changed.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from itertools import chain
from operator import attrgetter, is_
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from . import backend
from .batch_norm import Norm, Synchronised, is_batch_normed, sync_group, tracked
from .ops.transforms import transform_reason
from .ops.update_running import Tracked
from .reference import Block, Resizer
from .sync_batch_norm import SynchronisedBatchNorm2d
from .tracing import constant_while_traced

_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_Types = tuple[type[nn.Module], ...]
_CONV: _Types = (nn.Conv2d,)
_ACT: _Types = (nn.LeakyReLU,)
_NORM: _Types = (nn.BatchNorm2d, nn.SyncBatchNorm, SynchronisedBatchNorm2d)
_BLOCK: _Types = (Block,)
# Fake and functional tensors replace plain ones while torch traces.
_TENSORS = (nn.Parameter, Tensor, torch._subclasses.FakeTensor, torch._subclasses.functional_tensor.FunctionalTensor)
_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}
_GLOBAL_HOOKS = tuple(cast("Mapping[int, Any]", getattr(nn_module, f"_global{name}")) for name in _HOOKS)
# Methods that make up a layer's ``forward``; an instance attribute would override them.
_METHODS = ("forward", "_conv_forward", "_check_input_dim")


class _Layer(NamedTuple):
    """A layer of the composition and what fused kernels require of it."""

    name: str
    module: Any
    types: _Types
    # Convolutions only.
    kernel: int = 0
    bias: bool = False


def unfused_reason(module: Resizer) -> str | None:
    """Reason why fused kernels cannot replace this module's layers, or ``None``.

    Returns:
        A clause without a full stop, starting with the layer's name: ``"norm1 is a GroupNorm; the fused kernels take
        BatchNorm2d"``.
    """
    hook = _global_hook()
    if hook is not None:
        return f"a global module {hook} is registered; the fused kernels call no modules"
    blocks = getattr(module, "blocks", None)
    if type(blocks) is not nn.ModuleList:
        return f"blocks is {_a(blocks)}; the fused kernels take ModuleList"
    layers = _layers(module)
    for layer in layers:
        reason = _layer_reason(layer)
        if reason is not None:
            return reason
    weight = layers[0].module.weight
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        return "conv1.weight is not a 4-D tensor"
    n, channels = weight.shape[0], module.in_channels
    norms: list[nn.Module] = []
    for name, layer, types, kernel, bias in layers:
        if types is _CONV:
            outs = channels if name == "conv4" else n
            shape = (outs, channels if name == "conv1" else n, kernel, kernel)
            reason = _conv_reason(name, layer, shape, bias, weight)
        elif types is _NORM:
            reason = _norm_reason(name, layer, n, weight)
            if reason is None and any(layer is other for other in norms):
                reason = f"{name} is also another layer; the fused kernels take a batch normalisation each"
            norms.append(layer)
        elif types is _ACT:
            reason = _act_reason(name, layer)
        if reason is not None:
            return reason
    return None


def _layers(module: Resizer) -> list[_Layer]:
    """Layers that the composition calls, except inside blocks of another class."""
    layers = [
        _Layer("conv1", getattr(module, "conv1", None), _CONV, 7, True),
        _Layer("act", getattr(module, "act", None), _ACT),
        _Layer("conv2", getattr(module, "conv2", None), _CONV, 1, True),
        _Layer("norm1", getattr(module, "norm1", None), _NORM),
    ]
    for index, block in enumerate(module.blocks):
        name = f"blocks.{index}"
        layers.append(_Layer(name, block, _BLOCK))
        if type(block) is Block:
            layers += [
                _Layer(f"{name}.conv1", getattr(block, "conv1", None), _CONV, 3),
                _Layer(f"{name}.norm1", getattr(block, "norm1", None), _NORM),
                _Layer(f"{name}.act", getattr(block, "act", None), _ACT),
                _Layer(f"{name}.conv2", getattr(block, "conv2", None), _CONV, 3),
                _Layer(f"{name}.norm2", getattr(block, "norm2", None), _NORM),
            ]
    return [
        *layers,
        _Layer("conv3", getattr(module, "conv3", None), _CONV, 3),
        _Layer("norm2", getattr(module, "norm2", None), _NORM),
        _Layer("conv4", getattr(module, "conv4", None), _CONV, 7, True),
    ]


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def _global_hook() -> str | None:
    """Kind of global module hook that could see or change layers' results."""
    # ModuleTracker only records which module is running; FlopCounterMode uses one.
    tracker = sys.modules.get("torch.utils.module_tracker")
    for hooks, kind in zip(_GLOBAL_HOOKS, _HOOKS.values(), strict=True):
        for hook in hooks.values():
            if tracker is None or not isinstance(getattr(hook, "__self__", None), tracker.ModuleTracker):
                return kind
    return None


def _layer_reason(layer: _Layer) -> str | None:
    name, module = layer.name, layer.module
    if type(module) not in layer.types:
        return f"{name} is {_a(module)}; the fused kernels take {layer.types[0].__name__}"
    for hooks, kind in _HOOKS.items():
        if len(getattr(module, hooks)) > 0:
            return f"{name} has a {kind}; the fused kernels do not call it"
    for method in _METHODS:
        if method in module.__dict__:
            return f"{name} has a {method} of its own"
    return None


def _tensor_reason(name: str, tensor: Any, shape: tuple[int, ...], like: Tensor, half: bool = False) -> str | None:
    """Reason why the kernels do not take a tensor beside ``like``.

    ``half`` allows float32 beside a half type.
    """
    if type(tensor) not in _TENSORS:
        return f"{name} is {_a(tensor)}; the fused kernels take plain tensors"
    if tensor.layout != torch.strided or tensor.device != like.device:
        return f"{name} is a {tensor.layout} tensor on {tensor.device}, conv1.weight on {like.device}"
    if tuple(tensor.shape) != shape:
        return f"{name} has shape {tuple(tensor.shape)}; the fused kernels take {shape}"
    beside = half and tensor.dtype == torch.float32 and like.dtype in (torch.float16, torch.bfloat16)
    if tensor.dtype not in _DTYPES or not (tensor.dtype == like.dtype or beside):
        return f"{name} is {tensor.dtype}; the fused kernels take one dtype, conv1.weight's {like.dtype}"
    return None


def _conv_reason(name: str, conv: nn.Conv2d, shape: tuple[int, int, int, int], bias: bool, like: Tensor) -> str | None:
    same = shape[-1] // 2
    expected = {
        "stride": (1, 1),
        "padding": (same, same),
        "dilation": (1, 1),
        "groups": 1,
        "padding_mode": "zeros",
    }
    for setting, value in expected.items():
        if getattr(conv, setting) != value:
            return f"{name} has {setting} {getattr(conv, setting)!r}; the fused kernels take {value!r}"
    if (conv.bias is not None) != bias:
        return f"{name} has {'no' if bias else 'a'} bias"
    reason = _tensor_reason(f"{name}.weight", conv.weight, shape, like)
    return _tensor_reason(f"{name}.bias", conv.bias, shape[:1], like) if bias and reason is None else reason


def _norm_reason(name: str, norm: Any, n: int, like: Tensor) -> str | None:
    if norm.weight is None or norm.bias is None:
        return f"{name} has no affine parameters"
    if (norm.running_mean is None) != (norm.running_var is None) or (
        norm.running_mean is None and norm.num_batches_tracked is not None
    ):
        return f"{name} has a part of its running statistics only"
    if not norm.eps > 0:
        return f"{name} has eps {norm.eps}"
    names = ("weight", "bias", "running_mean", "running_var")
    for tensor in names if norm.running_mean is not None else names[:2]:
        reason = _tensor_reason(f"{name}.{tensor}", getattr(norm, tensor), (n,), like, half=True)
        if reason is not None:
            return reason
        if getattr(norm, tensor).dtype != norm.weight.dtype:
            return f"{name}.{tensor} is {getattr(norm, tensor).dtype}, its weight {norm.weight.dtype}"
    return None


def _act_reason(name: str, act: nn.LeakyReLU) -> str | None:
    slope = act.negative_slope
    # The kernels' adjoint reads the input's sign from the output.
    if type(slope) not in (float, int) or not 0 <= slope < math.inf:
        return f"{name} has negative_slope {slope!r}; the fused kernels take a finite number of at least 0"
    return None


class Structure(NamedTuple):
    """Parameters and settings of a module's layers, for the fused op."""

    parameters: list[Tensor]  # in the module's order
    norms: list[Norm]
    running: list[Tensor]  # mean and variance of each norm that uses its running statistics
    slopes: list[float]
    eps: list[float]
    batch_statistics: list[int]
    tracked: Tracked  # running statistics to update
    synchronised: bool  # whether a norm may share its statistics over processes

    def groups(self) -> str:
        """Names of the norms' process groups, as the op takes them."""
        if not self.synchronised:
            return ""
        groups = [sync_group(norm) for norm in self.norms]
        names = ["" if group is None else group.group_name for group in groups]
        return "\n".join(names) if any(names) else ""


def structure(module: Resizer) -> Structure:
    """Structure of a module that can run fused."""
    norms: list[Norm] = [module.norm1]
    slopes = [module.act.negative_slope]
    for block in cast("list[Block]", module.blocks):
        norms += [block.norm1, block.norm2]
        slopes.append(block.act.negative_slope)
    norms.append(module.norm2)
    convs = [module.conv1, module.conv2]
    parameters = [t for conv in convs for t in (conv.weight, cast(Tensor, conv.bias))]
    weights = [conv.weight for block in cast("list[Block]", module.blocks) for conv in (block.conv1, block.conv2)]
    for norm, weight in zip(norms, [*weights, module.conv3.weight, None], strict=True):
        parameters += [norm.weight, norm.bias] if weight is None else [norm.weight, norm.bias, weight]
    parameters += [module.conv4.weight, cast(Tensor, module.conv4.bias)]
    batch = [int(is_batch_normed(norm)) for norm in norms]
    return Structure(
        parameters,
        norms,
        [
            cast(Tensor, t)
            for norm, of_batch in zip(norms, batch, strict=True)
            if not of_batch
            for t in (norm.running_mean, norm.running_var)
        ],
        [float(slope) for slope in slopes],
        [float(norm.eps) for norm in norms],
        batch,
        tracked([norm for norm, of_batch in zip(norms, batch, strict=True) if of_batch]),
        any(isinstance(norm, (nn.SyncBatchNorm, Synchronised)) and norm.training for norm in norms),
    )


class Check:
    """Cached answer of ``unfused_reason`` for one module.

    It depends on dictionaries of the layers and a few properties of their parameters. Comparing these with copies takes
    microseconds, in C. A copy of the module needs its own ``Check``; a module that shares one, as a replica of
    ``DataParallel`` does, is inspected in full.
    """

    def __init__(self) -> None:
        self._snapshot: _Snapshot | None = None
        self._warned: set[str] = set()

    def fused(self, module: Resizer, image: Any) -> Structure | None:
        """The module's structure, if a call can run fused.

        Warns once of each reason that lies in the module. Transforms and traced calls are temporary reasons, without
        a warning.

        Raises:
            RuntimeError: under ``use_backend("native")`` if it cannot.
        """
        temporary = _temporary_reason(image)
        if temporary is not None:
            _announce(temporary, False)
            return None
        snapshot = self._snapshot
        if snapshot is not None and snapshot.holds(module):
            return snapshot.structure
        reason = unfused_reason(module)
        if reason is None:
            self._snapshot = _snapshot(module)
            return structure(module) if self._snapshot is None else self._snapshot.structure
        self._snapshot = None
        _announce(reason, reason not in self._warned)
        self._warned.add(reason)
        return None


def fused_while_traced(module: Resizer, image: Tensor) -> Structure | None:
    """``Check.fused`` without cache, for torch.compile and torch.export, which guard what it reads."""
    temporary = _temporary_reason(image)
    reason = temporary or unfused_reason(module)
    if reason is None:
        return structure(module)
    _announce(reason, temporary is None)
    return None


def _temporary_reason(image: Any) -> str | None:
    if isinstance(image, (list, tuple)):
        for each in image:
            reason = _temporary_reason(each)
            if reason is not None:
                return reason
        return None
    if not isinstance(image, Tensor):
        return f"the image is {_a(image)}"
    return transform_reason(image)


def _announce(reason: str, lasting: bool) -> None:
    backend.refuse_native("FusedResizer", reason)
    if lasting:
        _warn(reason)


# Warns once per graph, while it is traced.
@constant_while_traced
def _warn(reason: str) -> None:
    # Attributed to the line that called the module, six frames of ours and of nn.Module above.
    warnings.warn(
        f"FusedResizer runs as the composition of its layers, as reference.Resizer does: {reason}", stacklevel=8
    )


_dtype, _values = attrgetter("dtype"), dict.values


class _Snapshot(NamedTuple):
    """Everything that ``unfused_reason`` read in a module that can run fused."""

    root: dict[str, Any]
    types: list[type]
    layers: list[nn.Module]
    # The live dictionaries, and copies to compare them with.
    attributes: list[dict[str, Any]]
    attribute_copies: list[dict[str, Any]]
    hooks: list[Mapping[int, Any]]
    children: list[dict[str, Any]]
    child_copies: list[Any]
    tensors: list[dict[str, Any]]
    tensor_copies: list[Any]
    parameters: list[Tensor]
    dtypes: list[torch.dtype]
    sizes: list[int]
    devices: list[int]
    structure: Structure

    def holds(self, module: Resizer) -> bool:
        """Whether nothing has changed since. In doubt, False."""
        if any(_GLOBAL_HOOKS):
            return False
        try:
            return (
                module.__dict__["_modules"] is self.root
                and not any(self.hooks)
                and [*chain.from_iterable(map(_values, self.children))] == self.child_copies
                and [*map(type, self.layers)] == self.types
                # Identical values compare equal by identity, so tensors are never compared by value.
                and self.attributes == self.attribute_copies
                and _identical([*chain.from_iterable(map(_values, self.tensors))], self.tensor_copies)
                # A parameter's ``data`` may have been replaced.
                and [*map(_dtype, self.parameters)] == self.dtypes
                and [*map(Tensor.numel, self.parameters)] == self.sizes
                and [*map(Tensor.get_device, self.parameters)] == self.devices
            )
        except (RuntimeError, ValueError, TypeError):
            return False


def _identical(new: list[Any], old: list[Any]) -> bool:
    return len(new) == len(old) and all(map(is_, new, old))


def _snapshot(module: Resizer) -> _Snapshot | None:
    layers = [layer.module for layer in _layers(module)]
    containers = [module, module.blocks, *module.blocks]
    tensors = [group for m in layers for group in (m._parameters, m._buffers) if group]
    parameters = [p for m in layers for p in m._parameters.values() if p is not None]
    read = [t for m in layers for t in (getattr(m, "weight", None), getattr(m, "bias", None)) if t is not None]
    if not _identical(parameters, read):
        # In a replica of DataParallel the parameters are plain attributes.
        return None
    attributes = [vars(m) for m in (module.blocks, *layers)]
    return _Snapshot(
        root=vars(module)["_modules"],
        types=[*map(type, layers)],
        layers=layers,
        attributes=attributes,
        attribute_copies=[*map(dict, attributes)],
        hooks=[getattr(m, name) for m in layers for name in _HOOKS],
        children=[m._modules for m in containers],
        child_copies=[child for m in containers for child in m._modules.values()],
        tensors=tensors,
        tensor_copies=[tensor for group in tensors for tensor in group.values()],
        parameters=parameters,
        dtypes=[*map(_dtype, parameters)],
        sizes=[*map(Tensor.numel, parameters)],
        devices=[*map(Tensor.get_device, parameters)],
        structure=structure(module),
    )
