"""A run's stages: each trains resizer and network, some from another's network.

The article's protocol has a *baseline*, a network trained behind a fixed filter, and *learned*, a resizer from random
weights trained together with that network. *control* trains the baseline for as many steps more, so that a gain is not
mistaken for that of a longer training; *control-long* trains it ``long_factor`` times as long. *blind* is learned, but
sees only what the baseline's filter leaves: the same parameters and cost without the detail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import NamedTuple

from ..data.source import InputSize
from .config import FIXED, RunConfig


@dataclass(frozen=True)
class Front:
    """The resizer in front of the network.

    ``kind`` is ``"fixed"`` for a filter, ``"learned"`` for the learned resizer, ``"blind"`` for one that sees only what
    the filter ``interpolation`` leaves, or ``"file"`` for a trained one from a file.
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

    ``start`` names the arm, of the same seed and input size, whose trained network this stage starts from. Without it
    the network is new or pretrained. Of a stage of 0 ``steps`` the network stays as it came, and is only tested.
    """

    arm: str
    seed: int
    input_size: InputSize
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


class _Arm(NamedTuple):
    """The stages of one name.

    ``tuned``: they start from the baseline's network. ``factor`` multiplies their steps.
    """

    name: str
    front: Front
    tuned: bool = True
    factor: int = 1


def plan(config: RunConfig, steps_per_epoch: Callable[[InputSize], float]) -> list[Stage]:
    """Stages of a run in running order: by input size, then seed.

    Args:
        config: of the run.
        steps_per_epoch: of an input size; they differ where the batch size is fitted to the device.
    """
    arms = {"train": _train, "transfer": _transfer, "ablate": _ablate}[config.command](config)
    stages = []
    for input_size, seed, arm in product(config.input_size, range(config.seed, config.seed + config.seeds), arms):
        epochs, rate, start = config.baseline_epochs, config.learning_rate, None
        if arm.tuned:
            epochs, rate, start = max(config.epochs), config.fine_tune_learning_rate, config.baseline
        steps = config.steps
        if epochs == 0:
            steps = 0
        elif steps is None:
            # At least 2: the one-cycle schedule divides by steps - 1.
            steps = max(2, math.ceil(epochs * steps_per_epoch(input_size) - 1e-9))
        stages.append(Stage(arm.name, seed, input_size, arm.factor * steps, rate, arm.front, start))
    return stages


def _train(config: RunConfig) -> list[_Arm]:
    baselines = [name for name in FIXED if name in config.arms]
    if set(config.arms) - set(FIXED) and config.baseline not in baselines:
        baselines.insert(0, config.baseline)  # the others start from it
    joint = [_Arm("learned", _learned(config)), _Arm("blind", _learned(config, "blind")), _control(config)]
    if config.long_factor > 1:
        joint.append(_Arm("control-long", _control(config).front, factor=config.long_factor))
    return [*map(_baseline, baselines), *(arm for arm in joint if arm.name in config.arms)]


def _transfer(config: RunConfig) -> list[_Arm]:
    """Resizers trained with other networks, put in front of a new one.

    The other network was trained behind a fixed filter. ``fresh`` starts from a random resizer instead: does it help
    that the other resizer was trained?
    """
    transfer = [_Arm(name, Front("file", config.interpolation, file=file)) for name, file in config.resizers.items()]
    return [_baseline(config.baseline), *transfer, _Arm("fresh", _learned(config)), *_unfrozen(config)]


def _ablate(config: RunConfig) -> list[_Arm]:
    sizes = product(config.num_blocks, config.num_filters)
    learned = [_Arm(f"r{r}-n{n}", Front("learned", config.interpolation, n, r)) for r, n in sizes]
    return [_baseline(config.baseline), *learned, *_unfrozen(config)]


def _baseline(interpolation: str) -> _Arm:
    return _Arm(interpolation, Front("fixed", interpolation), tuned=False)


def _learned(config: RunConfig, kind: str = "learned") -> Front:
    return Front(kind, config.interpolation, config.num_filters[0], config.num_blocks[0])


def _control(config: RunConfig) -> _Arm:
    return _Arm("control", Front("fixed", config.baseline))


def widest(stages: Sequence[Stage]) -> int:
    """Most of the stages that can ever train side by side.

    Either a baseline trains, or all the stages that start from it.
    """
    keys = {stage.key for stage in stages}
    starting = Counter(stage.start_key for stage in stages if stage.start_key in keys)
    return sum(max(1, starting[stage.key]) for stage in stages if stage.start_key not in keys)


def _unfrozen(config: RunConfig) -> list[_Arm]:
    """The control, unless the network is frozen: nothing would be trained."""
    return [] if config.freeze else [_control(config)]


def default_evaluations(steps: int, steps_per_epoch: float) -> int:
    """Number of passes over the test images: one an epoch of training.

    4.0 epochs are tested 4 times, 6.4 epochs 7 times. The last step may reach into the next epoch.
    """
    return max(1, math.ceil((steps - 1) / steps_per_epoch))


@dataclass(frozen=True)
class Round:
    """Steps between checkpoints; if ``tested``, a pass over the test images follows."""

    steps: range
    tested: bool


def steps_tested(stage: Stage, config: RunConfig, steps_per_epoch: float) -> list[int]:
    """Steps after which a training is tested, the last one included.

    After each of several ``epochs`` of a stage that starts from a baseline; else in equal intervals, ``evaluations`` or
    one an epoch.
    """
    if stage.start is not None and len(config.epochs) > 1:
        return sorted({min(stage.steps, max(1, round(epoch * steps_per_epoch))) for epoch in config.epochs if epoch})
    return evenly(stage.steps, config.evaluations or default_evaluations(stage.steps, steps_per_epoch))


def evenly(steps: int, evaluations: int) -> list[int]:
    """Ends of equal intervals of ``steps``; more than ``steps`` count as ``steps``."""
    evaluations = min(evaluations, steps)
    return [round((index + 1) * steps / evaluations) for index in range(evaluations)]


def rounds(ends: Sequence[int], longest: int) -> list[Round]:
    """Cut a training into rounds.

    Each interval between two tests has as few equal rounds as keep a round at ``longest`` steps or fewer. Intervals of
    equal length, up to a step, have the same number of rounds.

    Args:
        ends: steps after which it is tested, ascending, the last one its length.
        longest: at least 1, which counts as 2, as intervals differ by a step.
    """
    starts = [0, *ends[:-1]]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    narrowest, widest = min(lengths), max(lengths)
    cut = []
    for start, end in zip(starts, ends, strict=True):
        parts = math.ceil((end - start) / longest)
        if widest - narrowest <= 1:
            parts = min(math.ceil(widest / longest), narrowest)
        edges = [start + round(index * (end - start) / parts) for index in range(parts + 1)]
        cut += [Round(range(a, b), b == end) for a, b in pairwise(edges)]
    return cut
