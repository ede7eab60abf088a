"""Batches of images on the device, split among a training's processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.source import NATIVE, Batch, InputSize, MixedImages, Source

TEST_BATCH = 100
NATIVE_TEST_BATCH = 8
"""Images of a test batch at native sizes, which are not known before they are read."""
TEST_PIXELS = TEST_BATCH * 256**2
"""Pixels of a test batch: 100 images of up to 256 x 256, fewer of larger ones."""


class TrainBatches(Dataset[Batch]):
    """Batches of consecutive steps by number, the same whichever worker draws them.

    Args:
        source: the data.
        seed, batch_size: see ``Source.train_batch``.
        steps: counted from the start of the training.
        part: which images of each batch.
    """

    def __init__(self, source: Source, seed: int, batch_size: int, steps: range, part: slice = slice(None)) -> None:
        self.source, self.seed, self.batch_size = source, seed, batch_size
        self.steps, self.part = steps, part

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> Batch:
        return self.source.train_batch(self.seed, self.steps[number], self.batch_size, self.part)


class TestBatches(Dataset[Batch]):
    """Every ``world``-th batch of the test set, starting with number ``rank``.

    All processes get equally many, since processes that train together must call the model equally often: those
    that would lack one at the end get one without images.
    """

    __test__ = False  # not a test for pytest to collect

    def __init__(self, source: Source, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.source, self.batch_size, self.rank, self.world = source, batch_size, rank, world

    def __len__(self) -> int:
        return -(-self.source.test_size // (self.batch_size * self.world))

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"number: got {number}; expected 0 to {len(self) - 1}")
        start = (number * self.world + self.rank) * self.batch_size
        return self.source.test_batch(
            slice(*(min(end, self.source.test_size) for end in (start, start + self.batch_size)))
        )


class Batches:
    """One process's batches of a source, in [0, 1] or normalised.

    Images travel as uint8 and become floating-point on the device, at native sizes in the resizer. Of W processes,
    process r trains on the r-th of W equal, contiguous parts of each batch: together on the same batches as one.

    Args:
        source: the data, shared between runs.
        seed: selects the order of the images and their augmentation.
        batch_size: images in a training batch, of all processes together.
        num_workers: processes that draw batches; the batches do not depend on it.
        normalize: mean and standard deviation of each channel, for images in [0, 1]: ``(x - mean) / std``.
        device: of the images.
        dtype: of the images, which are computed in float32.
        rank: number of this process.
        world: number of processes.

    Raises:
        ValueError: ``batch_size`` or ``num_workers`` is too small, ``batch_size`` is not a multiple of ``world``, the
            lengths of ``normalize`` are not the number of channels, or a standard deviation is not positive.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        batch_size: int,
        num_workers: int = 0,
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}; expected at least 1")
        if batch_size % world:
            raise ValueError(f"batch_size: got {batch_size} for {world} processes; expected a multiple of their number")
        if num_workers < 0:
            raise ValueError(f"num_workers: got {num_workers}; expected at least 0")
        self.source, self.seed, self.batch_size, self.num_workers = source, seed, batch_size, num_workers
        self.device, self.dtype, self.rank, self.world = torch.device(device), dtype, rank, world
        self._normalize = None if normalize is None else _channel_terms(normalize, source.in_channels, self.device)

    def train(self, steps: range) -> Iterator[Batch]:
        """This process's part of the batch of each step."""
        share = self.batch_size // self.world
        part = slice(self.rank * share, (self.rank + 1) * share)
        return self._load(TrainBatches(self.source, self.seed, self.batch_size, steps, part))

    def test(self) -> Iterator[Batch]:
        """This process's batches of the test set, some possibly without images."""
        size = size_of_test_batch(self.source.input_size)
        return self._load(TestBatches(self.source, size, self.rank, self.world))

    def prepare(self, batch: Batch) -> Batch:
        """A source's batch on the device.

        Its images are (b, C, S, S) in ``dtype``: in [0, 1], or normalised. ``MixedImages`` stay bytes.
        """
        images = batch.images.to(self.device, non_blocking=True)
        given = batch.targets
        targets: Tensor | dict[str, Tensor]
        if isinstance(given, dict):
            targets = {task: values.to(self.device, non_blocking=True) for task, values in given.items()}
        else:
            targets = given.to(self.device, non_blocking=True)
        if isinstance(images, MixedImages):
            return Batch(images, targets, batch.unreadable)
        images = to_unit(images)
        if self._normalize is not None:
            mean, std = self._normalize
            images = images.sub_(mean).div_(std)
        return Batch(images.to(self.dtype), targets, batch.unreadable)

    def _load(self, batches: Dataset[Batch]) -> Iterator[Batch]:
        loader = DataLoader(
            batches,
            batch_size=None,
            shuffle=False,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            pin_memory=self.device.type == "cuda",
            # Every iterator draws a seed for its workers: not from the generator that dropout draws from.
            generator=torch.Generator(),
        )
        for batch in loader:
            yield self.prepare(batch)


def to_unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], same shape and layout."""
    return images.to(torch.float32).div_(255)


def size_of_test_batch(input_size: InputSize) -> int:
    """Images of a test batch: at least 1, at most 100."""
    if input_size == NATIVE:
        return NATIVE_TEST_BATCH
    return max(1, min(TEST_BATCH, TEST_PIXELS // input_size**2))


def _as_is(batch: Any) -> Any:
    # The default would turn the tuple of unreadable images into a list.
    return batch


def _channel_terms(
    normalize: tuple[Sequence[float], Sequence[float]], channels: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in normalize)
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"normalize: got {len(mean)} means and {len(std)} standard deviations; expected {channels}, one a channel"
        )
    if not (std > 0).all():
        raise ValueError(f"normalize: got the standard deviations {std.flatten().tolist()}; expected positive ones")
    return mean.to(device), std.to(device)
