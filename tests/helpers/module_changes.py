"""Changes that people make to a resizer, each with the layer that makes it run as the composition, if one does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torch.nn.utils.parametrize as parametrize
import torchvision
from timm.layers import BatchNormAct2d
from timm.utils import freeze
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from learned_resizer_cuda.reference import Block, Resizer
from learned_resizer_cuda.sync_batch_norm import synchronise

N = 2  # num_filters of the modules that are changed

Change = Callable[[Any], object]


class _LayerNorm2d(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 1.5


class _BatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input


class _Block(Block):
    def forward(self, z: Tensor) -> Tensor:
        return 0.5 * super().forward(z)


class _LoRA(nn.Module):
    """A frozen convolution with a trained low-rank one beside it, as peft wraps layers."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Conv2d(base.in_channels, 1, base.kernel_size, padding=base.padding, bias=False)
        self.up = nn.Conv2d(1, base.out_channels, 1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return self.base(input) + self.up(self.down(input))


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class _Marked(Tensor):
    """A tensor subclass that computes as any tensor."""


def _set(path: str, make: Callable[[], nn.Module]) -> Change:
    """Replace a layer, by its path."""

    def change(module: Resizer) -> None:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make())

    return change


def _attribute(path: str, name: str, value: Any) -> Change:
    return lambda module: setattr(module.get_submodule(path), name, value)


def _conv(*args: Any, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(*args, **settings)


def _fuse(module: Resizer) -> None:
    for block in module.blocks:
        block.conv1 = fuse_conv_bn_eval(block.conv1.eval(), block.norm1.eval())
        block.norm1 = nn.Identity()


def _crop_weight(module: Resizer) -> None:
    module.conv1.weight.data = module.conv1.weight.data[..., 1:-1, 1:-1].clone()


def _own_forward(module: Resizer) -> None:
    forward = module.conv1.forward
    module.conv1.forward = lambda input: forward(input) * 2


def _seamless(module: Resizer) -> None:
    # The way to seamless textures that image generators are patched by.
    def conv_forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.pad(input, (1, 1, 1, 1), mode="circular"), weight, bias)

    module.conv3._conv_forward = conv_forward


def _lora(module: Resizer) -> None:
    module.blocks[1].conv2 = _LoRA(module.blocks[1].conv2)


def _new_weight(module: Resizer) -> None:
    module.conv3.weight = nn.Parameter(torch.randn_like(module.conv3.weight))


def _tie(module: Resizer) -> None:
    module.conv3.weight = module.blocks[0].conv2.weight


def _computed_weight(module: Resizer) -> None:
    weight = module.conv2.weight.detach() * 2
    del module.conv2.weight
    module.conv2.weight = weight


def _marked_weight(module: Resizer) -> None:
    module.conv3.weight = nn.Parameter(module.conv3.weight.detach().as_subclass(_Marked))


def _parametrised_and_back(module: Resizer) -> None:
    parametrize.register_parametrization(module.conv4, "weight", _Doubled())
    parametrize.remove_parametrizations(module.conv4, "weight")


def _pruned_for_good(module: Resizer) -> None:
    prune.remove(prune.l1_unstructured(module.conv1, "weight", 0.5), "weight")


def _fresh_hooks(module: Resizer) -> None:
    # What removes all hooks in many a notebook; the next hook is then in another dictionary.
    module.conv2._forward_hooks = type(module.conv2._forward_hooks)()
    module.conv2.register_forward_hook(lambda layer, args, out: out + 1)


def _hook(path: str, kind: str, hook: Callable[..., Any]) -> Change:
    return lambda module: getattr(module.get_submodule(path), f"register_{kind}")(hook)


