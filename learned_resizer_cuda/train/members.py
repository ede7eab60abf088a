"""Networks that one resizer is trained for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import RunConfig

JOINT_LOSSES = {"classification": "softmax", "segmentation": "dice"}
"""Tasks that may share images, and the loss of one that is not the run's own."""


@dataclass(frozen=True)
class Member:
    """A network behind the run's resizer, its task, and its name in metrics."""

    task: str
    model: str
    name: str


def members_of(task: str, models: Sequence[str]) -> tuple[Member, ...]:
    """Members of the networks MODEL or TASK:MODEL; ``task`` is the default."""
    pairs = [(before if colon else task, model) for before, colon, model in map(split_task, models)]
    counts = Counter(model for _, model in pairs)
    return tuple(Member(t, model, model if counts[model] == 1 else f"{t}-{model}") for t, model in pairs)


def split_task(text: str) -> tuple[str, str, str]:
    """TASK:MODEL, or MODEL alone, in three parts."""
    task, colon, model = text.partition(":")
    return (task, colon, model) if colon else ("", "", text)


def conflicts(config: RunConfig) -> Iterator[tuple[str, bool, str]]:
    """Rules about several networks: field, whether it is broken, what was expected."""
    if not config.models:
        return
    tasks, own = {*config.tasks}, config.task
    yield "models", len(config.models) < 2, "at least two; --model takes one"
    yield "model", config.model != config.members[0].model, f"{config.members[0].model}, the first of models, or none"
    yield "models", len({(one.task, one.model) for one in config.members}) < len(config.members), "each once"
    yield "models", own == "distill", "none with task distill, whose teacher is one network"
    shared = tasks == {own} or {*tasks, own} <= {*JOINT_LOSSES}
    yield "models", not shared, f"tasks on the same images: {' and '.join(JOINT_LOSSES)}, not those beside task {own}"
    yield "task", own not in tasks, f"the task of a network: {' or '.join(sorted(tasks))}"
    folder = len(tasks) > 1 and config.data != "digits"
    yield "data", folder, "digits for several tasks: a folder has the targets of one"
    yield "weights", config.weights is not None, "none with several models; pretrained takes timm's"
    yield "batch_size", config.batch_size == "auto", "a number of images with several models"
