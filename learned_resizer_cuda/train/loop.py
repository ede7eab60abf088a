"""One stage's training in rounds: steps, a test if due, a checkpoint."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..data.source import Batch, Source
from ..data.unreadable import UnreadableLog
from ..sync_batch_norm import synchronise
from .batches import Batches
from .checkpoint import load_checkpoint, save_checkpoint, seed_round
from .config import RunConfig
from .distributed import is_first_process, start_others
from .optimiser import build_optimiser, build_schedule
from .progress import Watcher
from .protocol import Stage, rounds, steps_tested
from .recalibrate import modes_kept, norms_of, recalibrate
from .record import Recorder
from .results import metrics_of, share_of
from .tasks import Task

CHECKPOINT, METRICS_FILE = "last.ckpt", "metrics.csv"


@dataclass(frozen=True)
class Fitted:
    """Trained models in float32 on the CPU, and what the training took."""

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
    task: Task,
    folder: Path,
    unreadable: UnreadableLog,
    watcher: Watcher,
) -> Fitted:
    """Trains a resizer and a network together, on the task's loss alone.

    No pixel or perceptual loss touches the resizer. A stage of no steps is only tested. Resumes from the folder's
    checkpoint if there is one.

    Determinism: on a CPU the same stage, configuration and number of threads give the same bits, also when the
    training was killed and resumed. Several processes give what one gives with the joint batch, up to rounding.

    Args:
        batch_size: images in a training batch, of all processes together.
        models: resizer (B, C, H, W) → (B, C, h, w), and network (B, C, h, w) → logits (B, K); changed in place, or
            replaced (``synchronise``).
        task: its loss and metrics.
        folder: of the stage; gets ``last.ckpt`` and ``metrics.csv``.
        unreadable: collects the images that could not be read.
        watcher: notified of progress.

    Raises:
        NonFiniteLossError, TooManyUnreadableError: end the training.
        DamagedFileError: the checkpoint or ``metrics.csv`` cannot be resumed from.
        OSError: a file cannot be written.
    """
    fabric = open_fabric(config)
    first, saved = is_first_process(), folder / CHECKPOINT
    steps_per_epoch = source.train_size / batch_size
    plan = rounds(steps_tested(stage, config, steps_per_epoch), config.checkpoint_steps) if stage.steps else []
    batches = open_batches(fabric, config, source, stage.seed, batch_size)
    if fabric.world_size > 1:
        models = (synchronise(models[0], fabric.device), synchronise(models[1], fabric.device))
    task = place(fabric, task)
    model = place(fabric, nn.Sequential(models[0], task.student(models[1])))
    resizer, network = model

    def recompute_statistics(model: nn.Module, steps: range) -> None:
        with torch.inference_mode(), fabric.autocast():
            recalibrate(model, (batch.images for batch in batches.train(steps)))

    fixed = config.network_norms == "fixed"
    if fixed:
        for norm in norms_of(network):
            norm.eval()
    average = None
    if config.ema and stage.front.is_learned:
        average = AveragedModel(resizer, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    tested = model if average is None else nn.Sequential(average.module, network)
    metrics_file = folder / METRICS_FILE if first else None
    columns = [metric.name for metric in metrics_of(config)]
    recorder = Recorder(stage, columns, share_of(config), metrics_file, steps_per_epoch, unreadable, watcher)

    def test(step: int, learning_rate: float) -> None:
        watcher.testing(stage)
        # Before the first step the statistics belong to the weights as they came. A network may keep its own.
        if config.recalibrate_bn and step:
            part = tested[0] if config.freeze or fixed else tested
            recompute_statistics(part, range(max(0, step - config.recalibration_batches), step))
        loss, metrics = measure(fabric, tested, task, recorder.counting(batches.test()))
        recorder.test(step, loss, metrics, learning_rate)

    if not stage.steps:
        if first:
            (folder / METRICS_FILE).unlink(missing_ok=True)  # of a call that was killed after it
        test(0, 0.0)
        recorder.write()
        model.cpu().float()
        return Fitted(*models, 0.0, 0.0, fabric.device.type)
    optimiser: Any = build_optimiser(config, resizer, network, stage.learning_rate)
    schedule = build_schedule(config, optimiser, stage.steps, steps_per_epoch)
    optimiser = fabric.setup_optimizers(optimiser)  # undoes what fabric.backward scales losses by with 16-mixed
    with quiet_lightning():
        parallel = fabric.strategy.setup_module(model)  # averages gradients over the processes
    parts = {
        "model": model,
        "optimiser": optimiser,
        "schedule": schedule,
        "precision": fabric.strategy.precision,
        "recorder": recorder,
    }
    if average is not None:
        parts["average"] = average
    done = 0
    if saved.is_file():
        done = load_checkpoint(saved, parts)["rounds"]
    else:
        if first:
            (folder / METRICS_FILE).unlink(missing_ok=True)  # of a call that was killed before its first checkpoint
        test(0, 0.0)
        recorder.write()
    for number, current in enumerate(plan[done:], done):
        seed_round(stage.seed, number, fabric.global_rank)
        with recorder.stopwatch:
            for step, batch in enumerate(recorder.counting(batches.train(current.steps)), current.steps.start + 1):
                with fabric.autocast():
                    targets = task.targets(batch.images, batch.targets)
                    logits = parallel(batch.images)
                    loss = task.loss(logits, targets)
                optimiser.zero_grad()
                fabric.backward(loss)
                optimiser.step()
                if average is not None:
                    average.update_parameters(resizer)
                correct = task.correct(logits, targets)
                recorder.step(step, loss.detach(), correct, len(batch.images), optimiser.param_groups[0]["lr"])
                schedule.step()
            recorder.flush()
        if current.tested:
            test(current.steps.stop, optimiser.param_groups[0]["lr"])
        with recorder.stopwatch:
            recorder.write()
            if first:
                save_checkpoint(saved, parts, rounds=number + 1)

    tested.cpu().float()  # from a GPU, or from the precision 64-true
    cpu, wall = recorder.stopwatch.read()
    return Fitted(tested[0], models[1], cpu, wall, fabric.device.type)


@torch.inference_mode()
def measure(fabric: Fabric, model: nn.Module, task: Task, batches: Iterable[Batch]) -> tuple[float, dict[str, float]]:
    """A model's mean loss and metrics over test batches, in evaluation mode."""
    with modes_kept(model), fabric.autocast():
        model.eval()
        for batch in batches:
            if len(batch.images):  # every image of a batch may have been unreadable
                task.measure(model(batch.images), task.targets(batch.images, batch.targets))
    return task.results()