# The changed module runs as the composition, and the warning begins with this layer and says this of it.
COMPOSED: dict[str, tuple[Change, str]] = {
    "GroupNorm": (_set("norm1", lambda: nn.GroupNorm(1, N)), "norm1 is a GroupNorm"),
    "InstanceNorm2d": (_set("norm2", lambda: nn.InstanceNorm2d(N, affine=True)), "norm2 is an InstanceNorm2d"),
    "LayerNorm": (_set("blocks.0.norm1", lambda: _LayerNorm2d(N)), "blocks.0.norm1 is a _LayerNorm2d"),
    "LocalResponseNorm": (_set("norm2", lambda: nn.LocalResponseNorm(2)), "norm2 is a LocalResponseNorm"),
    "no norm": (_set("norm1", nn.Identity), "norm1 is an Identity"),
    "no norm in a block": (_set("blocks.1.norm2", nn.Identity), "blocks.1.norm2 is an Identity"),
    "folded norms": (_fuse, "blocks.0.norm1 is an Identity"),
    "norm without affine": (_set("norm1", lambda: nn.BatchNorm2d(N, affine=False)), "norm1 has no affine"),
    "norm without scale": (_attribute("norm2", "weight", None), "norm2 has no affine"),
    "timm's freeze": (lambda m: freeze(m, ["norm1"]), "norm1 is a FrozenBatchNorm2d"),
    "timm's freeze of all": (lambda m: freeze(m), "norm1 is a FrozenBatchNorm2d"),
    "torchvision's frozen norm": (
        _set("blocks.0.norm2", lambda: torchvision.ops.FrozenBatchNorm2d(N)),
        "blocks.0.norm2 is a FrozenBatchNorm2d",
    ),
    "norm that activates": (_set("norm2", lambda: BatchNormAct2d(N)), "norm2 is a BatchNormAct2d"),
    "class derived from BatchNorm2d": (_set("norm1", lambda: _BatchNorm2d(N)), "norm1 is a _BatchNorm2d"),
    "BatchNorm1d": (_set("norm1", lambda: nn.BatchNorm1d(N)), "norm1 is a BatchNorm1d"),
    "norm of other channels": (_set("norm1", lambda: nn.BatchNorm2d(N + 1)), "norm1.weight has shape (3,)"),
    "shared norm": (lambda m: setattr(m.blocks[0], "norm1", m.norm1), "blocks.0.norm1 is also another layer"),
    "eps of 0": (_attribute("norm1", "eps", 0.0), "norm1 has eps"),
    "GELU": (_set("act", nn.GELU), "act is a GELU"),
    "ReLU": (_set("act", nn.ReLU), "act is a ReLU"),
    "SiLU": (_set("blocks.0.act", nn.SiLU), "blocks.0.act is a SiLU"),
    "PReLU": (_set("act", nn.PReLU), "act is a PReLU"),
    "Tanh": (_set("blocks.1.act", nn.Tanh), "blocks.1.act is a Tanh"),
    "no activation": (_set("act", nn.Identity), "act is an Identity"),
    "negative slope below 0": (_attribute("act", "negative_slope", -0.1), "act has negative_slope -0.1"),
    "reflect": (_set("conv1", _conv(3, N, 7, padding=3, padding_mode="reflect")), "conv1 has padding_mode 'reflect'"),
    "replicate": (_set("conv4", _conv(N, 3, 7, padding=3, padding_mode="replicate")), "conv4 has padding_mode"),
    "circular, set": (_attribute("blocks.0.conv1", "padding_mode", "circular"), "blocks.0.conv1 has padding_mode"),
    "5x5 for 7x7": (_set("conv1", _conv(3, N, 5, padding=2)), "conv1 has padding (2, 2)"),
    "3x3 for 1x1": (_set("conv2", _conv(N, N, 3, padding=1)), "conv2 has padding (1, 1)"),
    "1x1 for 3x3": (_set("conv3", _conv(N, N, 1, bias=False)), "conv3 has padding (0, 0)"),
    "9x9 for 7x7": (_set("conv4", _conv(N, 3, 9, padding=4)), "conv4 has padding (4, 4)"),
    "kernel cropped in place": (_crop_weight, "conv1.weight has shape (2, 3, 5, 5)"),
    "added bias": (_set("conv3", _conv(N, N, 3, padding=1)), "conv3 has a bias"),
    "no bias": (_set("conv1", _conv(3, N, 7, padding=3, bias=False)), "conv1 has no bias"),
    "bias taken": (_attribute("conv4", "bias", None), "conv4 has no bias"),
    "dilation": (_set("conv1", _conv(3, N, 7, padding=6, dilation=2)), "conv1 has padding"),
    "groups": (_set("conv3", _conv(N, N, 3, padding=1, groups=N, bias=False)), "conv3 has groups 2"),
    "stride": (_set("conv1", _conv(3, N, 7, padding=3, stride=2)), "conv1 has stride (2, 2)"),
    "padding by name": (_set("conv3", _conv(N, N, 3, padding="same", bias=False)), "conv3 has padding 'same'"),
    "one output channel": (_set("conv4", _conv(N, 1, 7, padding=3)), "conv4.weight has shape (1, 2, 7, 7)"),
    "other widths": (_set("conv2", _conv(N, 4, 1)), "conv2.weight has shape (4, 2, 1, 1)"),
    "class derived from Conv2d": (_set("conv2", lambda: _Conv2d(N, N, 1)), "conv2 is a _Conv2d"),
    "separable": (
        _set("conv3", lambda: nn.Sequential(nn.Conv2d(N, N, 3, padding=1, groups=N), nn.Conv2d(N, N, 1))),
        "conv3 is a Sequential",
    ),
    "layer taken": (_attribute("", "conv3", None), "conv3 is a NoneType"),
    "LoRA": (_lora, "blocks.1.conv2 is a _LoRA"),
    "forward hook that changes": (
        _hook("conv2", "forward_hook", lambda m, a, out: out * 2),
        "conv2 has a forward hook",
    ),
    "forward hook that watches": (_hook("norm2", "forward_hook", lambda m, a, out: None), "norm2 has a forward hook"),
    "forward pre-hook": (
        _hook("act", "forward_pre_hook", lambda m, args: (args[0] + 0.1,)),
        "act has a forward pre-hook",
    ),
    "hook on a block": (_hook("blocks.1", "forward_hook", lambda m, a, out: -out), "blocks.1 has a forward hook"),
    "full backward hook": (
        _hook("blocks.0.conv1", "full_backward_hook", lambda m, inputs, outputs: (inputs[0] * 2,)),
        "blocks.0.conv1 has a backward hook",
    ),
    "full backward pre-hook": (
        _hook("conv4", "full_backward_pre_hook", lambda m, outputs: (outputs[0] * 3,)),
        "conv4 has a backward pre-hook",
    ),
    "hooks in a new dictionary": (_fresh_hooks, "conv2 has a forward hook"),
    "weight_norm by hook": (lambda m: nn.utils.weight_norm(m.conv1), "conv1 has a forward pre-hook"),
    "spectral_norm by hook": (lambda m: nn.utils.spectral_norm(m.conv3), "conv3 has a forward pre-hook"),
    "pruning": (lambda m: prune.l1_unstructured(m.conv1, "weight", 0.5), "conv1 has a forward pre-hook"),
    "structured pruning": (lambda m: prune.ln_structured(m.conv3, "weight", 0.5, 2, 0), "conv3 has a forward pre-hook"),
    "pruned bias": (lambda m: prune.random_unstructured(m.conv4, "bias", 1), "conv4 has a forward pre-hook"),
    "weight_norm": (lambda m: parametrizations.weight_norm(m.conv1), "conv1 is a ParametrizedConv2d"),
    "spectral_norm": (lambda m: parametrizations.spectral_norm(m.conv1), "conv1 is a ParametrizedConv2d"),
    "spectral_norm behind": (lambda m: parametrizations.spectral_norm(m.conv4), "conv4 is a ParametrizedConv2d"),
    "orthogonal": (lambda m: parametrizations.orthogonal(m.conv2), "conv2 is a ParametrizedConv2d"),
    "parametrised norm": (
        lambda m: parametrize.register_parametrization(m.norm1, "weight", _Doubled()),
        "norm1 is a ParametrizedBatchNorm2d",
    ),
    "forward of its own": (_own_forward, "conv1 has a forward of its own"),
    "seamless": (_seamless, "conv3 has a _conv_forward of its own"),
    "checkpointed block": (
        lambda m: m.blocks.__setitem__(0, checkpoint_wrapper(m.blocks[0])),
        "blocks.0 is a CheckpointWrapper",
    ),
    "block of another class": (lambda m: m.blocks.__setitem__(1, _Block(N, 0.2)), "blocks.1 is a _Block"),
    "block replaced": (lambda m: m.blocks.__setitem__(0, nn.Identity()), "blocks.0 is an Identity"),
    "block used twice": (lambda m: m.blocks.append(m.blocks[0]), "blocks.2.norm1 is also another layer"),
    "blocks in a Sequential": (lambda m: setattr(m, "blocks", nn.Sequential(*m.blocks)), "blocks is a Sequential"),
    "tensor subclass": (_marked_weight, "conv3.weight is a _Marked"),
    "one layer in float32": (lambda m: m.conv3.float(), "conv3.weight is torch.float32"),
    "one norm in float32": (lambda m: m.norm2.float(), "norm2.weight is torch.float32"),
    "first layer in float32": (lambda m: m.conv1.float(), "conv2.weight is torch.float64"),
    "a layer in complex": (lambda m: m.conv4.to(torch.complex128), "conv4.weight is torch.complex128"),
}

