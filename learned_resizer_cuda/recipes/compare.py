"""Runs every arm for every seed: same data, same order, same initial network, same training."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import nn

from ..data.digits import DigitsOnPhotographs
from ..data.module import DigitsDataModule
from .arms import build_arm, long_steps
from .config import RunConfig
from .joint import JointTraining, adamw_one_cycle, classification_loss
from .record import Recorder, Row, append_rows

TRAIN_WINDOW = 50
"""Training accuracy is the mean over this many last batches, as they were seen in training."""


@dataclass
class ArmResult:
    """One arm with one seed. Accuracies are in [0, 1]; seconds cover the training alone."""

    arm: str
    seed: int
    steps: int
    test_accuracy: float
    train_accuracy: float
    test_loss: float
    cpu_seconds: float
    wall_seconds: float
    resizer_parameters: int
    device: str
    rows: list[Row] = field(repr=False)
    resizer: nn.Module = field(repr=False)
    network: nn.Module = field(repr=False)


class Watcher:
    """What a comparison tells while it runs; this one keeps quiet. The command line shows a progress bar."""

    def start(self, arm: str, seed: int, steps: int) -> None:
        """An arm begins."""

    def step(self, step: int) -> None:
        """It has finished ``step`` steps."""

    def evaluated(self, row: Row) -> None:
        """It has been tested."""

    def finish(self, result: ArmResult) -> None:
        """It has ended."""


def compare(
    config: RunConfig, source: DigitsOnPhotographs, metrics: Path | None = None, watcher: Watcher | None = None
) -> list[ArmResult]:
    """Trains every arm for every seed.

    Determinism: on a CPU the same configuration and number of threads give the same figures, seconds apart; the
    length of the long arm is part of the result (see ``long_steps``).

    Args:
        config: what to run.
        source: the data.
        metrics: CSV file that gets the rows of each arm as soon as it has ended.
        watcher: told of progress.

    Returns:
        Results in the order of running: seed by seed, arm by arm.
    """
    watcher = watcher or Watcher()
    results: list[ArmResult] = []
    long: int | None = None
    for seed in range(config.seed, config.seed + config.seeds):
        for arm in config.ordered_arms:
            steps = config.steps
            if arm == "bicubic-long":
                # Settled with the first seed, so that the seeds of an arm are repetitions of one training.
                long = long or _long_steps(config, results)
                steps = long
            watcher.start(arm, seed, steps)
            result = train_arm(config, source, arm, seed, steps, watcher.step, watcher.evaluated)
            if metrics is not None:
                append_rows(metrics, result.rows)
            watcher.finish(result)
            results.append(result)
    return results


def _long_steps(config: RunConfig, results: list[ArmResult]) -> int:
    cost = {result.arm: training_seconds(result) for result in results}
    fixed = [cost[arm] / config.steps for arm in ("bicubic", "bilinear") if arm in cost]
    return long_steps(config, cost.get("learned"), fixed[0] if fixed else None)


def training_seconds(result: ArmResult) -> float:
    """The cost that arms are matched by: CPU seconds, or wall seconds where an accelerator did the work."""
    return result.cpu_seconds if result.device == "cpu" else result.wall_seconds


def train_arm(
    config: RunConfig,
    source: DigitsOnPhotographs,
    arm: str,
    seed: int,
    steps: int,
    on_step: Callable[[int], None] | None = None,
    on_evaluation: Callable[[Row], None] | None = None,
) -> ArmResult:
    """Trains one arm with one seed for ``steps`` steps and tests it."""
    data = DigitsDataModule(source, seed, steps, config.batch_size, config.num_workers)
    resizer, network = build_arm(arm, config, seed, data.in_channels, data.num_classes)
    loss = classification_loss(config.loss, config.label_smoothing)
    optimisers = adamw_one_cycle(config.learning_rate, config.weight_decay, steps)
    module = JointTraining(resizer, network, loss, optimisers)
    recorder = Recorder(arm, seed, on_step, on_evaluation)
    with _quiet_lightning():
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=1,
            max_epochs=1,  # an epoch is the run's own `steps` batches
            val_check_interval=-(-steps // config.evaluations),
            callbacks=[recorder],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, data)
        if recorder.rows[-1].split != "test":  # the interval does not divide the steps
            trainer.validate(module, data, verbose=False)
    test, train = recorder.split("test")[-1], recorder.split("train")
    last = [row.accuracy for row in train[-TRAIN_WINDOW:]]
    cpu, wall = recorder.stopwatch.read()
    return ArmResult(
        arm=arm,
        seed=seed,
        steps=steps,
        test_accuracy=test.accuracy,
        train_accuracy=sum(last) / len(last),
        test_loss=test.loss,
        cpu_seconds=cpu,
        wall_seconds=wall,
        resizer_parameters=sum(p.numel() for p in resizer.parameters()),
        device=trainer.strategy.root_device.type,
        rows=recorder.rows,
        resizer=resizer.eval(),
        network=network.eval(),
    )


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's notes on devices and workers off the screen: the progress bar and the table say it all."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 under torch 2.15: its own use of torch's pytree, nothing a user could change.
            warnings.filterwarnings("ignore", message=".*LeafSpec")
            yield
    finally:
        logger.setLevel(level)
