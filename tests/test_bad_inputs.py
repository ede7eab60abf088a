"""Bad inputs: each raises the right exception, whose message names the argument, its value and what was expected.

`python -m tests.test_bad_inputs` prints them with their messages as a Markdown table.
"""

from __future__ import annotations

import functools
import importlib
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.data.naflex_transforms import ResizeKeepRatioToSequence
from torchvision import tv_tensors
from torchvision.transforms import v2

import learned_resizer_cuda
from learned_resizer_cuda import (
    EMDLoss,
    FusedResizer,
    Resize,
    SigmoidCrossEntropyLoss,
    reference,
    resize,
    resize_batch,
    transforms,
)


@dataclass(frozen=True)
class Bad:
    """A call, the exception it has to raise, and what the message has to hold."""

    call: str
    error: type[Exception]
    argument: str
    value: str
    expected: str


SIZE = "a positive int or a pair (height, width)"
FACTOR = "a positive finite number or a pair (height, width)"

BATCH = [
    Bad("resize_batch(image[0].numpy(), 8)", TypeError, "images", "ndarray", "a sequence of tensors (C, H, W)"),
    Bad("resize_batch(image[0], 8)", ValueError, "images", "(3, 16, 12)", "a sequence of images (C, H, W)"),
    Bad("resize_batch([], 8)", ValueError, "images", "an empty sequence", "at least one image"),
    Bad("resize_batch([photo, 3], 8)", TypeError, "images[1]", "int", "torch.Tensor (C, H, W)"),
    Bad("resize_batch([photo, image], 8)", ValueError, "images[1]", "(2, 3, 16, 12)", "3 dimensions (C, H, W)"),
    Bad("resize_batch([photo, photo[:2]], 8)", ValueError, "images[1]", "2 channels", "3, as images[0] has"),
    Bad("resize_batch([photo, photo.double()], 8)", TypeError, "images[1]", "torch.float64", "torch.float32"),
    Bad("resize_batch([photo, photo.to('meta')], 8)", ValueError, "images[1]", "on meta", "cpu, with images[0]"),
    Bad("resize_batch([photo.int()], 8)", TypeError, "images[0]", "torch.int32", "uint8"),
    Bad("resize_batch([photo, photo[:, :0]], 8)", ValueError, "images[1]", "(3, 0, 12)", "at least 1 pixel"),
    Bad("resize_batch([tv_tensors.Mask(photo)], 8)", TypeError, "images[0]", "Mask", "an image"),
    Bad("resize_batch([photo], 0)", ValueError, "size", "0", SIZE),
    Bad("resize_batch([photo], 8, interpolation='area')", ValueError, "interpolation", "'area'", "'bilinear'"),
    Bad("resize_batch([photo], 8, antialias=1)", TypeError, "antialias", "1", "True or False"),
    Bad("resize_batch([photo, photo], 8, boxes=[(0, 0, 5, 5)])", ValueError, "boxes", "(1, 4)", "(2, 4)"),
    Bad("resize_batch([photo], 8, boxes=3)", TypeError, "boxes", "int", "(1, 4)"),
    Bad("resize_batch([photo], 8, boxes=[(0, 0, 5)])", ValueError, "boxes", "(1, 3)", "(1, 4)"),
    Bad("resize_batch([photo], 8, boxes=[(0, 0, 5, 'a')])", ValueError, "boxes", "'a'", "(top, left, height, width)"),
    Bad("resize_batch([photo] * 2, 8, boxes=[(0, 0, 5, 5), (0, nan, 5, 5)])", ValueError, "boxes[1]", "nan", "finite"),
    Bad("resize_batch([photo] * 2, 8, boxes=[(0, 0, 5, 5), (0, 0, 5, 0)])", ValueError, "boxes[1]", "0.0)", "above 0"),
    Bad("resize_batch([photo] * 2, 8, boxes=[(0, 0, 5, 5), (1, 0, 16, 5)])", ValueError, "boxes[1]", "16.0", "16x12"),
    Bad("resize_batch([photo], 8, boxes=[(-0.5, 0, 5, 5)])", ValueError, "boxes[0]", "-0.5", "16x12"),
    Bad(
        "resize_batch([photo], 8, boxes=torch.zeros(1, 4, device='meta'))", ValueError, "boxes", "on meta", "on the CPU"
    ),
    Bad(
        "resize_batch([photo], 8, boxes=torch.ones(1, 4, requires_grad=True))",
        ValueError,
        "boxes",
        "requires a gradient",
        "regions have none",
    ),
    Bad("resize_batch([photo], 8, flip=[1])", TypeError, "flip", "[1]", "1 bools"),
    Bad("resize_batch([photo], 8, flip=torch.ones(1).numpy())", TypeError, "flip", "array([1.]", "1 bools"),
    Bad("resize_batch([photo], 8, boxes=torch.ones(1, 4).cfloat())", TypeError, "boxes", "torch.complex64", "(1, 4)"),
    Bad("resize_batch([photo], 8, flip=torch.ones(1))", TypeError, "flip", "torch.float32", "1 bools"),
    Bad("resize_batch([photo], 8, flip=[True, False])", ValueError, "flip", "(2,)", "1 bools"),
    Bad("resize_batch([photo], 8, flip=True)", TypeError, "flip", "bool", "1 bools"),
    Bad("resize_batch([photo], 8, dtype=torch.uint8)", TypeError, "dtype", "torch.uint8", "torch.float32"),
    Bad("resize_batch([bytes_], 8, dtype=torch.int16)", TypeError, "dtype", "torch.int16", "torch.uint8"),
    Bad("resize_batch([photo], 8, mean=[0] * 3, std=[1] * 3)", TypeError, "mean, std", "float32", "torch.uint8 images"),
    Bad("resize_batch([bytes_], 8, mean=[0] * 3)", ValueError, "mean, std", "None", "both or neither"),
    Bad("resize_batch([bytes_], 8, mean=[0] * 2, std=[1] * 3)", ValueError, "mean", "(2,)", "3 finite numbers"),
    Bad("resize_batch([bytes_], 8, mean=[0] * 3, std=[1, 0, 1])", ValueError, "std", "0.0", "above 0"),
    Bad("resize_batch([bytes_], 8, mean=[inf] * 3, std=[1] * 3)", ValueError, "mean", "inf", "3 finite numbers"),
]

