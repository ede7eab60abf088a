"""Networks that one resizer is trained for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

JOINT_LOSSES = {"classification": "softmax", "segmentation": "dice"}
"""Tasks that may share images, and the loss of one that is not the run's own."""


@dataclass(frozen=True)
class Member:
    """A network behind the resizer, its task, its name in metrics."""

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


def conflicts(task: str, models: Sequence[str], first: str) -> Iterator[tuple[str, bool, str]]:
    """Rules about the networks of a run.

    Args:
        task: of the run.
        models: MODEL or TASK:MODEL of each network.
        first: the run's ``model``.

    Yields:
        Name of the field, whether the rule is broken, and what was expected.
    """
    members = members_of(task, models)
    tasks = {member.task for member in members}
    yield "model", first != members[0].model, f"{members[0].model}, the first of models, or none"
    yield "models", len({(one.task, one.model) for one in members}) < len(members), "each once"
    alone = len(members) > 1 and task == "distill"
    yield "models", alone, "none with task distill, whose teacher is one network"
    shared = tasks == {task} or {*tasks, task} <= {*JOINT_LOSSES}
    yield "models", not shared, f"tasks on the same images: {' and '.join(JOINT_LOSSES)}, not those beside task {task}"
    yield "task", task not in tasks, f"the task of a network: {' or '.join(sorted(tasks))}"
