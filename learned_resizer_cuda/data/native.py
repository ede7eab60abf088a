"""Images at their own sizes, for training loops of your own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .file_source import check_options
from .image_file import ImageRefused
from .image_view import drawn_view, read_native
from .listing import images_under, subfolders
from .source import NATIVE

Sample = tuple[Tensor, int, tuple[int, int, int, int], bool]
"""Image (C, H, W), label, box (top, left, height, width), and whether to mirror it."""


def collate_images(samples: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Collate samples with images of any sizes, for a ``DataLoader``.

    Args:
        samples: ``(image, label)`` or ``(image, label, box, flip)`` each, all of one kind: an image ``(C, H_i, W_i)``,
            a label that ``torch.utils.data.default_collate`` takes (a number or a tensor), a box
            ``(top, left, height, width)``, a bool.

    Returns:
        ``(images, labels)`` or ``(images, labels, boxes, flip)``, as ``resize_batch`` and ``FusedResizer`` take them.
        The images are a list, boxes a float64 tensor ``(B, 4)`` and flip a bool tensor ``(B,)``. With
        ``pin_memory=True`` images and labels are pinned. Move images to a GPU one by one; boxes and flip stay.

    Raises:
        ValueError: there are no samples, or one has other parts than the first; says which.

    Examples:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from learned_resizer_cuda import resize_batch
        >>> from learned_resizer_cuda.data import collate_images
        >>> dataset = [(torch.rand(3, 40, 30), 0), (torch.rand(3, 20, 50), 1), (torch.rand(3, 35, 35), 1)]
        >>> loader = DataLoader(dataset, batch_size=3, collate_fn=collate_images)
        >>> for images, labels in loader:
        ...     images = [image.to("cpu", non_blocking=True) for image in images]  # or "cuda"
        ...     print(resize_batch(images, 16).shape, labels)
        torch.Size([3, 3, 16, 16]) tensor([0, 1, 1])
    """
    if not samples:
        raise ValueError("samples: got none; expected at least one (image, label)")
    for index, sample in enumerate(samples):
        expected = {len(samples[0])} if len(samples[0]) in (2, 4) else {2, 4}
        if len(sample) not in expected:
            raise ValueError(
                f"samples[{index}]: got {len(sample)} parts; expected (image, label) or (image, label, box, flip), "
                "the same in every sample"
            )
    images, labels, *rest = zip(*samples, strict=True)
    found = list(images), torch.utils.data.default_collate(list(labels))
    if not rest:
        return found
    boxes, flip = rest
    return *found, torch.as_tensor(np.asarray(boxes, np.float64)), torch.tensor([bool(value) for value in flip])


class NativeFolder(Dataset[Sample]):
    """Images of class folders at their own sizes, with random regions.

    A sample is a uint8 image (C, H, W), its label, a box, and whether to mirror it. Box and flip are drawn anew each
    time, from torch's random generator, which a ``DataLoader`` seeds in its workers: deterministic for a seed and a
    number of workers.

    Args:
        root: folder with a folder of images for each class, such as ``train``.
        augment: ``"crop"``: the box is a random rectangle of 8 to 100 % of the area and an aspect of 3/4 to 4/3, as
            torchvision's ``RandomResizedCrop`` draws it, every other one mirrored; ``"flip"``: that of ``fit``, every
            other one mirrored; ``"none"``: that of ``fit``.
        fit: the box unless ``augment`` is ``"crop"``. ``"crop"``: the square in the centre whose side is 0.875 of the
            shorter side; ``"squash"``: the whole image.
        max_pixels: larger images are reduced to as many pixels; None: no limit.
        in_channels: 3 for colour, 1 for grey.

    Attributes:
        classes (list[str]): names of the classes, sorted.
        paths (list[Path]): of every image.
        labels (list[int]): of every image, its class's place in ``classes``.

    Raises:
        ValueError: ``root`` holds no image in a class folder, or an argument is not one of these. Reading an image that
            cannot be read raises one too, which names the file.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> for name, width, height in (("cat", 60, 40), ("dog", 30, 50)):
        ...     Path("photos", name).mkdir(parents=True)
        ...     Image.new("RGB", (width, height)).save(Path("photos", name, "1.png"))
        >>> from learned_resizer_cuda.data import NativeFolder, collate_images
        >>> dataset = NativeFolder("photos", augment="none")
        >>> image, label, box, mirrored = dataset[0]
        >>> image.shape, dataset.classes[label], box, mirrored
        (torch.Size([3, 40, 60]), 'cat', (2, 12, 35, 35), False)

        Batches of a resizer, which reads each image in its box only:

        >>> from torch.utils.data import DataLoader
        >>> from learned_resizer_cuda import FusedResizer
        >>> resizer = FusedResizer(16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> for images, labels, boxes, flip in DataLoader(dataset, batch_size=2, collate_fn=collate_images):
        ...     print(resizer(images, boxes=boxes, flip=flip).shape, labels)
        torch.Size([2, 3, 16, 16]) tensor([0, 1])
    """

    def __init__(
        self,
        root: str | Path,
        *,
        augment: str = "crop",
        fit: str = "crop",
        max_pixels: int | None = None,
        in_channels: int = 3,
    ) -> None:
        check_options(NATIVE, in_channels, augment, fit, max_pixels)
        root = Path(root)
        self.augment, self.fit, self.max_pixels, self.in_channels = augment, fit, max_pixels, in_channels
        self.classes = subfolders(root)
        found = [
            (root / name / path, label) for label, name in enumerate(self.classes) for path in images_under(root / name)
        ]
        if not found:
            raise ValueError(f"root: got {root}; expected a folder of class folders with images")
        self.paths, self.labels = [path for path, _ in found], [label for _, label in found]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            ImageRefused: the image cannot be read; a ValueError that names the file.
        """
        generator = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
        choose = partial(drawn_view, self.augment, self.fit, generator=generator)
        try:
            image, view = read_native(self.paths[index], choose, self.in_channels, self.max_pixels)
        except ImageRefused as error:
            raise ImageRefused(f"{self.paths[index]}: {error}") from error
        return image, self.labels[index], view[:4], view.mirror
