"""Checks that this machine can do a run.

They come before a process is started or memory is allocated. A run's folder may come from a larger machine. Testing its
networks needs less than training, and is checked for less.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

import torch

from ..data.source import NATIVE, InputSize
from ..shown import shown
from .config import MOST_STEPS, RunConfig
from .memory import usable_memory
from .protocol import Stage, default_evaluations, widest

WORKERS, PROCESSES = 8, 4
"""Most for each processor. More only wait for one another, and tens of thousands make a system kill processes."""
MOST_ROUNDS = 200_000
"""Most checkpoints and tests of a training: a round takes 300 bytes of memory, and writes a file at its end."""
_LARGEST_EXPONENT = 700.0
"""Of e, so that the power is a finite float."""
_FLOAT32 = 4


def check_machine(config: RunConfig) -> None:
    """Checks that this machine can train ``config``.

    Nothing is measured: only the clearly impossible is refused.

    Raises:
        ValueError: it asks for more workers, devices or memory than there are, or for an automatic batch size on a
            CPU.
    """
    cores = processors()
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if config.batch_size == "auto" and not on_gpu:
        raise ValueError(
            "batch_size: got auto on a CPU; expected a number of images. Sizes are tried until memory runs out; a GPU "
            "reports that as an error, while on a CPU the system would kill processes"
        )
    if on_gpu:
        most, what = torch.cuda.device_count(), "the GPUs of this machine"
    else:
        most, what = PROCESSES * cores, f"{PROCESSES} for each of the {cores} processors of this process"
    if config.devices > most:
        raise ValueError(f"devices: got {config.devices}; expected at most {most}, {what}")
    jobs = config.jobs or 1
    if jobs > (1 if on_gpu else most):
        raise ValueError(f"jobs: got {jobs}; expected at most {'1 on a GPU' if on_gpu else f'{most}, {what}'}")
    if config.num_workers > most_workers(config.devices):
        raise ValueError(
            f"num_workers: got {config.num_workers} for each of {config.devices} devices; expected at most "
            f"{most_workers(config.devices)}: {WORKERS} in all for each of the {cores} processors of this process"
        )
    images = config.batch_size // config.nodes if isinstance(config.batch_size, int) else 2 * config.devices
    check_batch(config, images)
    # Gradients and optimiser state count as copies of the weights
    check_weights(config, 4 if config.optimizer == "adamw" else 3)


def check_batch(config: RunConfig, images: int) -> None:
    """Checks that memory holds a batch of the largest images.

    They count as float32, at native sizes as bytes.

    Raises:
        ValueError: they take more memory than this process may use.
    """
    memory = usable_memory()
    for size in config.input_size:
        if size == NATIVE:
            each, what = 3 * (config.max_pixels or 1), f"{config.max_pixels} pixels take {{}} in uint8"
        else:
            each, what = 3 * size**2 * _FLOAT32, f"{size}×{size} take {{}} in float32"
        if images * each > memory:
            name = "batch_size" if 2 * each <= memory else "max_pixels" if size == NATIVE else "input_size"
            value = size if name == "input_size" else getattr(config, name)
            raise ValueError(
                f"{name}: got {value}; {images} images of {what.format(_gib(images * each))}; this process may use "
                f"{_gib(memory)} of memory"
            )


def check_weights(config: RunConfig, copies: int) -> None:
    """Checks that memory holds the weights of the largest resizer, ``copies`` times.

    Raises:
        ValueError: they take more memory than this process may use.
    """
    filters, blocks = max(config.num_filters), max(config.num_blocks)
    # A 1×1 and a 3×3 convolution at the ends, two 3×3 in a block
    weights = filters**2 * (10 + 18 * blocks) * copies * _FLOAT32
    memory = usable_memory()
    if weights > memory:
        raise ValueError(
            f"num_filters: got {filters} with {blocks} blocks, whose weights take {_gib(weights)} in {copies} "
            f"copies; this process may use {_gib(memory)} of memory"
        )


def check_length(config: RunConfig, steps_per_epoch: Mapping[InputSize, float]) -> None:
    """Checks that the trainings are not too long to be planned.

    Args:
        config: the run.
        steps_per_epoch: by input size.

    Raises:
        ValueError: too many steps, tests or checkpoints, or a learning rate that overflows.
    """
    for per_epoch in steps_per_epoch.values():
        lengths = {"baseline_epochs": config.baseline_epochs * per_epoch, "epochs": max(config.epochs) * per_epoch}
        if config.steps is not None:
            lengths = {"steps": float(config.steps)}
        if "control-long" in config.arms:
            lengths["long_factor"] = config.long_factor * lengths.get("epochs", lengths.get("steps", 0.0))
        for name, length in lengths.items():
            if length > MOST_STEPS:
                raise ValueError(
                    f"{name}: got {shown(getattr(config, name))}, which makes {length:.3g} steps; expected at most "
                    f"{MOST_STEPS:,}"
                )
            _check_rounds(config, name, max(2, math.ceil(length)), per_epoch)
            _check_decay(config, length / per_epoch)


def shares(config: RunConfig, stages: Sequence[Stage]) -> tuple[int, int]:
    """Stages to train side by side, and torch's threads for each.

    On a CPU the threads are the cores divided by the most stages that could train at a time, or OMP_NUM_THREADS. They
    decide on the order of summation, and so on the last bits of every result; thus they follow from the plan and the
    machine, not from the number of jobs. Stages of one thread are one more than the cores, which they share evenly:
    otherwise the last long one would leave a core idle.

    Args:
        config: of the run.
        stages: all of them.
    """
    count = torch.get_num_threads()
    if config.devices * config.nodes > 1 or (config.accelerator != "cpu" and torch.cuda.is_available()):
        return 1, count
    cores, most = processors(), widest(stages)
    if "OMP_NUM_THREADS" not in os.environ:
        count = max(1, cores // most)
    spare = 1 if count == 1 < cores else 0
    return config.jobs or max(1, min(most, cores // count + spare)), count


def most_workers(devices: int) -> int:
    """Most worker processes of each training process on this machine."""
    return max(1, WORKERS * processors() // devices)


def _check_rounds(config: RunConfig, name: str, steps: int, per_epoch: float) -> None:
    tests = min(steps, config.evaluations or default_evaluations(steps, per_epoch))
    if tests > MOST_ROUNDS:
        name = name if config.evaluations is None else "evaluations"
        raise ValueError(
            f"{name}: got {shown(getattr(config, name))}, which makes {tests:,} passes over the test images; expected "
            f"at most {MOST_ROUNDS:,} in a training"
        )
    if tests * math.ceil(steps / tests / config.checkpoint_steps) > MOST_ROUNDS:
        raise ValueError(
            f"checkpoint_steps: got {config.checkpoint_steps} for {steps:,} steps; expected at least "
            f"{2 * steps // MOST_ROUNDS}, for no more than {MOST_ROUNDS:,} checkpoints"
        )


def _check_decay(config: RunConfig, epochs: float) -> None:
    times = epochs / config.decay_epochs
    if config.schedule == "decay" and (math.isinf(times) or times * math.log(config.decay) > _LARGEST_EXPONENT):
        raise ValueError(
            f"decay_epochs: got {config.decay_epochs} with the factor {config.decay}, to the power {times:.3g} at the "
            "end; expected a learning rate that stays finite"
        )


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gib(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB"
