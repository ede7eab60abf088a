"""What a training measured: figures by step, and its cost in seconds, in a file that a restart goes on writing."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..atomic import naming
from ..damaged import reading
from ..data.errors import NonFiniteLossError
from ..data.source import Batch, Unreadable
from ..data.unreadable import UnreadableLog
from .distributed import gather, mean_over_all, sum_over_all
from .module import JointTraining
from .progress import Watcher
from .protocol import Stage
from .results import ACCURACY, METRICS, Row
from .run_folder import remedy

_PLAIN = tuple(entry.name for entry in fields(Row) if entry.name != "metrics")
_WAITING = 50
"""Steps whose figures wait on the device: each reading waits for it."""


class Stopwatch:
    """CPU seconds of the whole process (all its threads) and wall seconds, with pauses."""

    def __init__(self) -> None:
        self.spent = (0.0, 0.0)
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        self._since = (time.process_time(), time.perf_counter())

    def pause(self) -> None:
        self.spent, self._since = self.read(), None

    def read(self) -> tuple[float, float]:
        """CPU and wall seconds so far."""
        if self._since is None:
            return self.spent
        return (
            self.spent[0] + time.process_time() - self._since[0],
            self.spent[1] + time.perf_counter() - self._since[1],
        )


class Recorder(Callback):
    """Writes a row per training batch and per pass over the test set, and times the training alone.

    A checkpoint remembers how long the file was: what a killed run wrote after its last checkpoint is cut off when it
    goes on, and written again.

    Args:
        stage: what the rows are about.
        task: ``"classification"`` or ``"iqa"``.
        path: the CSV file; None in all processes but the first.
        steps_per_epoch: tells epochs from steps.
        unreadable: takes the images that could not be read.
        watcher: told of steps and tests.

    Raises:
        NonFiniteLossError: from the training, before anything of such a state is kept.
        TooManyUnreadableError: from ``unreadable``.
    """

    def __init__(
        self,
        stage: Stage,
        task: str,
        path: Path | None,
        steps_per_epoch: float,
        unreadable: UnreadableLog,
        watcher: Watcher,
    ) -> None:
        self.stage, self.task, self.path = stage, task, path
        self.steps_per_epoch, self.unreadable, self.watcher = steps_per_epoch, unreadable, watcher
        self.stopwatch = Stopwatch()
        self._rows: list[Row] = []
        self._rate = 0.0
        self._unreadable: list[Unreadable] = []
        self._waiting: list[tuple[int, Tensor, Tensor | None, int, float, tuple[float, float]]] = []

    def state_dict(self) -> dict[str, Any]:
        size = self.path.stat().st_size if self.path is not None and self.path.exists() else 0
        return {"bytes": size, "spent": self.stopwatch.read()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.stopwatch.spent = tuple(state_dict["spent"])
        if self.path is not None:
            with reading(self.path, remedy(self.path.parent)):
                if self.path.stat().st_size < state_dict["bytes"]:
                    raise ValueError(f"shorter than the {state_dict['bytes']} bytes that its checkpoint tells of")
            with naming(self.path):
                os.truncate(self.path, state_dict["bytes"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopwatch.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # the schedule moves on before the batch ends

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._met(trainer, batch)
        loss, correct = outputs["loss"].detach(), outputs["correct"]
        if loss.device.type == "cpu" and trainer.world_size == 1:
            self._check_finite(trainer.global_step, float(loss))
        self._waiting.append(
            (trainer.global_step, loss, correct, len(batch.targets), self._rate, self.stopwatch.read())
        )
        if len(self._waiting) >= _WAITING:
            self._flush()
        self.watcher.step(trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush()
        self._count_unreadable()
        self._write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stopwatch.pause()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._flush()
        if not trainer.sanity_checking:
            self.stopwatch.pause()
        self.watcher.testing()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._met(trainer, batch)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, JointTraining)
        self._count_unreadable()
        loss, metrics = pl_module.task.results()
        # Before the first step ("sanity checking" to Lightning) nothing has been trained.
        step = 0 if trainer.sanity_checking else trainer.global_step
        rate = 0.0 if trainer.sanity_checking else trainer.optimizers[0].param_groups[0]["lr"]
        row = self._row(step, "test", loss, rate, self.stopwatch.read(), metrics)
        self._rows.append(row)
        self.watcher.tested(row)
        if trainer.sanity_checking:
            self._write()
        else:
            self.stopwatch.start()

    def _met(self, trainer: Trainer, batch: Batch) -> None:
        self._unreadable += batch.unreadable
        if trainer.world_size == 1:
            self._count_unreadable()

    def _count_unreadable(self) -> None:
        """Several processes count together, at the end of each round: so all of them stop, or none."""
        self.unreadable.add(gather(self._unreadable))
        self._unreadable = []

    def _flush(self) -> None:
        if not self._waiting:
            return
        steps, losses, correct, counts, rates, times = zip(*self._waiting, strict=True)
        mean_losses = mean_over_all(torch.stack(losses)).tolist()
        right = None if correct[0] is None else sum_over_all(torch.stack(correct)).tolist()
        images = sum_over_all(torch.tensor(counts, device=losses[0].device)).tolist()
        self._waiting.clear()
        for index, (step, loss) in enumerate(zip(steps, mean_losses, strict=True)):
            self._check_finite(step, loss)
            metrics = {} if right is None else {ACCURACY.name: right[index] / images[index]}
            self._rows.append(self._row(step, "train", loss, rates[index], times[index], metrics))

    def _check_finite(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"{self.stage.key}: the training loss is {loss} at step {step}; the last checkpoint is from before it. "
                "A smaller learning rate, or precision 32-true, usually helps"
            )

    def _row(
        self,
        step: int,
        split: str,
        loss: float,
        rate: float,
        spent: tuple[float, float],
        metrics: dict[str, float],
    ) -> Row:
        stage = self.stage
        epoch = step / self.steps_per_epoch
        return Row(stage.arm, stage.seed, stage.input_size, step, epoch, split, loss, rate, *spent, metrics)

    def _write(self) -> None:
        if self.path is not None:
            append_rows(self.path, self._rows, self.task)
        self._rows.clear()


class UnreadableCount(Callback):
    """Counts the unreadable images of a test alone."""

    def __init__(self, unreadable: UnreadableLog) -> None:
        self.unreadable = unreadable

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.unreadable.add(batch.unreadable)


def append_rows(path: Path, rows: Sequence[Row], task: str) -> None:
    """Appends rows to a CSV file, with a header where the file is new; on the disk when it returns.

    Raises:
        OSError: the file cannot be written, or a part of it only.
    """
    new = not path.exists() or not path.stat().st_size
    with naming(path), path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([*_PLAIN, *(metric.name for metric in METRICS[task])])
        for row in rows:
            # All digits: a run that goes on is compared with one that was never interrupted.
            metrics = [row.metrics.get(metric.name, "") for metric in METRICS[task]]
            writer.writerow([*(getattr(row, name) for name in _PLAIN), *metrics])
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Reads what ``append_rows`` wrote.

    Raises:
        Exception: of any kind, where it is something else or a part of it.
    """
    whole, text = {"seed", "input_size", "step"}, {"arm", "split"}
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            plain = {
                name: line[name] if name in text else int(line[name]) if name in whole else float(line[name])
                for name in _PLAIN
            }
            metrics = {name: float(value) for name, value in line.items() if name not in _PLAIN and value != ""}
            rows.append(Row(**plain, metrics=metrics))  # type: ignore[arg-type]
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError("its last line is cut off")
    return rows
