"""Trains one stage with Lightning: in rounds, tested at their ends, going on from a checkpoint if there is one."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities.warnings import PossibleUserWarning
from torch import nn

from ..data.source import Source
from ..data.unreadable import UnreadableLog
from ..sync_batch_norm import synchronise
from .batches import SourceData
from .checkpoint import RoundCheckpoint
from .checkpoint_io import AtomicCheckpointIO
from .config import RunConfig
from .distributed import rank, start_others
from .module import JointTraining, optimisers
from .progress import Watcher
from .protocol import Stage, default_evaluations, rounds
from .recalibrate import recalibrate
from .record import Recorder
from .tasks import build_task

CHECKPOINT, METRICS = "last.ckpt", "metrics.csv"


@dataclass(frozen=True)
class Fitted:
    """How a training ended; the models it trained have changed in place, or are new (``synchronise``)."""

    resizer: nn.Module
    network: nn.Module
    cpu_seconds: float
    wall_seconds: float
    device: str


def fit(
    stage: Stage,
    config: RunConfig,
    source: Source,
    batch_size: int,
    models: tuple[nn.Module, nn.Module],
    folder: Path,
    unreadable: UnreadableLog,
    watcher: Watcher,
) -> Fitted:
    """Trains ``models``, resizer and network, for the stage's steps.

    Determinism: on a CPU the same stage, configuration and number of threads give the same bits, also if the training
    was killed and went on from its last checkpoint. Several processes give what one gives with the joint batch, up to
    rounding.

    Args:
        folder: of the stage; gets ``last.ckpt`` and ``metrics.csv``.
        unreadable: takes the images that could not be read.
        watcher: told of progress.

    Raises:
        NonFiniteLossError, TooManyUnreadableError: ends the training.
    """
    processes = config.devices * config.nodes
    steps_per_epoch = source.train_size / batch_size
    tests = config.evaluations or default_evaluations(stage.steps, steps_per_epoch)
    plan = rounds(stage.steps, tests, config.checkpoint_steps)
    parts = len(plan) // sum(part.tested for part in plan)
    normalisation = (config.mean, config.std) if config.normalize else None
    data = SourceData(source, stage.seed, batch_size, [part.steps for part in plan], config.num_workers, normalisation)
    first = rank() == 0
    recorder = Recorder(stage, config.task, folder / METRICS if first else None, steps_per_epoch, unreadable, watcher)
    callbacks: list[Callback] = [recorder]
    if config.recalibrate_bn:
        callbacks.append(_Recalibration(data, config.recalibration_batches))
    callbacks.append(RoundCheckpoint(folder / CHECKPOINT, stage.seed))
    saved = folder / CHECKPOINT
    going_on = saved.is_file()
    if not going_on and first:
        (folder / METRICS).unlink(missing_ok=True)  # of a call that was killed before its first checkpoint
    with quiet_lightning():
        trainer = make_trainer(
            config,
            callbacks,
            max_epochs=len(plan),
            check_val_every_n_epoch=parts,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0 if going_on else -1,  # the test before the first step
        )
        start_others(trainer.strategy.launcher)
        resizer, network = models
        if processes > 1:
            device = trainer.strategy.root_device
            resizer, network = synchronise(resizer, device), synchronise(network, device)
        task = build_task(config.task, len(source.labels), config.loss, config.label_smoothing)
        build = optimisers(config, stage.learning_rate, stage.steps, steps_per_epoch)
        module = JointTraining(resizer, network, task, build)
        trainer.fit(module, data, ckpt_path=saved if going_on else None, weights_only=True)
    cpu, wall = recorder.stopwatch.read()
    for trained in (resizer, network):
        trained.cpu().float()  # from a GPU, or from the precision 64-true
    return Fitted(resizer, network, cpu, wall, trainer.strategy.root_device.type)


def make_trainer(config: RunConfig, callbacks: list[Callback], **options: Any) -> Trainer:
    """A Lightning trainer on the devices of ``config`` that keeps no logs of its own."""
    several = config.devices * config.nodes > 1
    # Statistics of synchronised norms are equal everywhere; sending them before every test batch would need each
    # process to have equally many.
    strategy: str | Strategy = DDPStrategy(broadcast_buffers=False) if several else "auto"
    callbacks = [_OwnHandler(), *callbacks]
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=strategy,
        precision=config.precision,  # type: ignore[arg-type]
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # a batch is cut by its source
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class _OwnHandler(Callback):
    """Keeps the program's own handler of SIGTERM, where it has one.

    Lightning's would first pass the signal on to the other processes and wait for them, wherever they are.
    """

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if callable(self.handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)

    on_train_start = on_sanity_check_start


class _Recalibration(Callback):
    """Recomputes batch norm statistics before each test, from the last training batches before it."""

    def __init__(self, data: SourceData, batches: int) -> None:
        self.data, self.batches = data, batches

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before the first step the statistics belong to the weights as they came.
        if trainer.sanity_checking:
            return
        done = trainer.global_step
        steps = range(max(0, done - self.batches), done)
        assert isinstance(pl_module, JointTraining)
        model = nn.Sequential(pl_module.resizer, pl_module.network)
        with trainer.precision_plugin.forward_context():
            recalibrate(model, (self.data.images(step, pl_module.device) for step in steps))


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's notes on devices and workers off the screen: the progress bar and the table say it all."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Lightning 2.6 under torch 2.15: its own use of torch's pytree, nothing a user could change.
            warnings.filterwarnings("ignore", message=".*LeafSpec")
            # And DDP's of an argument whose successor has another meaning.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
