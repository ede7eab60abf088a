"""`--batch-size auto`: the largest batch that fits a GPU's memory."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable

import torch

from ..data.source import MixedImages, Source
from .config import RunConfig
from .models import build_models
from .optimiser import build_optimiser
from .progress import Watcher
from .protocol import Stage, plan
from .tasks import build_task

MOST_IMAGES = 1024
"""Largest batch of a device that is tried; training recipes do not go so far."""
_RESERVE = 0.1
"""Share of the memory kept free, for fragments, the workspaces of other batches and the evaluation."""
_CUDA = torch.device("cuda")


class BatchSizeError(RuntimeError):
    """Not even the smallest batch fits the memory."""


def fitted_batch_size(config: RunConfig, source: Source, watcher: Watcher, device: torch.device = _CUDA) -> int:
    """Largest batch, over all processes, that fits each process's GPU.

    Tries random images, in the training's own precision, in the stage with the most filters and blocks. The result is
    a power of two times the number of processes: at most ``MOST_IMAGES`` a process, and no more than there are
    training images.

    Raises:
        BatchSizeError: not even two images a process fit.
        ValueError: there are fewer than two training images a process.
    """
    processes = config.devices * config.nodes
    if source.train_size < 2 * processes:
        raise ValueError(
            f"batch_size: got auto for {source.train_size} training images; expected at least 2 for each of the "
            f"{processes} processes"
        )
    stages = [stage for stage in plan(config, lambda _: 1.0) if stage.input_size == source.input_size]
    outputs = [len(source.labels)]
    models = build_models(max(stages, key=_cost), config, source.in_channels, outputs)
    resizer, network = (module.to(device) for module in models)
    task = build_task(config, outputs).to(device)
    optimiser = build_optimiser(config, resizer, network, 1e-6)
    precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.precision)

    def step(count: int) -> None:
        watcher.doing(f"finding the batch size: trying {count} images")
        images = random_images(config, source, count, device)
        if config.task == "iqa":
            targets = torch.full((count, len(source.labels)), 1 / len(source.labels), device=device)
        elif config.task == "segmentation" and isinstance(images, torch.Tensor):
            targets = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.uint8, device=device)
        else:
            targets = torch.zeros(count, dtype=torch.int64, device=device)
        with torch.autocast(device.type, precision) if precision else contextlib.nullcontext():
            loss = task.loss(network(resizer(images)), targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        return processes * largest_batch_size(step, device, min(MOST_IMAGES, source.train_size // processes))


def random_images(config: RunConfig, source: Source, count: int, device: torch.device) -> torch.Tensor | MixedImages:
    """Images of the source's size; at native sizes, squares of ``max_pixels``."""
    if isinstance(source.input_size, int):
        return torch.rand(count, source.in_channels, source.input_size, source.input_size, device=device)
    side = math.isqrt(config.max_pixels or 1)
    shape = (source.in_channels, side, side)
    images = [torch.randint(256, shape, dtype=torch.uint8, device=device) for _ in range(count)]
    boxes = torch.tensor([[0, 0, side, side]] * count, dtype=torch.float64)
    return MixedImages(images, boxes, torch.zeros(count, dtype=torch.bool))


def _cost(stage: Stage) -> tuple[bool, int]:
    return stage.front.is_learned, stage.front.num_filters * (1 + stage.front.num_blocks)


def largest_batch_size(step: Callable[[int], None], device: torch.device, limit: int, least: int = 2) -> int:
    """Largest power of two for which ``step`` fits in GPU memory.

    Sizes are tried in ascending order until one fails or leaves less than a tenth of the memory free. The result
    depends on what else uses the memory meanwhile.

    Args:
        step: one whole training step on a batch of that many images. The caller restores what it changes: weights,
            optimiser, random generators.
        device: CUDA device on which ``step`` computes.
        limit: largest size, such as the number of images.
        least: smallest size; batch norm in training needs 2.

    Raises:
        ValueError: there is no power of two from ``least`` to ``limit``.
        BatchSizeError: not even the smallest size fits; says how much memory there is.
    """
    sizes = [1 << power for power in range(max(limit, 0).bit_length()) if 1 << power >= least]
    if not sizes:
        raise ValueError(f"limit: got {limit!r}; expected at least one power of two from {least} to it")
    best, total = 0, 0
    torch.cuda.empty_cache()
    for size in sizes:
        fits = _runs(step, size)
        # Before the cache is emptied: the allocator still holds what the step needed at its peak.
        free, total = torch.cuda.mem_get_info(device)
        if not fits:
            gc.collect()  # a traceback may have left cycles that hold tensors
        torch.cuda.empty_cache()
        if not fits or free < _RESERVE * total:
            break
        best = size
    if not best:
        raise BatchSizeError(
            f"batch_size: got auto, but a training step of {sizes[0]} images does not fit {device} with {_gib(total)} "
            f"of memory, {_gib(torch.cuda.mem_get_info(device)[0])} of it free, a tenth kept in reserve; make the "
            "images or the network smaller"
        )
    return best


def _runs(step: Callable[[int], None], size: int) -> bool:
    """Whether a step had enough memory; other errors propagate."""
    try:
        step(size)
    except MemoryError:
        return False
    except RuntimeError as error:
        # CUDA's libraries have errors of their own for it
        signs = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in signs):
            raise
        return False
    return True


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