RESIZE = [
    Bad("resize(image.numpy(), 8)", TypeError, "image", "ndarray", "torch.Tensor"),
    Bad("resize(image[0, 0], 8)", ValueError, "image", "(16, 12)", "at least 3 dimensions"),
    Bad("resize(image[0, 0, 0, 0], 8)", ValueError, "image", "()", "at least 3 dimensions"),
    Bad("resize(image[..., :0], 8)", ValueError, "image", "(2, 3, 16, 0)", "at least 1 pixel"),
    Bad("resize(image[:, :, :0], 8)", ValueError, "image", "(2, 3, 0, 12)", "at least 1 pixel"),
    Bad("resize(image.int(), 8)", TypeError, "image", "torch.int32", "uint8"),
    Bad("resize(image.long(), 8)", TypeError, "image", "torch.int64", "uint8"),
    Bad("resize(image.bool(), 8)", TypeError, "image", "torch.bool", "uint8"),
    Bad("resize(image.to(torch.complex64), 8)", TypeError, "image", "torch.complex64", "float32"),
    Bad("resize(image)", ValueError, "size", "None and scale_factor None", "at least one"),
    Bad("resize(image, 0)", ValueError, "size", "0", SIZE),
    Bad("resize(image, -8)", ValueError, "size", "-8", SIZE),
    Bad("resize(image, (8, 0))", ValueError, "size", "(8, 0)", SIZE),
    Bad("resize(image, 8.0)", TypeError, "size", "8.0", SIZE),
    Bad("resize(image, math.nan)", TypeError, "size", "nan", SIZE),
    Bad("resize(image, True)", TypeError, "size", "True", SIZE),
    Bad("resize(image, '8')", TypeError, "size", "'8'", SIZE),
    Bad("resize(image, ())", ValueError, "size", "()", SIZE),
    Bad("resize(image, (8, 8, 8))", ValueError, "size", "(8, 8, 8)", SIZE),
    Bad("resize(image, (8, None))", TypeError, "size", "(8, None)", SIZE),
    Bad("resize(image, scale_factor=0)", ValueError, "scale_factor", "0", FACTOR),
    Bad("resize(image, scale_factor=-0.5)", ValueError, "scale_factor", "-0.5", FACTOR),
    Bad("resize(image, scale_factor=math.nan)", ValueError, "scale_factor", "nan", FACTOR),
    Bad("resize(image, scale_factor=math.inf)", ValueError, "scale_factor", "inf", FACTOR),
    Bad("resize(image, scale_factor=(0.5,))", ValueError, "scale_factor", "(0.5,)", FACTOR),
    Bad("resize(image, scale_factor='half')", TypeError, "scale_factor", "'half'", FACTOR),
    Bad("resize(image, scale_factor=True)", TypeError, "scale_factor", "True", FACTOR),
    Bad("resize(image, scale_factor=0.01)", ValueError, "scale_factor", "0.01", "at least one pixel"),
    Bad("resize(image, 8, scale_factor=math.nan)", ValueError, "scale_factor", "nan", FACTOR),
    Bad("resize(image, 8, interpolation='nearest-exact')", ValueError, "interpolation", "-exact'", "'lanczos'"),
    Bad("resize(image, 8, interpolation='area')", ValueError, "interpolation", "'area'", "'nearest', 'box'"),
    Bad("resize(image, 8, interpolation='BILINEAR')", ValueError, "interpolation", "'BILINEAR'", "'bilinear'"),
    Bad("resize(image, 8, interpolation=None)", ValueError, "interpolation", "None", "'bilinear'"),
    Bad("resize(image, 8, interpolation=['bicubic'])", ValueError, "interpolation", "['bicubic']", "'bicubic'"),
    Bad("resize(image, 8, antialias=None)", TypeError, "antialias", "None", "True or False"),
    Bad("resize(levels, 8, parity='PIL')", ValueError, "parity", "'PIL'", "'exact', 'pillow', 'pillow-12'"),
    Bad("resize(levels, 8, parity='Pillow')", ValueError, "parity", "'Pillow'", "'pillow'"),
    Bad("resize(levels, 8, parity=None)", ValueError, "parity", "None", "'exact'"),
    Bad("resize(levels, 8, parity=12)", ValueError, "parity", "12", "'pillow-12'"),
    Bad("resize(levels, 8, parity=['pillow'])", ValueError, "parity", "['pillow']", "'pillow'"),
    Bad("resize(image, 8, parity='pillow')", TypeError, "parity", "torch.float32", "torch.uint8"),
    Bad("resize(image.requires_grad_(), 8, parity='pillow')", TypeError, "parity", "torch.float32", "no gradient"),
    Bad("resize(image.half(), 8, parity='pillow-12')", TypeError, "parity", "torch.float16", "torch.uint8"),
    Bad("resize(levels, scale_factor=0.5, parity='pillow')", ValueError, "scale_factor", "0.5", "a size"),
    Bad("resize(levels, 8, scale_factor=0.5, parity='pillow')", ValueError, "scale_factor", "0.5", "a size"),
    Bad("resize(levels, parity='pillow')", ValueError, "size", "None and scale_factor None", "at least one"),
    Bad("Resize(8, parity='torch')", ValueError, "parity", "'torch'", "'pillow-12'"),
    Bad("Resize(8, parity='pillow')(image)", TypeError, "parity", "torch.float32", "torch.uint8"),
    Bad("resize(tv_tensors.Mask(levels), 8)", TypeError, "image", "Mask", "learned_resizer_cuda.transforms.Resize"),
    Bad("resize(tv_tensors.Mask(image), 8, interpolation='nearest')", TypeError, "image", "Mask", "an image"),
    Bad("Resize(8)(boxes)", TypeError, "image", "BoundingBoxes", "an image"),
    Bad("resize(points, 8)", TypeError, "image", "KeyPoints", "an image"),
    Bad("Resize(0)", ValueError, "size", "0", SIZE),
    Bad("Resize(8, interpolation='area')", ValueError, "interpolation", "'area'", "'bicubic'"),
    Bad("Resize(8)(image.short())", TypeError, "image", "torch.int16", "uint8"),
]

