"""Lightning data modules: where a training run takes its batches from."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .digits import DigitsOnPhotographs

EVAL_BATCH = 100


class StepBatches(Dataset[tuple[Tensor, Tensor]]):
    """A map from step number to that step's whole batch: the same whichever worker draws it."""

    def __init__(self, source: DigitsOnPhotographs, seed: int, steps: int, batch_size: int) -> None:
        self.source, self.seed, self.steps, self.batch_size = source, seed, steps, batch_size

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        if not 0 <= step < self.steps:
            raise IndexError(f"step: got {step}; expected 0 to {self.steps - 1}")
        return self.source.train_batch(self.seed, step, self.batch_size)


class DigitsDataModule(LightningDataModule):
    """The built-in digits on photographs, as batches of float32 images in [0, 1].

    A run of ``steps`` optimiser steps is one pass over ``steps`` batches. Batches travel as uint8 and become
    float32 on the device that trains.

    Args:
        source: the data, shared between runs.
        seed: selects the order of the digits and every canvas.
        steps: number of training batches.
        batch_size: canvases in a training batch.
        num_workers: processes that draw batches; the batches do not depend on it.
    """

    num_classes = DigitsOnPhotographs.num_classes
    in_channels = DigitsOnPhotographs.in_channels

    def __init__(
        self, source: DigitsOnPhotographs, seed: int, steps: int, batch_size: int, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.source, self.seed, self.steps = source, seed, steps
        self.batch_size, self.num_workers = batch_size, num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        batches = StepBatches(self.source, self.seed, self.steps, self.batch_size)
        return DataLoader(batches, batch_size=None, shuffle=False, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        images, labels = self.source.test_set()
        batches = list(zip(images.split(EVAL_BATCH), labels.split(EVAL_BATCH), strict=True))
        return DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return to_unit(images), labels


def to_unit(images: Tensor) -> Tensor:
    """uint8 images in 0 to 255 as float32 in [0, 1], same shape and layout."""
    return images.to(torch.float32).div_(255)
