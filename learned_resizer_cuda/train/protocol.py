"""What a run consists of: stages, each one training of a resizer and a network, some starting from another's network.

The article's protocol: a *baseline*, a network trained behind a fixed filter; *learned*, a resizer from random weights
and that network, trained together; and, so that a gain is not mistaken for a longer training, *control*, the
baseline trained on for as long. *blind* is learned, but fed only with what the baseline's filter left: the same
parameters and cost without the detail. *control-long* trains on ``long_factor`` times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise, product

from .config import FIXED, RunConfig


@dataclass(frozen=True)
class Front:
    """What stands in front of the network.

    ``kind`` is ``"fixed"``: a filter; ``"learned"``: the learned resizer; ``"blind"``: the same, seeing only what the
    filter ``interpolation`` left; ``"file"``: a trained one, from a file.
    """

    kind: str
    interpolation: str
    num_filters: int = 16
    num_blocks: int = 1
    file: str | None = None

    @property
    def is_learned(self) -> bool:
        return self.kind != "fixed"


@dataclass(frozen=True)
class Stage:
    """One training.

    ``start`` names the arm, of the same seed and input size, whose trained network this one starts from; without it
    the network is new, and ``learning_rate`` is that of a training from scratch.
    """

    arm: str
    seed: int
    input_size: int
    steps: int
    learning_rate: float
    front: Front
    start: str | None = None

    @property
    def name(self) -> str:
        """The stage as messages name it."""
        return f"{self.arm} {self.input_size}, seed {self.seed}"

    @property
    def key(self) -> str:
        """Name of the stage's folder."""
        return f"{self.arm}-{self.input_size}-seed{self.seed}"

    @property
    def start_key(self) -> str | None:
        """``key`` of the stage whose network this one starts from."""
        return None if self.start is None else replace(self, arm=self.start).key


def plan(config: RunConfig, steps_per_epoch: Callable[[int], float]) -> list[Stage]:
    """The stages of a run in the order they run: input size by input size, seed by seed.

    Args:
        config: what to run.
        steps_per_epoch: of an input size; they differ where the batch size is fitted to the device.
    """
    protocol = {"train": _train, "transfer": _transfer, "ablate": _ablate}[config.command]
    stages = []
    for input_size, seed in product(config.input_size, range(config.seed, config.seed + config.seeds)):
        builder = _Builder(config, seed, input_size, steps_per_epoch(input_size))
        protocol(builder)
        stages += builder.stages
    return stages


class _Builder:
    def __init__(self, config: RunConfig, seed: int, input_size: int, per_epoch: float) -> None:
        self.config, self.seed, self.input_size, self.per_epoch = config, seed, input_size, per_epoch
        self.stages: list[Stage] = []

    def baseline(self, interpolation: str) -> None:
        steps = self._steps(self.config.baseline_epochs)
        rate = self.config.learning_rate
        front = Front("fixed", interpolation)
        self.stages.append(Stage(interpolation, self.seed, self.input_size, steps, rate, front))

    def tune(self, arm: str, front: Front, factor: int = 1) -> None:
        """A stage that starts from the baseline's network."""
        steps = factor * self._steps(self.config.epochs)
        rate = self.config.fine_tune_learning_rate
        self.stages.append(Stage(arm, self.seed, self.input_size, steps, rate, front, self.config.baseline))

    def learned(self, kind: str = "learned", num_filters: int | None = None, num_blocks: int | None = None) -> Front:
        config = self.config
        filters = config.num_filters[0] if num_filters is None else num_filters
        blocks = config.num_blocks[0] if num_blocks is None else num_blocks
        return Front(kind, config.interpolation, filters, blocks)

    def control(self, factor: int = 1) -> None:
        arm = "control" if factor == 1 else "control-long"
        self.tune(arm, Front("fixed", self.config.baseline), factor)

    def _steps(self, epochs: float) -> int:
        if self.config.steps is not None:
            return self.config.steps
        # Two at least: the one-cycle schedule divides by steps - 1.
        return max(2, math.ceil(epochs * self.per_epoch - 1e-9))


def _train(builder: _Builder) -> None:
    arms = builder.config.arms
    baselines = [arm for arm in FIXED if arm in arms]
    if set(arms) - set(FIXED) and builder.config.baseline not in baselines:
        baselines.insert(0, builder.config.baseline)  # the others start from it
    for interpolation in baselines:
        builder.baseline(interpolation)
    if "learned" in arms:
        builder.tune("learned", builder.learned())
    if "blind" in arms:
        builder.tune("blind", builder.learned("blind"))
    if "control" in arms:
        builder.control()
    if "control-long" in arms and builder.config.long_factor > 1:
        builder.control(builder.config.long_factor)


def _transfer(builder: _Builder) -> None:
    """Another network, trained behind a fixed filter, gets a resizer that was trained in front of something else;
    ``fresh`` starts from a random resizer: does it help that this one was trained?"""
    config = builder.config
    builder.baseline(config.baseline)
    builder.tune("transfer", Front("file", config.interpolation, file=config.resizer))
    builder.tune("fresh", builder.learned())
    builder.control()


def _ablate(builder: _Builder) -> None:
    config = builder.config
    builder.baseline(config.baseline)
    for blocks, filters in product(config.num_blocks, config.num_filters):
        builder.tune(f"r{blocks}-n{filters}", builder.learned("learned", filters, blocks))
    builder.control()


def default_evaluations(steps: int, steps_per_epoch: float) -> int:
    """Passes over the test images in a training: one an epoch.

    4.0 epochs are tested 4 times, 6.4 epochs 7 times. The last step may reach into the next epoch.
    """
    return max(1, math.ceil((steps - 1) / steps_per_epoch))


@dataclass(frozen=True)
class Round:
    """Steps between two checkpoints; ``tested``: a pass over the test images follows."""

    steps: range
    tested: bool


def rounds(steps: int, evaluations: int, longest: int) -> list[Round]:
    """Cuts a training into rounds: ``evaluations`` equal intervals (the last ends with the last step), each in as many
    equal rounds as keep it at ``longest`` steps or fewer. All intervals have the same number of rounds.

    Args:
        steps: of the training, at least 1.
        evaluations: at least 1; more than ``steps`` count as ``steps``.
        longest: at least 1, which counts as 2: intervals differ by a step.
    """
    evaluations = min(evaluations, steps)
    ends = [round((index + 1) * steps / evaluations) for index in range(evaluations)]
    starts = [0, *ends[:-1]]
    widest = max(end - start for start, end in zip(starts, ends, strict=True))
    narrowest = min(end - start for start, end in zip(starts, ends, strict=True))
    parts = min(math.ceil(widest / longest), narrowest)
    cut = []
    for start, end in zip(starts, ends, strict=True):
        edges = [start + round(index * (end - start) / parts) for index in range(parts + 1)]
        cut += [Round(range(a, b), b == end) for a, b in pairwise(edges)]
    return cut