# Each of these for FusedResizer and for reference.Resizer, which stands where `Module` does.
RESIZER = [
    Bad("Module(0)", ValueError, "size", "0", SIZE),
    Bad("Module((8, 8, 8))", ValueError, "size", "(8, 8, 8)", SIZE),
    Bad("Module(8, in_channels=0)", ValueError, "in_channels", "0", "at least 1"),
    Bad("Module(8, num_filters=0)", ValueError, "num_filters", "0", "at least 1"),
    Bad("Module(8, num_filters=16.0)", TypeError, "num_filters", "16.0", "an int of at least 1"),
    Bad("Module(8, num_blocks=-1)", ValueError, "num_blocks", "-1", "at least 0"),
    Bad("Module(8, num_blocks=True)", TypeError, "num_blocks", "True", "an int of at least 0"),
    Bad("Module(8, negative_slope=math.nan)", ValueError, "negative_slope", "nan", "finite number"),
    Bad("Module(8, negative_slope=-0.1)", ValueError, "negative_slope", "-0.1", "at least 0"),
    Bad("Module(8, negative_slope='0.2')", TypeError, "negative_slope", "'0.2'", "finite number"),
    Bad("Module(8, interpolation='cubic')", ValueError, "interpolation", "'cubic'", "'bicubic'"),
    Bad(
        "Module(8, interpolation='nearest')",
        ValueError,
        "interpolation",
        "'nearest'",
        "'bilinear', 'bicubic', 'lanczos'",
    ),
    Bad("Module(8, interpolation='box')", ValueError, "interpolation", "'box'", "'lanczos'"),
    Bad("Module(8, antialias='yes')", TypeError, "antialias", "'yes'", "True or False"),
    Bad("Module(8)('image.png')", TypeError, "image", "str", "torch.Tensor"),
    Bad("Module(8)(image[0])", ValueError, "image", "(3, 16, 12)", "(B, 3, H, W)"),
    Bad("Module(8)(image[:, :1])", ValueError, "image", "(2, 1, 16, 12)", "(B, 3, H, W)"),
    Bad("Module(8)(image[..., :0])", ValueError, "image", "(2, 3, 16, 0)", "at least 1"),
    Bad("Module(8)(image.double())", TypeError, "image", "torch.float64", "torch.float32"),
    Bad("Module(8)(image.byte())", TypeError, "image", "torch.uint8", "torch.float32"),
    Bad("Module(8)(image.to('meta'))", ValueError, "image", "meta", "on cpu"),
    Bad("Module(8)([])", ValueError, "images", "an empty list", "at least one image"),
    Bad("Module(8)(())", ValueError, "images", "an empty tuple", "at least one image"),
    Bad("Module(8)([image[0], 'image.png'])", TypeError, "images[1]", "str", "torch.Tensor (3, H, W)"),
    Bad("Module(8)([image[0], image])", ValueError, "images[1]", "(2, 3, 16, 12)", "(3, H, W)"),
    Bad("Module(8)([image[0], image[0, :1]])", ValueError, "images[1]", "(1, 16, 12)", "(3, H, W)"),
    Bad("Module(8)([image[0, :, :0], image[1]])", ValueError, "images[0]", "(3, 0, 12)", "at least 1"),
    Bad("Module(8)([*image, image[0].double()])", TypeError, "images[2]", "torch.float64", "torch.float32"),
    Bad("Module(8)((*image, levels[0]))", TypeError, "images[2]", "torch.uint8", "torch.float32"),
    Bad("Module(8, mean=UNIT, std=UNIT)([image[0], levels[0]])", TypeError, "images[1]", "uint8", "as images[0]"),
    Bad("Module(8)([image[0], image[0].to('meta')])", ValueError, "images[1]", "meta", "on cpu"),
    Bad("Module(8)(list(image), size=0)", ValueError, "size", "0", SIZE),
    Bad("Module(8)(image, size=0)", ValueError, "size", "0", SIZE),
    Bad("Module(8)(image, size=(4, 4.5))", TypeError, "size", "(4, 4.5)", SIZE),
]

