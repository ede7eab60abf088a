"""A training's loss, metrics and time by step, in a CSV file."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import naming
from ..damaged import reading
from ..data.source import Batch, Unreadable, parse_input_size
from ..data.unreadable import UnreadableLog
from .distributed import gather, is_alone, mean_over_all, sum_over_all
from .progress import Watcher
from .protocol import Stage
from .results import Row
from .run_folder import remedy

_PLAIN = tuple(entry.name for entry in fields(Row) if entry.name != "metrics")
_WAITING = 50
"""Steps whose losses wait on the device: reading one waits for the device."""


class NonFiniteLossError(ValueError):
    """The training loss became NaN or infinite."""


class Stopwatch:
    """CPU seconds of all the process's threads and wall seconds, inside ``with``."""

    def __init__(self) -> None:
        self.spent = (0.0, 0.0)
        self._since: tuple[float, float] | None = None

    def __enter__(self) -> None:
        self._since = (time.process_time(), time.perf_counter())

    def __exit__(self, *_: object) -> None:
        self.spent, self._since = self.read(), None

    def read(self) -> tuple[float, float]:
        """CPU and wall seconds so far."""
        if self._since is None:
            return self.spent
        return (
            self.spent[0] + time.process_time() - self._since[0],
            self.spent[1] + time.perf_counter() - self._since[1],
        )


class Recorder:
    """Rows of metrics.csv, one per training batch and test, and training time.

    Part of a checkpoint, which holds the file's length: rows that a killed run wrote after its last checkpoint are cut
    off when it resumes, and written again. The time is that of the training alone.

    Args:
        stage: what the rows are about.
        columns: names of the metrics.
        share: name of the metric of training batches, if they have one.
        path: the CSV file; None in all processes but the first.
        steps_per_epoch: converts steps to epochs.
        unreadable: collects the images that could not be read.
        watcher: notified of steps and tests.
    """

    def __init__(
        self,
        stage: Stage,
        columns: Sequence[str],
        share: str | None,
        path: Path | None,
        steps_per_epoch: float,
        unreadable: UnreadableLog,
        watcher: Watcher,
    ) -> None:
        self.stage, self.columns, self.share, self.path = stage, columns, share, path
        self.steps_per_epoch, self.unreadable, self.watcher = steps_per_epoch, unreadable, watcher
        self.stopwatch = Stopwatch()
        self._rows: list[Row] = []
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
                    raise ValueError(f"shorter than the {state_dict['bytes']} bytes at its checkpoint")
            with naming(self.path):
                os.truncate(self.path, state_dict["bytes"])

    def counting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with their unreadable images counted.

        Raises:
            TooManyUnreadableError: there are more than the limit. Several processes count together, in ``write``: so
                all of them stop, or none.
        """
        for batch in batches:
            self._unreadable += batch.unreadable
            if is_alone():
                self._count_unreadable()
            yield batch

    def step(self, step: int, loss: Tensor, correct: Tensor | None, images: int, learning_rate: float) -> None:
        """Records a training step, whose results the device may still be computing.

        Args:
            step: number of finished steps.
            loss: of this process's part of the batch, a scalar.
            correct: number of right answers in it, a scalar, or None.
            images: number of images in it.
            learning_rate: of the step.

        Raises:
            NonFiniteLossError: here or in ``flush``, before a checkpoint of such a state is saved.
        """
        if loss.device.type == "cpu" and is_alone():
            self._check_finite(step, float(loss))
        self._waiting.append((step, loss, correct, images, learning_rate, self.stopwatch.read()))
        if len(self._waiting) >= _WAITING:
            self.flush()
        self.watcher.step(self.stage, step)

    def test(self, step: int, loss: float, metrics: dict[str, float], learning_rate: float) -> None:
        """Records a pass over the test set."""
        row = self._row(step, "test", loss, learning_rate, self.stopwatch.read(), metrics)
        self._rows.append(row)
        self.watcher.tested(self.stage, row)

    def flush(self) -> None:
        """Turns the waiting steps into rows, with the means over all processes."""
        if not self._waiting:
            return
        steps, losses, correct, counts, rates, times = zip(*self._waiting, strict=True)
        mean_losses = mean_over_all(torch.stack(losses)).tolist()
        right = None if correct[0] is None else sum_over_all(torch.stack(correct)).tolist()
        images = sum_over_all(torch.tensor(counts, device=losses[0].device)).tolist()
        self._waiting.clear()
        for index, (step, loss) in enumerate(zip(steps, mean_losses, strict=True)):
            self._check_finite(step, loss)
            metrics = {} if right is None or self.share is None else {self.share: right[index] / images[index]}
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

    def write(self) -> None:
        """Appends the rows to the file; several processes count their unreadable images.

        Raises:
            TooManyUnreadableError: there are more than the limit; in all processes.
            OSError: the file cannot be written.
        """
        self._count_unreadable()
        if self.path is not None:
            append_rows(self.path, self._rows, self.columns)
        self._rows.clear()

    def _count_unreadable(self) -> None:
        self.unreadable.add(gather(self._unreadable))
        self._unreadable = []


def append_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Appends rows to a CSV file and flushes them to the disk.

    A new file gets a header first.

    Raises:
        OSError: the file cannot be written, or only in part.
    """
    new = not path.exists() or not path.stat().st_size
    with naming(path), path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow([*_PLAIN, *columns])
        for row in rows:
            # All digits: a resumed run is compared with one that was never interrupted.
            metrics = [row.metrics.get(name, "") for name in columns]
            writer.writerow([*(getattr(row, name) for name in _PLAIN), *metrics])
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[Row]:
    """Reads what ``append_rows`` wrote.

    Raises:
        Exception: of any kind, if it is something else or cut off.
    """
    whole, text = {"seed", "step"}, {"arm", "split"}
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            plain = {
                name: line[name] if name in text else int(line[name]) if name in whole else float(line[name])
                for name in _PLAIN
                if name != "input_size"
            }
            input_size = parse_input_size(line["input_size"])
            metrics = {name: float(value) for name, value in line.items() if name not in _PLAIN and value != ""}
            rows.append(Row(**plain, input_size=input_size, metrics=metrics))  # type: ignore[arg-type]
    if not path.read_bytes().endswith(b"\n"):
        raise ValueError("its last line is cut off")
    return rows
