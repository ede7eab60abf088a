"""Interface of a data set: whole batches, functions of their number alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    path: str
    reason: str


class Batch(NamedTuple):
    """Images, their targets, and the images that could not be read.

    Attributes:
        images: uint8 (b, C, S, S), S the source's input size.
        targets: int64 (b,) classes, or float32 (b, K) histograms that sum to 1.
        unreadable: images that were met and could not be read. In training others take their places; in testing they
            are left out, so that b may be smaller than what was asked for, even 0.
    """

    images: Tensor
    targets: Tensor
    unreadable: tuple[Unreadable, ...] = ()


class Source(Protocol):
    """Endless training batches, and a fixed test set.

    Determinism: a training batch is a function of ``(seed, step, batch_size)`` alone, a test image is always the same;
    neither depends on the order of the calls, on worker processes, or on the number of training processes.
    """

    task: str
    """``"classification"`` or ``"iqa"``."""
    labels: tuple[str, ...]
    """Names of the K classes, or of the K bins of a histogram."""
    in_channels: int
    input_size: int
    """Side S of the images in pixels."""
    train_size: int
    """Images of an epoch."""
    test_size: int

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