# What torch's own layers refuse in reference.Resizer, in their words, and FusedResizer has to refuse itself.
FUSED = [
    Bad("Module(1)(image[:1, :, :1, :1])", ValueError, "image", "1 values per channel", "at least 2"),
    Bad("Module(1)(image[:1])", ValueError, "image", "1 values per channel", "at least 2"),
    Bad("Module(1)([image[0]])", ValueError, "image", "1 values per channel", "at least 2"),
    Bad("Module(8)(image[:1], boxes=[[2.2, 3, 0.5, 1]])", ValueError, "image", "1 values per channel", "at least 2"),
]

LOSSES = [
    Bad("EMDLoss(d=0)", ValueError, "d", "0", "at least 1"),
    Bad("EMDLoss(d=-2)", ValueError, "d", "-2", "at least 1"),
    Bad("EMDLoss(d=math.nan)", ValueError, "d", "nan", "finite number"),
    Bad("EMDLoss(d='2')", TypeError, "d", "'2'", "finite number"),
    Bad("EMDLoss()(logits[0], target[0])", ValueError, "logits", "(10,)", "(B, K)"),
    Bad("EMDLoss()(logits, target[:, :9])", ValueError, "target", "(4, 9)", "(4, 10)"),
    Bad("EMDLoss()(logits[:, :0], target[:, :0])", ValueError, "logits", "(4, 0)", "at least 1"),
    Bad("EMDLoss()(logits[:0], target[:0])", ValueError, "logits", "(0, 10)", "at least 1"),
    Bad("EMDLoss()(logits.long(), target)", TypeError, "logits", "torch.int64", "floating-point"),
    Bad("EMDLoss()(logits, target.argmax(1))", TypeError, "target", "torch.int64", "floating-point"),
    Bad("SigmoidCrossEntropyLoss(1.5)", ValueError, "label_smoothing", "1.5", "in [0, 1]"),
    Bad("SigmoidCrossEntropyLoss(-0.1)", ValueError, "label_smoothing", "-0.1", "in [0, 1]"),
    Bad("SigmoidCrossEntropyLoss(math.nan)", ValueError, "label_smoothing", "nan", "in [0, 1]"),
    Bad("SigmoidCrossEntropyLoss()(logits, labels + 10)", ValueError, "target", "19", "0 to 9"),
    Bad("SigmoidCrossEntropyLoss()(logits, labels - 9)", ValueError, "target", "-9", "0 to 9"),
    Bad("SigmoidCrossEntropyLoss()(logits, labels[:3])", ValueError, "target", "(3,)", "(4,)"),
    Bad("SigmoidCrossEntropyLoss()(logits, labels.float())", TypeError, "target", "torch.float32", "integer"),
    Bad("SigmoidCrossEntropyLoss()(logits, target[:, :5])", ValueError, "target", "(4, 5)", "(4, 10)"),
    Bad("SigmoidCrossEntropyLoss()(logits[0], labels)", ValueError, "logits", "(10,)", "(B, K)"),
]

