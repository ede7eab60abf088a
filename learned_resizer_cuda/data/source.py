"""What a training run asks of a data set: whole batches, each a function of its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    path: str
    reason: str


class Batch(NamedTuple):
    """A batch as a source makes it.

    Attributes:
        images: uint8 (b, C, S, S), S the source's input size.
        targets: int64 (b,) classes, or float32 (b, K) histograms that sum to 1.
        unreadable: images that were met and could not be read; others stand in their places in training, and they
            are left out in testing, where b may so be smaller than what was asked for, and 0.
    """

    images: Tensor
    targets: Tensor
    unreadable: tuple[Unreadable, ...] = ()


class Source(Protocol):
    """Training batches drawn without end, and a fixed test set.

    Determinism: a training batch is a function of ``(seed, step, batch_size)`` alone, a test image of nothing at all;
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
        """What a user should know of how the data was read; usually nothing."""
        ...

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """Part of the batch of a step.

        Args:
            seed, step: at least 0.
            batch_size: images of the whole batch, at least 1.
            part: which of them; training processes share a batch by disjoint parts of it.
        """
        ...

    def test_batch(self, part: slice) -> Batch:
        """Test images ``part.start`` to ``part.stop - 1``, in their fixed order."""
        ...
