"""Tests of trained models on their run's test images or other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..damaged import reading
from ..data.same_images import labels_of
from ..data.source import NATIVE, InputSize, Source
from ..data.unreadable import UnreadableLog
from ..weights import StateMismatchError
from .config import RunConfig
from .limits import check_batch, check_weights, most_workers
from .loop import measure, open_batches, open_fabric, place
from .models import build_kept, learned_part
from .network_file import load_weights
from .progress import Watcher
from .protocol import Stage, plan
from .run import NETWORK, RESIZER, RESULT
from .run_folder import CONFIG, STAGES
from .tasks import build_task
from .teacher import load_teacher


@dataclass(frozen=True)
class Evaluation:
    """Test loss and metrics of one stage.

    ``input_size`` is that of its training, ``test_size`` that of the test images.
    """

    arm: str
    seed: int
    input_size: InputSize
    test_size: InputSize
    loss: float
    metrics: dict[str, float]


def evaluate(
    folder: Path,
    data: str | None = None,
    arms: Sequence[str] = (),
    accelerator: str = "auto",
    watcher: Watcher | None = None,
    input_size: InputSize | None = None,
    max_pixels: int | None = None,
) -> list[Evaluation]:
    """Tests what a run trained.

    Args:
        folder: of the run; unfinished stages are left out.
        data: other data than the run's, with the same classes or bins. A score file must be in the folder.
        arms: those to test, default all.
        accelerator: ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"cuda"``.
        watcher: notified of progress.
        input_size: of the test images, a side or ``"native"``; default that of each stage's training.
        max_pixels: limit of native images, as in ``RunConfig``; default the run's.

    Raises:
        FileNotFoundError: the folder holds no run, or no finished stage.
        DamagedFileError: a file of the run cannot be read.
        ValueError: the run has no such arm, the data has other classes, or images or weights are larger than memory.
        DataError: the data cannot be used (see ``data.errors``).
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"run: got {folder}; expected the folder of a run, with a {CONFIG}")
    with reading(folder / CONFIG, "write it again, with the options of that run"):
        trained = RunConfig.load(folder / CONFIG)
    workers = min(trained.num_workers, most_workers(1))  # the run may come from a larger machine
    config = replace(trained, accelerator=accelerator, devices=1, nodes=1, num_workers=workers)
    sizes = trained.input_size if input_size is None else (input_size,)
    if max_pixels is None and NATIVE in sizes:
        max_pixels = trained.max_pixels
    changed: dict[str, Any] = {"input_size": sizes, "max_pixels": max_pixels}
    if data is not None:
        changed |= {"data": data, "scores": None, "extra_photographs": None}  # they belong to the run's own data
    config = replace(config, **changed)
    check_batch(config, 1)
    stages = [stage for stage in plan(trained, lambda _: 1.0) if (folder / STAGES / stage.key / RESULT).is_file()]
    if not stages:
        raise FileNotFoundError(f"run: got {folder}; expected at least one finished stage")
    known = list(dict.fromkeys(stage.arm for stage in stages))
    if unknown := [arm for arm in arms if arm not in known]:
        raise ValueError(f"arms: got {', '.join(unknown)}; expected some of {', '.join(known)}")
    chosen = [stage for stage in stages if not arms or stage.arm in arms]
    if any(stage.front.kind == "blind" for stage in chosen):  # the others are as large as their files
        check_weights(config, 1)
    unreadable = UnreadableLog(config.max_unreadable, None)
    watcher = watcher or Watcher()
    watcher.say(f"evaluate: {folder} on {config.data}")
    watcher.doing("reading the data")
    test_sizes = {stage.input_size: input_size or stage.input_size for stage in chosen}
    sources = {size: config.open_source(size) for size in dict.fromkeys(test_sizes.values())}
    teacher = None
    if config.task == "distill":
        teacher = load_teacher(trained, folder, next(iter(sources.values())).in_channels)
    found = []
    for number, stage in enumerate(chosen, 1):
        watcher.doing(f"testing {stage.name}, {number} of {len(chosen)}")
        found.append(_test(stage, trained, config, folder, sources[test_sizes[stage.input_size]], unreadable, teacher))
    return found


def _test(
    stage: Stage,
    trained: RunConfig,
    config: RunConfig,
    folder: Path,
    source: Source,
    unreadable: UnreadableLog,
    teacher: tuple[nn.Module, tuple[str, ...]] | None,
) -> Evaluation:
    kept = folder / STAGES / stage.key
    tested = replace(stage, input_size=source.input_size)
    imitated, names = teacher or (None, ())
    labels = [names] if teacher else [labels_of(source, member.task) for member in trained.members]
    outputs = [len(one) for one in labels]
    resizer, network = build_kept(tested, trained, source.in_channels, outputs, kept / RESIZER)
    try:
        load_weights(network, kept / NETWORK, [name for one in labels for name in one])
        if stage.front.is_learned:
            load_weights(learned_part(resizer), kept / RESIZER)
    except StateMismatchError as error:
        raise ValueError(
            f"data: got {config.data}, with {len(source.labels)} classes or bins and {source.in_channels} channels; "
            f"expected those of {trained.data}, which the run was trained on"
        ) from error
    fabric = open_fabric(config)
    task = place(fabric, build_task(config, outputs, imitated))
    batches = open_batches(fabric, config, source, stage.seed, batch_size=1).test()
    model = place(fabric, nn.Sequential(resizer, task.student(network)))
    loss, metrics = measure(fabric, model, task, unreadable.counting(batches))
    return Evaluation(stage.arm, stage.seed, stage.input_size, source.input_size, loss, metrics)