EDGE = "a positive int, a sequence of one or two of them, or None with max_size"
LONGER = "None or a positive int, above a size of one int"
MODE = "an InterpolationMode, one of 'nearest', 'nearest-exact', 'bilinear'"

TRANSFORMS = [
    Bad("transforms.Resize(0)", ValueError, "size", "0", EDGE),
    Bad("transforms.Resize((8, -8))", ValueError, "size", "(8, -8)", EDGE),
    Bad("transforms.Resize(8.5)", TypeError, "size", "8.5", EDGE),
    Bad("transforms.Resize(True)", TypeError, "size", "True", EDGE),
    Bad("transforms.Resize('8')", TypeError, "size", "'8'", EDGE),
    Bad("transforms.Resize(())", ValueError, "size", "()", EDGE),
    Bad("transforms.Resize((8, 8, 8))", ValueError, "size", "(8, 8, 8)", EDGE),
    Bad("transforms.Resize(None)", ValueError, "size", "None and max_size None", EDGE),
    Bad("transforms.Resize(8, max_size=8)", ValueError, "max_size", "8", LONGER),
    Bad("transforms.Resize((8, 8), max_size=9)", ValueError, "max_size", "9", "(8, 8)"),
    Bad("transforms.Resize(None, max_size=0)", ValueError, "max_size", "0", LONGER),
    Bad("transforms.Resize(8, max_size='9')", TypeError, "max_size", "'9'", LONGER),
    Bad("transforms.Resize(8, 'cubic')", ValueError, "interpolation", "'cubic'", MODE),
    Bad("transforms.Resize(8, None)", ValueError, "interpolation", "None", MODE),
    Bad("transforms.Resize(8, 7)", ValueError, "interpolation", "7", "PIL.Image.Resampling"),
    Bad("transforms.Resize(8, True)", ValueError, "interpolation", "True", MODE),
    Bad("transforms.Resize(8, antialias='yes')", TypeError, "antialias", "'yes'", "True, False or None"),
    Bad("transforms.Resize(8, antialias=1)", TypeError, "antialias", "1", "True, False or None"),
    Bad("transforms.Resize(8, parity='PIL')", ValueError, "parity", "'PIL'", "'pillow-12'"),
    Bad("transforms.Resize(8)(image[0, 0])", ValueError, "image", "(16, 12)", "(..., C, H, W)"),
    Bad("transforms.Resize(8)(image[..., :0])", ValueError, "image", "(2, 3, 16, 0)", "at least 1 pixel"),
    Bad("transforms.Resize(8)(image.to(torch.complex64))", TypeError, "image", "torch.complex64", "float32"),
    # 2 / 12 of a row: torchvision's rule rounds down.
    Bad("transforms.Resize(None, max_size=2)(image[..., :1, :])", ValueError, "size", "(0, 2)", SIZE),
    Bad("transforms.functional.resize(image, '8')", TypeError, "size", "'8'", EDGE),
    Bad("transforms.functional.resize(image, 8, 'area')", ValueError, "interpolation", "'area'", MODE),
    Bad("transforms.functional.resize(image, 8, parity=13)", ValueError, "parity", "13", "'pillow'"),
    Bad("transforms.use_in(8)", TypeError, "transform", "8", "RandomResizedCrop, "),
    Bad("transforms.use_in([])", TypeError, "transform", "[]", "RandomResizedCrop, "),
    Bad("transforms.use_in([v2.Resize(8)], parity='exactly')", ValueError, "parity", "'exactly'", "'exact'"),
    Bad("transforms.use_in(v2.Compose([MyCrop(8)]))", TypeError, "transform", "MyCrop", "RandomResizedCrop"),
    Bad("transforms.use_in([v2.Lambda(v2.functional.resize)])", TypeError, "transform", ".resize", "Resize"),
    Bad("transforms.use_in(partial(resize_crop, 8))", TypeError, "transform", "resize_crop", "RandomResizedCrop"),
    Bad("transforms.use_in(ResizeKeepRatioToSequence())", TypeError, "transform", "ToSequence", "ResizeToSequence"),
]

