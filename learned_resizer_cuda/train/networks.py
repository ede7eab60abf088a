"""Task networks, trained behind a resizer."""

from __future__ import annotations

import difflib

import torch
from torch import Tensor, nn

from .presets import LRASPP
from .pretrained import count_outputs, fill, read_weights
from .segmenters import UNET, EncoderWithHead, Lraspp, SmallUNet

PAPER_NETWORKS = ("inception_v2", "densenet121", "resnet50", "mobilenetv2_100")
"""The task networks of Talebi & Milanfar, "Learning to Resize Images for Computer Vision Tasks", ICCV 2021."""

_OWN, SEGMENTERS = ("small_cnn", "inception_v2"), (UNET, LRASPP)
_PAPER_SPELLINGS = {
    "inception-v2": "inception_v2",
    "densenet-121": "densenet121",
    "resnet-50": "resnet50",
    "mobilenet-v2": "mobilenetv2_100",
}


def build_network(
    name: str,
    in_channels: int,
    num_outputs: int,
    pretrained: bool = False,
    weights: str | None = None,
    *,
    segments: bool = False,
) -> nn.Module:
    """A named task network, on the CPU in float32 and training mode.

    Its weights are channels_last, with which convolutions and pooling take a third less time on a CPU.
    Initial weights depend only on torch's global random generator: ``torch.manual_seed`` makes them reproducible.

    Args:
        name: ``"small_cnn"``, ``"inception_v2"``, any model of timm (with or without the tag of its pretrained
            weights), or a network of the paper in its spelling ("ResNet-50"). Case does not matter.
        in_channels: channels of the images, at least 1.
        num_outputs: logits K: classes, or bins of a score histogram; 0: features instead, (B, F), of timm's networks.
        pretrained: start from timm's pretrained weights, which timm downloads unless they are in its cache. The first
            layer is adapted to ``in_channels``; the last layer is new if K differs.
        weights: start from a file's weights (``pretrained.read_weights``); the last layer is new if K differs.
        segments: a network for segmentation: ``"small_unet"``, ``"lraspp_mobilenet_v3_large"`` of torchvision, or a
            network of timm with a new small head, whose trained weights are then the encoder's.

    Returns:
        A module (B, in_channels, H, W) → (B, num_outputs), or (B, num_outputs, h, w) if it segments. Networks with a
        fixed image size, such as most vision transformers, keep timm's.

    Raises:
        ModuleNotFoundError: timm is not installed, and the name is not one of the package's own networks; or the
            package of the weights is not.
        FileNotFoundError: there is no such file.
        ValueError: naming the argument, its value and what was expected; for an unknown name, also similar ones.
    """
    model = network_name(name, segments)
    least = 1 if model in _OWN else 0
    for argument, count, bound in (("in_channels", in_channels, 1), ("num_outputs", num_outputs, least)):
        if count < bound:
            raise ValueError(f"{argument}: got {count!r} for {model}; expected an int of at least {bound}")
    with_head = segments and model not in SEGMENTERS
    network = _new_network(model, in_channels, 0 if with_head else num_outputs, pretrained)
    if weights is not None:
        if model in SEGMENTERS:
            raise ValueError(f"weights: got {weights} for {model}; expected none: there are no files of its weights")
        fill(network, read_weights(weights), weights)
    if with_head:
        network = EncoderWithHead(network, model, num_outputs)
    return network.to(memory_format=torch.channels_last)


def trained_outputs(name: str, weights: str | None) -> int:
    """Number of outputs of a network's trained weights; 0 without last layers.

    Args:
        name: see ``build_network``.
        weights: see ``build_network``; None: timm's.

    Raises:
        ModuleNotFoundError, FileNotFoundError, ValueError: as ``build_network``.
    """
    model = network_name(name)
    if weights is None:
        import timm

        config = timm.get_pretrained_cfg(model, allow_unregistered=True)
        return 0 if config is None else config.num_classes
    with torch.device("meta"):
        network = _new_network(model, 3, 1000, False)
    return count_outputs(network, read_weights(weights))


def _new_network(model: str, in_channels: int, num_outputs: int, pretrained: bool) -> nn.Module:
    if model == LRASPP:
        return Lraspp(in_channels, num_outputs, pretrained)
    if model in (*_OWN, UNET):
        if pretrained:
            raise ValueError(f"pretrained: got True for {model}; expected False, since no weights of it are published")
        if model == UNET:
            return SmallUNet(in_channels, num_outputs)
        if model == "small_cnn":
            return SmallCNN(in_channels, num_outputs)
        from .inception_v2 import InceptionV2

        return InceptionV2(in_channels, num_outputs)

    import timm

    if pretrained and not timm.models.is_model_pretrained(model):
        raise ValueError(f"pretrained: got True for {model}; expected False, since timm has no weights of it")
    return timm.create_model(model, pretrained=pretrained, num_classes=num_outputs, in_chans=in_channels)


def network_name(name: str, segments: bool = False) -> str:
    """The canonical name of a network, checked without building it.

    Args:
        name, segments: see ``build_network``.

    Raises:
        ModuleNotFoundError, ValueError: as ``build_network``.
    """
    model = _PAPER_SPELLINGS.get(name.strip().lower(), name.strip().lower())
    if model in (SEGMENTERS if segments else _OWN):
        return model
    if model in (*SEGMENTERS, *_OWN):
        task, others = ("segmentation", SEGMENTERS) if segments else ("this task", _OWN)
        raise ValueError(f"model: got {name!r}; expected {', '.join(others)} or a timm model for {task}")
    try:
        import timm
    except ModuleNotFoundError as error:
        from ..data.package_files import EXTRA

        raise ModuleNotFoundError(f"model: got {name!r}; timm's networks need {EXTRA}", name="timm") from error

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        own = SEGMENTERS if segments else _OWN
        near = difflib.get_close_matches(architecture, [*own, *_PAPER_SPELLINGS, *timm.list_models()], n=3)
        raise ValueError(
            f"model: got {name!r}; expected {', '.join(own)} or a timm model"
            + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    if tag:
        tags = [found.partition(".")[2] for found in timm.list_pretrained(f"{architecture}.*")]
        if tag not in tags:
            raise ValueError(
                f"model: got {name!r}; expected a tag of {architecture}: {', '.join(tags) or 'it has none'}"
            )
    return model


class SmallCNN(nn.Module):
    """A small convolutional network with 95,000 parameters.

    Three blocks of 3×3 convolution, batch norm and ReLU (32, 64, 128 channels) with a max pool after the first two,
    then an average pool and a linear layer. A batch of 64 at 16×16 takes a few milliseconds.

    Args:
        in_channels: channels of the images.
        num_classes: number of logits.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, width in enumerate((32, 64, 128)):
            if index:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(in_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            in_channels = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(in_channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H ≥ 4, W ≥ 4) → logits (B, num_classes)."""
        return self.head(self.features(images).mean((2, 3)))
