"""`--batch-size auto`: the largest batch for which the run's costliest training has memory."""

from __future__ import annotations

import contextlib

import torch

from ..data.source import Source
from .batch_size import largest_batch_size
from .config import RunConfig
from .models import build_models
from .optimiser import build_optimiser
from .progress import Watcher
from .protocol import Stage, plan
from .tasks import build_task

LIMIT = 1024
"""More images a device than this are not tried: training recipes do not reach so far."""


def fitted_batch_size(config: RunConfig, source: Source, watcher: Watcher) -> int:
    """Images in a batch, of all processes together, that fit the memory of each one's device.

    Random images, in the training's own precision, through the stage of most filters and blocks. A power of two times
    the number of processes, at most ``LIMIT`` a process and no more than there are training images.

    Raises:
        BatchSizeError: not even two images a process fit, or memory cannot be measured here.
        ValueError: there are fewer than two training images a process.
    """
    processes = config.devices * config.nodes
    if source.train_size < 2 * processes:
        raise ValueError(
            f"batch_size: got auto for {source.train_size} training images; expected at least 2 for each of the "
            f"{processes} processes"
        )
    device = torch.device("cpu" if config.accelerator == "cpu" or not torch.cuda.is_available() else "cuda")
    stages = [stage for stage in plan(config, lambda _: 1.0) if stage.input_size == source.input_size]
    stage = max(stages, key=_demand)
    resizer, network = (
        module.to(device) for module in build_models(stage, config, source.in_channels, len(source.labels))
    )
    task = build_task(config.task, len(source.labels), config.loss, config.label_smoothing).to(device)
    parameters = [*resizer.parameters(), *network.parameters()]
    optimiser = build_optimiser(config, parameters, 1e-6)
    precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.precision)

    def step(count: int) -> None:
        watcher.doing(f"finding the batch size: trying {count} images")
        images = torch.rand(count, source.in_channels, source.input_size, source.input_size, device=device)
        if config.task == "iqa":
            targets = torch.full((count, len(source.labels)), 1 / len(source.labels), device=device)
        else:
            targets = torch.zeros(count, dtype=torch.int64, device=device)
        narrow = torch.autocast(device.type, precision) if precision else contextlib.nullcontext()
        with narrow:
            loss = task.loss(network(resizer(images)), targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        return processes * largest_batch_size(step, device, min(LIMIT, source.train_size // processes))


def _demand(stage: Stage) -> tuple[bool, int]:
    return stage.front.is_learned, stage.front.num_filters * (1 + stage.front.num_blocks)