BACKEND = [
    Bad("use_backend('cuda')", ValueError, "name", "'cuda'", "'auto', 'torch', 'native'"),
    Bad("use_backend(None)", ValueError, "name", "None", "'auto', 'torch', 'native'"),
    Bad(
        "native(resize, image, 8)",
        RuntimeError,
        "resample",
        "torch.float32 tensor on cpu",
        "CUDA tensors only",
    ),
    Bad("native(resize, image.byte(), 8)", RuntimeError, "resample", "torch.uint8 tensor on cpu", "CUDA"),
]

NOT_A_PROCESSOR = "a Hugging Face image processor"
TORCH_BACKED = "a torch-backed one"

TRANSFORMERS = [
    Bad("accelerate(image)", TypeError, "processor", "Tensor", NOT_A_PROCESSOR),
    Bad("accelerate('openai/clip-vit-base-patch32')", TypeError, "processor", "str", NOT_A_PROCESSOR),
    Bad("accelerate(hf.CLIPImageProcessor)", TypeError, "processor", "type", NOT_A_PROCESSOR),
    Bad("accelerate(hf.CLIPImageProcessorPil())", TypeError, "processor", "CLIPImageProcessorPil", TORCH_BACKED),
    Bad("accelerate(hf.VivitImageProcessor())", TypeError, "processor", "VivitImageProcessor", "TorchvisionBackend"),
    Bad("accelerate(hf.ZoeDepthImageProcessor())", TypeError, "processor", "ZoeDepthImageProcessor.resize", "leaves"),
    Bad("accelerate(hf.NougatImageProcessor())", TypeError, "processor", "NougatImageProcessor.thumbnail", "leaves"),
    Bad(
        "accelerate(SimpleNamespace(image_processor=hf.ViTImageProcessorPil()))",
        TypeError,
        "processor.image_processor",
        "ViTImageProcessorPil",
        TORCH_BACKED,
    ),
    Bad("accelerate(hf.ViTImageProcessor(), parity='PIL')", ValueError, "parity", "'PIL'", "'pillow-12'"),
    Bad("accelerate(hf.ViTImageProcessor(), parity=True)", ValueError, "parity", "True", "'pillow'"),
]


