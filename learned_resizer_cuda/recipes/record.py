"""What a training run measured: figures by step, and its cost in seconds."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One line of metrics.csv: a training batch, or a pass over the test set.

    ``step`` counts finished optimiser steps; ``cpu_seconds`` and ``wall_seconds`` are the training time spent
    up to there, without the passes over the test set.
    """

    arm: str
    seed: int
    step: int
    split: str
    loss: float
    accuracy: float
    learning_rate: float
    cpu_seconds: float
    wall_seconds: float


class Stopwatch:
    """CPU seconds of the whole process (all its threads) and wall seconds, with pauses."""

    def __init__(self) -> None:
        self._spent = (0.0, 0.0)
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        self._since = (time.process_time(), time.perf_counter())

    def pause(self) -> None:
        self._spent, self._since = self.read(), None

    def read(self) -> tuple[float, float]:
        """CPU and wall seconds so far."""
        if self._since is None:
            return self._spent
        return (
            self._spent[0] + time.process_time() - self._since[0],
            self._spent[1] + time.perf_counter() - self._since[1],
        )


class Recorder(Callback):
    """Collects a row per training batch and per pass over the test set, and times the training alone.

    Args:
        arm, seed: what the rows are about.
        on_step: called after every training batch with the number of finished steps.
        on_evaluation: called after every pass over the test set with its row.
    """

    def __init__(
        self,
        arm: str,
        seed: int,
        on_step: Callable[[int], None] | None = None,
        on_evaluation: Callable[[Row], None] | None = None,
    ) -> None:
        self.arm, self.seed = arm, seed
        self.on_step, self.on_evaluation = on_step, on_evaluation
        self.rows: list[Row] = []
        self.stopwatch = Stopwatch()
        self._pending: list[tuple[int, Tensor, Tensor, int, float, tuple[float, float]]] = []
        self._tested: list[tuple[Tensor, Tensor, int]] = []

    def split(self, split: str) -> list[Row]:
        """The rows of ``"train"`` or ``"test"``."""
        return [row for row in self.rows if row.split == split]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopwatch.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush()
        self.stopwatch.pause()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        # Read out in one go at the next pass over the test set: on an accelerator each read waits for the device.
        self._pending.append(
            (
                trainer.global_step,
                outputs["loss"].detach(),
                outputs["correct"],
                len(batch[1]),
                rate,
                self.stopwatch.read(),
            )
        )
        if self.on_step:
            self.on_step(trainer.global_step)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush()
        self.stopwatch.pause()
        self._tested = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._tested.append((outputs["loss"], outputs["correct"], len(batch[1])))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss_tensors, correct_tensors, counts = zip(*self._tested, strict=True)
        losses, correct = torch.stack(loss_tensors).tolist(), torch.stack(correct_tensors).tolist()
        loss = sum(value * count for value, count in zip(losses, counts, strict=True)) / sum(counts)
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else 0.0
        row = self._row(trainer.global_step, "test", loss, sum(correct) / sum(counts), rate, self.stopwatch.read())
        self.rows.append(row)
        if self.on_evaluation:
            self.on_evaluation(row)
        # Between batches of a fit; trainer.training is not yet set again here.
        if trainer.state.fn == TrainerFn.FITTING:
            self.stopwatch.start()

    def _flush(self) -> None:
        if self._pending:
            steps, losses, correct, counts, rates, times = zip(*self._pending, strict=True)
            figures = zip(torch.stack(losses).tolist(), torch.stack(correct).tolist(), counts, strict=True)
            for step, (loss, right, count), rate, spent in zip(steps, figures, rates, times, strict=True):
                self.rows.append(self._row(step, "train", loss, right / count, rate, spent))
            self._pending.clear()

    def _row(self, step: int, split: str, loss: float, accuracy: float, rate: float, spent: tuple[float, float]) -> Row:
        return Row(self.arm, self.seed, step, split, loss, accuracy, rate, *spent)


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Appends rows to a CSV file, with a header where the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _short(value) for name, value in asdict(row).items()})


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
