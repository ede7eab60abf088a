"""A Lightning data module over any ``Source``: training in rounds of whole steps, tested in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.source import Batch, Source

TEST_BATCH = 100
TEST_PIXELS = TEST_BATCH * 256**2
"""Pixels of a test batch: 100 images of up to 256 x 256, fewer of larger ones."""


class RoundBatches(Dataset[Batch]):
    """A map from the number of a step in its round to that step's batch: the same whichever worker draws it.

    Args:
        source: the data.
        seed, batch_size: see ``Source.train_batch``.
        steps: the steps of the round, counted from the start of the run.
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
    """The test set in batches, every ``world``-th of them starting with number ``rank``.

    All processes have as many: those that would lack one at the end get one without images, since processes that
    train together must call the model equally often.
    """

    __test__ = False  # no test for pytest to collect

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


class SourceData(LightningDataModule):
    """Batches of a source as float32 images in [0, 1], normalised if asked.

    A Lightning epoch is a round: round ``trainer.current_epoch`` of ``rounds``. The trainer must be made with
    ``reload_dataloaders_every_n_epochs=1, use_distributed_sampler=False``. Batches travel as uint8 and become float32
    on the device that trains. With several processes, process r of W trains on the r-th of W equal, contiguous parts
    of each batch: together on the same batches as one process.

    Args:
        source: the data, shared between runs.
        seed: selects the order of the images and their augmentation.
        batch_size: images in a training batch, of all processes together.
        rounds: the steps of each round, for instance ``[range(0, 100), range(100, 200)]``. A trainer that is past the
            last one gets no batches.
        num_workers: processes that draw batches; the batches do not depend on it.
        normalize: mean and standard deviation of each channel, for images in [0, 1]: ``(x - mean) / std``.

    Raises:
        ValueError: ``batch_size`` or ``num_workers`` is too small, or the lengths of ``normalize`` are not the number
            of channels, or a standard deviation is not positive; in ``train_dataloader``, ``batch_size`` is no
            multiple of the number of processes.
    """

    def __init__(
        self,
        source: Source,
        seed: int,
        batch_size: int,
        rounds: Sequence[range],
        num_workers: int = 0,
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}; expected at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers: got {num_workers}; expected at least 0")
        self.source, self.seed, self.batch_size = source, seed, batch_size
        self.rounds, self.num_workers = rounds, num_workers
        self._normalize = None if normalize is None else _channel_terms(normalize, source.in_channels)

    def train_dataloader(self) -> DataLoader[Any]:
        number = 0 if self.trainer is None else self.trainer.current_epoch
        rank, world = self._place()
        if self.batch_size % world:
            raise ValueError(
                f"batch_size: got {self.batch_size} for {world} processes; expected a multiple of their number"
            )
        share = self.batch_size // world
        steps = self.rounds[number] if number < len(self.rounds) else range(0)
        part = slice(rank * share, (rank + 1) * share)
        return self._loader(RoundBatches(self.source, self.seed, self.batch_size, steps, part))

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(TestBatches(self.source, size_of_test_batch(self.source.input_size), *self._place()))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        images, targets = (tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.targets))
        return Batch(images, targets, batch.unreadable)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The images as float32, or as the trainer's precision has them, (b, C, S, S): in [0, 1], or normalised."""
        images = to_unit(batch.images)
        if self._normalize is not None:
            mean, std = (term.to(images.device) for term in self._normalize)
            images = images.sub_(mean).div_(std)
        if self.trainer is not None:  # the trainer's own conversion came before they were floating-point
            images = self.trainer.precision_plugin.convert_input(images)
        return batch._replace(images=images)

    def images(self, step: int, device: torch.device) -> Tensor:
        """This process's images of a training step, as a training batch brings them to ``device``."""
        rank, world = self._place()
        share = self.batch_size // world
        batch = self.source.train_batch(self.seed, step, self.batch_size, slice(rank * share, (rank + 1) * share))
        return self.on_after_batch_transfer(self.transfer_batch_to_device(batch, device, 0), 0).images

    def _place(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, batches: Dataset[Batch]) -> DataLoader[Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            batches,
            batch_size=None,
            shuffle=False,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            pin_memory=on_gpu,
            # Every iterator draws a seed for its workers: not from the generator that dropout draws from.
            generator=torch.Generator(),
        )


def to_unit(images: Tensor) -> Tensor:
    """uint8 images in 0 to 255 as float32 in [0, 1], same shape and layout."""
    return images.to(torch.float32).div_(255)


def size_of_test_batch(input_size: int) -> int:
    """Images of a test batch: at least 1, at most 100."""
    return max(1, min(TEST_BATCH, TEST_PIXELS // input_size**2))


def _as_is(batch: Any) -> Any:
    # The default would turn the tuple of unreadable images into a list.
    return batch


def _channel_terms(normalize: tuple[Sequence[float], Sequence[float]], channels: int) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in normalize)
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"normalize: got {len(mean)} means and {len(std)} standard deviations; expected {channels}, one a channel"
        )
    if not (std > 0).all():
        raise ValueError(f"normalize: got the standard deviations {std.flatten().tolist()}; expected positive ones")
    return mean, std