def accelerate(*arguments: Any, **options: Any) -> Any:
    from learned_resizer_cuda.integrations import transformers

    return transformers.accelerate(*arguments, **options)


class _Transformers:
    """transformers, imported where a call names it: that takes seconds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("transformers"), name)


def use_backend(name: Any) -> None:
    with learned_resizer_cuda.use_backend(name):
        pass


def native(function: Any, *arguments: Any) -> None:
    with learned_resizer_cuda.use_backend("native"):
        function(*arguments)


class MyCrop(v2.RandomResizedCrop):
    """A resize of somebody's own, which may do anything."""


def resize_crop(size: int, image: Any) -> Any:
    """A function that, by its name, resizes."""


def provoke(bad: Bad, module: type[torch.nn.Module] = FusedResizer) -> Exception:
    """Make the call; return what it raised."""
    names = {
        "image": torch.rand(2, 3, 16, 12),
        "bytes_": torch.zeros(3, 16, 12, dtype=torch.uint8),
        "inf": math.inf,
        "levels": torch.zeros(2, 3, 16, 12, dtype=torch.uint8),
        "boxes": tv_tensors.BoundingBoxes([[0, 0, 4, 4]], format="XYXY", canvas_size=(16, 12)),  # type: ignore[call-overload]
        "points": tv_tensors.KeyPoints([[1, 2]], canvas_size=(16, 12)),  # type: ignore[call-overload]
        "logits": torch.rand(4, 10),
        "target": torch.full((4, 10), 0.1),
        "labels": torch.tensor([0, 3, 5, 9]),
        "Module": module,
        "EMDLoss": EMDLoss,
        "MyCrop": MyCrop,
        "Resize": Resize,
        "ResizeKeepRatioToSequence": ResizeKeepRatioToSequence,
        "SigmoidCrossEntropyLoss": SigmoidCrossEntropyLoss,
        "SimpleNamespace": SimpleNamespace,
        "UNIT": (1.0, 1.0, 1.0),
        "accelerate": accelerate,
        "hf": _Transformers(),
        "math": math,
        "nan": math.nan,
        "native": native,
        "partial": functools.partial,
        "photo": torch.rand(3, 16, 12),
        "resize": resize,
        "resize_batch": resize_batch,
        "resize_crop": resize_crop,
        "torch": torch,
        "transforms": transforms,
        "tv_tensors": tv_tensors,
        "use_backend": use_backend,
        "v2": v2,
    }
    try:
        result = eval(bad.call, names)
    except Exception as error:
        return error
    raise AssertionError(f"{bad.call} returned {type(result).__name__}; expected {bad.error.__name__}")