# These the fused kernels compute.
FUSED: dict[str, Change] = {
    "nothing": lambda m: None,
    "frozen weights": lambda m: m.conv1.requires_grad_(False),
    "frozen norms": lambda m: m.norm1.requires_grad_(False),
    "another weight": _new_weight,
    "tied weights": _tie,
    "computed weight": _computed_weight,
    "shared convolution": lambda m: setattr(m, "conv3", m.blocks[0].conv1),
    "negative_slope of one": _attribute("blocks.0.act", "negative_slope", 0.5),
    "negative_slope of the stem": _attribute("act", "negative_slope", 1),
    "LeakyReLU again": _set("act", lambda: nn.LeakyReLU(0.3, inplace=True)),
    "shared activation": lambda m: setattr(m.blocks[1], "act", m.act),
    "momentum": _attribute("norm2", "momentum", None),
    "eps": _attribute("blocks.1.norm1", "eps", 0.1),
    "untracked norm": _set("norm1", lambda: nn.BatchNorm2d(N, track_running_stats=False)),
    "another norm": _set("norm2", lambda: nn.BatchNorm2d(N)),
    "synchronised norms": lambda m: synchronise(m, torch.device("cpu")),
    "appended block": lambda m: m.blocks.append(Block(N, 0.4)),
    "block taken": lambda m: m.blocks.__delitem__(0),
    "no blocks": lambda m: setattr(m, "blocks", nn.ModuleList()),
    "hook on the module": _hook("", "forward_hook", lambda m, a, out: out * 2),
    "backward hook on the module": _hook("", "full_backward_hook", lambda m, inputs, outputs: (inputs[0] * 2,)),
    "hook on the list": _hook("blocks", "forward_hook", lambda m, a, out: out * 2),
    "one more module": lambda m: m.add_module("extra", nn.Linear(2, 2)),
    "pruned for good": _pruned_for_good,
    "parametrised and back": _parametrised_and_back,
    "one more buffer": lambda m: m.conv3.register_buffer("extra", torch.zeros(3)),
}