def open_fabric(config: RunConfig) -> Fabric:
    """Lightning Fabric on the devices of ``config``, with all processes started.

    Raises:
        ValueError: this machine has no such devices.
    """
    several = config.devices * config.nodes > 1
    with quiet_lightning():
        try:
            fabric = Fabric(
                accelerator=config.accelerator,
                devices=config.devices,
                num_nodes=config.nodes,
                # Synchronised norms have the same statistics in every process: no need to send them around.
                strategy=DDPStrategy(broadcast_buffers=False) if several else "auto",
                precision=config.precision,  # type: ignore[arg-type]
            )
        except (RuntimeError, MisconfigurationException) as error:
            raise ValueError(
                f"accelerator: got {config.accelerator}; expected a device of this machine ({error})"
            ) from error
        start_others(fabric.strategy.launcher)
        fabric.launch()
    return fabric


def open_batches(fabric: Fabric, config: RunConfig, source: Source, seed: int, batch_size: int) -> Batches:
    """A source's batches on the device, in ``config``'s precision and normalisation."""
    return Batches(
        source,
        seed,
        batch_size,
        num_workers=config.num_workers,
        normalize=(config.mean, config.std) if config.normalize else None,
        device=fabric.device,
        dtype=torch.float64 if config.precision == "64-true" else torch.float32,
        rank=fabric.global_rank,
        world=fabric.world_size,
    )


def place(fabric: Fabric, module: Any) -> Any:
    """The module on the device, in float64 with precision 64-true.

    Not by ``Fabric.setup``: its wrapper would round the images to 16 bits before the resizer, and float64 logits to
    float32 before the loss.
    """
    return fabric.to_device(fabric.strategy.precision.convert_module(module))


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hides Lightning's notes on devices and processes: progress bar and table suffice."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("fabric", "pytorch")]  # Fabric logs to either
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # DDP's, of an argument whose successor has another meaning
            warnings.filterwarnings("ignore", message=".*broadcast_buffers")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