def check(bad: Bad, error: Exception) -> None:
    assert type(error) is bad.error, f"{type(error).__name__}: {error}"
    message = str(error)
    for part in (bad.argument, bad.value, bad.expected):
        assert part in message, f"{part!r} is not in {message!r}"
    assert "\n" not in message, "an error message is one line"


@pytest.mark.parametrize(
    "bad", [*RESIZE, *BATCH, *FUSED, *LOSSES, *TRANSFORMS, *TRANSFORMERS], ids=lambda bad: bad.call
)
def test_bad_input(bad: Bad) -> None:
    error = provoke(bad)
    check(bad, error)
    assert str(error).startswith(f"{bad.argument}: got "), str(error)


@pytest.mark.parametrize("module", [FusedResizer, reference.Resizer])
@pytest.mark.parametrize("bad", RESIZER, ids=lambda bad: bad.call)
def test_bad_input_of_resizer(bad: Bad, module: type[torch.nn.Module]) -> None:
    error = provoke(bad, module)
    check(bad, error)
    assert str(error).startswith(f"{bad.argument}: got "), str(error)


@pytest.mark.parametrize("bad", BACKEND, ids=lambda bad: bad.call)
def test_bad_backend(bad: Bad) -> None:
    check(bad, provoke(bad))


def test_size_and_factor_together_are_valid() -> None:
    """The factor sets the coordinates: the size only cuts what the factor alone gives."""
    image = torch.rand(2, 3, 16, 12, dtype=torch.float64)
    whole = resize(image, scale_factor=0.5, interpolation="bicubic")
    assert torch.equal(resize(image, (5, 6), scale_factor=0.5, interpolation="bicubic"), whole[:, :, :5])


def test_a_module_survives_a_bad_call() -> None:
    """A refused call leaves the running statistics as they were."""
    module = FusedResizer(8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for bad in (torch.rand(2, 1, 16, 12), torch.rand(2, 3, 16, 12).double()):
        with pytest.raises((TypeError, ValueError)):
            module(bad)
    with pytest.raises(ValueError, match="size"):
        module(torch.rand(2, 3, 16, 12), size=-1)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def main() -> None:
    """Print every case and its message as a Markdown table."""
    print("| call | raises | message |\n|---|---|---|")
    for bad in (*RESIZE, *BATCH, *RESIZER, *FUSED, *LOSSES, *TRANSFORMS, *TRANSFORMERS, *BACKEND):
        error = provoke(bad)
        call = bad.call.replace("Module", "FusedResizer")
        message = str(error).replace("|", "\\|")
        print(f"| `{call}` | {type(error).__name__} | {message} |")


if __name__ == "__main__":
    main()
