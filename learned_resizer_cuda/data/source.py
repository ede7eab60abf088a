"""Interface of a data set: whole batches, functions of their number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

from torch import Tensor

NATIVE: Final = "native"
InputSize = int | Literal["native"]
"""Side of square images, or images at their own sizes."""


def parse_input_size(text: str) -> InputSize:
    """An input size as a file holds it."""
    return NATIVE if text == NATIVE else int(text)


IGNORED: Final = 255
"""Value in a mask of a pixel that is not labelled."""


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class MixedImages:
    """Images of any sizes, each with a region and a flip.

    Not a tuple: loaders and ``DistributedDataParallel`` would move boxes and flips to the device too.

    Attributes:
        images: uint8 (C, H_i, W_i).
        boxes: float64 (b, 4), rows (top, left, height, width) in pixels, on the CPU.
        flip: bool (b,), on the CPU.
    """

    images: list[Tensor]
    boxes: Tensor
    flip: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, *arguments: Any, **options: Any) -> MixedImages:
        """The same with the images moved, by ``Tensor.to``."""
        return MixedImages([image.to(*arguments, **options) for image in self.images], self.boxes, self.flip)

    def pin_memory(self) -> MixedImages:
        """The same with the images in pinned memory."""
        return MixedImages([image.pin_memory() for image in self.images], self.boxes, self.flip)

    def crops(self) -> list[Tensor]:
        """What the regions show, (C, h_i, w_i): for boxes of whole pixels."""
        found = []
        for image, box, mirror in zip(self.images, self.boxes.long().tolist(), self.flip.tolist(), strict=True):
            top, left, height, width = box
            crop = image[:, top : top + height, left : left + width]
            found.append(crop.flip(-1) if mirror else crop)
        return found


class Batch(NamedTuple):
    """Images, their targets, and the images that could not be read.

    Attributes:
        images: uint8 (b, C, S, S), S the source's input size, or ``MixedImages`` with the input size ``"native"``.
        targets: int64 (b,) classes; float32 (b, K) histograms that sum to 1; or uint8 (b, S, S) masks of class indices,
            255 where nothing is labelled. Without labels all 0. By task, of the same images for several.
        unreadable: images that were met and could not be read. In training others take their places; in testing they
            are left out, so that b may be smaller than what was asked for, even 0.
    """

    images: Tensor | MixedImages
    targets: Tensor | dict[str, Tensor]
    unreadable: tuple[Unreadable, ...] = ()


class Source(Protocol):
    """Endless training batches, and a fixed test set.

    Determinism: a training batch is a function of ``(seed, step, batch_size)`` alone, a test image is always the same;
    neither depends on the order of the calls, on worker processes, or on the number of training processes.
    """

    task: str
    """``"classification"``, ``"iqa"``, ``"segmentation"`` or ``"distill"``."""
    labels: tuple[str, ...]
    """Names of the K classes, or of the K bins of a histogram; none of images without labels."""
    in_channels: int
    train_size: int
    """Images of an epoch."""
    test_size: int

    @property
    def input_size(self) -> InputSize:
        """Side S of the images in pixels, or ``"native"``."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Notes for the user on how the data was read; usually none."""
        ...

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """The batch of a step, or a part of it.

        Args:
            seed, step: at least 0.
            batch_size: images of the whole batch, at least 1.
            part: which of them; training processes share a batch by disjoint parts of it.
        """
        ...

    def test_batch(self, part: slice) -> Batch:
        """Test images ``part.start`` to ``part.stop - 1``, in their fixed order."""
        ...
